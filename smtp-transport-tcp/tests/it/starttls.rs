//! From clear text to TLS, between our own two ends.

use std::io::ErrorKind;

use smtp_core::channel::Peer;
use smtp_core::stream::{Listener, TlsMode, TlsPolicy, Verification};
use smtp_tls::{HandshakeError, Identity, ServerTls, Versions};
use smtp_transport_tcp::{TcpConnector, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Leaf, client, listen, localhost, pair, policy, say, server, tls_pair};

#[tokio::test]
async fn the_stream_is_swapped_and_its_facts_change() {
    let leaf = Leaf::new();
    let listener = listen(Tls::StartTls(server().identity(leaf.identity()).build().unwrap()));
    for (versions, version) in [(Versions::Tls12, "TLSv1.2"), (Versions::Tls13, "TLSv1.3")] {
        let connector = TcpConnector::new(client().versions(versions).build().unwrap());
        let policy = policy(TlsMode::Opportunistic, leaf.pin().into());
        let (mut client, mut server) = pair(&listener, &connector, &policy).await;
        say(&mut server, &mut client, "220 ready\r\n").await;
        for info in [client.info(), server.info()] {
            assert_eq!((info.secure, info.can_upgrade, info.tls), (false, true, None));
        }
        let addresses = |info: smtp_core::channel::ChannelInfo| (info.peer, info.local);
        let before = (addresses(client.info()), addresses(server.info()));

        let (client_up, server_up) = tokio::join!(client.upgrade(), server.upgrade());
        let (mut client, mut server) = (client_up.unwrap(), server_up.unwrap());
        assert_eq!((addresses(client.info()), addresses(server.info())), before);
        assert_eq!(before.0.0, Peer::Ip(listener.local_addr()));
        say(&mut client, &mut server, "EHLO there\r\n").await;
        say(&mut server, &mut client, "250 hello\r\n").await;
        for info in [client.info(), server.info()] {
            assert_eq!((info.secure, info.can_upgrade, info.transport), (true, false, "tcp"));
            let tls = info.tls.unwrap();
            assert_eq!((tls.version, tls.sni.as_deref()), (version, Some("localhost")));
        }
        assert!(client.info().tls.unwrap().verified);
        assert!(!server.info().tls.unwrap().verified);

        // Once is enough.
        assert_eq!(client.upgrade().await.err().unwrap().kind(), ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn a_stream_without_tls_cannot_be_upgraded() {
    let listener = listen(Tls::None);
    let connector = TcpConnector::new(client().build().unwrap());
    let (client, server) = pair(&listener, &connector, &TlsPolicy::NONE).await;
    assert!(!client.info().can_upgrade && !server.info().can_upgrade);
    for stream in [client, server] {
        assert_eq!(stream.upgrade().await.err().unwrap().kind(), ErrorKind::Unsupported);
    }
}

/// STARTTLS injection: what was sent in clear behind the command must never be read as if it had come under TLS.
#[tokio::test]
async fn clear_text_sent_ahead_fails_the_handshake() {
    let listener = listen(Tls::StartTls(server().identity(Leaf::new().identity()).build().unwrap()));
    let mut attacker = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
    let mut stream = listener.accept().await.unwrap().accept().await.unwrap().unwrap();
    attacker.write_all(b"STARTTLS\r\nMAIL FROM:<evil@example>\r\n").await.unwrap();
    let mut line = [0; 10];
    stream.read_exact(&mut line).await.unwrap();
    let error = stream.upgrade().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let error = error.downcast::<HandshakeError>().unwrap();
    assert!(matches!(error, HandshakeError::NotTls { .. }), "{error:?}");
}

/// The other direction: replies in clear, injected behind the `220` of STARTTLS.
#[tokio::test]
async fn replies_sent_ahead_fail_the_handshake() {
    let listener = listen(Tls::None);
    let connector = TcpConnector::new(client().build().unwrap());
    let (mut client, mut attacker) = pair(&listener, &connector, &TlsPolicy::OPPORTUNISTIC).await;
    attacker.write_all(b"220 go\r\n250 AUTH PLAIN\r\n").await.unwrap();
    let mut line = [0; 8];
    client.read_exact(&mut line).await.unwrap();
    let error = client.upgrade().await.err().unwrap().downcast::<HandshakeError>().unwrap();
    assert!(matches!(error, HandshakeError::NotTls { .. }), "{error:?}");
}

#[tokio::test]
async fn implicit_tls_is_up_from_the_start() {
    let (mut client, mut server) = tls_pair().await;
    for info in [client.info(), server.info()] {
        assert!(info.secure && !info.can_upgrade && info.tls.is_some());
    }
    say(&mut server, &mut client, "220 ready\r\n").await;
    say(&mut client, &mut server, "QUIT\r\n").await;
}

/// A client that says nothing must not keep others from being accepted.
#[tokio::test]
async fn the_handshake_is_not_the_listeners_business() {
    let leaf = Leaf::new();
    let listener = listen(Tls::Implicit(server().identity(leaf.identity()).build().unwrap()));
    let _silent = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
    let mut stuck = listener.accept().await.unwrap();
    let connector = TcpConnector::new(client().build().unwrap());
    let policy = policy(TlsMode::Implicit, leaf.pin().into());
    let (mut client, mut server) = pair(&listener, &connector, &policy).await;
    say(&mut server, &mut client, "220 ready\r\n").await;
    // The silent one's handshake waits in its own accept, for the caller's deadline.
    let waited = tokio::time::timeout(std::time::Duration::from_millis(50), stuck.accept()).await;
    assert!(waited.is_err());
}

#[tokio::test]
async fn large_transfers_pass_in_both_directions_at_once() {
    let (client, server) = tls_pair().await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let exchange = |stream: crate::support::Stream| async {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let write = async {
            writer.write_all(&data).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got, data);
    };
    tokio::join!(exchange(client), exchange(server));
}

#[tokio::test]
async fn sessions_resume_on_their_own_listener_only() {
    let leaf = Leaf::new();
    let tls = server().identity(leaf.identity()).build().unwrap();
    let one = listen(Tls::Implicit(tls.clone()));
    let two = listen(Tls::Implicit(tls.for_listener(&[]).unwrap()));
    for versions in [Versions::Tls12, Versions::Tls13] {
        let connector = TcpConnector::new(client().versions(versions).build().unwrap());
        let policy = policy(TlsMode::Implicit, Verification::None);
        let mut resumed = Vec::new();
        for listener in [&one, &one, &two, &two] {
            let (mut client, mut server) = pair(listener, &connector, &policy).await;
            // Tickets of TLS 1.3 come with the first data.
            say(&mut server, &mut client, "220 ready\r\n").await;
            resumed.push(client.info().tls.unwrap().resumed);
        }
        assert_eq!(resumed, [false, true, false, true], "{versions:?}");
    }
}

#[tokio::test]
async fn a_reload_is_for_new_connections_while_old_ones_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let write = |leaf: &Leaf| {
        std::fs::write(&certificate, &leaf.certificate_pem).unwrap();
        std::fs::write(&key, leaf.key_pem()).unwrap();
    };
    let (old, new) = (Leaf::new(), Leaf::new());
    write(&old);
    let tls: ServerTls = server().identity(Identity::from_files(&certificate, &key)).build().unwrap();
    let listener = listen(Tls::Implicit(tls.clone()));
    let connector = TcpConnector::new(client().build().unwrap());
    let (mut client, mut server) = pair(&listener, &connector, &policy(TlsMode::Implicit, old.pin().into())).await;
    write(&new);
    tls.reload().unwrap();
    let (mut client2, mut server2) = pair(&listener, &connector, &policy(TlsMode::Implicit, new.pin().into())).await;
    say(&mut client, &mut server, "old\r\n").await;
    say(&mut client2, &mut server2, "new\r\n").await;
    assert_eq!(localhost(&listener).reference_identity().unwrap().to_string(), "localhost");
}
