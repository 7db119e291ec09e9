//! LMTP with programs that other people wrote: our client to Dovecot, Postfix's client and swaks to our server.

use std::time::Duration;

use smtp_client::{Client, Options, Settings};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Claim, Transaction};
use smtp_core::session::server::Protocol;
use smtp_core::stream::{Address, Connector, Target, TlsPolicy};
use smtp_core::types::{Domain, Envelope, ForwardPath, HelloKind, Host, Mail, Mailbox, Rcpt};
use smtp_tests::binary::{self, Server};
use smtp_tests::peers::{Dovecot, Postfix, PostfixOptions, require, tools};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener};
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixConnector, UnixListener};
use tower::{Service, ServiceExt};

use crate::served::Served;

fn tcp_target(port: u16) -> Target {
    Target::host(Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into()), port)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap()
}

/// What the server says of each recipient.
async fn send(connector: impl Connector, target: Target, to: &[&str], body: &str) -> Vec<String> {
    let options = Options { lmtp: true, ..Options::new(Domain::new("client.test").unwrap()) };
    let settings = Settings { options, tls: TlsPolicy::NONE, ..Settings::default() };
    let mut client = Client::new(connector, target, settings);
    let rcpt = |to: &&str| Rcpt::new(ForwardPath::from(to.parse::<Mailbox>().unwrap()));
    let mail = Mail::new("a@client.test".parse::<Mailbox>().unwrap());
    let envelope = Envelope { mail, recipients: to.iter().map(rcpt).collect() };
    // Twice over one session: the replies to the first are all read.
    let mut said = Vec::new();
    for n in 0..2 {
        let body = Body::from_bytes(format!("Subject: {n}\r\n\r\n{body}\r\n"));
        let transaction = Transaction { session: SessionInfo::local("test"), envelope: envelope.clone(), body };
        let outcome = client.ready().await.unwrap().call(transaction).await.unwrap();
        said = outcome
            .iter()
            .map(|result| match result.as_ref().map(|receipt| receipt.claim()) {
                Ok(Claim::Relayed(reply)) => reply.reply().to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(client.idle_sessions(), 1);
    }
    said
}

/// How long anything may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_route_leads_to_dovecot_and_each_recipient_is_settled_alone() {
    let Some(dovecot) = require(Dovecot::start()) else { return };
    let route = format!("dovecot.test=lmtp+unix://{}", dovecot.socket().display());
    let server = Server::start(&[
        "--listen",
        "smtp://127.0.0.1:0?tls=none",
        "--relay-domain",
        "dovecot.test",
        "--route",
        &route,
        "--queue-retry",
        "1s",
    ]);
    let Some(server) = require(server) else { return };
    let to = ["alice@dovecot.test", "nobody@dovecot.test", "bob@dovecot.test"];
    let mut arguments = vec!["send", "--server", &server.urls()[0], "--from", "jo@localhost", "--body", "hi"];
    to.iter().for_each(|to| arguments.extend(["--to", to]));
    let Some(sent) = require(binary::run(&arguments)) else { return };
    assert!(sent.text().matches("queued as").count() == 3, "{}", sent.text());

    // The one that is unknown comes back, with what Dovecot said, and nobody else does.
    let notices = server.wait_for_messages("localhost", "jo", 1, PATIENCE).unwrap();
    let notice = String::from_utf8_lossy(&notices[0]);
    assert_eq!(notice.matches("Final-Recipient:").count(), 1, "{notice}");
    for part in ["Final-Recipient: rfc822; nobody@dovecot.test", "Status: 5.1.1", "550 5.1.1"] {
        assert!(notice.contains(part), "{part}: {notice}");
    }
    for user in ["alice", "bob"] {
        let messages = dovecot.messages(user).unwrap();
        assert_eq!(messages.len(), 1, "{user}: {}", dovecot.log());
        let text = String::from_utf8_lossy(&messages[0]);
        assert!(text.contains("Return-Path: <jo@localhost>") && text.contains("with LMTP"), "{text}");
        assert!(text.trim_end().ends_with("hi"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dovecot_takes_our_mail_and_says_who_is_unknown() {
    let Some(dovecot) = require(Dovecot::start()) else { return };
    let to = ["alice@dovecot.test", "nobody@dovecot.test", "bob@dovecot.test", "alice@dovecot.test"];
    let unix = Target { address: Address::Path(dovecot.socket()), server_name: None };
    let over_tcp = send(TcpConnector::without_tls(), tcp_target(dovecot.port()), &to, "..\r\n.").await;
    let over_unix = send(UnixConnector::new(), unix, &to, "x").await;
    for said in [over_tcp, over_unix] {
        let log = dovecot.log();
        assert!(said[0].contains("250 2.0.0") && said[0].contains("alice@dovecot.test"), "{said:?}\n{log}");
        assert!(said[1].contains("550") && said[1].contains("nobody"), "{said:?}\n{log}");
        // Its own words for each: the second one is bob's.
        assert!(said[2].contains("250 2.0.0") && said[2].contains("bob@dovecot.test"), "{said:?}\n{log}");
        assert!(said[3].contains("250 2.0.0"), "{said:?}\n{log}");
    }
    assert_eq!(dovecot.messages("bob").unwrap().len(), 4);
    assert!(
        dovecot
            .messages("alice")
            .unwrap()
            .iter()
            .any(|m| m.ends_with(b"\n\n..\n.\n") || m.ends_with(b"\r\n..\r\n.\r\n"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_delivers_to_us_over_lmtp() {
    let listener = listener();
    let port = listener.local_addr().port();
    let served = Served::on(listener, |config| config.protocol = Protocol::Lmtp);
    let route = format!("inline:{{{{ours.test=lmtp:inet:127.0.0.1:{port}}}}}");
    let options = PostfixOptions { main_cf: vec![("transport_maps".to_owned(), route)], ..PostfixOptions::default() };
    let postfix = tokio::task::spawn_blocking(|| require(Postfix::start(options))).await.unwrap();
    let Some(postfix) = postfix else { return };
    let postfix = tokio::task::spawn_blocking(move || {
        let to = ["alice@ours.test", "nobody@ours.test", "bob@ours.test"];
        postfix.inject("carol@postfix.test", &to, b"Subject: hello\n\n.\n").unwrap();
        // The one that we did not want comes back to its sender.
        let returned = postfix.wait_for_messages("carol", 1, Duration::from_secs(30)).unwrap();
        let returned = String::from_utf8_lossy(&returned[0]).into_owned();
        assert!(returned.contains("nobody@ours.test") && returned.contains("5.1.1"), "{returned}");
        assert!(!returned.contains("<alice@ours.test>:"), "{returned}");
        postfix
    });
    let postfix = postfix.await.unwrap();
    let messages = served.messages(1).await;
    let hello = messages[0].session.hello.as_ref().unwrap();
    assert_eq!((hello.kind, hello.name.as_str()), (HelloKind::Lhlo, "mx.postfix.test"));
    let to: Vec<_> = messages.iter().flat_map(|m| &m.envelope.recipients).map(|rcpt| rcpt.to.to_string()).collect();
    assert_eq!(to, ["<alice@ours.test>", "<bob@ours.test>"], "{}", postfix.log());
    drop(tokio::task::spawn_blocking(move || drop(postfix)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn swaks_delivers_to_us_over_lmtp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lmtp");
    let (tcp, unix) = (listener(), UnixListener::bind(&path, &UnixOptions::default()).unwrap());
    let port = tcp.local_addr().port();
    let served = [Served::on(tcp, |c| c.protocol = Protocol::Lmtp), Served::on(unix, |c| c.protocol = Protocol::Lmtp)];
    let where_to =
        [["--server".to_owned(), format!("127.0.0.1:{port}")], ["--socket".to_owned(), path.display().to_string()]];
    for (served, place) in served.iter().zip(where_to) {
        let output = tokio::task::spawn_blocking(move || {
            let more =
                ["--protocol", "LMTP", "--from", "a@client.test", "--to", "alice@ours.test,no@ours.test,bob@ours.test"];
            require(tools::swaks(place.into_iter().chain(more.map(String::from))))
        });
        let Some(output) = output.await.unwrap() else { return };
        let text = output.text();
        assert!(text.contains("550 5.1.1"), "{output}");
        // Two replies behind the content, one for each that was accepted.
        let end = text.split(" -> .\n").nth(1).unwrap_or_default();
        assert_eq!(end.matches("250 2.0.0").count(), 2, "{output}");
        let messages = served.messages(1).await;
        assert_eq!(messages[0].envelope.recipients.len(), 2);
    }
}
