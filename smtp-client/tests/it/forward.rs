//! Speaking for others, against the server of the same house: who may, what it changes, and what it leaves alone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use smtp_client::{Client, Connection, Error, PassOn, Settings};
use smtp_core::channel::{ChannelInfo, Identity, Peer, SessionInfo};
use smtp_core::driver::{self, serve};
use smtp_core::extension::{Attribute, Forwarded, Forwarders};
use smtp_core::service::{Body, BoxError, Outcome, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{Listener, TlsMode, TlsPolicy, Verification};
use smtp_core::types::{Command, Domain, Hello, HelloKind, Refusal};
use smtp_test::memory::{Knobs, MemoryConnector, MemoryListener, Pace};
use smtp_test::scenario::{Scenario, run};
use tower::{Service, ServiceExt, service_fn};

use crate::peer::{envelope, options, results, target};

/// The sessions of the transactions that were delivered.
type Seen = Arc<Mutex<Vec<Arc<SessionInfo>>>>;

const RELAY: &str = "192.0.2.1:4000";

fn relay() -> Knobs {
    Knobs { peer: Peer::Ip(RELAY.parse().unwrap()), ..Knobs::clear() }
}

fn lists(xclient: &str, login: &str, xforward: &str) -> Config {
    let list = |text: &str| text.parse().unwrap();
    let forwarders = Forwarders { xclient: list(xclient), login: list(login), xforward: list(xforward) };
    Config::new(Domain::new("mx.test").unwrap()).with_forwarders(forwarders)
}

/// A server that has nothing for 203.0.113.0/24.
fn server(knobs: Knobs, config: Config, seen: &Seen) -> MemoryConnector {
    let listener = MemoryListener::new(knobs);
    let connector = listener.connector();
    let (settings, seen) = (Arc::new(driver::Settings::new(config)), Arc::clone(seen));
    tokio::spawn(async move {
        while let Ok(mut connection) = listener.accept().await {
            let (settings, seen) = (Arc::clone(&settings), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(Some(stream)) = connection.accept().await else { return };
                let session = Arc::new(SessionInfo::new(1, stream.info()));
                let policy = service_fn(async |request: Request| {
                    let unwanted = request.session.channel.peer.to_string().starts_with("203.0.113.");
                    Ok::<_, BoxError>(match request.command {
                        Command::Connect if unwanted => Refusal::fixed(554, (5, 7, 1), "not you").into(),
                        Command::Rcpt(rcpt) if rcpt.to.to_string().starts_with("<nobody@") => {
                            Refusal::fixed(550, (5, 1, 1), "nobody").into()
                        }
                        _ => Verdict::Proceed,
                    })
                });
                let delivery = service_fn(move |mut mail: Transaction| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let (_, complete) = mail.body.collect(1 << 20).await?;
                        seen.lock().unwrap().push(Arc::clone(&mail.session));
                        Ok::<_, BoxError>(Outcome::all(
                            Ok(Receipt::discarded(complete)),
                            mail.envelope.recipients.len(),
                        ))
                    }
                });
                let _ = serve(stream, session, policy, delivery, settings, Default::default()).await;
            });
        }
    });
    connector
}

async fn play(knobs: Knobs, config: Config, text: &str) -> Vec<Arc<SessionInfo>> {
    let seen = Seen::default();
    let connector = server(knobs, config, &seen);
    let mut connection = smtp_core::stream::Connector::connect(&connector, &target(), &TlsPolicy::NONE).await.unwrap();
    let stream = connection.open().await.unwrap();
    let scenario = Scenario::parse("inline", text).unwrap();
    let report = run(&scenario, stream).await.unwrap_or_else(|mismatch| panic!("{mismatch}"));
    assert!(report.has_passed());
    std::mem::take(&mut *seen.lock().unwrap())
}

/// One message, to be sent after EHLO.
const MESSAGE: &str = "C: MAIL FROM:<>\nS: 250 2.1.0 *\nC: RCPT TO:<a@x.test>\nS: 250 2.1.5 *\nC: DATA\nS: 354 *\n\
                       C: .\nS: 250 2.0.0 *\n";
const HELLO: &str = "C: EHLO relay.test\nS: 250-mx.test *\nS: ...\n";

