use std::sync::{Arc, Mutex};
use std::time::Duration;

use smtp_client::sasl::{Credentials, Exposure};
use smtp_client::{Connection, Error, Local, Observer, Options, Side, Step};
use smtp_core::channel::ChannelInfo;
use smtp_core::service::Body;
use smtp_core::session::client::NotNow;
use smtp_core::stream::TlsPolicy;
use smtp_core::types::{Domain, Mail, Rcpt, ReversePath};

use crate::peer::{Scripted, clear, connected, connected_with, mailbox, options, pair, pair_of, results, target};

#[tokio::test(start_paused = true)]
async fn every_command_has_its_step() {
    let (mut connection, mut peer) = connected("CHUNKING\nVRFY").await;
    let server = async {
        peer.on("NOOP", "250 ok").await;
        peer.on("HELP", "214-all\n214 of it").await;
        peer.on("HELP MAIL", "214 x").await;
        peer.on("VRFY jo", "252 maybe").await;
        peer.on("EXPN list", "550 5.7.1 no").await;
        peer.on("MAIL FROM:<>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>", "250 ok").await;
        peer.on("BDAT 3\na", "250 got").await;
        peer.on("RSET", "250 ok").await;
        peer.on("MAIL FROM:<>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>", "250 ok").await;
        peer.on("DATA", "354 go").await;
        peer.on("..x\n.", "250 2.0.0 queued").await;
        peer.on("QUIT", "221 bye").await;
        assert_eq!(peer.rest().await, "");
    };
    let client = async {
        connection.noop().await.unwrap();
        assert_eq!(connection.help(None).await.unwrap().text(), "all\nof it");
        connection.help(Some("MAIL")).await.unwrap();
        assert_eq!(connection.vrfy("jo").await.unwrap().code().get(), 252);
        let refused = connection.expn("list").await.unwrap_err();
        assert_eq!((refused.step(), refused.side()), (Step::Expand, Side::Server));
        assert_eq!(refused.reply().unwrap().to_string(), "550 5.7.1 no");
        connection.mail(&Mail::new(ReversePath::Null)).await.unwrap();
        connection.rcpt(&Rcpt::new(mailbox("a@x.test"))).await.unwrap();
        connection.bdat("a\r\n".into(), false).await.unwrap();
        connection.rset().await.unwrap();
        connection.mail(&Mail::new(ReversePath::Null)).await.unwrap();
        connection.rcpt(&Rcpt::new(mailbox("a@x.test"))).await.unwrap();
        let outcome = connection.data(Body::from_bytes(".x")).await.unwrap();
        assert_eq!(results(outcome), ["250 2.0.0 queued"]);
        connection.quit().await.unwrap();
        assert!(!connection.is_usable());
        assert!(matches!(connection.noop().await, Err(Error::Closed { step: Step::Noop, .. })));
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_ehlo_is_greeted_with_helo() {
    for refusal in ["500 what", "502 5.5.1 not here", "550 x", "554 x"] {
        let (stream, mut peer) = pair();
        let server = async {
            peer.say("220-old\n220 server").await;
            peer.on("EHLO client.test", refusal).await;
            peer.on("HELO client.test", "250 old").await;
        };
        let client = async {
            let mut connection = Connection::over(stream, &TlsPolicy::OPPORTUNISTIC, options()).await.unwrap();
            assert_eq!(connection.greeting().unwrap().text(), "old\nserver");
            connection.hello().await.unwrap();
            assert_eq!(connection.capabilities().iter().count(), 0);
        };
        tokio::join!(server, client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_not_taken_for_an_old_one() {
    let (stream, mut peer) = pair();
    let server = async {
        peer.say("220 x").await;
        peer.on("EHLO client.test", "451 busy").await;
        peer.silent().await;
    };
    let client = async {
        let mut connection = Connection::over(stream, &TlsPolicy::NONE, options()).await.unwrap();
        let error = connection.hello().await.unwrap_err();
        assert!(matches!(&error, Error::Refused { step: Step::Hello, .. }), "{error}");
        connection
    };
    let (_connection, ()) = tokio::join!(client, server);
}

#[tokio::test(start_paused = true)]
async fn turned_away_at_the_door() {
    for greeting in ["554 5.7.1 no service", "421 full"] {
        let (stream, mut peer) = pair();
        let server = async {
            peer.say(greeting).await;
            if greeting.starts_with('5') {
                peer.on("QUIT", "221 bye").await;
            }
            assert_eq!(peer.rest().await, "");
        };
        let client = async {
            let error = Connection::over(stream, &TlsPolicy::NONE, options()).await.unwrap_err();
            assert_eq!(error.step(), Step::Greeting);
            assert!(error.refusal().is_transient());
        };
        tokio::join!(client, server);
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_speaks_first_where_the_channel_wants_it() {
    let speaks_first = || pair_of(1024, ChannelInfo { client_speaks_first: true, ..clear() });
    let (stream, mut peer) = speaks_first();
    let server = async {
        peer.expect("EHLO client.test").await;
        peer.say_at_once("220 late\n250-mx\n250 SIZE 9").await;
        peer.on("NOOP", "250 ok").await;
    };
    let client = async {
        let mut connection = Connection::over(stream, &TlsPolicy::NONE, options()).await.unwrap();
        assert!(connection.greeting().is_none());
        connection.hello().await.unwrap();
        assert_eq!(connection.greeting().unwrap().text(), "late");
        assert_eq!(connection.capabilities().max_size(), Some(9));
        connection.noop().await.unwrap();
    };
    tokio::join!(server, client);

    let (stream, mut peer) = speaks_first();
    let server = async {
        peer.expect("EHLO client.test").await;
        peer.say_at_once("554 no\n503 told you").await;
        peer.on("QUIT", "221 bye").await;
    };
    let client = async {
        let mut connection = Connection::over(stream, &TlsPolicy::NONE, options()).await.unwrap();
        assert_eq!(connection.hello().await.unwrap_err().step(), Step::Greeting);
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn no_text_smuggles_a_second_line() {
    let (mut connection, mut peer) = connected("").await;
    for bad in ["x\r\nRSET", "x\n", "x\0", "\u{7f}", "\u{9b}31m"] {
        let errors = [
            connection.raw(bad).await.map(drop),
            connection.vrfy(bad).await.map(drop),
            connection.expn(bad).await.map(drop),
            connection.help(Some(bad)).await.map(drop),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Local { cause: Local::NotNow(NotNow::Control), .. }), "{error}");
        }
        assert!(smtp_core::types::EhloName::new(bad).is_err());
    }
    peer.silent().await;
    assert!(connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn raw_lines_go_out_as_they_are() {
    let (mut connection, mut peer) = connected("CHUNKING").await;
    let server = async {
        peer.on("data", "503 no").await;
        peer.on("xyzzy  twice ", "500 what").await;
        peer.on("mail from:<>", "250 ok").await;
        peer.on("DATA", "354 for nobody").await;
        peer.on(".", "554 nobody").await;
        peer.on("rcpt to:<a@b>", "503 no").await;
        peer.on("auth login", "334 x").await;
        peer.on("*", "501 ok").await;
        peer.on("quit", "221 bye").await;
    };
    let client = async {
        for (line, code) in [
            ("data", 503),
            ("xyzzy  twice ", 500),
            ("mail from:<>", 250),
            ("DATA", 354),
            ("rcpt to:<a@b>", 503),
            ("auth login", 334),
            ("*", 501),
        ] {
            assert_eq!(connection.raw(line).await.unwrap().code().get(), code, "{line}");
        }
        assert!(connection.raw("BDAT 1").await.is_err());
        connection.raw("quit").await.unwrap();
        assert!(connection.raw("noop").await.is_err());
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_step_leaves_a_connection_that_refuses_to_guess() {
    let (mut connection, mut peer) = connected("").await;
    let asked = tokio::time::timeout(Duration::from_secs(1), connection.noop()).await;
    assert!(asked.is_err());
    peer.on("NOOP", "250 late").await;
    let error = connection.mail(&Mail::new(ReversePath::Null)).await.unwrap_err();
    assert!(matches!(error, Error::Local { cause: Local::InDoubt, .. }), "{error}");
    assert!(!connection.is_usable());
    drop(connection);
    assert_eq!(peer.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_421_out_of_the_blue_is_the_answer_to_the_next_step() {
    let (mut connection, mut peer) = connected("").await;
    peer.say("421 4.4.2 idle for too long").await;
    drop(peer);
    tokio::task::yield_now().await;
    let error = connection.noop().await.unwrap_err();
    assert!(matches!(&error, Error::Refused { step: Step::Noop, reply } if reply.code().get() == 421), "{error:?}");
    assert!(!connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn what_was_said_unasked_is_not_taken_for_an_answer() {
    for (first, rest) in [("250 pre", "pared\r\n"), ("250 prepared\r\n", ""), ("2", "50 prepared\r\n")] {
        let (mut connection, mut peer) = connected("").await;
        let server = async {
            peer.say_octets(first.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            peer.say_octets(rest.as_bytes()).await;
            assert_eq!(peer.rest().await, "");
        };
        let client = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let error = connection.noop().await.unwrap_err();
            assert!(matches!(error, Error::Misbehaved { step: Step::Noop, .. }), "{error}");
        };
        tokio::join!(client, server);
    }
}

#[tokio::test(start_paused = true)]
async fn no_connection_says_so() {
    let error = Connection::connect(&Scripted::default(), &target(), &TlsPolicy::NONE, options()).await.unwrap_err();
    assert_eq!((error.step(), error.side()), (Step::Connect, Side::Channel));
    assert!(error.refusal().to_string().starts_with("451 4.4.1 "), "{}", error.refusal());
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Observer for Recorder {
    fn connected(&self, channel: &ChannelInfo) {
        self.0.lock().unwrap().push(format!("= {}", channel.transport));
    }

    fn sent(&self, line: &str) {
        self.0.lock().unwrap().push(format!("> {line}"));
    }

    fn received(&self, line: &str) {
        self.0.lock().unwrap().push(format!("< {line}"));
    }

    fn content(&self, octets: usize) {
        self.0.lock().unwrap().push(format!("> ({octets})"));
    }

    fn finished(&self, step: Step, _: Duration) {
        self.0.lock().unwrap().push(format!("! {step}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_observer_sees_everything_but_secrets_and_content() {
    let recorder = Arc::new(Recorder::default());
    let options = Options { observer: Some(recorder.clone()), ..Options::new(Domain::new("client.test").unwrap()) };
    let (mut connection, mut peer) = connected_with("AUTH LOGIN PLAIN", Arc::new(options)).await;
    let server = async {
        peer.on("AUTH PLAIN AGpvAGh1bnRlcjI=", "235 fine").await;
        peer.on("MAIL FROM:<>", "250-two\n250 lines").await;
        peer.on("RCPT TO:<a@x.test>", "250 ok").await;
        peer.on("DATA", "354 go").await;
        peer.on("secret body\n.", "250 ok").await;
        peer.on("AUTH LOGIN", "334 VXNlcjo=").await;
        peer.on("aHVudGVyMg==", "535 no").await;
    };
    let client = async {
        let credentials = Credentials::new("jo", "hunter2").unwrap();
        let credentials = credentials.exposed(Exposure { in_clear: true, ..Exposure::default() });
        connection.auth(&credentials).await.unwrap();
        connection.mail(&Mail::new(ReversePath::Null)).await.unwrap();
        connection.rcpt(&Rcpt::new(mailbox("a@x.test"))).await.unwrap();
        connection.data(Body::from_bytes("secret body\r\n")).await.unwrap();
        connection.raw("AUTH LOGIN").await.unwrap();
        connection.raw("aHVudGVyMg==").await.unwrap();
    };
    tokio::join!(server, client);
    let seen = recorder.0.lock().unwrap().join("\n");
    let expected = "= test\n< 220 mx.test ESMTP\n! greeting\n> EHLO client.test\n< 250-mx.test\n< 250-AUTH LOGIN PLAIN\n\
                    < 250 HELP\n! EHLO\n> AUTH PLAIN ***\n< 235 fine\n! AUTH\n> MAIL FROM:<>\n< 250-two\n< 250 lines\n\
                    ! MAIL\n> RCPT TO:<a@x.test>\n< 250 ok\n! RCPT\n> DATA\n< 354 go\n! DATA\n> (13)\n< 250 ok\n\
                    ! end of content\n> AUTH LOGIN\n< 334 VXNlcjo=\n! AUTH\n> ***\n< 535 no\n! AUTH";
    assert_eq!(seen, expected);
}
