//! Same octets and same facts, same replies: whatever the pieces, the pace of the channel, and the haste of the services.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

mod common;

use std::time::Duration;

use common::scenarios::{Delivered, Reference, reference_stack};
use common::{Pieces, codes, talk};
use proptest::prelude::*;
use smtp_test::memory::{Knobs, Pace};

/// A bit of everything: transactions by DATA and by BDAT, refusals, bad lines, an exchange, lines in content that look
/// like commands.
const CONVERSATION: &[u8] = b"EHLO client.example\r\nMAIL FROM:<a@b.example> SIZE=5 BODY=8BITMIME\r\nRCPT TO:<alice@here.example>\r\n\
RCPT TO:<nobody@here.example>\r\nRCPT TO:<\r\nRCPT TO:<bob@here.example>\r\nDATA\r\n..one\r\nQUIT\r\n.\r\nNOOP\r\n\
MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nBDAT 4\r\nab\r\nBDAT 3 LAST\r\ncd\nNOOP\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\n\
BDAT 12\r\nRSET\r\nQUIT\r\nBDAT 4 LAST\r\ncd\r\nBDAT 2\r\nxyRSET\r\nbogus\nx\r\nAUTH PLAIN\r\nAHVzZXIAcGFzcw==\r\n\
MAIL FROM:<x@y>\r\nRCPT TO:<any@elsewhere.example>\r\nRSET\r\nRCPT TO:<bob@here.example>\r\nMAIL FROM:<x@y>\r\n\
RCPT TO:<bob@here.example>\r\nDATA\r\nbare\nlf\r\n.\r\nBDAT 1 LAST\r\nx\r\nFOO\r\nVRFY x\r\n\r\nQUIT\r\n";

const EXPECTED: [&str; 38] = [
    "220", "250", "250", "250", "550", "501", "250", "354", "250", "250", // DATA
    "250", "250", "250", "554", "250", // the LF in the second chunk
    "250", "250", "250", "250", // BDAT
    "503", "250", "500", // out of place
    "334", "235", "250", "250", "250", "503", // RSET
    "250", "250", "354", "554", "503", "500", "500", "252", "500", "221",
];

type Outcome = (String, Vec<Delivered>);

fn assert_same(outcome: &Outcome, reference: &Outcome, when: &str) {
    assert_eq!(outcome.0, reference.0, "{when}");
    assert_eq!(outcome.1, reference.1, "{when}");
}

fn whole(stack: &Reference, knobs: &Knobs, input: &[u8]) -> Outcome {
    talk(stack, knobs, input, Pieces::Of(input.len()))
}

/// Channels with the facts of the first one, in every mood.
fn moods(facts: &Knobs) -> Vec<Knobs> {
    let mut moods = Vec::new();
    for pace in [
        Pace::default(),
        Pace::OCTET_BY_OCTET,
        Pace::STORMY,
        Pace::LAZY,
        Pace { read: 2, ..Pace::default() },
        Pace { read: 3, write: 5, pending: 3, lazy: false },
        Pace { read: 13, write: 1, pending: 2, lazy: true },
    ] {
        for capacity in [1, 17, 65_536] {
            moods.push(Knobs { capacity, ..facts.clone() }.paced(pace));
        }
    }
    moods.push(Knobs { latency: Duration::from_millis(30), ..facts.clone() });
    moods
}

#[test]
fn the_conversation_goes_as_it_should() {
    let (said, delivered) = whole(&reference_stack(), &Knobs::default(), CONVERSATION);
    assert_eq!(codes(&said), EXPECTED, "{said}");
    let contents: Vec<_> = delivered.iter().map(|d| d.content.as_slice()).collect();
    assert_eq!(contents, [&b".one\r\nQUIT\r\n"[..], b"RSET\r\nQUIT\r\ncd\r\n"]);
    assert_eq!(delivered[0].to, ["<alice@here.example>", "<bob@here.example>"]);
}

#[test]
fn at_every_split() {
    let stack = reference_stack();
    let reference = whole(&stack, &Knobs::default(), CONVERSATION);
    for cut in 0..=CONVERSATION.len() {
        let outcome = talk(&stack, &Knobs::default(), CONVERSATION, Pieces::CutAt(cut));
        assert_same(&outcome, &reference, &format!("cut at {cut}"));
    }
    for n in [1, 2, 3, 5, 7, 11, 64, 500] {
        let outcome = talk(&stack, &Knobs::default(), CONVERSATION, Pieces::Of(n));
        assert_same(&outcome, &reference, &format!("in pieces of {n}"));
    }
}

