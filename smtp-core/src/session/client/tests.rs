mod faults;
mod flights;
mod hostile;
mod prdr;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::channel::{ChannelInfo, Peer};
use crate::types::{EhloName, Hello, Parameters, Rcpt, ReversePath, Secret};
use crate::wire::{BadLine, LineError, ReplyError};

/// A session and the input that its driver would hold.
struct Rig {
    session: Session,
    input: BytesMut,
}

impl Rig {
    fn new(info: &ChannelInfo) -> Self {
        Self { session: Session::new(info), input: BytesMut::new() }
    }

    /// A session behind its greeting and an EHLO whose reply offered `keywords`.
    fn ready(keywords: &[&str]) -> Self {
        let mut rig = Self::new(&ChannelInfo::memory("test"));
        rig.hear("220 mx\r\n").unwrap();
        rig.hello(HelloKind::Ehlo, keywords);
        rig
    }

    fn hello(&mut self, kind: HelloKind, keywords: &[&str]) {
        self.say(&hello(kind)).unwrap();
        self.written();
        let mut reply = String::new();
        let lines: Vec<&str> = ["mx"].iter().chain(keywords).copied().collect();
        for (i, line) in lines.iter().enumerate() {
            let dash = if i + 1 == lines.len() { ' ' } else { '-' };
            reply.push_str(&alloc::format!("250{dash}{line}\r\n"));
        }
        self.hear(&reply).unwrap();
    }

    fn say(&mut self, command: &Command) -> Result<(), NotNow> {
        self.session.command(command)
    }

    /// All that was queued, now written.
    fn written(&mut self) -> String {
        let mut all = Vec::new();
        while self.session.output().has_remaining() {
            let n = self.session.output().chunk().len();
            all.extend_from_slice(self.session.output().chunk());
            self.session.output().advance(n);
        }
        String::from_utf8(all).unwrap()
    }

