//! Our QUIC client, and a server that somebody else's QUIC and our document made: `tests/quic/server*.py` on aioquic.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use smtp_client::{Connection as Client, Error, Options, SendOptions, Settings};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{
    ByteStream, CloseCode, ConnectStep, Connection, Connector, Target, TlsMode, TlsPolicy, Verification,
};
use smtp_core::types::{Envelope, Host, Mail, Mailbox, Rcpt};
use smtp_tests::peers::aioquic::Server;
use smtp_tests::peers::require;
use smtp_tls::ClientTls;
use smtp_transport_quic::{ConnectOptions, EarlyData, QuicConnector, QuicError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, ServiceExt};

/// A server script, and what reaches it.
struct Theirs {
    server: Server,
    connector: QuicConnector,
    target: Target,
}

const VERIFIED: TlsPolicy = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::Pkix };

impl Theirs {
    /// `None` if it cannot be run here. Has to be called in a runtime.
    fn start(script: &str, more: &[&str], early_data: EarlyData) -> Option<Self> {
        crate::provider();
        let server = require(Server::start(script, more))?;
        let tls = ClientTls::builder().ca_file(server.certificate()).build().unwrap();
        let connector = QuicConnector::new(&tls, ConnectOptions { early_data, ..ConnectOptions::default() }).unwrap();
        let mut target = Target::host(Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into()), server.port());
        target.server_name = Some("localhost".parse().unwrap());
        Some(Self { server, connector, target })
    }

    async fn connect(&self) -> Box<dyn Connection> {
        self.connector.connect(&self.target, &VERIFIED).await.unwrap()
    }

    async fn client(&self, connection: &mut dyn Connection) -> Client {
        let stream = connection.open().await.unwrap();
        let mut client = Client::over(stream, &VERIFIED, Arc::new(Options::default())).await.unwrap();
        client.hello().await.unwrap();
        client
    }

    /// It has taken this, whole and unchanged.
    #[track_caller]
    fn has_taken(&self, content: &[u8]) {
        let event = self.server.event("mail").unwrap();
        let digest: String = Sha256::digest(content).iter().map(|octet| format!("{octet:02x}")).collect();
        assert!(event.contains(&digest), "{event}: not {} octets with {digest}", content.len());
    }
}

fn envelope(recipients: &[&str]) -> Envelope {
    let recipients = recipients.iter().map(|path| Rcpt::new(Mailbox::new(path).unwrap())).collect();
    Envelope { mail: Mail::new(Mailbox::new("me@here.example").unwrap()), recipients }
}

fn content(octets: usize) -> Vec<u8> {
    [b"Subject: hello\r\n\r\n".to_vec(), b".dots and 0123456789\r\n".repeat(octets / 22)].concat()
}

fn flight(content: &[u8]) -> Vec<u8> {
    let head = "EHLO here.example\r\nMAIL FROM:<me@here.example>\r\nRCPT TO:<you@aioquic.test>\r\n";
    [format!("{head}BDAT {} LAST\r\n", content.len()).as_bytes(), content, b"QUIT\r\n"].concat()
}

async fn talk(stream: &mut dyn ByteStream, input: &[u8]) -> std::io::Result<String> {
    stream.write_all(input).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    stream.shutdown().await?;
    Ok(said)
}

fn codes(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect()
}

const FLIGHT: [&str; 6] = ["220", "250", "250", "250", "250", "221"];

fn with_runtime(f: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(f);
}

fn quic_error(error: &std::io::Error) -> &QuicError {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{error}"))
}

#[test]
fn our_client_sends_to_a_stranger_and_leaves_in_order() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server.py", &[], EarlyData::Off) else { return };
        let mut connection = theirs.connect().await;
        let mut client = theirs.client(&mut *connection).await;
        assert!(!client.offers("STARTTLS"));
        for (octets, transfer) in [(500, Default::default()), (40_000, smtp_client::Transfer::Data)] {
            let content = content(octets);
            let options = SendOptions { transfer, ..SendOptions::default() };
            let envelope = envelope(&["you@aioquic.test", "nobody@aioquic.test"]);
            let outcome = client.send(&envelope, Body::from_bytes(content.clone()), &options).await.unwrap();
            assert_eq!(outcome.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
            theirs.has_taken(&content);
        }
        client.quit().await.unwrap();
        drop(client);
        assert!(theirs.server.event("fin").unwrap().contains("\"stream\": 0"));
        drop(connection);
        assert!(theirs.server.event("closed").unwrap().contains("\"code\": 0, \"frame\": null"));
    });
}

