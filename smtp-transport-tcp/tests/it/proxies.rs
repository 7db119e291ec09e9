//! Behind a proxy: whose word counts, and when.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use smtp_core::channel::Peer;
use smtp_core::stream::{
    AcceptProxy, Connector, Listener, ProxyError, ProxyFault, ProxyHeader, ProxyVersion, TlsMode, TlsPolicy,
    Verification,
};
use smtp_transport_tcp::{ConnectOptions, TcpConnector, TcpListener, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Leaf, Stream, client, listen, localhost, pair, policy, say, server};

fn proxies(list: &str) -> AcceptProxy {
    AcceptProxy::from(list.parse().unwrap())
}

fn header(version: ProxyVersion) -> ProxyHeader {
    ProxyHeader::new(version, "198.51.100.7:4711".parse().unwrap(), "203.0.113.9:25".parse().unwrap())
}

fn connector(header: ProxyHeader) -> TcpConnector {
    let options = ConnectOptions { proxy: Some(header), ..ConnectOptions::default() };
    TcpConnector::new(client().build().unwrap()).with_options(options)
}

/// The facts are the client's, as the header has it.
fn assert_forwarded(stream: &Stream) {
    let info = stream.info();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let Peer::Forwarded { address: Some(client), proxy } = &info.peer else { panic!("{:?}", info.peer) };
    assert_eq!((*client, info.local), (address("198.51.100.7:4711"), Some(address("203.0.113.9:25"))));
    assert!(proxy.is_local() && !info.peer.is_local(), "{info:?}");
    assert_eq!(info.secure, info.tls.is_some());
}

#[tokio::test]
async fn the_header_comes_before_starttls_and_before_implicit_tls() {
    let tls = server().identity(Leaf::new().identity()).build().unwrap();
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        for (tls, mode) in [
            (Tls::None, TlsMode::None),
            (Tls::StartTls(tls.clone()), TlsMode::Required),
            (Tls::Implicit(tls.clone()), TlsMode::Implicit),
        ] {
            let listener = listen(tls).behind(proxies("127.0.0.1"));
            let policy = policy(mode, Verification::None);
            let (mut theirs, mut ours) = pair(&listener, &connector(header(version)), &policy).await;
            assert_forwarded(&ours);
            say(&mut theirs, &mut ours, "EHLO x\r\n").await;
            if mode == TlsMode::Required {
                assert!(ours.info().can_upgrade);
                let (theirs, ours) = tokio::join!(theirs.upgrade(), ours.upgrade());
                let (mut theirs, mut ours) = (theirs.unwrap(), ours.unwrap());
                // The client is still the same.
                assert_forwarded(&ours);
                assert!(ours.info().secure);
                say(&mut theirs, &mut ours, "EHLO x\r\n").await;
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_peer() {
    let listener = listen(Tls::None).behind(proxies("127.0.0.1"));
    let (theirs, ours) = pair(&listener, &connector(ProxyHeader::local(ProxyVersion::V2)), &TlsPolicy::NONE).await;
    assert_eq!(Some(ours.info().peer), theirs.info().local.map(Peer::Ip));
    // Version 1 has no word for it: it is a client that nothing is known of.
    let (_theirs, ours) = pair(&listener, &connector(ProxyHeader::local(ProxyVersion::V1)), &TlsPolicy::NONE).await;
    assert!(!ours.info().peer.is_local() && ours.info().peer.ip().is_none());
}

/// What becomes of a connection that begins with `octets`.
async fn fault(listener: &TcpListener, octets: &[u8]) -> ProxyFault {
    let mut socket = TcpStream::connect(listener.local_addr()).await.unwrap();
    socket.write_all(octets).await.unwrap();
    let mut connection = listener.accept().await.unwrap();
    let error = connection.accept().await.err().expect("no stream");
    assert!(matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidData | ErrorKind::TimedOut));
    drop(connection);
    // It is closed, and nothing was said.
    let mut said = Vec::new();
    let _ = socket.read_to_end(&mut said).await;
    assert!(said.is_empty(), "{said:?}");
    error.into_inner().unwrap().downcast::<ProxyError>().unwrap().why
}

#[tokio::test]
async fn strangers_and_what_is_no_header_are_closed_without_a_word() {
    let good = header(ProxyVersion::V1).encode();
    let tls = server().identity(Leaf::new().identity()).build().unwrap();
    for (tls, mode) in [(Tls::None, TlsMode::None), (Tls::Implicit(tls), TlsMode::Implicit)] {
        let elsewhere = listen(tls.clone()).behind(proxies("192.0.2.0/24, 198.51.100.7"));
        assert_eq!(fault(&elsewhere, &good).await, ProxyFault::Stranger);
        let listener = listen(tls).behind(proxies("127.0.0.0/8").with_timeout(Duration::from_millis(200)));
        assert_eq!(fault(&listener, b"EHLO client.example\r\n").await, ProxyFault::Missing);
        assert_eq!(fault(&listener, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await, ProxyFault::Missing);
        assert_eq!(fault(&listener, b"").await, ProxyFault::Late(Duration::from_millis(200)));
        assert_eq!(fault(&listener, b"PROXY ").await, ProxyFault::Late(Duration::from_millis(200)));
        assert_eq!(
            fault(&listener, &[b"PROXY "[..].to_vec(), vec![b'x'; 5_000]].concat()).await,
            ProxyFault::TooLong(107)
        );
        // The next one is served.
        let policy = policy(mode, Verification::None);
        let (mut theirs, mut ours) = pair(&listener, &connector(header(ProxyVersion::V2)), &policy).await;
        assert_forwarded(&ours);
        say(&mut theirs, &mut ours, "EHLO x\r\n").await;
    }
}

#[tokio::test]
async fn without_proxies_a_header_is_no_more_than_octets() {
    let listener = listen(Tls::None);
    let target = localhost(&listener);
    let (connected, accepted) = tokio::join!(
        async { connector(header(ProxyVersion::V1)).connect(&target, &TlsPolicy::NONE).await.unwrap() },
        async { listener.accept().await.unwrap().accept().await.unwrap().unwrap() },
    );
    let mut accepted = accepted;
    assert!(accepted.info().peer.is_local());
    let mut start = [0; 6];
    accepted.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"PROXY ");
    drop(connected);
}