    /// What `octets` mean, handed in one by one.
    fn hear(&mut self, octets: &str) -> Result<Vec<Event>, Fault> {
        let mut events = Vec::new();
        for octet in octets.bytes() {
            self.input.extend_from_slice(&[octet]);
            while let Some(event) = self.session.input(&mut self.input)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// As [`Rig::hear`], all in one piece.
    fn hear_at_once(&mut self, octets: &str) -> Result<Vec<Event>, Fault> {
        let mut events = Vec::new();
        self.input.extend_from_slice(octets.as_bytes());
        while let Some(event) = self.session.input(&mut self.input)? {
            events.push(event);
        }
        Ok(events)
    }

    fn heard(&mut self, octets: &str) -> Vec<(Awaited, u16)> {
        self.hear(octets).unwrap().iter().map(|e| (e.to, e.reply.code().get())).collect()
    }
}

fn hello(kind: HelloKind) -> Command {
    Command::Hello(Hello { kind, name: EhloName::new("c.example").unwrap() })
}

fn mail() -> Command {
    Command::Mail(Mail::new(ReversePath::Null))
}

fn binary_mail() -> Command {
    Command::Mail(Mail { parameters: Parameters::new("BODY=BINARYMIME").unwrap(), ..Mail::new(ReversePath::Null) })
}

fn rcpt(n: usize) -> Command {
    Command::Rcpt(Rcpt::new(crate::types::Mailbox::new(&alloc::format!("r{n}@x.example")).unwrap()))
}

const fn bdat(size: u64, last: bool) -> Command {
    Command::Bdat { size, last }
}

use Awaited::{Command as To, Content, Nothing};

#[test]
fn a_message_by_data_in_lock_step() {
    let mut rig = Rig::ready(&["SIZE 1000"]);
    assert_eq!(rig.session.capabilities().max_size(), Some(1000));
    rig.say(&mail()).unwrap();
    assert_eq!(rig.say(&rcpt(1)), Err(NotNow::Outstanding(To(Verb::Mail))));
    assert_eq!(rig.written(), "MAIL FROM:<>\r\n");
    assert_eq!(rig.heard("250 ok\r\n"), [(To(Verb::Mail), 250)]);
    rig.say(&rcpt(1)).unwrap();
    rig.written();
    assert_eq!(rig.heard("250 ok\r\n"), [(To(Verb::Rcpt), 250)]);
    assert_eq!(rig.session.accepted(), 1);
    rig.say(&Command::Data).unwrap();
    rig.written();
    assert!(!rig.session.wants_content());
    assert_eq!(rig.heard("354 go\r\n"), [(To(Verb::Data), 354)]);
    assert!(rig.session.wants_content());
    for piece in ["a\r", "\n", ".", "b\r\n.", "\r\n.\r\n"] {
        rig.session.content(Bytes::from(piece)).unwrap();
    }
    assert_eq!(rig.say(&mail()), Err(NotNow::InContent));
    rig.session.end_content().unwrap();
    assert_eq!(rig.written(), "a\r\n..b\r\n..\r\n..\r\n.\r\n");
    assert_eq!(rig.heard("250 2.0.0 queued\r\n"), [(Content, 250)]);
    assert!(rig.session.is_idle());
    assert_eq!(rig.session.state(), State::Ready);
}

#[test]
fn groups_follow_rfc_2920() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    for command in [mail(), rcpt(1), rcpt(2), Command::Data] {
        rig.say(&command).unwrap();
    }
    // DATA ends a group.
    assert_eq!(rig.say(&Command::Rset), Err(NotNow::Outstanding(To(Verb::Data))));
    assert_eq!(rig.written(), "MAIL FROM:<>\r\nRCPT TO:<r1@x.example>\r\nRCPT TO:<r2@x.example>\r\nDATA\r\n");
    let mut answers = rig.heard("250 a\r\n550 b\r\n250 c\r\n354 d\r\n");
    assert_eq!(answers, [(To(Verb::Mail), 250), (To(Verb::Rcpt), 550), (To(Verb::Rcpt), 250), (To(Verb::Data), 354)]);
    rig.session.content(Bytes::from("x")).unwrap();
    rig.session.end_content().unwrap();
    // The content may be the first of a group.
    for command in [Command::Rset, mail(), rcpt(3), Command::Quit] {
        rig.say(&command).unwrap();
    }
    assert_eq!(rig.say(&Command::Noop), Err(NotNow::Outstanding(To(Verb::Quit))));
    assert!(rig.written().starts_with("x\r\n.\r\nRSET\r\n"));
    answers = rig.heard("250 a\r\n250 b\r\n250 c\r\n250 d\r\n221 e\r\n");
    assert_eq!(answers[0], (Content, 250));
    assert_eq!(answers[4], (To(Verb::Quit), 221));
    assert!(rig.session.is_over());
    assert_eq!(rig.say(&Command::Noop), Err(NotNow::Over));
}

#[test]
fn every_verb_that_ends_a_group_ends_it() {
    for command in [
        hello(HelloKind::Ehlo),
        Command::Vrfy("x".into()),
        Command::Expn("x".into()),
        Command::Help(None),
        Command::Noop,
        Command::StartTls,
        Command::Auth { mechanism: "PLAIN".into(), initial: None },
        Command::Quit,
    ] {
        let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
        rig.say(&Command::Rset).unwrap();
        rig.say(&command).unwrap();
        for next in [Command::Rset, mail(), Command::Noop] {
            assert!(matches!(rig.say(&next), Err(NotNow::Outstanding(_))), "{command:?} then {next:?}");
        }
    }
}

#[test]
fn a_354_for_nobody_is_answered_with_a_lone_dot() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    for command in [mail(), rcpt(1), Command::Data] {
        rig.say(&command).unwrap();
    }
    rig.written();
    rig.hear("250 a\r\n550 b\r\n354 c\r\n").unwrap();
    assert!(!rig.session.wants_content());
    assert_eq!(rig.session.content(Bytes::from("secret")), Err(ContentError::NotWanted));
    assert_eq!(rig.written(), ".\r\n");
    assert_eq!(rig.heard("554 no valid recipients\r\n"), [(Content, 554)]);
    assert!(rig.session.is_idle());
    rig.say(&mail()).unwrap();
}

