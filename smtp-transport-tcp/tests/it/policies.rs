//! TLS policies against servers of all kinds: what comes of it, and what is said.

use rcgen::date_time_ymd;
use smtp_core::channel::ChannelInfo;
use smtp_core::stream::{ConnectError, ConnectStep, Connector, Listener, TlsMode, TlsPolicy, Verification};
use smtp_tls::{ClientCertificates, HandshakeError, Pin, Versions};
use smtp_transport_tcp::{TcpConnector, TcpListener, Tls};
use tokio::io::AsyncReadExt;

use crate::support::{Ca, Leaf, client, listen, localhost, names, policy, server};

/// Connects and, where the policy says so, upgrades, as a client would; the server's end does its part. Gives the
/// facts of the client's end.
async fn secure(listener: &TcpListener, connector: &TcpConnector, policy: &TlsPolicy) -> Result<ChannelInfo, Failure> {
    let target = localhost(listener);
    let serve = async {
        let Ok(Some(stream)) = listener.accept().await.unwrap().accept().await else { return };
        let mut stream = if stream.info().can_upgrade && policy.mode != TlsMode::None {
            let Ok(stream) = stream.upgrade().await else { return };
            stream
        } else {
            stream
        };
        let _ = stream.read(&mut [0; 1]).await;
    };
    let connect = async {
        let stream = connector.connect(&target, policy).await?.open().await.unwrap();
        if !stream.info().can_upgrade {
            return Ok(stream.info());
        }
        Ok(stream.upgrade().await.map_err(Failure::Upgrade)?.info())
    };
    tokio::select! {
        // In this order: the server being done is no reason to stop.
        biased;
        result = connect => result,
        () = async { serve.await; std::future::pending().await } => unreachable!(),
    }
}

