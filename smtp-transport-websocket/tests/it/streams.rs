//! What the stream guarantees, on whatever it lies.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use smtp_core::channel::Peer;
use smtp_core::stream::{ByteStream, CloseCode, Connector, Listener, Target, TlsMode, TlsPolicy};
use smtp_test::kit::{self, Pair};
use smtp_test::memory::{Knobs, MemoryListener, Pace};
use smtp_tls::{ClientTls, SelfSigned, ServerTls};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use smtp_transport_websocket::{WebSocketConnector, WebSocketListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CODES, CONVERSATION, Taken, codes, serving, tcp};

fn anywhere() -> Target {
    Target::host("mx.example".parse().unwrap(), 80)
}

/// A fresh pair through `listener` and `connector`, handshakes included.
async fn pair(
    listener: &impl Listener,
    connector: &impl Connector,
    target: &Target,
    policy: &TlsPolicy,
) -> io::Result<Pair> {
    let accept = async {
        let mut connection = listener.accept().await?;
        let stream = connection.accept().await?.ok_or(ErrorKind::UnexpectedEof)?;
        io::Result::Ok((stream, connection))
    };
    let connect = async {
        let mut connection = connector.connect(target, policy).await.map_err(io::Error::other)?;
        io::Result::Ok((connection.open().await?, connection))
    };
    let ((server, server_side), (client, client_side)) = tokio::try_join!(accept, connect)?;
    Ok(Pair::boxed(client, server).keeping(server_side).keeping(client_side))
}

async fn streams_in_memory(knobs: &Knobs) -> (Box<dyn ByteStream>, Box<dyn ByteStream>) {
    let listener = MemoryListener::new(knobs.clone());
    let connector = WebSocketConnector::new(listener.connector());
    let listener = WebSocketListener::new(listener);
    let target = anywhere();
    let accept = async { listener.accept().await.unwrap().accept().await.unwrap().unwrap() };
    let connect = async { connector.connect(&target, &TlsPolicy::NONE).await.unwrap().open().await.unwrap() };
    tokio::join!(connect, accept)
}

#[tokio::test]
async fn over_tcp_it_is_a_byte_stream() {
    let listener = WebSocketListener::new(tcp());
    let port = listener.url().rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(listener.url(), format!("smtp+ws://127.0.0.1:{port}"));
    assert!(listener.is_local());
    let target = Target::host("[127.0.0.1]".parse().unwrap(), port);
    let connector = WebSocketConnector::new(TcpConnector::without_tls()).with_path("/smtp?token=1");
    println!("{}", kit::check(async || pair(&listener, &connector, &target, &TlsPolicy::NONE).await).await.unwrap());
}

#[tokio::test]
async fn over_tls_it_is_one_that_knows_its_tls() {
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let folder = tempfile::tempdir().unwrap();
    let identity = SelfSigned::load_or_create(&folder.path().join("tls"), &["localhost"]).unwrap();
    let tls = ServerTls::builder().provider(provider()).identity(identity.identity()).build().unwrap();
    let options = ListenOptions { tls: Tls::Implicit(tls), ..ListenOptions::default() };
    let listener = WebSocketListener::new(TcpListener::bind("127.0.0.1:0".parse().unwrap(), options).unwrap());
    let port = listener.url().rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(listener.url(), format!("smtp+wss://127.0.0.1:{port}"));

    let target = Target::host("localhost".parse().unwrap(), port);
    let tls = ClientTls::builder().provider(provider()).build().unwrap();
    let connector = WebSocketConnector::new(TcpConnector::new(tls));
    let policy = TlsPolicy { mode: TlsMode::Implicit, verification: identity.pin().into() };
    println!("{}", kit::check(async || pair(&listener, &connector, &target, &policy).await).await.unwrap());

    let accept = async { listener.accept().await.unwrap().accept().await.unwrap().unwrap().info() };
    let connect = async { connector.connect(&target, &policy).await.unwrap().open().await.unwrap().info() };
    let (client, server) = tokio::join!(connect, accept);
    for info in [client, server] {
        assert_eq!((info.transport, info.secure, info.can_upgrade), ("websocket", true, false));
        assert_eq!(info.tls.unwrap().version, "TLSv1.3");
        assert!(matches!(info.peer, Peer::Ip(_)));
    }
}

