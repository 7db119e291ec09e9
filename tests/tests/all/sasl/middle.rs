//! Somebody in the middle, whom the client takes for the server: with a TLS connection to each of them.

use std::sync::Arc;

use smtp_client::Error;
use smtp_client::sasl::{Credentials, Strength};
use smtp_core::stream::{ByteStream, Connector, Listener, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::Host;
use smtp_tls::{ClientTls, SelfSigned, ServerTls, Versions};
use smtp_transport_quic::{ConnectOptions as QuicConnectOptions, QuicConnector, QuicListener, QuicOptions};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::world::{self, Kind, World, jo, run};

/// What becomes of a line of the server's on its way.
type Edit = fn(&str) -> String;

fn nothing(line: &str) -> String {
    line.to_owned()
}

fn without_plus(line: &str) -> String {
    line.replace("SCRAM-SHA-256-PLUS ", "").replace("SCRAM-SHA-1-PLUS ", "")
}

fn plain_only(line: &str) -> String {
    match line.split_once("AUTH ") {
        Some((start, _)) => format!("{start}AUTH PLAIN LOGIN\r\n"),
        None => line.to_owned(),
    }
}

/// Who is in the middle of a client and `world`, and how the client gets there.
struct Middle {
    connector: Box<dyn Connector>,
    target: Target,
    policy: TlsPolicy,
    _keys: tempfile::TempDir,
}

impl Middle {
    /// `upstream` is how it talks to the server.
    fn new(kind: Kind, world: Arc<World>, upstream: TlsPolicy, edit: Edit) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let own = SelfSigned::load_or_create(keys.path(), &["localhost"]).unwrap();
        let server = ServerTls::builder().identity(own.identity()).build().unwrap();
        let versions = if kind == Kind::Tls12 { Versions::Tls12 } else { Versions::All };
        let client = ClientTls::builder().versions(versions).build().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let (listener, connector): (Box<dyn Listener>, Box<dyn Connector>) = if kind == Kind::Quic {
            let listener = QuicListener::bind(any, &server, QuicOptions::default()).unwrap();
            let connector = QuicConnector::new(&client, QuicConnectOptions::default()).unwrap();
            (Box::new(listener), Box::new(connector))
        } else {
            let options = ListenOptions { tls: Tls::Implicit(server), ..ListenOptions::default() };
            (Box::new(TcpListener::bind(any, options).unwrap()), Box::new(TcpConnector::new(client)))
        };
        let port = listener.url().rsplit(':').next().unwrap().parse().unwrap();
        tokio::spawn(async move {
            let mut connection = listener.accept().await.unwrap();
            let client = connection.accept().await.unwrap().unwrap();
            let mut behind = world.connector.connect(&world.target, &upstream).await.unwrap();
            let server = behind.open().await.unwrap();
            relay(client, server, edit).await;
        });
        // The client takes it for the server: it has got hold of a certificate that holds.
        let policy = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::from(own.pin()) };
        let host = Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into());
        Self { connector, target: Target::host(host, port), policy, _keys: keys }
    }

    /// What the server says to AUTH by the strongest mechanism, as it comes through.
    async fn auth(&self, credentials: &Credentials) -> (Error, bool) {
        let mut connection = world::connect(&*self.connector, &self.target, &self.policy).await;
        let error = connection.auth(credentials).await.unwrap_err();
        assert!(!connection.is_authenticated());
        (error, connection.noop().await.is_ok())
    }
}

/// Passes on what either side says, the server's words edited.
async fn relay(client: Box<dyn ByteStream>, server: Box<dyn ByteStream>, edit: Edit) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (from_server, mut to_server) = tokio::io::split(server);
    let mut from_server = BufReader::new(from_server);
    let up = async {
        // The client's first octets may come late: they are passed on one by one.
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let down = async {
        let mut line = String::new();
        while from_server.read_line(&mut line).await.is_ok_and(|n| n > 0) {
            let edited = edit(&line);
            if to_client.write_all(edited.as_bytes()).await.is_err() || to_client.flush().await.is_err() {
                break;
            }
            line.clear();
        }
    };
    tokio::select! { () = up => {} () = down => {} }
}

/// The server's refusal in words.
fn words(error: &Error) -> String {
    error.reply().unwrap_or_else(|| panic!("{error}")).to_string()
}

#[test]
fn a_bound_proof_is_of_no_use_to_somebody_in_the_middle() {
    run(async {
        for kind in [Kind::Tls12, Kind::Tls13, Kind::Quic] {
            let world = Arc::new(World::new(kind));
            let middle = Middle::new(kind, Arc::clone(&world), world.policy.clone(), nothing);
            let (error, goes_on) = middle.auth(&jo()).await;
            assert!(words(&error).starts_with("535 5.7.8 channel bindings differ"), "{kind:?}: {error}");
            assert!(goes_on, "{kind:?}");
        }
    });
}

#[test]
fn a_list_without_plus_is_noticed() {
    run(async {
        for kind in [Kind::Tls12, Kind::Tls13, Kind::Quic] {
            let world = Arc::new(World::new(kind));
            let middle = Middle::new(kind, Arc::clone(&world), world.policy.clone(), without_plus);
            let (error, goes_on) = middle.auth(&jo()).await;
            assert!(words(&error).contains("you were not shown it"), "{kind:?}: {error}");
            assert!(goes_on, "{kind:?}");
        }
    });
}

#[test]
fn it_is_noticed_too_if_tls_ends_in_the_middle() {
    run(async {
        let world = Arc::new(World::new(Kind::StartTls));
        let middle = Middle::new(Kind::Tls13, Arc::clone(&world), TlsPolicy::NONE, without_plus);
        let (error, _) = middle.auth(&jo()).await;
        assert!(words(&error).contains("you were not shown it"), "{error}");
        // With -PLUS on the list the server has nothing to bind to.
        let middle = Middle::new(Kind::Tls13, Arc::clone(&world), TlsPolicy::NONE, nothing);
        let (error, _) = middle.auth(&jo()).await;
        assert!(words(&error).starts_with("504 5.5.4 "), "{error}");
    });
}

#[test]
fn nothing_is_sent_by_a_mechanism_below_the_minimum() {
    run(async {
        let world = Arc::new(World::new(Kind::Tls13));
        let middle = Middle::new(Kind::Tls13, Arc::clone(&world), world.policy.clone(), plain_only);
        let (error, goes_on) = middle.auth(&jo().at_least(Strength::Mutual)).await;
        assert!(error.reply().is_none() && error.to_string().contains("PLAIN LOGIN"), "{error}");
        assert!(goes_on);
    });
}
