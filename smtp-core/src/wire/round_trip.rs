//! Every command and every reply reads back as it was written, and ends with the one CRLF that it has.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::BytesMut;
use proptest::prelude::*;

use super::{ReplyDecoder, decode_command, decode_response, encode_command, encode_reply};
use crate::types::{Code, Command, EnhancedCode, Hello, HelloKind, Mail, Parameters, Rcpt, Reply, Secret};

fn mailbox() -> impl Strategy<Value = String> {
    let local = prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,12}(\\.[a-z0-9]{1,5}){0,2}",
        "\"([ !#-\\[\\]-~]|\\\\[ -~]){0,10}\"",
        "[a-z]{1,3}[ä-ÿ漢]{1,3}"
    ];
    let host = prop_oneof![
        "[a-z0-9]{1,8}(-[a-z0-9]{1,3})?(\\.[a-z]{2,5}){0,3}",
        "\\[(1?[0-9]{1,2}\\.){3}1?[0-9]{1,2}\\]",
        "[bü]{1,5}\\.example"
    ];
    (local, host).prop_map(|(local, host)| alloc::format!("{local}@{host}"))
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let one = ("[A-Z0-9][A-Z0-9-]{0,9}", proptest::option::of("[!-<>-~]{1,20}"));
    proptest::collection::vec(one, 0..4).prop_map(|all| {
        let text: Vec<String> = all
            .into_iter()
            .map(|(keyword, value)| value.map_or(keyword.clone(), |value| alloc::format!("{keyword}={value}")))
            .collect();
        Parameters::new(&text.join(" ")).unwrap_or_default()
    })
}

fn command() -> impl Strategy<Value = Command> {
    let word = "[!-~]([ -~]{0,30}[!-~])?";
    let kind = prop_oneof![Just(HelloKind::Ehlo), Just(HelloKind::Helo), Just(HelloKind::Lhlo)];
    let secret = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        (kind, "[a-z0-9]{1,8}(\\.[a-z]{2,4}){0,2}|\\[127\\.0\\.0\\.1\\]")
            .prop_map(|(kind, name)| Command::Hello(Hello { kind, name: name.parse().unwrap() })),
        Just(Command::StartTls),
        ("[A-Z0-9_-]{1,20}", proptest::option::of(secret)).prop_map(|(mechanism, initial)| Command::Auth {
            mechanism: mechanism.into(),
            initial: initial.map(Secret::new)
        }),
        (proptest::option::of(mailbox()), parameters()).prop_filter_map("no mailbox", |(from, parameters)| {
            let from = alloc::format!("<{}>", from.unwrap_or_default()).parse().ok()?;
            Some(Command::Mail(Mail { from, parameters }))
        }),
        (prop_oneof![Just("Postmaster".into()), mailbox()], parameters()).prop_filter_map(
            "no mailbox",
            |(to, parameters)| {
                let to = alloc::format!("<{to}>").parse().ok()?;
                Some(Command::Rcpt(Rcpt { to, parameters }))
            }
        ),
        Just(Command::Data),
        (any::<u64>(), any::<bool>()).prop_map(|(size, last)| Command::Bdat { size, last }),
        Just(Command::Rset),
        Just(Command::Noop),
        word.prop_map(|text| Command::Vrfy(text.into())),
        word.prop_map(|text| Command::Expn(text.into())),
        proptest::option::of(word).prop_map(|text| Command::Help(text.map(Into::into))),
        Just(Command::Quit),
        ("X[A-Z0-9]{3,12}", proptest::option::of(word))
            .prop_map(|(verb, text)| Command::Other { verb: verb.into(), arguments: text.unwrap_or_default().into() }),
    ]
}

/// The line, without the CRLF that must be its only one.
fn line(wire: &[u8]) -> &[u8] {
    assert_eq!(wire.iter().filter(|b| matches!(b, b'\r' | b'\n')).count(), 2, "{wire:?}");
    wire.strip_suffix(b"\r\n").unwrap()
}

proptest! {
    #[test]
    fn every_command_reads_back(command in command()) {
        let mut wire = BytesMut::new();
        encode_command(&command, &mut wire);
        prop_assert_eq!(decode_command(line(&wire)), Ok(command));
    }

    #[test]
    fn every_sasl_response_reads_back(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut wire = BytesMut::new();
        encode_command(&Command::Response(Secret::new(octets.clone())), &mut wire);
        prop_assert_eq!(decode_response(line(&wire)), Ok(Some(Secret::new(octets))));
    }

    #[test]
    fn every_reply_reads_back_and_every_line_of_it_ends_once(
        code in 200u16..600,
        enhanced in proptest::option::of((0u16..9, 0u16..99)),
        text in any::<String>(),
    ) {
        let code = Code::new(code).unwrap();
        let class = u8::try_from(code.get() / 100).unwrap();
        let enhanced = enhanced.and_then(|(subject, detail)| EnhancedCode::new(class, subject, detail).ok());
        // A text that looks like an enhanced code cannot be told from one.
        let looks_so = text.starts_with(|c: char| c.is_ascii_digit());
        prop_assume!(enhanced.is_some() || !looks_so);
        let reply = Reply::new(code, enhanced, text);
        let mut wire = BytesMut::new();
        encode_reply(&reply, true, &mut wire);
        prop_assert_eq!(wire.iter().filter(|b| matches!(b, b'\r' | b'\n')).count(), 2 * reply.lines().count());
        prop_assert!(wire.ends_with(b"\r\n"));
        if wire.len() < 4096 {
            let again = ReplyDecoder::default().next(&mut wire).unwrap().unwrap();
            prop_assert!(wire.is_empty());
            // What is no character in UTF-8's own eyes, such as U+FFFD, is shown as `?`.
            let shown = reply.text().replace('\u{FFFD}', "?");
            prop_assert_eq!((again.code(), again.enhanced(), again.text()), (code, enhanced, shown.as_str()));
        }
    }
}