#[derive(Debug)]
enum Failure {
    Connect(ConnectError),
    Upgrade(std::io::Error),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl Failure {
    /// The handshake's error; checks that it is told to be permanent on the way.
    fn handshake(self) -> HandshakeError {
        let error = match self {
            Self::Connect(error) => {
                assert_eq!((error.step, error.transient), (ConnectStep::Tls, false), "{error}");
                error.source
            }
            Self::Upgrade(error) => error,
        };
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        error.downcast().unwrap()
    }
}

#[tokio::test]
async fn every_server_under_every_verification() {
    let ca = Ca::new();
    let ca_file = ca.file();
    let mut expired = names(&["localhost"]);
    expired.not_after = date_time_ymd(2020, 2, 3);
    expired.not_before = date_time_ymd(2019, 2, 3);
    let is = |name| move |error: &HandshakeError| format!("{error:?}").starts_with(name);
    let rows = [
        ("good", ca.issue(&names(&["localhost"])), None),
        ("wrong name", ca.issue(&names(&["other.example"])), Some(is("WrongName"))),
        ("expired", ca.issue(&expired), Some(is("Expired"))),
        ("self-signed", Leaf::new(), Some(is("UnknownIssuer"))),
        ("unknown CA", Ca::new().issue(&names(&["localhost"])), Some(is("UnknownIssuer"))),
    ];
    for versions in [Versions::Tls12, Versions::Tls13] {
        let connector = TcpConnector::new(client().ca_file(ca_file.path()).versions(versions).build().unwrap());
        for (what, leaf, refusal) in &rows {
            let tls = server().identity(leaf.identity()).build().unwrap();
            let starttls = listen(Tls::StartTls(tls.clone()));
            let implicit = listen(Tls::Implicit(tls));
            for mode in [TlsMode::Opportunistic, TlsMode::Required, TlsMode::Implicit] {
                let listener = if mode == TlsMode::Implicit { &implicit } else { &starttls };
                let go = |verification| {
                    let (connector, policy) = (&connector, policy(mode, verification));
                    async move { secure(listener, connector, &policy).await }
                };
                let what = format!("{what}, {mode:?}, {versions:?}");
                let verified = |facts: ChannelInfo| facts.tls.unwrap().verified;

                assert!(!verified(go(Verification::None).await.unwrap()), "{what}");
                assert!(verified(go(leaf.pin().into()).await.unwrap()), "{what}");
                let error = go(Pin::new([1; 32]).into()).await.unwrap_err().handshake();
                assert!(matches!(error, HandshakeError::WrongPin(_)), "{what}: {error:?}");
                match (go(Verification::Pkix).await, refusal) {
                    (Ok(facts), None) => assert!(verified(facts), "{what}"),
                    (Err(error), Some(refusal)) => {
                        let error = error.handshake();
                        assert!(refusal(&error), "{what}: {error:?}");
                    }
                    (result, _) => panic!("{what}: {result:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn mode_none_does_not_touch_tls() {
    let listener = listen(Tls::StartTls(server().identity(Leaf::new().identity()).build().unwrap()));
    let connector = TcpConnector::new(client().build().unwrap());
    let facts = secure(&listener, &connector, &TlsPolicy::NONE).await.unwrap();
    assert_eq!((facts.tls, facts.can_upgrade), (None, false));
}

#[tokio::test]
async fn a_connector_without_tls_keeps_no_promise_that_it_cannot() {
    let listener = listen(Tls::None);
    let connector = TcpConnector::without_tls();
    let facts = secure(&listener, &connector, &TlsPolicy::OPPORTUNISTIC).await.unwrap();
    assert!(!facts.can_upgrade);
    for policy in [TlsPolicy::REQUIRED, TlsPolicy::IMPLICIT] {
        let error = connector.connect(&localhost(&listener), &policy).await.err().unwrap();
        assert_eq!((error.step, error.transient), (ConnectStep::Tls, false));
    }
}

#[tokio::test]
async fn the_name_can_be_another_than_the_address() {
    let ca = Ca::new();
    let connector = TcpConnector::new(client().ca_file(ca.file().path()).build().unwrap());
    let leaf = ca.issue(&names(&["mx.example"]));
    let listener = listen(Tls::Implicit(server().identity(leaf.identity()).build().unwrap()));
    let mut target = localhost(&listener);
    let accept = || async { listener.accept().await.unwrap().accept().await };
    let (wrong, _) = tokio::join!(connector.connect(&target, &TlsPolicy::IMPLICIT), accept());
    assert!(wrong.err().unwrap().to_string().contains("mx.example"));
    target.server_name = Some("mx.example".parse().unwrap());
    let (right, stream) = tokio::join!(connector.connect(&target, &TlsPolicy::IMPLICIT), accept());
    right.unwrap();
    assert_eq!(stream.unwrap().unwrap().info().tls.unwrap().sni.as_deref(), Some("mx.example"));
}

/// A name that no certificate can show still gets encryption where nothing is held against it.
#[tokio::test]
async fn names_matter_only_where_they_are_verified() {
    let listener = listen(Tls::Implicit(server().identity(Leaf::new().identity()).build().unwrap()));
    let connector = TcpConnector::new(client().ca_file(Ca::new().file().path()).build().unwrap());
    let mut target = localhost(&listener);
    target.server_name = Some("bücher.example".parse().unwrap());
    let unverified = policy(TlsMode::Implicit, Verification::None);
    let accept = async { listener.accept().await.unwrap().accept().await.unwrap().unwrap() };
    let (connected, stream) = tokio::join!(connector.connect(&target, &unverified), accept);
    connected.unwrap();
    assert_eq!(stream.info().tls.unwrap().sni, None);
    let error = connector.connect(&target, &TlsPolicy::IMPLICIT).await.err().unwrap();
    assert!(error.to_string().contains("xn--") && !error.transient, "{error}");
}

#[tokio::test]
async fn client_certificates_are_shown_and_asked_for() {
    let ca = Ca::new();
    let own = Leaf::new();
    let known = ca.issue(&names(&["client.example"]));
    let ca_file = ca.file();
    let tls = server().identity(own.identity()).client_ca(ca_file.path(), ClientCertificates::Required);
    let listener = listen(Tls::Implicit(tls.build().unwrap()));
    for versions in [Versions::Tls12, Versions::Tls13] {
        let policy = policy(TlsMode::Implicit, own.pin().into());
        let connect = |leaf: Option<&Leaf>| {
            let mut tls = client().versions(versions);
            if let Some(leaf) = leaf {
                tls = tls.identity(leaf.identity());
            }
            let connector = TcpConnector::new(tls.build().unwrap());
            let (listener, policy) = (&listener, &policy);
            async move {
                let target = localhost(listener);
                let accept = async { listener.accept().await.unwrap().accept().await };
                let connect = async {
                    let mut stream = connector.connect(&target, policy).await?.open().await.unwrap();
                    // With TLS 1.3 the client is done before the server has looked at its certificate.
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"EHLO x\r\n").await;
                    Ok::<_, ConnectError>(stream.read(&mut [0; 1]).await)
                };
                let accept = async { accept.await.map(|stream| stream.unwrap().info().tls.unwrap()) };
                tokio::join!(connect, accept)
            }
        };
        let (_, facts) = connect(Some(&known)).await;
        assert!(facts.unwrap().verified, "{versions:?}");

        let told = |result: Result<std::io::Result<usize>, ConnectError>| match result {
            Ok(read) => read.unwrap_err().to_string(),
            Err(error) => {
                assert!(!error.transient, "{error}");
                error.to_string()
            }
        };
        let (nothing_shown, refused) = connect(None).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        let text = told(nothing_shown);
        assert!(text.contains("demands a certificate") || versions == Versions::Tls12, "{text}");

        let (stranger, refused) = connect(Some(&Leaf::new())).await;
        assert!(refused.unwrap_err().to_string().contains("the client's certificate was issued by nobody"));
        let text = told(stranger);
        assert!(text.contains("does not accept this side's certificate (unknown_ca)"), "{versions:?}: {text}");
    }
}

#[tokio::test]
async fn tls_and_clear_text_that_meet_say_so() {
    // A client that expects TLS at a server that begins in clear.
    let listener = listen(Tls::None);
    let connector = TcpConnector::new(client().build().unwrap());
    let greet = async {
        let mut stream = listener.accept().await.unwrap().accept().await.unwrap().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mx.example ESMTP\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    };
    let target = localhost(&listener);
    let unverified = policy(TlsMode::Implicit, Verification::None);
    let (result, ()) = tokio::join!(connector.connect(&target, &unverified), greet);
    let error = result.err().unwrap();
    assert!(error.to_string().contains("STARTTLS") && !error.transient, "{error}");

    // A client that begins in clear at a server that expects TLS.
    let listener = listen(Tls::Implicit(server().identity(Leaf::new().identity()).build().unwrap()));
    let speak = async {
        let mut stream = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"EHLO client.example\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 64]).await;
    };
    let accept = async { listener.accept().await.unwrap().accept().await };
    let (result, ()) = tokio::join!(accept, speak);
    assert!(result.err().unwrap().to_string().contains("not TLS"));
}

#[tokio::test]
async fn a_broken_connection_is_no_verdict() {
    let listener = listen(Tls::None);
    let connector = TcpConnector::new(client().build().unwrap());
    let target = localhost(&listener);
    let unverified = policy(TlsMode::Implicit, Verification::None);
    let hang_up = async {
        let mut stream = listener.accept().await.unwrap().accept().await.unwrap().unwrap();
        // Read it all, or closing would be a reset.
        let _ = stream.read(&mut [0; 4096]).await;
    };
    let (result, ()) = tokio::join!(connector.connect(&target, &unverified), hang_up);
    let error = result.err().unwrap();
    assert_eq!((error.step, error.transient), (ConnectStep::Tls, true), "{error}");
    assert!(error.to_string().contains("closed the connection during the TLS handshake"), "{error}");
}