#[test]
fn a_refused_data_leaves_the_transaction_open() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    for command in [mail(), rcpt(1), Command::Data] {
        rig.say(&command).unwrap();
    }
    rig.written();
    rig.hear("250 a\r\n250 b\r\n451 c\r\n").unwrap();
    assert!(matches!(rig.say(&mail()), Err(NotNow::BadSequence(_))));
    rig.say(&Command::Rset).unwrap();
    rig.say(&mail()).unwrap();
}

#[test]
fn chunks_in_one_flight_and_after_a_refusal() {
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
    for command in [mail(), rcpt(1), bdat(3, false)] {
        rig.say(&command).unwrap();
    }
    assert_eq!(rig.session.chunk_left(), 3);
    assert_eq!(rig.session.content(Bytes::from("1234")), Err(ContentError::TooMuch { left: 3 }));
    rig.session.content(Bytes::from("a\r")).unwrap();
    rig.session.content(Bytes::from("\n")).unwrap();
    assert_eq!(rig.session.content(Bytes::from("x")), Err(ContentError::NotWanted));
    // Nothing but chunks may stand between chunks.
    assert!(matches!(rig.say(&Command::Data), Err(NotNow::BadSequence(_))));
    rig.say(&bdat(0, true)).unwrap();
    rig.say(&mail()).unwrap();
    let text = rig.written();
    assert!(text.ends_with("BDAT 3\r\na\r\nBDAT 0 LAST\r\nMAIL FROM:<>\r\n"), "{text:?}");
    let answers = rig.heard("250 a\r\n250 b\r\n552 c\r\n503 d\r\n503 e\r\n");
    assert_eq!(answers[2..], [(To(Verb::Bdat), 552), (Content, 503), (To(Verb::Mail), 503)]);
    assert_eq!(rig.session.state(), State::ChunksRefused);
    assert!(matches!(rig.say(&mail()), Err(NotNow::BadSequence(_))));
    rig.say(&Command::Rset).unwrap();
    rig.say(&mail()).unwrap();
}

#[test]
fn no_chunk_goes_to_a_server_that_would_read_it_as_commands() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    rig.say(&mail()).unwrap();
    rig.say(&rcpt(1)).unwrap();
    assert_eq!(rig.say(&bdat(1, true)), Err(NotNow::NoChunking));
    rig.written();
    rig.hear("250 a\r\n250 b\r\n").unwrap();
    assert_eq!(rig.session.raw("BDAT 1 LAST"), Err(NotNow::NoChunking));
}

#[test]
fn a_bad_line_kills_the_session_and_nothing_more_is_sent() {
    for (pieces, bad) in [
        (&["a\nb"][..], BadLine::BareLf),
        (&["a\r", "b"], BadLine::BareCr),
        (&["a\r"], BadLine::BareCr),
        (&["fine\r\n", "\n"], BadLine::BareLf),
    ] {
        let mut rig = Rig::ready(&[]);
        for command in [mail(), rcpt(1)] {
            rig.say(&command).unwrap();
            rig.written();
            rig.hear("250 ok\r\n").unwrap();
        }
        rig.say(&Command::Data).unwrap();
        rig.written();
        rig.hear("354 go\r\n").unwrap();
        let error = pieces
            .iter()
            .find_map(|piece| rig.session.content(Bytes::from(*piece)).err())
            .unwrap_or_else(|| rig.session.end_content().unwrap_err());
        assert_eq!(error, ContentError::BadLine(bad));
        assert!(rig.session.is_over());
        assert_eq!(rig.written(), "");
    }
}

#[test]
fn a_chunk_must_not_end_the_message_within_a_line_end() {
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
    for command in [mail(), rcpt(1), bdat(2, false)] {
        rig.say(&command).unwrap();
    }
    rig.session.content(Bytes::from("a\r")).unwrap();
    assert_eq!(rig.say(&bdat(0, true)), Err(NotNow::BadLine(BadLine::BareCr)));
    rig.say(&bdat(1, true)).unwrap();
    rig.session.content(Bytes::from("\n")).unwrap();
    for command in [mail(), rcpt(1), bdat(2, true)] {
        rig.say(&command).unwrap();
    }
    assert_eq!(rig.session.content(Bytes::from("a\r")), Err(ContentError::BadLine(BadLine::BareCr)));
    assert!(rig.session.is_over() && rig.session.output().is_empty());
}

