//! On real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smtp_core::channel::Peer;
use smtp_core::stream::{ConnectStep, Connector, Listener, TlsMode, TlsPolicy, Verification};
use smtp_transport_quic::{
    ConnectOptions, EarlyData, Event, Observer, QuicConnector, QuicListener, QuicOptions, Service,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

fn bind(options: QuicOptions) -> QuicListener {
    QuicListener::bind("127.0.0.1:0".parse().unwrap(), &server_tls(), options).unwrap()
}

fn connector(options: ConnectOptions) -> QuicConnector {
    QuicConnector::new(&client_tls(), options).unwrap()
}

#[tokio::test]
async fn a_mail_in_one_flight() {
    let listener = bind(QuicOptions::default());
    let address = listener.local_addr();
    assert_eq!(listener.url(), format!("smtp+quic://{address}"));
    assert!(listener.is_local());
    let served = serve_all(listener);
    let connector = connector(ConnectOptions::default());
    let mut connection = connector.connect(&target_of(address), &UNVERIFIED).await.unwrap();
    assert_eq!(connection.max_parallel(), 32);
    let mut stream = connection.open().await.unwrap();
    let said = talk(&mut stream, &flight(7, 1_000)).await.unwrap();
    assert_eq!(codes(&said), FLIGHT_CODES, "{said}");
    assert!(said.contains("CHUNKING") && !said.contains("STARTTLS"), "{said}");
    assert_eq!(taken(&served.taken), [body(7, 1_000)]);
    drop((stream, connection));
    connector.wait_idle().await;
}

#[tokio::test]
async fn both_sides_know_what_tls_has_agreed_on() {
    let listener = bind(QuicOptions::default());
    let target = target_of(listener.local_addr());
    let connector = connector(ConnectOptions::default());
    for resumed in [false, true] {
        let server = async {
            let mut connection = listener.accept().await.unwrap();
            let mut stream = connection.accept().await.unwrap().unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.shutdown().await.unwrap();
            stream.info().tls.unwrap()
        };
        let client = async {
            let mut connection = connector.connect(&target, &UNVERIFIED).await.unwrap();
            let mut stream = connection.open().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            // Tickets come behind the handshake.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            stream.info().tls.unwrap()
        };
        for tls in <[_; 2]>::from(tokio::join!(client, server)) {
            assert!(tls.cipher.starts_with("TLS_AES_"), "{tls:?}");
            // Which one depends on whether a crate of the build asks for post-quantum ones first.
            assert!(matches!(tls.group.as_deref(), Some("x25519" | "X25519MLKEM768")), "{tls:?}");
            assert_eq!((tls.resumed, tls.version), (resumed, "TLSv1.3"), "{tls:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_mails_on_one_connection() {
    let listener = bind(QuicOptions::default());
    let address = listener.local_addr();
    let served = serve_all(listener);
    let connector = connector(ConnectOptions::default());
    let mut connection = connector.connect(&target_of(address), &UNVERIFIED).await.unwrap();
    let places = Arc::new(tokio::sync::Semaphore::new(connection.max_parallel()));
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..200 {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let mut stream = connection.open().await.unwrap();
        sessions.spawn(async move {
            let _place = place;
            let said = talk(&mut stream, &flight(number, 20_000)).await.unwrap();
            assert_eq!(codes(&said), FLIGHT_CODES, "{said}");
        });
    }
    while let Some(result) = sessions.join_next().await {
        result.unwrap();
    }
    let mut numbers: Vec<usize> = taken(&served.taken).iter().map(|body| number_in(body)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn both_ends_know_the_same_channel() {
    let listener = bind(QuicOptions::default());
    let address = listener.local_addr();
    let connector = connector(ConnectOptions::default());
    let target = target_of(address);
    let (client, server) = tokio::join!(
        async {
            let mut connection = connector.connect(&target, &UNVERIFIED).await.unwrap();
            let mut stream = connection.open().await.unwrap();
            stream.write_all(b"EHLO c\r\n").await.unwrap();
            (connection, stream)
        },
        async {
            let mut connection = listener.accept().await.unwrap();
            let stream = connection.accept().await.unwrap().unwrap();
            (connection, stream)
        }
    );
    let (c, s) = (client.1.info(), server.1.info());
    assert_eq!((c.transport, s.transport), ("quic", "quic"));
    assert!(c.secure && s.secure && !c.can_upgrade && !s.can_upgrade);
    assert!(c.client_speaks_first && s.client_speaks_first);
    assert_eq!(c.implied, ["PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES"]);
    assert_eq!(c.peer, Peer::Ip(address));
    assert_eq!(s.local, Some(address));
    assert!(matches!(s.peer, Peer::Ip(SocketAddr::V4(peer)) if peer.ip().is_loopback()));
    let (c, s) = (c.tls.unwrap(), s.tls.unwrap());
    assert_eq!((c.version, s.version), ("TLSv1.3", "TLSv1.3"));
    assert_eq!((c.alpn.as_deref(), s.alpn.as_deref()), (Some("smtp-quic-00"), Some("smtp-quic-00")));
    assert_eq!((c.sni.as_deref(), s.sni.as_deref()), (Some("mx.example"), Some("mx.example")));
    assert!(c.exporter.is_some());
    assert_eq!(c.exporter, s.exporter);
    assert_eq!((c.peer_certificates.len(), c.verified), (1, false));
    assert_eq!((s.peer_certificates.len(), s.verified), (0, false));
}

#[tokio::test]
async fn verification_is_the_policys() {
    let tls = server_tls();
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), &tls, QuicOptions::default()).unwrap();
    let target = target_of(listener.local_addr());
    let _served = serve_all(listener);
    let connector = connector(ConnectOptions::default());
    let policy = |verification| TlsPolicy { mode: TlsMode::Implicit, verification };

    let pinned = policy(Verification::from(tls.pin().unwrap()));
    let mut connection = connector.connect(&target, &pinned).await.unwrap();
    assert!(connection.open().await.unwrap().info().tls.unwrap().verified);

    let error = connector.connect(&target, &policy(Verification::Pin([7; 32]))).await.err().unwrap();
    assert_eq!((error.step, error.transient), (ConnectStep::Tls, false), "{error}");
    assert!(error.to_string().contains("pinned"), "{error}");
    let error = connector.connect(&target, &TlsPolicy::NONE).await.err().unwrap();
    assert_eq!((error.step, error.transient), (ConnectStep::Tls, false), "{error}");
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let listener = bind(QuicOptions::default());
    let target = target_of(listener.local_addr());
    let served = serve_all(listener);
    let submission = connector(ConnectOptions { service: Service::Submission, ..Default::default() });
    let error = submission.connect(&target, &UNVERIFIED).await.err().unwrap();
    assert_eq!((error.step, error.transient), (ConnectStep::Tls, false), "{error}");
    assert!(error.to_string().contains("no_application_protocol"), "{error}");
    // The others are served as before.
    let relay = connector(ConnectOptions::default());
    let mut stream = relay.connect(&target, &UNVERIFIED).await.unwrap().open().await.unwrap();
    assert_eq!(codes(&talk(&mut stream, &flight(1, 100)).await.unwrap()), FLIGHT_CODES);
    assert_eq!(served.sessions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn everybody_can_be_asked_for_a_proof_of_address() {
    let listener = bind(QuicOptions { retry_above: 0, ..Default::default() });
    let target = target_of(listener.local_addr());
    let _served = serve_all(listener);
    let connector = connector(ConnectOptions::default());
    let mut stream = connector.connect(&target, &UNVERIFIED).await.unwrap().open().await.unwrap();
    assert_eq!(codes(&talk(&mut stream, &flight(1, 100)).await.unwrap()), FLIGHT_CODES);
}

#[tokio::test]
async fn a_listener_that_is_gone_refuses_new_connections_and_finishes_the_old() {
    let listener = bind(QuicOptions::default());
    let target = target_of(listener.local_addr());
    let served = serve_all(listener);
    let connector = connector(ConnectOptions::default());
    let mut connection = connector.connect(&target, &UNVERIFIED).await.unwrap();
    let mut stream = connection.open().await.unwrap();
    stream.write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n").await.unwrap();
    until(&mut stream, "250").await;
    served.drain.cancel();
    served.accepting.await.unwrap();
    let error = connector.connect(&target, &UNVERIFIED).await.err().unwrap();
    assert!(error.transient, "{error}");
    stream.write_all(b"BDAT 3 LAST\r\nx\r\n").await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.ends_with("shutting down\r\n"), "{said}");
    assert_eq!(taken(&served.taken), [b"x\r\n"]);
}

#[tokio::test]
async fn an_observer_is_told_what_happens_in_its_order() {
    let listener = bind(QuicOptions { early_data: EarlyData::Gated, ..QuicOptions::default() });
    let target = target_of(listener.local_addr());
    let _served = serve_all(listener);
    let (told, events) = std::sync::mpsc::channel();
    let observer = Observer::new(move |event| told.send(event.clone()).unwrap());
    let options =
        ConnectOptions { early_data: EarlyData::Gated, observer: Some(observer), ..ConnectOptions::default() };
    let connector = connector(options);
    let mail = flight(1, 1_000);
    for early in [false, true] {
        let mut connection = connector.connect(&target, &UNVERIFIED).await.unwrap();
        let mut stream = connection.open().await.unwrap();
        let said = talk(&mut stream, &mail).await.unwrap();
        drop((stream, connection));
        connector.wait_idle().await;
        let mut events: Vec<Event> = events.try_iter().collect();
        assert!(matches!(events.first(), Some(Event::Connected { early: was, .. }) if *was == early), "{events:?}");
        let (sent, received) = (mail.len() as u64, said.len() as u64);
        let Some(Event::Closed(traffic)) = events.pop() else { panic!("{events:?}") };
        assert!(traffic.octets_sent > sent && traffic.octets_received > received, "{traffic:?}");
        assert!(traffic.datagrams_sent > 1 && traffic.datagrams_received > 1, "{traffic:?}");
        assert_eq!(events.pop(), Some(Event::StreamEnded { id: 0, sent, received }));
        let accepted = early.then_some(Event::EarlyData { accepted: true });
        let between: Vec<Event> = std::iter::once(Event::StreamOpened { id: 0 }).chain(accepted).collect();
        assert_eq!(events.get(1..), Some(&*between), "{events:?}");
    }
}

#[tokio::test]
async fn a_socket_that_is_bound_already_can_be_taken_over() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (address, beside) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
    let room = || socket2::SockRef::from(&beside).recv_buffer_size().unwrap();
    let before = room();
    let listener = QuicListener::from_std(socket, &server_tls(), QuicOptions::default()).unwrap();
    assert_eq!(listener.url(), format!("smtp+quic://{address}"));
    // Unless the machine gives no more than that to anybody.
    let most = std::fs::read_to_string("/proc/sys/net/core/rmem_max");
    let more = most.is_ok_and(|most| most.trim().parse::<usize>().unwrap() * 2 > before);
    assert!(!more || room() > before, "{before} octets of room");
    let _served = serve_all(listener);
    let connector = connector(ConnectOptions::default());
    let mut connection = connector.connect(&target_of(address), &UNVERIFIED).await.unwrap();
    let mut stream = connection.open().await.unwrap();
    let said = talk(&mut stream, &flight(1, 100)).await.unwrap();
    assert_eq!(codes(&said), FLIGHT_CODES, "{said}");
    // A client's socket is on all addresses; what it is told of is the one that is used.
    assert!(stream.info().local.unwrap().ip().is_loopback());
}

/// The datagrams that a client has sent for a mail of a megabyte to `address`, which has to arrive.
async fn datagrams_of_a_megabyte(address: SocketAddr, served: &Served) -> u64 {
    let (told, events) = std::sync::mpsc::channel();
    let observer = Observer::new(move |event| told.send(event.clone()).unwrap());
    let connector = connector(ConnectOptions { observer: Some(observer), ..ConnectOptions::default() });
    let mut connection = connector.connect(&target_of(address), &UNVERIFIED).await.unwrap();
    let mut stream = connection.open().await.unwrap();
    let said = talk(&mut stream, &flight(1, 1 << 20)).await.unwrap();
    assert_eq!(codes(&said), FLIGHT_CODES, "{said}");
    assert!(taken(&served.taken) == [body(1, 1 << 20)], "it was changed");
    drop((stream, connection));
    connector.wait_idle().await;
    let Some(Event::Closed(traffic)) = events.try_iter().last() else { panic!("it was not closed") };
    traffic.datagrams_sent
}

#[tokio::test]
async fn a_packet_that_stays_on_this_machine_is_larger_than_one_of_ethernet() {
    let listener = bind(QuicOptions::default());
    let address = listener.local_addr();
    let served = serve_all(listener);
    let datagrams = datagrams_of_a_megabyte(address, &served).await;
    // Of 1,452 octets it takes 723.
    assert!(datagrams < 400, "{datagrams}");
}

#[tokio::test]
async fn large_packets_that_do_not_get_through_are_done_without() {
    let listener = bind(QuicOptions::default());
    let server = listener.local_addr();
    let served = serve_all(listener);
    let (front, back) = (
        tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let address = front.local_addr().unwrap();
    let large = Arc::new(AtomicUsize::new(0));
    let tried = Arc::clone(&large);
    let forwarder = tokio::spawn(async move {
        let (mut out, mut home, mut client) = ([0; 1 << 16], [0; 1 << 16], None);
        loop {
            // As of a tunnel over Ethernet.
            tokio::select! {
                got = front.recv_from(&mut out) => {
                    let (octets, from) = got.unwrap();
                    client = Some(from);
                    if octets <= 1_400 {
                        back.send_to(&out[..octets], server).await.unwrap();
                    } else {
                        large.fetch_add(1, Ordering::SeqCst);
                    }
                }
                got = back.recv(&mut home) => {
                    let octets = got.unwrap();
                    if let Some(client) = client.filter(|_| octets <= 1_400) {
                        front.send_to(&home[..octets], client).await.unwrap();
                    }
                }
            }
        }
    });
    let datagrams = datagrams_of_a_megabyte(address, &served).await;
    assert!(datagrams > 700, "{datagrams}");
    let tried = tried.load(Ordering::SeqCst);
    assert!((1..=3).contains(&tried), "{tried} large ones");
    forwarder.abort();
}