#[test]
fn our_client_has_many_sessions_with_a_stranger_at_once() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server.py", &[], EarlyData::Off) else { return };
        let mut connection = theirs.connect().await;
        let mut broken_off = connection.open().await.unwrap();
        broken_off.write_all(&flight(&content(20_000))[..5_000]).await.unwrap();
        let mut sessions = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let mut stream = connection.open().await.unwrap();
            sessions.spawn(async move { talk(&mut *stream, &flight(&content(20_000))).await.unwrap() });
        }
        broken_off.abort(CloseCode::Cancelled);
        for said in sessions.join_all().await {
            assert_eq!(codes(&said), FLIGHT, "{said}");
        }
        for _ in 0..10 {
            theirs.has_taken(&content(20_000));
        }
        let mut stream = connection.open().await.unwrap();
        assert_eq!(codes(&talk(&mut *stream, b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n").await.unwrap())[2..], ["503", "221"]);
    });
}

#[test]
fn our_client_does_not_mistake_another_server_for_smtp() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server_other_alpn.py", &[], EarlyData::Off) else { return };
        let error = theirs.connector.connect(&theirs.target, &VERIFIED).await.err().unwrap();
        assert!(error.step == ConnectStep::Tls && !error.transient, "{error}");
    });
}

#[test]
fn our_client_hears_a_refusal_in_mid_body() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server_refuses_body.py", &[], EarlyData::Off) else { return };
        let mut connection = theirs.connect().await;
        // Larger than what the windows take, so that it is still sending.
        let content = content(900_000);
        for _ in 0..2 {
            let mut client = theirs.client(&mut *connection).await;
            let (envelope, body) = (envelope(&["you@aioquic.test"]), Body::from_bytes(content.clone()));
            let outcome = client.send(&envelope, body, &SendOptions::default()).await.unwrap();
            let refusal = outcome.iter().next().unwrap().as_ref().unwrap_err();
            assert!(refusal.to_string().starts_with("552"), "{refusal}");
        }
    });
}

#[test]
fn our_client_takes_a_reset_for_no_end() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server_resets.py", &[], EarlyData::Off) else { return };
        let mut connection = theirs.connect().await;
        let error = talk(&mut *connection.open().await.unwrap(), &flight(&content(5_000))).await.unwrap_err();
        assert_eq!(quic_error(&error).code(), Some(CloseCode::Internal));
        // As after any lost reply, the client does not know.
        let mut client = theirs.client(&mut *connection).await;
        let body = Body::from_bytes(content(100));
        let error = client.send(&envelope(&["you@aioquic.test"]), body, &SendOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }) && error.is_in_doubt(), "{error}");
    });
}

#[test]
fn our_client_knows_the_codes() {
    let codes = [
        (0, CloseCode::NoError),
        (1, CloseCode::Internal),
        (2, CloseCode::Protocol),
        (3, CloseCode::Cancelled),
        (4, CloseCode::ExcessiveLoad),
        (5, CloseCode::Unspecified),
        (6, CloseCode::Shutdown),
        (7, CloseCode::Timeout),
        (8, CloseCode::EarlyDataRefused),
        (9, CloseCode::Policy),
        //
        (4_711, CloseCode::Unspecified),
    ];
    with_runtime(async {
        for (number, code) in codes {
            let number = u16::to_string(&number);
            let Some(theirs) = Theirs::start("server_closes.py", &[&number], EarlyData::Off) else { return };
            let mut connection = theirs.connect().await;
            let error = talk(&mut *connection.open().await.unwrap(), &flight(&content(100))).await.unwrap_err();
            let error = quic_error(&error);
            assert_eq!(error.code(), Some(code), "{number}");
            assert_eq!(error.is_permanent(), matches!(code, CloseCode::Protocol | CloseCode::Policy), "{number}");
        }
    });
}

#[test]
fn our_client_lets_nobody_open_streams() {
    with_runtime(async {
        for kind in ["uni", "bidi"] {
            let Some(theirs) = Theirs::start("server_opens_streams.py", &[kind], EarlyData::Off) else { return };
            let mut connection = theirs.connect().await;
            assert!(talk(&mut *connection.open().await.unwrap(), &flight(&content(100))).await.is_err());
            // STREAM_LIMIT_ERROR.
            let event = theirs.server.event("closed").unwrap();
            assert!(event.contains("\"code\": 4,"), "{kind}: {event}");
        }
    });
}