#[test]
fn lines_over_the_limit_do_not_leave() {
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING"]);
    rig.session.set_line_max(1000);
    for command in [mail(), rcpt(1), bdat(2000, true)] {
        rig.say(&command).unwrap();
    }
    let long = Bytes::from(vec![b'x'; 2000]);
    assert_eq!(rig.session.content(long), Err(ContentError::BadLine(BadLine::TooLong)));
    assert!(rig.session.is_over() && rig.session.output().is_empty());
}

#[test]
fn binary_content_knows_no_lines_and_goes_by_chunks_only() {
    let mut rig = Rig::ready(&["PIPELINING", "CHUNKING", "BINARYMIME"]);
    rig.say(&binary_mail()).unwrap();
    rig.say(&rcpt(1)).unwrap();
    assert_eq!(rig.say(&Command::Data), Err(NotNow::Binary));
    rig.say(&bdat(4, true)).unwrap();
    rig.session.content(Bytes::from("\n\r\0\r")).unwrap();
    rig.written();
    rig.hear("250 a\r\n250 b\r\n250 c\r\n").unwrap();
    // The next message is under the law again.
    rig.say(&mail()).unwrap();
    rig.say(&rcpt(1)).unwrap();
    rig.say(&bdat(1, true)).unwrap();
    assert!(rig.session.content(Bytes::from("\n")).is_err());
}

#[test]
fn starttls_forgets_everything() {
    let mut info = ChannelInfo::new("tcp", Peer::Named("x".into()));
    info.can_upgrade = true;
    let mut rig = Rig::new(&info);
    rig.hear("220 mx\r\n").unwrap();
    rig.hello(HelloKind::Ehlo, &["STARTTLS", "PIPELINING", "AUTH PLAIN"]);
    rig.say(&Command::StartTls).unwrap();
    rig.written();
    assert_eq!(rig.session.upgraded(&info), Err(NotNow::BadSequence("no 220 to STARTTLS has come")));
    rig.hear("220 go\r\n").unwrap();
    assert!(rig.session.is_upgrading() && !rig.session.is_idle());
    assert!(rig.say(&hello(HelloKind::Ehlo)).is_err());
    rig.session.upgraded(&info).unwrap();
    assert!(!rig.session.pipelining() && !rig.session.offers("AUTH"));
    assert!(matches!(rig.say(&mail()), Err(NotNow::BadSequence(_))));
    rig.hello(HelloKind::Ehlo, &["AUTH PLAIN"]);
    assert!(rig.session.offers("AUTH"));
}

#[test]
fn octets_behind_the_220_to_starttls_are_an_attack() {
    for injected in ["x", "250 fake\r\n", "250-", "\r\n"] {
        let mut rig = Rig::ready(&["STARTTLS"]);
        rig.say(&Command::StartTls).unwrap();
        rig.written();
        let mut wire = String::from("220 go\r\n");
        wire.push_str(injected);
        assert_eq!(rig.hear_at_once(&wire), Err(Fault::Injected));
        assert!(rig.session.is_over());
    }
}

#[test]
fn a_refused_starttls_goes_on_in_clear() {
    let mut rig = Rig::ready(&["STARTTLS"]);
    rig.say(&Command::StartTls).unwrap();
    rig.written();
    assert_eq!(rig.heard("454 not now\r\n"), [(To(Verb::StartTls), 454)]);
    assert!(rig.session.is_idle() && !rig.session.is_upgrading());
    rig.say(&mail()).unwrap();
}

#[test]
fn turned_away_leaves_only_quit() {
    let mut rig = Rig::new(&ChannelInfo::memory("x"));
    assert_eq!(rig.heard("554 no service\r\n"), [(To(Verb::Connect), 554)]);
    assert!(rig.say(&hello(HelloKind::Ehlo)).is_err());
    rig.say(&Command::Quit).unwrap();
}