#[tokio::test]
async fn over_unfriendly_channels_it_is_a_byte_stream() {
    // The library refuses a handshake in more than 64 pieces.
    let odd = Pace { read: 5, write: 1, pending: 3, lazy: true };
    let friendly = Knobs::default();
    for knobs in [
        friendly.clone().paced(Pace::STORMY),
        friendly.clone().paced(Pace::LAZY),
        friendly.clone().paced(odd),
        Knobs { capacity: 100, ..friendly.clone() },
        Knobs { harsh_close: true, ..friendly },
        Knobs { tls: smtp_test::memory::Tls::None, secure: false, ..Knobs::streams() },
    ] {
        let listener = MemoryListener::new(knobs.clone());
        let connector = WebSocketConnector::new(listener.connector());
        let listener = WebSocketListener::new(listener);
        let make = async || pair(&listener, &connector, &anywhere(), &TlsPolicy::NONE).await;
        kit::check(make).await.unwrap_or_else(|failures| panic!("{knobs:?}: {failures}"));
    }
}

#[tokio::test]
async fn a_conversation_in_any_pieces_gives_all_replies() {
    for pace in [Pace::default(), Pace { read: 5, write: 1, pending: 0, lazy: false }, Pace::STORMY] {
        for piece in [CONVERSATION.len(), 1, 7] {
            let (mut client, server) = streams_in_memory(&Knobs::default().paced(pace)).await;
            let taken = Taken::default();
            let session = serving(server, &taken);
            for piece in CONVERSATION.chunks(piece) {
                client.write_all(piece).await.unwrap();
                client.flush().await.unwrap();
            }
            // The server has read QUIT, and may be gone already.
            let _ = client.shutdown().await;
            let mut said = String::new();
            client.read_to_string(&mut said).await.unwrap();
            assert_eq!(codes(&said), CODES, "{said}");
            session.await.unwrap().unwrap();
            assert_eq!(*taken.lock().unwrap(), [b".one\r\ntwo\r\n".to_vec(), b"ab\r\ncd\r\n".to_vec()]);
        }
    }
}

#[tokio::test]
async fn an_end_or_a_cut_at_any_octet_delivers_whole_messages_only() {
    let first = CONVERSATION.windows(5).position(|w| w == b"\r\n.\r\n").unwrap() + 5;
    let second = CONVERSATION.windows(4).position(|w| w == b"QUIT").unwrap();
    for cut in 0..=CONVERSATION.len() {
        for by_force in [false, true] {
            let (mut client, server) = streams_in_memory(&Knobs::default()).await;
            let taken = Taken::default();
            let session = serving(server, &taken);
            client.write_all(&CONVERSATION[..cut]).await.unwrap();
            client.flush().await.unwrap();
            if by_force {
                drop(client);
            } else {
                client.shutdown().await.unwrap();
                let mut said = String::new();
                client.read_to_string(&mut said).await.unwrap();
            }
            let end = session.await.unwrap();
            let whole = usize::from(cut >= first) + usize::from(cut >= second);
            let delivered = taken.lock().unwrap().len();
            let text = format!("cut at {cut}, by force: {by_force}, {end:?}");
            if by_force {
                // The server may give up at its first word to a client that is gone.
                assert!(delivered <= whole, "{text}");
                assert!(end.is_err(), "{text}");
            } else {
                assert_eq!(delivered, whole, "{text}");
                assert!(end.is_ok() || !(cut == 0 || cut == CONVERSATION.len()), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_just_gone_is_an_error_that_stays() {
    for abort in [false, true] {
        let (mut client, mut server) = streams_in_memory(&Knobs::default()).await;
        client.write_all(b"some").await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        if abort {
            client.abort(CloseCode::Cancelled);
        } else {
            drop(client);
        }
        let error = server.read(&mut heard).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
        assert_eq!(server.read(&mut heard).await.unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

#[tokio::test]
async fn a_policy_that_asks_for_starttls_costs_no_connection() {
    let listener = MemoryListener::new(Knobs::starttls());
    let connector = WebSocketConnector::new(listener.connector());
    let error = connector.connect(&anywhere(), &TlsPolicy::REQUIRED).await.map(drop).unwrap_err();
    assert!(!error.transient && error.to_string().contains("implicit TLS"), "{error}");
    drop(listener);
    let error = connector.connect(&anywhere(), &TlsPolicy::NONE).await.map(drop).unwrap_err();
    assert!(error.transient, "{error}");
    let error = connector.with_path("no slash").connect(&anywhere(), &TlsPolicy::NONE).await.map(drop).unwrap_err();
    assert!(!error.transient && error.to_string().contains("no slash"), "{error}");
}