#[test]
fn our_client_loses_nothing_when_a_stranger_shuts_down() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server_drains.py", &[], EarlyData::Off) else { return };
        let mut connection = theirs.connect().await;
        let mut stream = connection.open().await.unwrap();
        let flight = flight(&content(20_000));
        let said = talk(&mut *stream, &flight[..flight.len() - 6]).await.unwrap();
        assert_eq!(codes(&said), ["220", "250", "250", "250", "250", "421"], "{said}");
        let error = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match connection.open().await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) => break error,
                }
            }
        });
        assert_eq!(quic_error(&error.await.unwrap()).code(), Some(CloseCode::Shutdown));
    });
}

/// A ticket, by a session without a mail.
async fn earn_ticket(theirs: &Theirs) {
    let mut connection = theirs.connect().await;
    let said = talk(&mut *connection.open().await.unwrap(), b"EHLO x\r\nQUIT\r\n").await.unwrap();
    assert_eq!(codes(&said), ["220", "250", "221"]);
    assert!(theirs.server.event("handshake").unwrap().contains("\"early\": false"));
    // It comes behind the handshake.
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// How often early data is tried, since a busy machine may have completed the handshake before it could be written.
const TRIES: usize = 5;

/// A stream that was opened before the handshake was complete.
async fn open_early(theirs: &Theirs) -> (Box<dyn Connection>, Box<dyn ByteStream>) {
    for _ in 0..TRIES {
        earn_ticket(theirs).await;
        let mut connection = theirs.connect().await;
        let stream = connection.open().await.unwrap();
        if stream.info().tls.unwrap().exporter.is_none() {
            return (connection, stream);
        }
        theirs.server.event("handshake").unwrap();
    }
    panic!("the handshake was complete before the first stream was open in each of {TRIES} tries");
}

#[test]
fn our_clients_early_data_reaches_a_stranger() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server.py", &[], EarlyData::Gated) else { return };
        let (_connection, mut stream) = open_early(&theirs).await;
        assert_eq!(codes(&talk(&mut *stream, &flight(&content(3_000))).await.unwrap()), FLIGHT);
        assert!(theirs.server.event("handshake").unwrap().contains("\"early\": true"));
        poll_fn(|cx| stream.poll_confirmed(cx)).await.unwrap();
        theirs.has_taken(&content(3_000));
    });
}

#[test]
fn our_client_sends_refused_early_data_again() {
    with_runtime(async {
        let Some(theirs) = Theirs::start("server_forgets_tickets.py", &[], EarlyData::Gated) else { return };
        let mut refused = None;
        for _ in 0..TRIES {
            let (connection, mut stream) = open_early(&theirs).await;
            let said = talk(&mut *stream, &flight(&content(3_000))).await;
            assert!(theirs.server.event("handshake").unwrap().contains("\"early\": false"));
            match said {
                Err(error) => {
                    refused = Some((connection, error));
                    break;
                }
                // Nothing was early.
                Ok(said) => {
                    assert_eq!(codes(&said), FLIGHT);
                    theirs.has_taken(&content(3_000));
                }
            }
        }
        let (mut connection, error) = refused.unwrap();
        assert!(matches!(quic_error(&error), QuicError::EarlyDataRefused), "{error}");
        let mut stream = connection.open().await.unwrap();
        assert_eq!(codes(&talk(&mut *stream, &flight(&content(3_000))).await.unwrap()), FLIGHT);
        theirs.has_taken(&content(3_000));
    });
}

#[test]
fn our_pooled_client_delivers_to_a_stranger_in_one_flight_early_or_not() {
    with_runtime(async {
        for script in ["server.py", "server_forgets_tickets.py"] {
            let Some(theirs) = Theirs::start(script, &[], EarlyData::Gated) else { return };
            for (round, octets) in [3_000, 20_000].into_iter().enumerate() {
                let settings = Settings { tls: VERIFIED, max_idle: 0, ..Settings::default() };
                let mut client = smtp_client::Client::new(theirs.connector.clone(), theirs.target.clone(), settings);
                let content = content(octets);
                let transaction = Transaction {
                    session: SessionInfo::local("test"),
                    envelope: envelope(&["you@aioquic.test", "nobody@aioquic.test"]),
                    body: Body::from_bytes(content.clone()),
                };
                let outcome = client.ready().await.unwrap().call(transaction).await.unwrap();
                assert_eq!(outcome.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false], "{script}");
                let early = format!("\"early\": {}", round == 1 && script == "server.py");
                let handshake = theirs.server.event("handshake").unwrap();
                assert!(handshake.contains(&early), "{script}, {round}: {handshake}");
                theirs.has_taken(&content);
                // The ticket comes behind the handshake.
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(client);
                theirs.connector.wait_idle().await;
            }
        }
    });
}
