//! Names, addresses, time limits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use smtp_core::stream::{Address, ConnectError, ConnectStep, Connector, Listener, Resolve, Target, TlsPolicy};
use smtp_core::types::Domain;
use smtp_transport_tcp::{ConnectOptions, ListenOptions, TcpConnector, TcpListener};
use socket2::{Socket, Type};

/// Answers every name alike.
struct Fixed(Result<Vec<IpAddr>, io::ErrorKind>);

#[async_trait]
impl Resolve for Fixed {
    async fn resolve(&self, _: &Domain) -> io::Result<Vec<IpAddr>> {
        self.0.clone().map_err(Into::into)
    }
}

/// Never answers.
struct Silent;

#[async_trait]
impl Resolve for Silent {
    async fn resolve(&self, _: &Domain) -> io::Result<Vec<IpAddr>> {
        std::future::pending().await
    }
}

fn at(addresses: &[&str]) -> TcpConnector {
    TcpConnector::without_tls().with_resolver(Fixed(Ok(addresses.iter().map(|ip| ip.parse().unwrap()).collect())))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap()
}

fn target(port: u16) -> Target {
    Target::host("mx.example".parse().unwrap(), port)
}

async fn connect(connector: &TcpConnector, target: &Target) -> Result<(), ConnectError> {
    connector.connect(target, &TlsPolicy::NONE).await.map(drop)
}

/// A socket whose queue is full drops what comes: a black hole. Gives what keeps it so.
fn black_hole(address: SocketAddr) -> impl Sized {
    let hole = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
    hole.bind(&address.into()).unwrap();
    hole.listen(0).unwrap();
    let fill: Vec<_> = (0..4)
        .map(|_| {
            let socket = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
            let _ = socket.connect_timeout(&address.into(), Duration::from_millis(50));
            socket
        })
        .collect();
    (hole, fill)
}

#[tokio::test]
async fn an_address_that_refuses_costs_nothing() {
    let listener = listener();
    // Nobody waits for the next one's turn.
    let options = ConnectOptions { stagger: Duration::from_secs(60), ..ConnectOptions::default() };
    let connector = at(&["127.0.0.77", "::1", "127.0.0.1"]).with_options(options);
    let start = Instant::now();
    connect(&connector, &target(listener.local_addr().port())).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_black_hole_costs_a_quarter_of_a_second() {
    let listener = listener();
    let port = listener.local_addr().port();
    let _hole = black_hole(SocketAddr::new("127.0.0.78".parse().unwrap(), port));
    let start = Instant::now();
    connect(&at(&["127.0.0.78", "127.0.0.1"]), &target(port)).await.unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn every_limit_is_kept_and_named() {
    let port = listener().local_addr().port();
    let _hole = black_hole(SocketAddr::new("127.0.0.79".parse().unwrap(), port));
    let short = Duration::from_millis(100);
    let long = Duration::from_secs(60);
    let limits = |attempt_timeout, timeout| ConnectOptions { attempt_timeout, timeout, ..ConnectOptions::default() };
    let silent = TcpConnector::without_tls().with_resolver(Silent);
    let rows = [
        (at(&["127.0.0.79"]).with_options(limits(short, long)), ConnectStep::Connect),
        (at(&["127.0.0.79"]).with_options(limits(long, short)), ConnectStep::Connect),
        (silent.with_options(limits(long, short)), ConnectStep::Resolve),
    ];
    for (connector, step) in rows {
        let start = Instant::now();
        let error = connect(&connector, &target(port)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!((error.step, error.transient, error.source.kind()), (step, true, io::ErrorKind::TimedOut));
        assert!(error.to_string().contains("100ms"), "{error}");
    }
}

#[tokio::test]
async fn errors_say_how_far_it_came_and_whether_it_may_pass() {
    let port = listener().local_addr().port();
    let refused = connect(&at(&["127.0.0.80", "127.0.0.81"]), &target(port)).await.unwrap_err();
    assert_eq!((refused.step, refused.transient), (ConnectStep::Connect, true));
    assert_eq!(refused.source.kind(), io::ErrorKind::ConnectionRefused);
    let text = refused.to_string();
    assert!(text.contains("127.0.0.80") && text.contains("127.0.0.81") && text.starts_with("mx.example:"), "{text}");

    let none = |answer| TcpConnector::without_tls().with_resolver(Fixed(answer));
    let rows = [
        (none(Err(io::ErrorKind::NotFound)), false),
        (none(Ok(vec![])), false),
        (none(Err(io::ErrorKind::TimedOut)), true),
        (none(Err(io::ErrorKind::Other)), true),
    ];
    for (connector, transient) in rows {
        let error = connect(&connector, &target(port)).await.unwrap_err();
        assert_eq!((error.step, error.transient), (ConnectStep::Resolve, transient), "{error}");
    }

    let elsewhere = [
        Target { address: Address::Path(PathBuf::from("/run/lmtp")), server_name: None },
        Target::host("[x400:c=de]".parse().unwrap(), 25),
    ];
    for target in elsewhere {
        let error = connect(&at(&[]), &target).await.unwrap_err();
        assert_eq!((error.step, error.transient), (ConnectStep::Resolve, false), "{error}");
    }
}

#[tokio::test]
async fn the_systems_resolver_never_calls_a_failure_permanent() {
    // "invalid" does not exist, by decree (RFC 6761 §6.4).
    let connector = TcpConnector::without_tls()
        .with_options(ConnectOptions { timeout: Duration::from_secs(5), ..ConnectOptions::default() });
    let error = connect(&connector, &Target::host("nobody.invalid".parse().unwrap(), 25)).await.unwrap_err();
    assert_eq!((error.step, error.transient), (ConnectStep::Resolve, true), "{error}");
}

#[tokio::test]
async fn the_local_address_can_be_chosen() {
    let listener = listener();
    let from = |ip: &str| {
        let local = [ip.parse().unwrap()].into_iter().collect();
        ConnectOptions { local, ..ConnectOptions::default() }
    };
    let port = listener.local_addr().port();
    // The other family is left out, even if it comes first.
    connect(&at(&["::1", "127.0.0.1"]).with_options(from("127.0.0.99")), &target(port)).await.unwrap();
    let stream = listener.accept().await.unwrap().accept().await.unwrap().unwrap();
    assert_eq!(stream.info().peer.ip(), Some("127.0.0.99".parse().unwrap()));

    let error = connect(&at(&["127.0.0.1"]).with_options(from("::1")), &target(port)).await.unwrap_err();
    assert!(error.to_string().contains("not tried: it is IPv4, and the source address is ::1"), "{error}");
    let error = connect(&at(&["127.0.0.1"]).with_options(from("192.0.2.1")), &target(port)).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.1") && error.transient, "{error}");
}

#[tokio::test]
async fn a_connection_has_one_stream() {
    let listener = listener();
    let target = Target::host("[127.0.0.1]".parse().unwrap(), listener.local_addr().port());
    let mut connection = TcpConnector::without_tls().connect(&target, &TlsPolicy::NONE).await.unwrap();
    assert_eq!(connection.max_parallel(), 1);
    let stream = connection.open().await.unwrap();
    assert!(connection.open().await.is_err());
    assert_eq!(stream.info().peer.ip(), Some("127.0.0.1".parse().unwrap()));
    let mut accepted = listener.accept().await.unwrap();
    assert!(accepted.accept().await.unwrap().is_some());
    assert!(accepted.accept().await.unwrap().is_none());
}