#[test]
fn lmtp_answers_for_each_accepted_recipient() {
    for chunked in [false, true] {
        let mut rig = Rig::new(&ChannelInfo::memory("x"));
        rig.hear("220 lmtp\r\n").unwrap();
        rig.hello(HelloKind::Lhlo, &["PIPELINING", "CHUNKING"]);
        for command in [mail(), rcpt(1), rcpt(2), rcpt(3)] {
            rig.say(&command).unwrap();
        }
        rig.say(&if chunked { bdat(3, true) } else { Command::Data }).unwrap();
        if chunked {
            rig.session.content(Bytes::from("x\r\n")).unwrap();
        }
        rig.written();
        rig.hear("250 a\r\n250 b\r\n550 c\r\n250 d\r\n").unwrap();
        if !chunked {
            rig.hear("354 e\r\n").unwrap();
            rig.session.content(Bytes::from("x\r\n")).unwrap();
            rig.session.end_content().unwrap();
            rig.written();
        }
        assert_eq!(rig.heard("452 full\r\n"), [(Content, 452)]);
        assert!(!rig.session.is_idle());
        assert_eq!(rig.heard("250 ok\r\n"), [(Content, 250)]);
        assert!(rig.session.is_idle());
        rig.say(&mail()).unwrap();
    }
}

#[test]
fn sasl_exchanges() {
    let mut rig = Rig::ready(&["AUTH LOGIN"]);
    let login = Command::Auth { mechanism: "LOGIN".into(), initial: None };
    rig.say(&login).unwrap();
    rig.written();
    assert_eq!(rig.heard("334 VXNlcm5hbWU6\r\n"), [(To(Verb::Auth), 334)]);
    assert!(matches!(rig.say(&mail()), Err(NotNow::BadSequence(_))));
    rig.say(&Command::Response(Secret::new(*b"jo"))).unwrap();
    assert_eq!(rig.written(), "am8=\r\n");
    assert_eq!(rig.heard("334 \r\n"), [(To(Verb::Response), 334)]);
    rig.session.cancel_auth().unwrap();
    assert_eq!(rig.written(), "*\r\n");
    assert_eq!(rig.heard("501 cancelled\r\n"), [(To(Verb::Response), 501)]);
    assert!(!rig.session.is_authenticated() && rig.session.cancel_auth().is_err());
    rig.say(&login).unwrap();
    rig.written();
    rig.hear("235 fine\r\n").unwrap();
    assert!(rig.session.is_authenticated() && rig.session.is_idle());
}

#[test]
fn raw_lines_cannot_smuggle_and_keep_the_session_in_step() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    for bad in ["NOOP\r\nQUIT", "NOOP\n", "\0", "a\u{1b}[2J", "x\u{85}"] {
        assert_eq!(rig.session.raw(bad), Err(NotNow::Control));
    }
    assert_eq!(rig.session.raw("XYZZY now"), Ok(Verb::Other));
    assert_eq!(rig.session.raw("NOOP"), Err(NotNow::Outstanding(To(Verb::Other))));
    assert_eq!(rig.written(), "XYZZY now\r\n");
    assert_eq!(rig.heard("399 odd\r\n"), [(To(Verb::Other), 399)]);
    for (line, verb) in [("mail from:<>", Verb::Mail), ("RCPT TO:<a@b>", Verb::Rcpt)] {
        assert_eq!(rig.session.raw(line), Ok(verb));
        rig.written();
        rig.hear("250 ok\r\n").unwrap();
    }
    rig.say(&Command::Data).unwrap();
    rig.written();
    rig.hear("354 go\r\n").unwrap();
    assert!(rig.session.wants_content());
    assert_eq!(rig.session.raw("NOOP"), Err(NotNow::InContent));
}

#[test]
fn lock_step_is_stronger_than_what_is_offered() {
    let mut rig = Rig::ready(&["PIPELINING"]);
    rig.session.set_lock_step(true);
    rig.say(&mail()).unwrap();
    assert_eq!(rig.say(&rcpt(1)), Err(NotNow::Outstanding(To(Verb::Mail))));
    assert!(!rig.session.pipelining());
}
