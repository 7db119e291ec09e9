//! What no server may say.

use super::*;

#[test]
fn a_421_is_understood_anywhere_and_nothing_follows_it() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    assert_eq!(rig.heard("421 idle\r\n250 more\r\n"), [(Nothing, 421)]);
    assert!(rig.session.is_over());

    let mut rig = Rig::ready(&["PIPELINING"]);
    for command in [mail(), rcpt(1), Command::Data] {
        rig.say(&command).unwrap();
    }
    rig.written();
    assert_eq!(rig.heard("250 a\r\n421 b\r\n354 c\r\n"), [(To(Verb::Mail), 250), (To(Verb::Rcpt), 421)]);

    let mut rig = Rig::new(&ChannelInfo::memory("x"));
    assert_eq!(rig.heard("421 full\r\n"), [(To(Verb::Connect), 421)]);
    assert!(rig.session.is_over());

    // Even before the question was written.
    let mut rig = Rig::ready(&[]);
    rig.say(&mail()).unwrap();
    assert_eq!(rig.heard("421 idle\r\n"), [(To(Verb::Mail), 421)]);
    assert!(rig.session.output().is_empty());
}

#[test]
fn an_answer_before_its_question_is_a_fault() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    assert!(matches!(rig.hear("250 hm\r\n"), Err(Fault::Unasked(_))));
    let mut rig = Rig::ready(&["PIPELINING"]);
    rig.say(&mail()).unwrap();
    let n = rig.session.output().remaining();
    rig.session.output().advance(n - 1);
    assert!(matches!(rig.hear("250 hm\r\n"), Err(Fault::Unasked(_))));
    assert_eq!(rig.hear("250 hm\r\n"), Ok(vec![]));
}

#[test]
fn content_refused_midway_ends_the_session_and_accepted_midway_is_a_fault() {
    for (reply, fine) in [("552 enough\r\n", true), ("451 enough\r\n", true), ("250 got it\r\n", false)] {
        for chunked in [false, true] {
            let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
            for command in [mail(), rcpt(1)] {
                rig.say(&command).unwrap();
            }
            rig.say(&if chunked { bdat(9, true) } else { Command::Data }).unwrap();
            if chunked {
                rig.session.content(Bytes::from("123")).unwrap();
            }
            rig.written();
            rig.hear("250 a\r\n250 b\r\n").unwrap();
            if !chunked {
                rig.hear("354 c\r\n").unwrap();
                rig.session.content(Bytes::from("123")).unwrap();
            }
            let answer = rig.hear(reply);
            assert_eq!(answer.is_ok_and(|events| events[0].to == Content), fine, "{reply:?} {chunked}");
            assert!(rig.session.is_over());
            assert_eq!(rig.session.content(Bytes::from("456")), Err(ContentError::NotWanted));
        }
    }
}

#[test]
fn codes_that_cannot_answer_are_faults() {
    for (command, reply) in [
        (mail(), "354 go\r\n"),
        (Command::Rset, "334 x\r\n"),
        (Command::Noop, "354 x\r\n"),
        (Command::StartTls, "334 x\r\n"),
        (Command::Quit, "354 x\r\n"),
        (Command::Auth { mechanism: "PLAIN".into(), initial: None }, "354 x\r\n"),
        (hello(HelloKind::Ehlo), "300 x\r\n"),
    ] {
        let mut rig = Rig::ready(&[]);
        rig.say(&command).unwrap();
        rig.written();
        assert!(matches!(rig.hear(reply), Err(Fault::Unexpected { .. })), "{command:?} {reply}");
        assert!(rig.session.is_over());
    }
    let mut rig = Rig::ready(&["PIPELINING"]);
    for command in [mail(), rcpt(1), Command::Data] {
        rig.say(&command).unwrap();
    }
    rig.written();
    assert!(matches!(rig.hear("250 a\r\n250 b\r\n250 c\r\n"), Err(Fault::Unexpected { to: To(Verb::Data), .. })));
}

#[test]
fn a_peer_that_speaks_no_smtp_is_a_fault() {
    for (wire, error) in [
        ("HTTP/1.1 400 Bad Request\r\n", ReplyError::NotAReply),
        ("220 a\n", ReplyError::Line(LineError::BareLf)),
        ("220-a\r\n250 b\r\n", ReplyError::MixedCodes),
    ] {
        let mut rig = Rig::new(&ChannelInfo::memory("x"));
        assert_eq!(rig.hear(wire), Err(Fault::Reply(error)));
        assert!(rig.session.is_over());
    }
}
