//! One suite, every transport: the scenario files and the transport kit, unchanged, over all of them. Same octets and
//! same channel facts, same replies.

pub(crate) mod client;
mod early;
mod stdio;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smtp_core::stream::{
    BoxFuture, ByteStream, Connection, Connector, Listener, Target, TlsMode, TlsPolicy, Verification,
};
use smtp_core::types::Host;
use smtp_test::kit::{self, Pair};
use smtp_test::memory::{Knobs, MemoryListener};
use smtp_test::scenario::{Report, Runner, Scenario};
use smtp_tests::scenarios::{Reference, folders, reference_stack};
use smtp_tls::{ClientTls, SelfSigned, ServerTls};
use smtp_transport_quic::{ConnectOptions as QuicConnectOptions, EarlyData, QuicConnector, QuicListener, QuicOptions};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixConnector, UnixListener, unix_target};
use smtp_transport_websocket::{WebSocketConnector, WebSocketListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use early::WarmConnector;

/// Scenarios that say more than holds on a transport, and why.
const EXCEPT: [(&str, &str, &str); 1] = [(
    "starttls-injection-tls.txt",
    "TCP, STARTTLS offered",
    "a failed TLS handshake says so in an alert before it closes; the in-memory stand-in has no alerts",
)];

/// How many conversations run at a time.
const PARALLEL: usize = 16;

/// A listener, and what reaches it.
struct Transport {
    name: &'static str,
    listener: Box<dyn Listener>,
    connector: Box<dyn Connector>,
    target: Target,
    policy: TlsPolicy,
    /// Both sides upgrade before anything is said.
    upgraded: bool,
    /// With early data: how many first flights were under way before the handshake was complete.
    early: Option<AtomicUsize>,
}

/// Every transport: a new one joins with a line.
fn transports(tls: &Path) -> Vec<Arc<Transport>> {
    let own = SelfSigned::load_or_create(tls, &["localhost"]).unwrap();
    let (server, client) =
        (ServerTls::builder().identity(own.identity()).build().unwrap(), ClientTls::builder().build().unwrap());
    let verification = own.pin().into();
    let policy = |mode| TlsPolicy { mode, verification: Verification::clone(&verification) };
    let memory = |name, knobs| {
        let listener = MemoryListener::new(knobs);
        let connector = Box::new(listener.connector());
        make(name, listener, connector, 0, TlsPolicy::NONE, false)
    };
    let tcp = |name, tls: fn(ServerTls) -> Tls, policy, upgraded| {
        let options = ListenOptions { tls: tls(server.clone()), ..ListenOptions::default() };
        let listener = TcpListener::bind(ANY, options).unwrap();
        let port = listener.local_addr().port();
        make(name, listener, Box::new(TcpConnector::new(client.clone())), port, policy, upgraded)
    };
    let quic = |name| {
        let listener = QuicListener::bind(ANY, &server, QuicOptions::default()).unwrap();
        let port = listener.url().rsplit(':').next().unwrap().parse().unwrap();
        let connector = QuicConnector::new(&client, QuicConnectOptions::default()).unwrap();
        make(name, listener, Box::new(connector), port, policy(TlsMode::Implicit), false)
    };
    let early = |name| {
        let options = QuicOptions { early_data: EarlyData::Gated, ..QuicOptions::default() };
        let listener = QuicListener::bind(ANY, &server, options).unwrap();
        let port = listener.url().rsplit(':').next().unwrap().parse().unwrap();
        let connector = Box::new(WarmConnector::new(client.clone()));
        let target = Target::host(Host::Literal(ANY.ip().into()), port);
        let (policy, early) = (policy(TlsMode::Implicit), Some(AtomicUsize::new(0)));
        Arc::new(Transport { name, listener: Box::new(listener), connector, target, policy, upgraded: false, early })
    };
    let stdio = |name| {
        let (listener, connector) = stdio::pipes();
        make(name, listener, Box::new(connector), 0, TlsPolicy::NONE, false)
    };
    let unix = |name, folder: &Path| {
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path, &UnixOptions::default()).unwrap();
        let target = unix_target(&listener.url()).unwrap();
        let connector = Box::new(UnixConnector::new());
        let listener = Box::new(listener);
        Arc::new(Transport { name, listener, connector, target, policy: TlsPolicy::NONE, upgraded: false, early: None })
    };
    let websocket = |name, tls: fn(ServerTls) -> Tls, policy| {
        let options = ListenOptions { tls: tls(server.clone()), ..ListenOptions::default() };
        let listener = TcpListener::bind(ANY, options).unwrap();
        let port = listener.local_addr().port();
        let connector = WebSocketConnector::new(TcpConnector::new(client.clone()));
        make(name, WebSocketListener::new(listener), Box::new(connector), port, policy, false)
    };
    vec![
        memory("memory", Knobs::default()),
        tcp("TCP", |_| Tls::None, TlsPolicy::NONE, false),
        tcp("TCP, STARTTLS offered", Tls::StartTls, policy(TlsMode::Required), false),
        tcp("TCP, upgraded", Tls::StartTls, policy(TlsMode::Required), true),
        tcp("implicit TLS", Tls::Implicit, policy(TlsMode::Implicit), false),
        quic("QUIC"),
        early("QUIC, 0-RTT"),
        stdio("stdio"),
        unix("Unix", tls),
        websocket("WebSocket", |_| Tls::None, TlsPolicy::NONE),
        websocket("WebSocket over TLS", Tls::Implicit, policy(TlsMode::Implicit)),
    ]
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn make(
    name: &'static str,
    listener: impl Listener,
    connector: Box<dyn Connector>,
    port: u16,
    policy: TlsPolicy,
    upgraded: bool,
) -> Arc<Transport> {
    let target = Target::host(Host::Literal(ANY.ip().into()), port);
    Arc::new(Transport { name, listener: Box::new(listener), connector, target, policy, upgraded, early: None })
}

/// What a side holds as long as it talks.
type End = (Box<dyn ByteStream>, Box<dyn Connection>);

impl Transport {
    async fn client(&self) -> std::io::Result<End> {
        let error = |error| std::io::Error::other(format!("{}: {error}", self.name));
        let mut connection = self.connector.connect(&self.target, &self.policy).await.map_err(error)?;
        let mut stream = connection.open().await?;
        if self.upgraded {
            stream = stream.upgrade().await?;
        }
        Ok((stream, connection))
    }

    async fn server(&self) -> std::io::Result<End> {
        let (mut stream, connection) = loop {
            let mut connection = self.listener.accept().await?;
            match connection.accept().await {
                Ok(Some(stream)) => break (stream, connection),
                // It was for a ticket.
                Ok(None) | Err(_) if self.early.is_some() => {}
                Ok(None) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(error),
            }
        };
        if self.upgraded {
            stream = stream.upgrade().await?;
        }
        Ok((stream, connection))
    }

    /// Plays one scenario; `None` if it passed.
    async fn play(self: Arc<Self>, scenario: Arc<Scenario>, reference: Reference) -> Result<bool, String> {
        let serving = Arc::clone(&self);
        let session = tokio::spawn(async move {
            let (stream, connection) = serving.server().await?;
            let result = reference.serve(stream).await;
            drop(connection);
            result
        });
        let (mut stream, connection) = self.client().await.map_err(|error| error.to_string())?;
        if let Some(count) = &self.early {
            if scenario.unmet(&stream.info()).is_some() {
                // The server looks for a connection with a session on it, so it gets one.
                stream.write_all(b"QUIT\r\n").await.map_err(|error| error.to_string())?;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return Ok(false);
            }
            if let Some(word) = early::forbidden(&scenario) {
                println!("{}: {} waits for the handshake: {word} is not for early data", self.name, scenario.name());
                poll_fn(|cx| stream.poll_confirmed(cx)).await.map_err(|error| error.to_string())?;
            } else if stream.info().tls.is_some_and(|tls| tls.exporter.is_none()) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let report = Runner::default().run(&scenario, stream).await;
        drop(connection);
        // How the channel ended is the scenario's business; that the session ends is ours.
        let _ = tokio::time::timeout(Duration::from_secs(30), session).await.map_err(|_| "the session did not end")?;
        match report {
            Ok(Report::Passed(_)) => Ok(true),
            Ok(Report::Skipped(_)) => Ok(false),
            Err(mismatch) => Err(format!("{}: {mismatch}", self.name)),
        }
    }
}

/// Runs `f` with a runtime that does not outlive it.
pub(crate) fn with_runtime(f: impl Future<Output = ()>) {
    crate::provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, f);
}

#[test]
fn every_scenario_over_every_transport() {
    with_runtime(async {
        let folder_of_keys = tempfile::tempdir().unwrap();
        // Real time passes here; tarpits are tested in virtual time.
        let reference = reference_stack().with(|config| config.limits.tarpit = Duration::ZERO);
        let mut failures = Vec::new();
        for (folder, protocol) in folders() {
            let scenarios: Vec<_> = Scenario::load_all(&folder).unwrap().into_iter().map(Arc::new).collect();
            let reference = reference.clone().speaking(protocol);
            for transport in transports(folder_of_keys.path()) {
                let passed = play_all(&transport, &scenarios, &reference, &mut failures).await;
                let (name, all) = (transport.name, scenarios.len());
                println!("{protocol:?}, {name}: {passed} of {all} scenarios passed, the others do not apply");
                if let Some(early) = transport.early.as_ref().map(|early| early.load(Ordering::Relaxed)) {
                    println!("{protocol:?}, {name}: {early} first flights were early data");
                    if early < all / 2 {
                        failures.push(format!("{protocol:?}, {name}: only {early} first flights were early data"));
                    }
                }
                if passed < all / 2 {
                    failures.push(format!("{protocol:?}, {name}: only {passed} scenarios apply"));
                }
            }
        }
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    });
}

/// How many passed.
async fn play_all(
    transport: &Arc<Transport>,
    scenarios: &[Arc<Scenario>],
    reference: &Reference,
    failures: &mut Vec<String>,
) -> usize {
    let (mut passed, mut plays) = (0, JoinSet::new());
    let mut left = scenarios.iter();
    loop {
        while plays.len() < PARALLEL {
            let Some(scenario) = left.next() else { break };
            let except = |(name, on, _): &&(&str, &str, &str)| scenario.name().ends_with(name) && *on == transport.name;
            if let Some((name, on, why)) = EXCEPT.iter().find(except) {
                println!("{on}: {name} left out: {why}");
                continue;
            }
            // One listener, many conversations: which server end meets which client is all one, they are alike.
            plays.spawn_local(Arc::clone(transport).play(Arc::clone(scenario), reference.clone()));
        }
        match plays.join_next().await {
            None => return passed,
            Some(Ok(Ok(true))) => passed += 1,
            Some(Ok(Ok(false))) => {}
            Some(Ok(Err(failure))) => failures.push(failure),
            Some(Err(error)) => failures.push(format!("{}: {error}", transport.name)),
        }
    }
}

#[test]
fn every_extension_of_the_client_over_every_transport() {
    with_runtime(async {
        let folder_of_keys = tempfile::tempdir().unwrap();
        let (mut failures, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
        for transport in transports(folder_of_keys.path()) {
            let mut applied = 0;
            for (keyword, case) in client::CASES {
                match client::play(&transport, keyword, case).await {
                    Ok(true) => {
                        seen.insert(keyword);
                        applied += 1;
                    }
                    Ok(false) => {}
                    Err(failure) => failures.push(failure),
                }
            }
            println!("{}: {applied} of {} extensions arrived", transport.name, client::CASES.len());
            // STARTTLS, REQUIRETLS, XCLIENT and XFORWARD are not for every channel.
            assert!(applied + 4 >= client::CASES.len() || !failures.is_empty(), "{}", transport.name);
        }
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
        for (keyword, _) in client::CASES {
            assert!(seen.contains(keyword), "{keyword} was seen over no transport");
        }
    });
}

#[test]
fn every_transport_passes_the_kit() {
    with_runtime(async {
        let folder_of_keys = tempfile::tempdir().unwrap();
        for transport in transports(folder_of_keys.path()) {
            let make = async || {
                let serving = Arc::clone(&transport);
                let server = tokio::spawn(async move { serving.server().await });
                let (client, kept) = transport.client().await?;
                let (send, receive) = tokio::sync::oneshot::channel();
                let server: BoxFuture<'static, _> = Box::pin(async move {
                    let (stream, connection) = server.await.map_err(std::io::Error::other)??;
                    let _ = send.send(connection);
                    Ok(stream)
                });
                Ok(Pair::later(client, server).keeping(kept).keeping(receive))
            };
            let checked = kit::check(make).await.unwrap_or_else(|failures| panic!("{}: {failures}", transport.name));
            println!("{}: {checked:?}", transport.name);
        }
    });
}
