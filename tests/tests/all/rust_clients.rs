//! The mail clients of other Rust programs: lettre and mail-send against our server, and lettre over our client.

use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use mail_send::SmtpClientBuilder;
use smtp_client::{Client, SendError, Settings};
use smtp_core::session::server::Protocol;
use smtp_core::stream::{Connector, Listener, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::Host;
use smtp_tls::{ClientTls, SelfSigned, ServerTls};
use smtp_transport_quic::{ConnectOptions as QuicConnectOptions, QuicConnector, QuicListener, QuicOptions};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener};

use crate::served::Served;

fn message(to: &[&str]) -> Message {
    let message = Message::builder().from("a@client.test".parse().unwrap()).subject("hello");
    to.iter().fold(message, |message, to| message.to(to.parse().unwrap())).body("..dots\n.\nend\n".to_owned()).unwrap()
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap()
}

fn target(port: u16) -> Target {
    Target::host(Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into()), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn lettre_sends_to_us() {
    let listener = listener();
    let port = listener.local_addr().port();
    let served = Served::on(listener, |_| {});
    let mailer = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(port).build();
    for _ in 0..2 {
        mailer.send(message(&["alice@ours.test", "bob@ours.test"])).await.unwrap();
    }
    let error = mailer.send(message(&["nobody@ours.test"])).await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    let messages = served.messages(2).await;
    assert_eq!(messages.len(), 2);
    // It ends a message that ends in CRLF with another one.
    assert!(messages[0].content.ends_with(b"\r\n\r\n..dots\r\n.\r\nend\r\n\r\n"), "{:?}", messages[0].content);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_send_sends_to_us_over_smtp_and_lmtp() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        let listener = listener();
        let port = listener.local_addr().port();
        let served = Served::on(listener, |config| config.protocol = protocol);
        let builder = SmtpClientBuilder::new("127.0.0.1".to_owned(), port).unwrap();
        let builder = builder.implicit_tls(false).lmtp(protocol == Protocol::Lmtp).helo_host("client.test");
        let mut client = builder.connect_plain().await.unwrap();
        for _ in 0..2 {
            let content = b"Subject: hello\r\n\r\n..dots\r\n.\r\nend\r\n";
            let message = mail_send::smtp::message::Message::new("a@client.test", ["alice@ours.test"], &content[..]);
            client.send(message).await.unwrap();
        }
        let messages = served.messages(2).await;
        // As lettre does.
        assert!(messages[1].content.ends_with(b"\r\n\r\n..dots\r\n.\r\nend\r\n\r\n"), "{:?}", messages[1].content);
        client.quit().await.unwrap();
    }
}

/// What a program that uses lettre sees: the same message, the same call.
async fn through(connector: impl Connector, target: Target, tls: TlsPolicy, served: &Served) {
    let mailer = Client::new(connector, target, Settings { tls, ..Settings::default() });
    let outcome = mailer.send(message(&["alice@ours.test", "bob@ours.test"])).await.unwrap();
    assert_eq!(outcome.len(), 2);
    // Who is refused is named; the others get the message.
    let error = mailer.send(message(&["alice@ours.test", "nobody@ours.test"])).await.unwrap_err();
    assert!(error.to_string().contains("<nobody@ours.test>: 550 5.1.1"), "{error}");
    let SendError::Refused { outcome, recipients } = error else { panic!("{error}") };
    let accepted: Vec<_> = outcome.iter().map(Result::is_ok).collect();
    assert_eq!((accepted, recipients.len()), (vec![true, false], 2));
    let messages = served.messages(2).await;
    assert_eq!(messages[1].envelope.recipients.len(), 1);
    assert!(messages[0].content.ends_with(b"\r\n\r\n..dots\r\n.\r\nend\r\n"), "{:?}", messages[0].content);
    mailer.shutdown().await;
    assert_eq!(mailer.idle_sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lettre_sends_over_our_client_by_tcp_and_quic() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tcp = listener();
    let port = tcp.local_addr().port();
    let served = Served::on(tcp, |_| {});
    through(TcpConnector::without_tls(), target(port), TlsPolicy::NONE, &served).await;

    let folder = tempfile::tempdir().unwrap();
    let own = SelfSigned::load_or_create(folder.path(), &["localhost"]).unwrap();
    let tls = ServerTls::builder().identity(own.identity()).build().unwrap();
    let quic = QuicListener::bind("127.0.0.1:0".parse().unwrap(), &tls, QuicOptions::default()).unwrap();
    let port = quic.url().rsplit(':').next().unwrap().parse().unwrap();
    let served = Served::on(quic, |_| {});
    let connector = QuicConnector::new(&ClientTls::builder().build().unwrap(), QuicConnectOptions::default()).unwrap();
    let policy = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::from(own.pin()) };
    through(connector, target(port), policy, &served).await;
    assert_eq!(served.messages(2).await[0].session.channel.transport, "quic");
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_that_says_so() {
    let mailer = Client::new(TcpConnector::without_tls(), target(1), Settings::default());
    let error = mailer.send(message(&["alice@ours.test"])).await.unwrap_err();
    assert!(matches!(&error, SendError::Unanswered(_)) && error.to_string().contains("127.0.0.1:1"), "{error}");
}
