//! A reply for each recipient (PRDR).

use super::*;

/// MAIL with PRDR and two recipients, accepted; the content by BDAT.
fn judged() -> Rig {
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING", "PRDR"]);
    let mail = Mail { parameters: Parameters::new("PRDR").unwrap(), ..Mail::new(ReversePath::Null) };
    for command in [Command::Mail(mail), rcpt(1), rcpt(2), bdat(2, true)] {
        rig.say(&command).unwrap();
    }
    rig.session.content(Bytes::from("\r\n")).unwrap();
    rig.written();
    assert_eq!(rig.heard("250 ok\r\n250 ok\r\n250 ok\r\n").len(), 3);
    rig
}

#[test]
fn prdr_has_a_reply_for_each_and_one_for_all() {
    let mut rig = judged();
    // What the next transaction says does not change what this one asked for.
    rig.say(&mail()).unwrap();
    rig.written();
    let all = [(Content, 353), (Content, 250), (Content, 550), (Content, 250), (To(Verb::Mail), 250)];
    assert_eq!(rig.heard("353 each\r\n250 a\r\n550 b\r\n250 all\r\n250 ok\r\n"), all);
    assert_eq!(rig.session.state(), State::Mail);
    // At once with the reply for all, and with a farewell.
    assert_eq!(judged().heard("554 no\r\n"), [(Content, 554)]);
    assert_eq!(judged().heard("353 each\r\n250 a\r\n421 bye\r\n")[2], (Content, 421));
}

#[test]
fn prdr_by_hand_is_prdr() {
    for (parameter, each) in [(" PRDR", true), ("", false)] {
        let mut rig = Rig::ready(&["PRDR"]);
        let mail = alloc::format!("MAIL FROM:<>{parameter}");
        for line in [&*mail, "RCPT TO:<r1@x.example>", "RCPT TO:<r2@x.example>"] {
            rig.session.raw(line).unwrap();
            rig.written();
            rig.hear("250 ok\r\n").unwrap();
        }
        rig.session.raw("DATA").unwrap();
        rig.written();
        rig.hear("354 go\r\n").unwrap();
        rig.session.content(Bytes::from("x\r\n")).unwrap();
        rig.session.end_content().unwrap();
        rig.written();
        let heard = rig.hear("353 each\r\n250 a\r\n550 b\r\n250 all\r\n").map(|events| events.len());
        assert_eq!(heard.ok(), each.then_some(4), "{mail}");
    }
}

#[test]
fn a_353_that_was_not_asked_for_or_comes_twice_is_a_fault() {
    assert!(matches!(judged().hear("353 each\r\n353 each\r\n"), Err(Fault::Unexpected { .. })));
    assert!(matches!(judged().hear("354 go\r\n"), Err(Fault::Unexpected { .. })));
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
    for command in [mail(), rcpt(1), rcpt(2), bdat(0, true)] {
        rig.say(&command).unwrap();
    }
    rig.written();
    assert!(rig.hear("250 ok\r\n250 ok\r\n250 ok\r\n353 each\r\n").is_err());
}