#[test]
fn in_every_mood_of_the_channel() {
    let stack = reference_stack();
    for facts in [Knobs::default(), Knobs::clear(), Knobs::starttls(), Knobs::streams()] {
        let reference = whole(&stack, &facts, CONVERSATION);
        for knobs in moods(&facts) {
            assert_same(&whole(&stack, &knobs, CONVERSATION), &reference, &format!("{knobs:?}"));
        }
    }
}

/// What is the channel's, and what is the session's own: the greeting comes later where the client speaks first, the
/// keywords differ, and nothing else does.
#[test]
fn other_facts_change_the_reply_to_ehlo_only() {
    let stack = reference_stack();
    let without_ehlo = |said: &str| said.lines().filter(|l| !l.starts_with("250-")).collect::<Vec<_>>().join("\n");
    let reference = whole(&stack, &Knobs::default(), CONVERSATION);
    let (said, delivered) = whole(&stack, &Knobs::streams(), CONVERSATION);
    assert_eq!(without_ehlo(&said), without_ehlo(&reference.0));
    assert_eq!(delivered, reference.1);
}

#[test]
fn with_services_that_take_their_time() {
    let reference = whole(&reference_stack(), &Knobs::default(), CONVERSATION);
    for pause in [1, 50] {
        let slow = reference_stack().slow(Duration::from_millis(pause));
        assert_same(&whole(&slow, &Knobs::default(), CONVERSATION), &reference, &format!("{pause} ms each"));
        let octets = Knobs::default().paced(Pace::OCTET_BY_OCTET);
        assert_same(&whole(&slow, &octets, CONVERSATION), &reference, &format!("{pause} ms each, octet by octet"));
    }
}

#[test]
fn with_slow_services_at_every_split() {
    let reference = whole(&reference_stack(), &Knobs::default(), CONVERSATION);
    for cut in 0..=CONVERSATION.len() {
        let slow = reference_stack().slow(Duration::from_millis(3));
        let outcome = talk(&slow, &Knobs::default(), CONVERSATION, Pieces::CutAt(cut));
        assert_same(&outcome, &reference, &format!("cut at {cut}"));
    }
}

/// Plays `input` whole, octet by octet, and cut everywhere.
fn assert_split_does_not_matter(stack: &Reference, input: &[u8]) {
    let reference = whole(stack, &Knobs::default(), input);
    let octets = Knobs::default().paced(Pace::OCTET_BY_OCTET);
    assert_same(&whole(stack, &octets, input), &reference, "octet by octet");
    for cut in 0..=input.len() {
        assert_same(&talk(stack, &Knobs::default(), input, Pieces::CutAt(cut)), &reference, &format!("cut at {cut}"));
    }
}

