//! Commands before the server has said a word.

use super::*;

#[test]
fn the_client_speaks_first_where_the_channel_wants_it() {
    let mut rig = Rig::new(&ChannelInfo::memory("x"));
    assert_eq!(rig.say(&hello(HelloKind::Ehlo)), Err(NotNow::Outstanding(To(Verb::Connect))));

    let mut info = ChannelInfo::memory("x");
    info.client_speaks_first = true;
    let mut rig = Rig::new(&info);
    assert!(rig.say(&mail()).is_err());
    rig.say(&hello(HelloKind::Ehlo)).unwrap();
    assert_eq!(rig.say(&mail()), Err(NotNow::Outstanding(To(Verb::Hello))));
    rig.written();
    assert_eq!(rig.heard("220 mx\r\n250 mx\r\n"), [(To(Verb::Connect), 220), (To(Verb::Hello), 250)]);

    // A line that is sent as it stands goes first, too; one, and the next when it was answered.
    let mut rig = Rig::new(&info);
    assert_eq!(rig.session.raw("EHLO x"), Ok(Verb::Hello));
    assert_eq!(rig.session.raw("NOOP"), Err(NotNow::Outstanding(To(Verb::Hello))));
    rig.written();
    assert_eq!(rig.heard("220 mx\r\n250 mx\r\n"), [(To(Verb::Connect), 220), (To(Verb::Hello), 250)]);
    assert_eq!(rig.session.raw("NOOP"), Ok(Verb::Noop));
}

#[test]
fn a_channel_that_implies_pipelining_lets_a_whole_mail_fly_with_ehlo() {
    let mut info = ChannelInfo::memory("x");
    info.client_speaks_first = true;
    info.implied = &["PIPELINING", "CHUNKING"];
    let mut rig = Rig::new(&info);
    for command in [hello(HelloKind::Ehlo), mail(), rcpt(1), bdat(3, true)] {
        rig.say(&command).unwrap();
    }
    rig.session.content(Bytes::from("x\r\n")).unwrap();
    rig.say(&Command::Quit).unwrap();
    rig.written();
    let answers = rig.heard("220 a\r\n250 b\r\n250 c\r\n250 d\r\n250 e\r\n221 f\r\n");
    assert_eq!(answers[4], (Content, 250));
    assert!(rig.session.is_over());
}

/// A session on a channel that implies what a flight needs, with all of one under way.
fn flown() -> Rig {
    let mut info = ChannelInfo::memory("x");
    info.client_speaks_first = true;
    info.implied = &["PIPELINING", "CHUNKING"];
    let mut rig = Rig::new(&info);
    assert!(rig.session.is_unspoken());
    rig.session.assume(Capabilities::implied(&["SIZE 100", "DSN"]));
    assert!(rig.session.offers("DSN"));
    for command in [hello(HelloKind::Ehlo), mail(), rcpt(1), bdat(3, true)] {
        rig.say(&command).unwrap();
        assert!(!rig.session.is_unspoken());
    }
    rig.session.content(Bytes::from("x\r\n")).unwrap();
    rig.written();
    rig
}

#[test]
fn a_flight_that_is_refused_leaves_the_session_where_it_was() {
    // RSET cannot make up for an EHLO or a greeting that is missing.
    let mut rig = flown();
    rig.heard("554 no\r\n503 a\r\n503 b\r\n503 c\r\n503 d\r\n");
    assert_eq!(rig.session.state(), State::TurnedAway);
    let mut rig = flown();
    rig.heard("220 mx\r\n550 no\r\n503 b\r\n503 c\r\n503 d\r\n");
    assert_eq!(rig.session.state(), State::Greeted);
    assert!(!rig.session.offers("DSN") && rig.session.offers("CHUNKING"));
    // Behind a transaction that is refused it can.
    let mut rig = flown();
    rig.heard("220 mx\r\n250 mx\r\n550 b\r\n503 c\r\n503 d\r\n");
    assert_eq!(rig.session.state(), State::ChunksRefused);
    rig.say(&Command::Rset).unwrap();
    rig.say(&mail()).unwrap();
}

#[test]
fn a_message_is_held_until_its_last_octet_is_written() {
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
    for command in [mail(), rcpt(1), bdat(3, true)] {
        rig.say(&command).unwrap();
    }
    rig.session.content(Bytes::from("x\r\n")).unwrap();
    rig.say(&Command::Quit).unwrap();
    let quit = "QUIT\r\n".len();
    while rig.session.output().remaining() > quit {
        assert!(rig.session.holds_content());
        rig.session.output().advance(1);
    }
    assert!(!rig.session.holds_content());
}

#[test]
fn what_was_assumed_of_a_server_holds_until_it_has_spoken_for_itself() {
    let mut rig = flown();
    assert_eq!(rig.session.capabilities().max_size(), Some(100));
    rig.heard("220 mx\r\n250-mx\r\n250 SIZE 7\r\n");
    assert_eq!(rig.session.capabilities().max_size(), Some(7));
    assert!(!rig.session.offers("DSN"));
    // It is too late for that now, and elsewhere it never is in time.
    rig.session.assume(Capabilities::implied(&["DSN"]));
    assert!(!rig.session.offers("DSN"));
    let mut rig = Rig::new(&ChannelInfo::memory("x"));
    rig.session.assume(Capabilities::implied(&["DSN"]));
    assert!(!rig.session.offers("DSN") && !rig.session.is_unspoken());
}
