//! Peers that do not keep to the mapping: bounded, told why, and no harm to others.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use smtp_core::service::{BoxError, Outcome, Transaction};
use smtp_core::stream::{CloseCode, Connector, Verification};
use smtp_tls::ClientCertificates;
use smtp_transport_quic::sim::{Datagram, Fate, Network};
use smtp_transport_quic::{
    ConnectOptions, EarlyData, QuicConnector, QuicError, QuicListener, QuicOptions, Service, TransportOptions,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tower::service_fn;

use crate::support::*;

const STRANGER: &str = "198.51.100.7:40000";

/// A QUIC client that offers `alpn` and has no manners.
async fn raw(network: &Network, alpn: &[&[u8]]) -> Result<quinn::Connection, quinn::ConnectionError> {
    let tls = client_tls().with_alpn(alpn).config(&Verification::None).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = network.endpoint(STRANGER.parse().unwrap()).unwrap();
    endpoint.connect_with(config, SERVER.parse().unwrap(), "mx.example").unwrap().await
}

async fn relay(network: &Network) -> quinn::Connection {
    raw(network, &[Service::Relay.alpn()]).await.unwrap()
}

/// Somebody else is served as if nothing were.
async fn others_are_served(sim: &Sim) {
    let mut stream = sim.connect().await.open().await.unwrap();
    assert_eq!(codes(&talk(&mut stream, &flight(9, 500)).await.unwrap()), FLIGHT_CODES);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_our_protocol_is_refused_in_the_handshake() {
    for alpn in [&[][..], &[&b"h3"[..]], &[&b"smtp"[..]], &[&b"submission-quic-00"[..]]] {
        let sim = Sim::new(1, path());
        let error = raw(&sim.network, alpn).await.unwrap_err();
        // no_application_protocol (RFC 7301 §3.2) as a QUIC error (RFC 9001 §4.8).
        let quinn::ConnectionError::ConnectionClosed(close) = &error else { panic!("{error}") };
        assert_eq!(u64::from(close.error_code), 0x178, "{error}");
        assert_eq!(sim.served.sessions.load(Ordering::Relaxed), 0);
        others_are_served(&sim).await;
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_the_mapping_has_no_use_for_cannot_be_opened() {
    let sim = Sim::new(1, path());
    let connection = relay(&sim.network).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    // The limits are 0: QUIC itself holds the peer to them.
    assert!(timeout(Duration::from_secs(5), connection.open_uni()).await.is_err());
    assert!(connection.send_datagram(bytes::Bytes::from_static(b"x")).is_err());
    send.write_all(&flight(1, 100)).await.unwrap();
    let said = recv.read_to_end(1 << 16).await.unwrap();
    assert_eq!(codes(std::str::from_utf8(&said).unwrap()), FLIGHT_CODES);

    // And a server can open none at all towards our client.
    let (_network, listener, connector) = Sim::parts(1, path(), QuicOptions::default(), ConnectOptions::default());
    let endpoint = listener.endpoint().clone();
    let server = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let bi = timeout(Duration::from_secs(5), connection.open_bi()).await.is_err();
        bi && timeout(Duration::from_secs(5), connection.open_uni()).await.is_err()
    });
    let connection = connector.connect(&target(), &UNVERIFIED).await.unwrap();
    assert!(server.await.unwrap());
    drop((connection, listener));
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_allowed_wait_for_their_turn() {
    let sim = Sim::new(1, path());
    let connection = relay(&sim.network).await;
    let mut open = Vec::new();
    while let Ok(halves) = timeout(Duration::from_secs(5), connection.open_bi()).await {
        let (mut send, recv) = halves.unwrap();
        send.write_all(b"EHLO c\r\n").await.unwrap();
        open.push((send, recv));
        assert!(open.len() < 100);
    }
    // 32, and the seventh that makes up for credit being given in batches.
    assert_eq!(open.len(), 37);
    assert_eq!(sim.served.sessions.load(Ordering::Relaxed), 37);
    // However many sessions come and go, 32 find a place.
    for _ in 0..100 {
        while open.len() >= 32 {
            let (mut send, mut recv) = open.remove(0);
            send.write_all(b"QUIT\r\n").await.unwrap();
            send.finish().unwrap();
            recv.read_to_end(1 << 16).await.unwrap();
        }
        let (mut send, recv) = timeout(Duration::from_secs(1), connection.open_bi()).await.unwrap().unwrap();
        send.write_all(b"EHLO c\r\n").await.unwrap();
        open.push((send, recv));
    }
    drop(open.pop());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut send, mut recv) = timeout(Duration::from_secs(1), connection.open_bi()).await.unwrap().unwrap();
    send.write_all(&flight(3, 100)).await.unwrap();
    send.finish().unwrap();
    let said = recv.read_to_end(1 << 16).await.unwrap();
    assert_eq!(codes(std::str::from_utf8(&said).unwrap()), FLIGHT_CODES);
    others_are_served(&sim).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_shown_a_certificate_may_have_more_streams() {
    let (identity, pem) = self_signed("client.example");
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), pem).unwrap();
    for early_data in [EarlyData::Off, EarlyData::Gated] {
        let network = Network::new(1, path());
        let tls = server_builder(X25519).client_ca(ca.path(), ClientCertificates::Optional).build().unwrap();
        let transport = TransportOptions { max_streams: 2, ..Default::default() };
        let options = QuicOptions { transport, max_streams_certified: 5, early_data, ..Default::default() };
        let endpoint = network.endpoint(SERVER.parse().unwrap()).unwrap();
        serve_all(QuicListener::from_endpoint(endpoint, &tls, options).unwrap());
        let known = client_builder(X25519).identity(identity.clone()).build().unwrap();
        for (tls, port, streams) in [(client_tls(), 1, 3), (known, 2, 6)] {
            let endpoint = network.endpoint(SocketAddr::new("192.0.2.2".parse().unwrap(), port)).unwrap();
            let connector = QuicConnector::from_endpoint(endpoint, &tls, ConnectOptions::default()).unwrap();
            let mut connection = connect(&connector).await;
            let mut open = Vec::new();
            while let Ok(stream) = timeout(Duration::from_secs(5), connection.open()).await {
                let mut stream = stream.unwrap();
                stream.write_all(b"EHLO c\r\n").await.unwrap();
                open.push(stream);
            }
            // And the one that makes up for credit being given in batches.
            assert_eq!(open.len(), streams, "{early_data:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_opened_and_thrown_away_end_the_connection() {
    let sim = Sim::new(1, path());
    let connection = relay(&sim.network).await;
    let mut opened = 0;
    let error = loop {
        match connection.open_bi().await {
            Ok((mut send, mut recv)) => {
                opened += 1;
                assert!(opened < 10_000);
                let _ = send.write_all(b"EHLO c\r\n").await;
                let _ = send.reset(quinn::VarInt::from_u32(3));
                let _ = recv.stop(quinn::VarInt::from_u32(3));
            }
            Err(error) => break error,
        }
    };
    let quinn::ConnectionError::ApplicationClosed(close) = &error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), 4, "{error}");
    let sessions = sim.served.sessions.load(Ordering::Relaxed);
    assert!((100..=132).contains(&sessions), "{sessions}");
    others_are_served(&sim).await;
}

#[tokio::test(start_paused = true)]
async fn an_honest_client_is_never_short_of_streams() {
    let sim = Sim::with(1, path(), QuicOptions { churn: 3, ..Default::default() }, ConnectOptions::default());
    let mut connection = sim.connect().await;
    for number in 0..50 {
        let mut stream = connection.open().await.unwrap();
        if number % 2 == 1 {
            stream.write_all(b"EHLO c\r\n").await.unwrap();
            stream.abort(CloseCode::Cancelled);
        } else {
            assert_eq!(codes(&talk(&mut stream, &flight(number, 100)).await.unwrap()), FLIGHT_CODES);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_is_bounded_by_the_windows() {
    let transport = TransportOptions { connection_window: 1 << 20, ..Default::default() };
    let options = QuicOptions { transport, ..Default::default() };
    let (network, listener, _connector) = Sim::parts(1, path(), options, ConnectOptions::default());
    // A delivery that takes nothing: what comes stays in the windows.
    let stuck = service_fn(async |t: Transaction| {
        std::future::pending::<()>().await;
        drop(t);
        Err::<Outcome, BoxError>("never".into())
    });
    let _served = serve_with(listener, Taken::default(), accept_all(), stuck);
    let connection = relay(&network).await;
    for _ in 0..20 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        tokio::spawn(async move {
            let begin = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 30000000 LAST\r\n";
            let _ = send.write_all(begin).await;
            let _ = send.write_all(&vec![b'x'; 8 << 20]).await;
            drop((send, recv));
        });
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let sent = connection.stats().udp_tx.bytes;
    // The window, what the sessions hold in their hands (64 KiB at most), and packet headers.
    let most = (1 << 20) + 20 * (64 << 10) + (256 << 10);
    assert!((1 << 20..most).contains(&sent), "{sent} octets sent, {most} allowed");
}

/// The first datagrams of a client that never hears an answer.
async fn first_flight(sim: &Sim) -> Vec<Datagram> {
    let kept = Arc::new(Mutex::new(Vec::<Datagram>::new()));
    let keep = Arc::clone(&kept);
    let client: SocketAddr = CLIENT.parse().unwrap();
    sim.network.tap(move |datagram| {
        if datagram.from == client {
            keep.lock().unwrap().push(datagram.clone());
            return Fate::Lost;
        }
        Fate::Path
    });
    let (connector, to) = (sim.connector.clone(), target());
    let attempt = tokio::spawn(async move { connector.connect(&to, &UNVERIFIED).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(10)).await;
    attempt.abort();
    sim.network.tap(|_| Fate::Path);
    std::mem::take(&mut *kept.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_spoofed_address_gets_little_more_than_was_sent_in_its_name() {
    for retry_above in [0, 8] {
        let options = QuicOptions { retry_above, ..Default::default() };
        let sim = Sim::with(1, path(), options, ConnectOptions::default());
        let flight = first_flight(&sim).await;
        let victim: SocketAddr = "203.0.113.5:53".parse().unwrap();
        let got = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&got);
        sim.network.tap(move |datagram| {
            if datagram.to == victim {
                count.fetch_add(datagram.payload.len() as u64, Ordering::Relaxed);
            }
            Fate::Path
        });
        let mut sent = 0;
        for datagram in &flight {
            sent += datagram.payload.len() as u64;
            sim.network.inject(Datagram { from: victim, ..datagram.clone() });
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let got = got.load(Ordering::Relaxed);
        println!("retry above {retry_above}: {got} octets out for {sent} in");
        if retry_above == 0 {
            // A Retry packet is smaller than what asked for it.
            assert!(got > 0 && got < sent, "{got} out for {sent} in");
        } else {
            // RFC 9000 §8.1 says three times. quinn lets the datagram that crosses the limit pass whole.
            assert!(got > 0 && got < 3 * sent + 1200, "{got} out for {sent} in");
        }
        others_are_served(&sim).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_of_address_costs_one_round_trip() {
    for (retry_above, milliseconds) in [(64, 50), (0, 100)] {
        let options = QuicOptions { retry_above, ..Default::default() };
        let sim = Sim::with(1, path(), options, ConnectOptions::default());
        let begin = Instant::now();
        sim.connect().await;
        assert_eq!(begin.elapsed().as_millis(), milliseconds);
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_connections_are_bounded_and_pass() {
    let options = QuicOptions { retry_above: usize::MAX, max_half_open: 5, ..Default::default() };
    let sim = Sim::with(1, path(), options, ConnectOptions::default());
    for attacker in 0..20_u16 {
        let flight = first_flight(&sim).await;
        let from = SocketAddr::new("203.0.113.5".parse().unwrap(), 1_000 + attacker);
        for datagram in &flight {
            sim.network.inject(Datagram { from, ..datagram.clone() });
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = sim.connector.connect(&target(), &UNVERIFIED).await.err().unwrap();
    assert!(error.transient, "{error}");
    // A handshake has ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    others_are_served(&sim).await;
}

#[tokio::test(start_paused = true)]
async fn noise_is_ignored() {
    let sim = Sim::new(1, path());
    let (from, to) = (STRANGER.parse().unwrap(), SERVER.parse().unwrap());
    for len in [0_usize, 1, 20, 21, 1_200, 1_472, 9_000] {
        for octet in [0x00_u8, 0x40, 0xc0, 0xff] {
            sim.network.inject(Datagram { from, to, payload: vec![octet; len] });
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    others_are_served(&sim).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_why_a_connection_was_closed() {
    let (_network, listener, connector) = Sim::parts(1, path(), QuicOptions::default(), ConnectOptions::default());
    let endpoint = listener.endpoint().clone();
    let server = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        connection.accept_bi().await.unwrap();
        connection.close(quinn::VarInt::from_u32(9), b"not \x1b[31mhere");
        connection.closed().await;
    });
    let mut stream = connector.connect(&target(), &UNVERIFIED).await.unwrap().open().await.unwrap();
    let error = talk(&mut stream, &flight(1, 100)).await.unwrap_err();
    let inner = error.get_ref().unwrap().downcast_ref::<QuicError>().unwrap();
    assert_eq!(inner.code(), Some(CloseCode::Policy));
    assert!(inner.is_permanent());
    assert_eq!(inner.to_string(), "the peer closed the connection (Policy: not ?[31mhere)");
    server.await.unwrap();
    drop(listener);
}
