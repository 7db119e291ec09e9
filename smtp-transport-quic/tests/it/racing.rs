//! The client's choice between QUIC and another transport, over the simulated network: times are exact.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smtp_client::{Client, RacingConnector, RacingOptions, Settings, Unanswered};
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_dns::{Memory, Svcb, SvcbDiscovery};
use smtp_test::memory::{Knobs, MemoryListener};
use smtp_transport_quic::{ConnectOptions, EarlyData, QuicConnector, QuicListener, QuicOptions};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::support::*;

fn transaction(number: usize) -> Transaction {
    transaction_of(Body::from_bytes(body(number, 2_000)))
}

/// The address of `mx.example`, and that it speaks QUIC there.
fn dns() -> Memory {
    let svcb = Svcb::service(1, ".").with_port(443).with_alpn(&["smtp-quic-00"]);
    Memory::new().with_address("mx.example", "192.0.2.1".parse().unwrap()).with_svcb("_smtp.mx.example", svcb)
}

/// A network with a QUIC server, the other transport's listener, and what chooses between them.
fn world(connect: ConnectOptions, server: QuicOptions) -> (Sim, MemoryListener, RacingConnector) {
    let sim = Sim::with(1, path(), server, connect);
    let other = MemoryListener::new(Knobs::default());
    let quic = sim.connector.with_resolver(dns()).unwrap();
    let discovery = SvcbDiscovery::new(dns(), "smtp-quic-00");
    let racing = RacingConnector::new(quic, other.connector(), discovery, RacingOptions::default());
    (sim, other, racing)
}

fn host() -> Target {
    Target::host("mx.example".parse().unwrap(), 25)
}