#[tokio::test(start_paused = true)]
async fn xclient_starts_the_session_over_for_the_client() {
    let text = format!(
        "S: 220 *\n{HELLO}{MESSAGE}\
         C: XCLIENT NAME=c.test ADDR=198.51.100.7 PORT=4711 HELO=helo.c.test DESTADDR=IPV6:2001:db8::1 DESTPORT=25 LOGIN=jo+2Bx\n\
         S: 220 mx.test ESMTP *\n\
         C: MAIL FROM:<>\nS: 503 5.5.1 *\n{HELLO}{MESSAGE}\
         C: XCLIENT PORT=4712 LOGIN=[UNAVAILABLE]\nS: 220 *\n{HELLO}{MESSAGE}\
         C: XCLIENT ADDR=[UNAVAILABLE]\nS: 220 *\n{HELLO}{MESSAGE}\
         C: QUIT\nS: 221 *\nS!\n"
    );
    for pace in [Pace::default(), Pace::OCTET_BY_OCTET] {
        let seen = play(relay().paced(pace), lists("", "192.0.2.0/24", ""), &text).await;
        let peers: Vec<String> = seen.iter().map(|session| session.channel.peer.to_string()).collect();
        assert_eq!(peers, [RELAY, "198.51.100.7:4711", "198.51.100.7:4712", "somebody behind 192.0.2.1:4000"]);
        let user = |n: usize| seen[n].identity.as_ref().map(|identity| (&*identity.user, &*identity.mechanism));
        assert_eq!((user(0), user(1), user(2)), (None, Some(("jo+x", "XCLIENT")), None));
        let names: Vec<&str> = seen.iter().map(|session| session.hello.as_ref().unwrap().name.as_str()).collect();
        assert_eq!(names, ["relay.test", "helo.c.test", "helo.c.test", "helo.c.test"]);
        assert_eq!(seen[1].channel.local, Some("[2001:db8::1]:25".parse::<SocketAddr>().unwrap()));
        assert_eq!(seen[1].client.as_ref().unwrap().value(Attribute::Name), Some("c.test"));
        assert_eq!(seen[1].channel.peer.of_channel().to_string(), RELAY);
        assert!(!seen[1].channel.peer.is_local());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_wanted_is_turned_away_in_its_own_name() {
    let text = format!(
        "S: 220 *\n{HELLO}C: XCLIENT ADDR=203.0.113.9\nS: 554 5.7.1 not you\nC: EHLO x\nS: 503 5.5.1 *\n\
         C: QUIT\nS: 221 *\nS!\n"
    );
    play(relay(), lists("192.0.2.1", "", ""), &text).await;
}

#[tokio::test(start_paused = true)]
async fn bad_xclient_leaves_everything_as_it_was() {
    let mut text = format!("S: 220 *\nC: XCLIENT ADDR=198.51.100.7\nS: 503 5.5.1 *\n{HELLO}");
    for (bad, code) in [
        ("", "501 5.5.4"),
        (" ADDR", "501 5.5.4"),
        (" ADDR=", "501 5.5.4"),
        (" ADDR=198.51.100.7 ADDR=198.51.100.8", "501 5.5.4"),
        (" COLOUR=red", "501 5.5.4"),
        (" IDENT=1", "501 5.5.4"),
        (" ADDR=198.51.100", "501 5.5.4"),
        (" NAME=+0D+0AMAIL", "501 5.5.4"),
        (" NAME=+4", "501 5.5.4"),
        (" PORT=65536", "501 5.5.4"),
        (&format!(" NAME={}", "a".repeat(256)), "501 5.5.4"),
        (&format!(" NAME={}", "a".repeat(4_000)), "500 5.5.2"),
        (" ADDR=198.51.100.7 LOGIN=root", "550 5.7.0"),
    ] {
        text += &format!("C: XCLIENT{bad}\nS: {code} *\nC: RSET\nS: 250 *\n{MESSAGE}");
    }
    text += &format!(
        "C: MAIL FROM:<>\nS: 250 *\nC: XCLIENT ADDR=198.51.100.7\nS: 503 5.5.1 *\n\
                      C: RCPT TO:<a@x.test>\nS: 250 *\nC: XCLIENT ADDR=198.51.100.7\nS: 503 5.5.1 *\n\
                      C: XFORWARD ADDR=198.51.100.7\nS: 503 5.5.1 *\nC: DATA\nS: 354 *\nC: .\nS: 250 *\n{MESSAGE}\
                      C: QUIT\nS: 221 *\nS!\n"
    );
    let seen = play(relay(), lists("192.0.2.1", "", "192.0.2.1"), &text).await;
    assert!(seen.len() > 10);
    assert!(seen.iter().all(|s| s.channel.peer.to_string() == RELAY && s.identity.is_none() && s.client.is_none()));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_listed_is_not_even_offered_it() {
    let refused = format!(
        "S: 220 *\nC: EHLO x\nS: 250-*\nS: ... without XCLIENT\nC: XCLIENT ADDR=198.51.100.7\nS: 50* 5.5.1 *\n\
         C: EHLO x\nS: 250-*\nS: ... without XFORWARD\nC: XFORWARD ADDR=198.51.100.7\nS: 50* 5.5.1 *\n{MESSAGE}\
         C: QUIT\nS: 221 *\nS!\n"
    );
    let peer = |peer: Peer| Knobs { peer, ..Knobs::clear() };
    let everybody = || lists("0.0.0.0/0, ::/0", "0.0.0.0/0", "0.0.0.0/0");
    let forwarded = Peer::Forwarded {
        address: Some("192.0.2.1:1".parse().unwrap()),
        proxy: Box::new(Peer::Ip("192.0.2.1:2".parse().unwrap())),
    };
    for (knobs, config) in [
        (relay(), lists("", "", "")),
        (relay(), lists("192.0.2.2, 10.0.0.0/8", "198.51.100.7", "uid:0")),
        (peer(Peer::Named("192.0.2.1".into())), everybody()),
        // One that came through a PROXY header is a client, whoever the proxy is.
        (peer(forwarded), everybody()),
    ] {
        let seen = play(knobs, config, &refused).await;
        assert_eq!(seen.len(), 1);
    }
    // Where the client speaks first there is no greeting to start over with; XFORWARD needs none.
    let first = Knobs { client_speaks_first: true, ..relay() };
    let text = format!(
        "S: 220 *\nC: EHLO x\nS: 250-*\nS: ... without XCLIENT\nC: XCLIENT ADDR=198.51.100.7\nS: 50* 5.5.1 *\n{MESSAGE}\
         C: XFORWARD ADDR=198.51.100.7\nS: 250 *\nC: QUIT\nS: 221 *\nS!\n"
    );
    play(first, everybody(), &text).await;
}

#[tokio::test(start_paused = true)]
async fn xforward_is_for_the_log_of_one_transaction() {
    let text = format!(
        "S: 220 *\n{HELLO}C: XFORWARD NAME=c.test ADDR=198.51.100.7\nS: 250 2.0.0 *\n\
         C: XFORWARD IDENT=4711 SOURCE=REMOTE\nS: 250 2.0.0 *\n{MESSAGE}{MESSAGE}C: QUIT\nS: 221 *\nS!\n"
    );
    let seen = play(relay(), lists("", "", "192.0.2.1"), &text).await;
    let said = seen[0].client.as_ref().unwrap();
    assert_eq!(said.value(Attribute::Addr), Some("198.51.100.7"));
    assert_eq!(said.value(Attribute::Ident), Some("4711"));
    assert_eq!(seen[0].channel.peer.to_string(), RELAY, "policy is about the peer");
    assert!(seen[1].client.is_none());
}

fn client_session(peer: &str, user: Option<&str>) -> Arc<SessionInfo> {
    let mut session = SessionInfo::new(7, ChannelInfo::new("tcp", Peer::Ip(peer.parse().unwrap())));
    session.hello = Some(Hello { kind: HelloKind::Ehlo, name: "c.test".parse().unwrap() });
    session.identity = user.map(|user| Identity { user: user.into(), mechanism: "PLAIN".into() });
    Arc::new(session)
}

#[tokio::test(start_paused = true)]
async fn a_relay_passes_its_clients_on_over_one_session() {
    for (pass_on, config) in [
        (PassOn::XClient, lists("", "192.0.2.1", "")),
        (PassOn::XForward, lists("", "", "192.0.2.1")),
        // Not offered to it: the messages go all the same.
        (PassOn::XClient, lists("", "", "")),
        (PassOn::Nothing, lists("192.0.2.1", "", "192.0.2.1")),
    ] {
        let offered = config.forwarders != Forwarders::default();
        let seen = Seen::default();
        let connector = server(relay(), config, &seen);
        let settings = Settings { options: (*options()).clone(), tls: TlsPolicy::NONE, pass_on, ..Settings::default() };
        let mut client = Client::new(connector, target(), settings);
        for session in [client_session("198.51.100.7:4711", Some("jo")), client_session("198.51.100.8:4712", None)] {
            // One that comes to nothing is in nobody's way.
            let (to, body) = (envelope(&["nobody@x.test"]), Body::from_bytes("x\r\n"));
            let transaction = Transaction { session: Arc::clone(&session), envelope: to, body };
            let outcome = client.ready().await.unwrap().call(transaction).await.unwrap();
            assert_eq!(results(outcome), ["550 5.1.1 nobody"]);
            let transaction =
                Transaction { session, envelope: envelope(&["a@x.test"]), body: Body::from_bytes("x\r\n") };
            let outcome = client.ready().await.unwrap().call(transaction).await.unwrap();
            assert!(outcome.single().is_ok(), "{pass_on:?}: {:?}", results(outcome));
        }
        let seen = seen.lock().unwrap();
        let peers: Vec<_> = seen.iter().map(|session| session.channel.peer.to_string()).collect();
        let users: Vec<_> = seen.iter().map(|s| s.identity.as_ref().map(|identity| &*identity.user)).collect();
        let logged: Vec<_> =
            seen.iter().map(|s| s.client.as_ref().and_then(|c| c.value(Attribute::Addr)).unwrap_or("-")).collect();
        match (pass_on, offered) {
            (PassOn::XClient, true) => {
                assert_eq!(peers, ["198.51.100.7:4711", "198.51.100.8:4712"]);
                assert_eq!(users, [Some("jo"), None]);
            }
            (PassOn::XForward, _) => {
                assert_eq!((peers, logged), (vec![RELAY.to_owned(); 2], vec!["198.51.100.7", "198.51.100.8"]));
            }
            _ => assert_eq!((peers, logged), (vec![RELAY.to_owned(); 2], vec!["-"; 2])),
        }
        assert_eq!(client.idle_sessions(), 1, "{pass_on:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_next_hop_that_does_not_want_the_client_refuses_its_message_only() {
    let seen = Seen::default();
    let connector = server(relay(), lists("192.0.2.1", "", ""), &seen);
    let settings = Settings {
        options: (*options()).clone(),
        tls: TlsPolicy::NONE,
        pass_on: PassOn::XClient,
        ..Settings::default()
    };
    let mut client = Client::new(connector, target(), settings);
    let mut send = async |peer: &str| {
        let session = client_session(peer, None);
        let transaction = Transaction { session, envelope: envelope(&["a@x.test"]), body: Body::from_bytes("x\r\n") };
        results(client.ready().await.unwrap().call(transaction).await.unwrap())
    };
    assert!(send("198.51.100.7:1").await[0].starts_with("250 "));
    assert_eq!(send("203.0.113.9:1").await, ["554 5.7.1 not you"]);
    assert!(send("198.51.100.7:1").await[0].starts_with("250 "));
}

/// STARTTLS forgets what the client said (RFC 3207 §4.2), and not for whom it speaks.
#[tokio::test(start_paused = true)]
async fn xclient_holds_over_starttls() {
    let seen = Seen::default();
    let knobs = Knobs { peer: Peer::Ip(RELAY.parse().unwrap()), ..Knobs::starttls() };
    let connector = server(knobs, lists("192.0.2.1", "", ""), &seen);
    let policy = TlsPolicy { mode: TlsMode::Opportunistic, verification: Verification::None };
    let mut connection = Connection::connect(&connector, &target(), &policy, options()).await.unwrap();
    connection.ehlo().await.unwrap();
    let client = Forwarded::xclient("ADDR=198.51.100.7 PORT=4711 LOGIN=root").unwrap();
    // LOGIN is not offered, so it is not sent. The EHLO that follows takes the policy's STARTTLS along.
    connection.xclient(&client).await.unwrap().expect("it is offered");
    assert!(connection.info().tls.is_some());
    let outcome = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("x\r\n"), &Default::default()).await;
    assert!(outcome.unwrap().single().is_ok());
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].channel.peer.to_string(), "198.51.100.7:4711");
    assert!(seen[0].channel.tls.is_some() && seen[0].identity.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refused_xclient_is_the_callers_to_see() {
    let seen = Seen::default();
    let connector = server(relay(), lists("192.0.2.1", "", ""), &seen);
    let mut connection = Connection::connect(&connector, &target(), &TlsPolicy::NONE, options()).await.unwrap();
    connection.hello().await.unwrap();
    let error = connection.xclient(&Forwarded::xclient("ADDR=203.0.113.9").unwrap()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reply, .. } if reply.code().get() == 554), "{error}");
}