fn transaction(content: &[u8]) -> Vec<u8> {
    [b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\nDATA\r\n", content, b"\r\n.\r\nQUIT\r\n"].concat()
}

/// Several things are wrong with a message: which of them is named does not depend on the split.
#[test]
fn a_message_that_is_too_large_and_has_a_bare_lf() {
    let stack = reference_stack().with(|config| config.limits.message_size = 20);
    assert_split_does_not_matter(&stack, &transaction(b"0123456789\r\n0123456789\r\nbare\nlf"));
    assert_split_does_not_matter(&stack, &transaction(b"bare\nlf 0123456789\r\n0123456789"));
}

#[test]
fn a_message_with_an_endless_line_and_a_bare_lf() {
    let stack = reference_stack().with(|config| config.limits.content_line = 10);
    assert_split_does_not_matter(&stack, &transaction(b"0123456789ab\nbare"));
    assert_split_does_not_matter(&stack, &transaction(b"0123456789ab\rbare"));
    assert_split_does_not_matter(&stack, &transaction(b"01\n23456789ab"));
}

#[test]
fn chunks_with_several_things_wrong() {
    let stack = reference_stack().with(|config| (config.limits.content_line, config.limits.message_size) = (10, 30));
    for chunks in [
        &b"BDAT 14\r\n0123456789ab\nxBDAT 2 LAST\r\n\r\n"[..],
        b"BDAT 10\r\n01234567\r\nBDAT 21\r\n0123456789ab\n01234567",
        b"BDAT 31\r\n0123456789ab\n01234567890123456789",
        b"BDAT 3\r\na\r\nBDAT 1\r\n\rBDAT 1\r\nxBDAT 0 LAST\r\n",
    ] {
        let input =
            [b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\n", chunks, b"RSET\r\nQUIT\r\n"].concat();
        assert_split_does_not_matter(&stack, &input);
    }
}

/// The limit of a line depends on its first octets: of its own, not of what remains of the line before.
#[test]
fn a_long_auth_behind_a_line_that_was_refused() {
    let stack = reference_stack().with(|config| config.limits.line = 40);
    let auth = [&b"AUTH PLAIN "[..], &b"QUJD".repeat(20), b"\r\n"].concat();
    assert_split_does_not_matter(&stack, &[b"EHLO c\r\nbare\nlf\r\n", &auth[..], b"QUIT\r\n"].concat());
    let long = [&b"bare\nAUTH x\r\nNOOP "[..], &b"x".repeat(60), b"\r\n"].concat();
    assert_split_does_not_matter(&stack, &[b"EHLO c\r\n", &long[..], b"QUIT\r\n"].concat());
}

#[test]
fn lines_about_as_long_as_may_be() {
    let stack = reference_stack().with(|config| config.limits.line = 20);
    for len in 10..18 {
        for tail in [&b"\r\n"[..], b"\n\r\n", b"\r\r\n", b"x\r\n"] {
            let line = [&b"NOOP "[..], &b"x".repeat(len), tail].concat();
            assert_split_does_not_matter(&stack, &[&line[..], b"QUIT\r\n"].concat());
        }
    }
}

/// A refused line of a little more than 1 MiB.
#[test]
fn lines_about_as_long_as_is_swallowed() {
    for extra in [0, 1, 100, 3_000, 10_000, 20_000] {
        let line = [&b"x".repeat((1 << 20) + extra)[..], b"\r\nNOOP\r\nQUIT\r\n"].concat();
        let reference = whole(&reference_stack(), &Knobs::default(), &line);
        for n in [1_000, 4_095, 16_383] {
            let outcome = talk(&reference_stack(), &Knobs::default(), &line, Pieces::Of(n));
            assert_same(&outcome, &reference, &format!("{extra} octets more than 1 MiB, in pieces of {n}"));
        }
    }
}

#[test]
fn the_end_of_a_message_that_is_too_large() {
    let stack = reference_stack().with(|config| config.limits.message_size = 10);
    for len in [9, 10, 11, 18, 19, 20, 21, 22, 40] {
        assert_split_does_not_matter(&stack, &transaction(&b"x".repeat(len)));
        assert_split_does_not_matter(&stack, &transaction(&b"x\r\n".repeat(len / 3)));
    }
}

/// Pieces of conversations, good and bad ones.
fn snippet() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<&'static [u8]> = vec![
        b"EHLO c\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@b.example> SIZE=9\r\n",
        b"RCPT TO:<alice@here.example>\r\n",
        b"RCPT TO:<bob@here.example>\r\n",
        b"RCPT TO:<nobody@here.example>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"BDAT 5\r\n",
        b"BDAT 7 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 41\r\n",
        b"BDAT x\r\n",
        b"12345",
        b"123\r\n",
        b"1\n345",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN dXNlcg==\r\n",
        b"AUTH PLAIN QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=\r\n",
        b"cGFzcw==\r\n",
        b"AHVzZXIAcGFzcw==\r\n",
        b"*\r\n",
        b"STARTTLS\r\n",
        b"FOO\r\n",
        b"GET / HTTP/1.1\r\n",
        b"0123456789012345678901234567890123456789",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"x",
        b"\0",
        b"\xff",
    ];
    prop_oneof![
        20 => prop::sample::select(texts).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop::sample::select(vec![
        &b""[..],
        b"EHLO c\r\n",
        b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\n",
        b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\nDATA\r\n",
    ]);
    (begin, prop::collection::vec(snippet(), 0..40)).prop_map(|(begin, rest)| [begin, &rest.concat()].concat())
}

proptest! {
    #![proptest_config(common::proptest_config(3_000))]

    #[test]
    fn any_octets_in_any_pieces(
        input in conversation(),
        (read, write, pending, lazy) in (1usize..50, 1usize..50, 0u32..4, any::<bool>()),
        piece in 1usize..60,
        cut in any::<prop::sample::Index>(),
        pause in prop::sample::select(vec![0u64, 0, 3]),
    ) {
        let stack = reference_stack().with(|config| {
            let limits = &mut config.limits;
            (limits.line, limits.auth_line, limits.content_line, limits.message_size) = (40, 60, 12, 40);
        });
        let reference = whole(&stack, &Knobs::default(), &input);
        let slow = stack.slow(Duration::from_millis(pause));
        let knobs = Knobs::default().paced(Pace { read, write, pending, lazy });
        for outcome in [
            talk(&slow, &knobs, &input, Pieces::Of(piece)),
            talk(&slow, &Knobs::default(), &input, Pieces::CutAt(cut.index(input.len() + 1))),
        ] {
            prop_assert_eq!(&outcome.0, &reference.0, "to {:?}", String::from_utf8_lossy(&input));
            prop_assert_eq!(&outcome.1, &reference.1, "to {:?}", String::from_utf8_lossy(&input));
        }
    }
}