async fn connect(racing: &RacingConnector, policy: &TlsPolicy) -> (&'static str, u128) {
    let begin = Instant::now();
    let mut connection = racing.connect(&host(), policy).await.unwrap();
    (connection.open().await.unwrap().info().transport, begin.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn quic_wins_in_one_round_trip() {
    let (_sim, _other, racing) = world(ConnectOptions::default(), QuicOptions::default());
    assert_eq!(connect(&racing, &UNVERIFIED).await, ("quic", 50));
}

#[tokio::test(start_paused = true)]
async fn udp_that_is_blocked_costs_the_head_start_and_only_once() {
    let (sim, _other, racing) = world(ConnectOptions::default(), QuicOptions::default());
    sim.network.cut_at(Instant::now());
    assert_eq!(connect(&racing, &UNVERIFIED).await, ("memory", 250));
    assert_eq!(connect(&racing, &UNVERIFIED).await, ("memory", 0));
    // The loser is gone: it sends nothing any more.
    let sent = sim.network.sent();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sim.network.sent(), sent);
    tokio::time::sleep(Duration::from_secs(241)).await;
    assert_eq!(connect(&racing, &UNVERIFIED).await, ("memory", 250));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_does_not_hold_loses_the_race() {
    let (_sim, _other, racing) = world(ConnectOptions::default(), QuicOptions::default());
    let policy = TlsPolicy { mode: TlsMode::Opportunistic, verification: Verification::Pin([7; 32]) };
    assert_eq!(connect(&racing, &policy).await, ("memory", 50));
    assert_eq!(connect(&racing, &policy).await, ("memory", 0));
}

fn early() -> (ConnectOptions, QuicOptions) {
    let early_data = EarlyData::Gated;
    (ConnectOptions { early_data, ..Default::default() }, QuicOptions { early_data, ..Default::default() })
}

fn serve_listener(listener: MemoryListener, taken: Taken) -> Served {
    let delivery = record(&taken);
    serve_with(listener, taken, accept_all(), delivery)
}

fn pooled(connector: impl Connector, target: Target) -> Client {
    // One session each, so that each mail needs a connection.
    Client::new(connector, target, Settings { tls: UNVERIFIED, max_idle: 0, ..Settings::default() })
}

async fn send(client: &mut Client, number: usize) {
    let outcome = client.ready().await.unwrap().call(transaction(number)).await.unwrap();
    assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
}

/// Lets the client's connections end.
async fn rest(connector: &QuicConnector) {
    tokio::time::sleep(Duration::from_secs(120)).await;
    connector.wait_idle().await;
}

#[tokio::test(start_paused = true)]
async fn early_data_that_is_refused_goes_once_more_and_the_mail_arrives_once() {
    let (connect, server) = early();
    let sim = Sim::with(1, path(), server.clone(), connect);
    let mut client = pooled(sim.connector.clone(), target());
    for number in 0..2 {
        let begin = Instant::now();
        send(&mut client, number).await;
        // It fits into the first flight, so that early data has nothing to save.
        assert_eq!(begin.elapsed().as_millis(), 100);
        rest(&sim.connector).await;
    }
    assert_eq!(taken(&sim.served.taken), [body(0, 2_000), body(1, 2_000)]);

    // The same name elsewhere: that server knows nothing of the ticket.
    let elsewhere: SocketAddr = "192.0.2.3:443".parse().unwrap();
    let endpoint = sim.network.endpoint(elsewhere).unwrap();
    let other = serve_all(QuicListener::from_endpoint(endpoint, &server_tls(), server).unwrap());
    let mut client = pooled(sim.connector.clone(), target_of(elsewhere));
    send(&mut client, 2).await;
    assert_eq!(taken(&other.taken), [body(2, 2_000)]);
    assert_eq!(taken(&sim.served.taken).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn early_data_into_nowhere_ends_with_the_other_transport() {
    let (connect, server) = early();
    let (sim, other, racing) = world(connect, server);
    let over_memory = Taken::default();
    let serving = serve_listener(other, over_memory.clone());
    let racing = Arc::new(racing);
    let mut client = pooled(Shared(Arc::clone(&racing)), host());
    send(&mut client, 0).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(taken(&sim.served.taken), [body(0, 2_000)]);

    sim.network.cut_at(Instant::now());
    let begin = Instant::now();
    send(&mut client, 1).await;
    // An attempt with early data is not raced: it has the time of its handshake.
    assert_eq!(begin.elapsed().as_secs(), 30);
    let begin = Instant::now();
    send(&mut client, 2).await;
    assert_eq!(begin.elapsed().as_millis(), 0);
    assert_eq!(taken(&over_memory), [body(1, 2_000), body(2, 2_000)]);
    assert_eq!(taken(&sim.served.taken).len(), 1);
    serving.accepting.abort();
}

/// Whenever UDP is cut, no mail is delivered twice, and every one arrives or is reported to be in doubt.
#[tokio::test(start_paused = true)]
async fn no_mail_is_lost_or_doubled_at_any_moment_of_a_cut() {
    for cut in (0..200).step_by(5) {
        let (connect, server) = early();
        let (sim, other, racing) = world(connect, server);
        let over_memory = Taken::default();
        let serving = serve_listener(other, over_memory.clone());
        let mut client = pooled(racing, host());
        send(&mut client, 0).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        sim.network.cut_at(Instant::now() + Duration::from_millis(cut));
        let result = client.ready().await.unwrap().call(transaction(1)).await;
        let delivered = taken(&sim.served.taken).len() - 1 + taken(&over_memory).len();
        match result {
            Ok(outcome) => {
                assert!(outcome.iter().all(Result::is_ok), "cut at {cut} ms: {outcome:?}");
                assert_eq!(delivered, 1, "cut at {cut} ms");
            }
            // The server's part of the handshake, sent after 25 ms, has arrived: the client goes on to the content, and
            // whoever has sent that and hears nothing does not know (RFC 1047).
            Err(error) => {
                assert!((25..100).contains(&cut), "cut at {cut} ms: {error}");
                let unanswered = error.downcast_ref::<Unanswered>().unwrap();
                assert!(unanswered.error().is_in_doubt(), "cut at {cut} ms: {error}");
                assert!(delivered <= 1, "cut at {cut} ms");
            }
        }
        serving.accepting.abort();
    }
}

#[derive(Debug)]
struct Shared(Arc<RacingConnector>);

#[async_trait::async_trait]
impl Connector for Shared {
    async fn connect(
        &self,
        target: &Target,
        policy: &TlsPolicy,
    ) -> Result<Box<dyn smtp_core::stream::Connection>, smtp_core::stream::ConnectError> {
        self.0.connect(target, policy).await
    }
}
