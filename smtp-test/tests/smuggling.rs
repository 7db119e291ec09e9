//! One message or none, never two: what smugglers send, through the whole server.

mod common;

use std::time::Duration;

use common::scenarios::reference_stack;
use common::{Pieces, codes, talk};
use smtp_test::memory::{Knobs, Pace};

/// The ends of data that some server took for one.
const FORMS: [&[u8]; 10] = [
    b"\n.\n",
    b"\r.\r",
    b"\r.\n",
    b"\n.\r",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
];

/// A second message behind something that is no end of data.
fn smuggle(before: &[u8], form: &[u8]) -> Vec<u8> {
    [
        b"EHLO c\r\nMAIL FROM:<good@client.example>\r\nRCPT TO:<alice@here.example>\r\nDATA\r\n",
        before,
        form,
        b"MAIL FROM:<evil@client.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\nevil\r\n.\r\nQUIT\r\n",
    ]
    .concat()
}

#[test]
fn no_form_smuggles_a_message_at_any_split() {
    for form in FORMS {
        for before in [&b""[..], b"text", b"text\r\n"] {
            let input = smuggle(before, form);
            let mut first = None;
            for cut in 0..=input.len() {
                let stack = reference_stack();
                let (said, delivered) = talk(&stack, &Knobs::default(), &input, Pieces::CutAt(cut));
                let when = format!("{form:?} behind {before:?}, cut at {cut}:\n{said}");
                let last = codes(&said).split_off(5);
                match last.as_slice() {
                    ["250", "221"] => assert_eq!(delivered.len(), 1, "{when}"),
                    ["554", "221"] => assert!(delivered.is_empty(), "{when}"),
                    _ => panic!("{when}"),
                }
                // Bare line ends are refused, NULs are content.
                assert_eq!(delivered.len(), usize::from(form.contains(&0)), "{when}");
                assert!(delivered.iter().all(|d| d.to == ["<alice@here.example>"]), "{when}");
                assert_eq!(first.get_or_insert(said.clone()), &said, "{when}");
            }
        }
    }
}

#[test]
fn nor_with_slow_services_and_odd_channels() {
    for form in FORMS {
        let input = smuggle(b"text", form);
        for pace in [Pace::OCTET_BY_OCTET, Pace::STORMY, Pace { read: 3, write: 2, pending: 3, lazy: true }] {
            for pause in [0, 5] {
                for octets in [1, input.len()] {
                    let stack = reference_stack().slow(Duration::from_millis(pause));
                    let knobs = Knobs::default().paced(pace);
                    let (said, delivered) = talk(&stack, &knobs, &input, Pieces::Of(octets));
                    assert_eq!(delivered.len(), usize::from(form.contains(&0)), "{form:?}, {pause} ms:\n{said}");
                    assert!(said.ends_with("221 2.0.0 mx.example closing channel\r\n"), "{said}");
                }
            }
        }
    }
}

/// Every string of up to five of the octets that matter, as the last thing of the content: the real end follows, so a
/// message is recorded or refused, and only a CRLF-dot-CRLF in it ends it earlier.
#[test]
fn every_short_string_ends_one_message() {
    let alphabet = *b"\r\n.\0x";
    for len in 1..=5u32 {
        for n in 0..5usize.pow(len) {
            let form: Vec<u8> = (0..len).map(|i| alphabet[n / 5usize.pow(i) % 5]).collect();
            let content = [b"t", &form[..]].concat();
            let ends_early = [&content[..], b"\r\n"].concat().windows(5).any(|w| w == b"\r\n.\r\n");
            let input = [
                b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\nDATA\r\n",
                &content[..],
                b"\r\n.\r\nQUIT\r\n",
            ]
            .concat();
            let (said, delivered) = talk(&reference_stack(), &Knobs::default(), &input, Pieces::Of(input.len()));
            let bare = without_crlf(&content).iter().any(|octet| matches!(octet, b'\r' | b'\n'));
            if ends_early {
                continue;
            }
            assert_eq!(codes(&said).len(), 7, "{form:?}:\n{said}");
            assert_eq!(delivered.len(), usize::from(!bare), "{form:?}:\n{said}");
        }
    }
}

/// The octets that are no part of a CRLF, with the CRLF behind the content taken into account.
fn without_crlf(content: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut octets = content.iter().peekable();
    while let Some(octet) = octets.next() {
        if *octet == b'\r' && octets.peek() == Some(&&b'\n') {
            octets.next();
        } else {
            rest.push(*octet);
        }
    }
    rest
}
