//! Whatever a server says, and in whatever pieces.

use super::*;

/// A server that says anything at all.
fn hostile() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("220 go\r\n"),
        Just("250 ok\r\n"),
        Just("250-more\r\n"),
        Just("250 PIPELINING\r\n"),
        Just("334 \r\n"),
        Just("354 go\r\n"),
        Just("421 bye\r\n"),
        Just("452 full\r\n"),
        Just("550 no\r\n"),
        Just("\r\n"),
        Just("25"),
        Just("0 x\n"),
        Just("\u{0}\u{1b}"),
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

#[derive(Debug, Clone)]
enum Move {
    Say(Command),
    Content(&'static str),
    End,
    Write(usize),
    Hear(String),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let command = proptest::sample::select(vec![
        hello(HelloKind::Ehlo),
        hello(HelloKind::Lhlo),
        mail(),
        binary_mail(),
        rcpt(1),
        Command::Data,
        bdat(0, true),
        bdat(2, false),
        bdat(3, true),
        Command::Rset,
        Command::StartTls,
        Command::Auth { mechanism: "PLAIN".into(), initial: None },
        Command::Response(Secret::default()),
        Command::Quit,
        Command::Connect,
    ]);
    let one = prop_oneof![
        4 => command.prop_map(Move::Say),
        1 => proptest::sample::select(vec!["", "a", "\r\n", ".\r\n", "\n"]).prop_map(Move::Content),
        1 => Just(Move::End),
        2 => (0..200usize).prop_map(Move::Write),
        4 => hostile().prop_map(Move::Hear),
    ];
    proptest::collection::vec(one, 0..40)
}

proptest! {
    /// Whatever both sides do: no panic, only whole lines of commands are written, and after a fault or a 421 nothing
    /// at all.
    #[test]
    fn no_sequence_of_moves_breaks_it(moves in moves()) {
        let mut rig = Rig::new(&ChannelInfo::memory("x"));
        for one in moves {
            let over = rig.session.is_over();
            match one {
                Move::Say(command) => { let _ = rig.say(&command); }
                Move::Content(piece) => { let _ = rig.session.content(Bytes::from(piece)); }
                Move::End => { let _ = rig.session.end_content(); }
                Move::Write(n) => rig.session.output().advance(n),
                Move::Hear(octets) => { let _ = rig.hear(&octets); }
            }
            prop_assert!(!over || (rig.session.is_over() && rig.session.output().is_empty()));
            prop_assert!(!rig.session.is_idle() || rig.session.awaits().is_none());
        }
    }

    /// The cut of the input does not matter, up to what STARTTLS forbids.
    #[test]
    fn the_same_octets_give_the_same_events_at_every_split(octets in hostile()) {
        let run = |rig: &mut Rig, at_once: bool| {
            for command in [mail(), rcpt(1), rcpt(2), bdat(1, true)] {
                rig.say(&command).unwrap();
            }
            rig.session.content(Bytes::from("x")).unwrap();
            rig.written();
            let result = if at_once { rig.hear_at_once(&octets) } else { rig.hear(&octets) };
            (result, rig.session.state(), rig.session.accepted().to_string())
        };
        let keywords = ["PIPELINING", "CHUNKING"];
        prop_assert_eq!(run(&mut Rig::ready(&keywords), true), run(&mut Rig::ready(&keywords), false));
    }
}
