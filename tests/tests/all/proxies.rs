//! Proxies that other people wrote in front of our server, and our client as one in front of theirs.

use std::net::SocketAddr;

use smtp_client::{Connection, Options, SendOptions};
use smtp_core::channel::Peer;
use smtp_core::extension::{Attribute, Forwarded, Forwarders};
use smtp_core::service::Body;
use smtp_core::stream::{AcceptProxy, Target, TlsPolicy};
use smtp_core::types::{Domain, Envelope, ForwardPath, Host, Mail, Mailbox, Rcpt};
use smtp_tests::binary;
use smtp_tests::peers::tools::{self, Output};
use smtp_tests::peers::{HaProxy, Postfix, PostfixOptions, require};
use smtp_tls::{SelfSigned, ServerTls};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixListener};

use crate::served::Served;

fn proxies(list: &str) -> AcceptProxy {
    AcceptProxy::from(list.parse().unwrap())
}

fn listen(tls: Tls) -> TcpListener {
    let options = ListenOptions { tls, ..ListenOptions::default() };
    TcpListener::bind("127.0.0.1:0".parse().unwrap(), options).unwrap()
}

/// swaks, on its own thread; `None` where it is not installed.
async fn swaks(arguments: &[&str]) -> Option<Output> {
    let mut all: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    all.extend(["--from", "a@client.test", "--to", "alice@ours.test"].map(String::from));
    tokio::task::spawn_blocking(|| require(tools::swaks(all))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_speaks_for_swaks() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let own = SelfSigned::load_or_create(folder.path(), &["localhost"]).unwrap();
    let tls = ServerTls::builder().identity(own.identity()).build().unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"] {
        for (kind, more) in
            [("starttls", &["--tls"][..]), ("implicit", &["--tls-on-connect"]), ("clear", &[]), ("unix", &[])]
        {
            let path = folder.path().join(format!("{option}-{kind}"));
            let (served, address) = if kind == "unix" {
                let listener = UnixListener::bind(&path, &UnixOptions::default()).unwrap();
                let listener = listener.behind(proxies(&format!("uid:{uid}")));
                (Served::on(listener, |_| {}), format!("unix@{}", path.display()))
            } else {
                let tls = match kind {
                    "starttls" => Tls::StartTls(tls.clone()),
                    "implicit" => Tls::Implicit(tls.clone()),
                    _ => Tls::None,
                };
                let listener = listen(tls).behind(proxies("127.0.0.1"));
                let address = listener.local_addr().to_string();
                (Served::on(listener, |_| {}), address)
            };
            let haproxy = tokio::task::spawn_blocking(move || require(HaProxy::start(&address, option))).await.unwrap();
            let Some(haproxy) = haproxy else { return };
            let front = format!("127.0.0.1:{}", haproxy.port());
            let Some(output) = swaks(&[&["--server", &front][..], more].concat()).await else { return };
            assert!(output.success(), "{option}, {kind}: {output}");
            let session = &served.messages(1).await[0].session;
            let Peer::Forwarded { address: Some(client), .. } = &session.channel.peer else {
                panic!("{option}, {kind}: {:?}", session.channel.peer)
            };
            assert!(client.ip().is_loopback() && !session.channel.peer.is_local());
            assert_eq!(session.channel.local, Some(front.parse::<SocketAddr>().unwrap()), "{option}, {kind}");
            assert_eq!(session.channel.secure, !more.is_empty(), "{option}, {kind}");
            drop(tokio::task::spawn_blocking(move || drop(haproxy)).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swaks_sends_proxy_headers() {
    for version in ["1", "2"] {
        let listener = listen(Tls::None).behind(proxies("127.0.0.0/8"));
        let port = listener.local_addr().port().to_string();
        let served = Served::on(listener, |_| {});
        let header = [
            "--server",
            "127.0.0.1",
            "--port",
            &port,
            "--proxy-version",
            version,
            "--proxy-family",
            if version == "1" { "TCP4" } else { "AF_INET" },
            "--proxy-protocol",
            "STREAM",
            "--proxy-command",
            "PROXY",
            "--proxy-source",
            "198.51.100.7",
            "--proxy-source-port",
            "4711",
            "--proxy-dest",
            "203.0.113.9",
            "--proxy-dest-port",
            "25",
        ];
        // Version 1 knows no protocol and no command.
        let header: Vec<&str> = match version {
            "1" => header.iter().enumerate().filter(|(i, _)| !(8..12).contains(i)).map(|(_, a)| *a).collect(),
            _ => header.to_vec(),
        };
        let Some(output) = swaks(&header).await else { return };
        assert!(output.success(), "{output}");
        let session = &served.messages(1).await[0].session;
        assert_eq!(session.channel.peer.to_string(), "198.51.100.7:4711");
        assert_eq!(session.channel.local, Some("203.0.113.9:25".parse().unwrap()));
    }
    // Without a header, and from one that is not listed: closed without a word.
    for list in ["127.0.0.0/8", "192.0.2.1"] {
        let listener = listen(Tls::None).behind(proxies(list));
        let to = listener.local_addr().to_string();
        let served = Served::on(listener, |_| {});
        let Some(output) = swaks(&["--server", &to, "--timeout", "10"]).await else { return };
        assert!(!output.success() && !output.text().contains("220 "), "{output}");
        assert!(served.messages(0).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swaks_uses_xclient() {
    let xclient = "NAME=c.test ADDR=198.51.100.7 PORT=4711 PROTO=ESMTP HELO=helo.c.test LOGIN=jo";
    for listed in [true, false] {
        let listener = listen(Tls::None);
        let to = listener.local_addr().to_string();
        let list = if listed { "127.0.0.1" } else { "192.0.2.1" };
        let served = Served::on(listener, |config| {
            config.forwarders = Forwarders { login: list.parse().unwrap(), ..Forwarders::default() };
        });
        let Some(output) = swaks(&["--server", &to, "--xclient", xclient]).await else { return };
        assert_eq!(output.success(), listed, "{output}");
        if listed {
            let session = &served.messages(1).await[0].session;
            assert_eq!(session.channel.peer.to_string(), "198.51.100.7:4711");
            assert_eq!(session.hello.as_ref().unwrap().name.as_str(), "helo.c.test");
            assert_eq!(session.identity.as_ref().map(|identity| &*identity.user), Some("jo"));
            assert_eq!(session.client.as_ref().unwrap().value(Attribute::Name), Some("c.test"));
        }
    }
}

/// Our client tells Postfix for whom it speaks; Postfix writes that into its log and its trace field.
#[tokio::test(flavor = "multi_thread")]
async fn postfix_believes_our_xclient_and_xforward() {
    let allow = |name: &str| (name.to_owned(), "127.0.0.1".to_owned());
    let main_cf = vec![allow("smtpd_authorized_xclient_hosts"), allow("smtpd_authorized_xforward_hosts")];
    let options = PostfixOptions { main_cf, ..PostfixOptions::default() };
    let Some(postfix) = tokio::task::spawn_blocking(|| require(Postfix::start(options))).await.unwrap() else { return };
    let target = Target::host(Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into()), postfix.port());
    let options = Options::new(Domain::new("relay.test").unwrap()).into();
    let connector = TcpConnector::without_tls();
    let mut connection = Connection::connect(&connector, &target, &TlsPolicy::NONE, options).await.unwrap();
    connection.hello().await.unwrap();
    let envelope = Envelope {
        mail: Mail::new("a@client.test".parse::<Mailbox>().unwrap()),
        recipients: vec![Rcpt::new(ForwardPath::from("alice@postfix.test".parse::<Mailbox>().unwrap()))],
    };
    let send = async |connection: &mut Connection| {
        let body = Body::from_bytes("Subject: x\r\n\r\ny\r\n");
        let outcome = connection.send(&envelope, body, &SendOptions::default()).await.unwrap();
        assert!(outcome.single().is_ok(), "{outcome:?}");
    };
    let client = Forwarded::xforward("NAME=f.test ADDR=198.51.100.8 PORT=4712 PROTO=ESMTP HELO=f.test").unwrap();
    assert!(connection.xforward(&client).await.unwrap());
    send(&mut connection).await;
    let client = Forwarded::xclient("NAME=c.test ADDR=198.51.100.7 PORT=4711 HELO=c.test LOGIN=jo").unwrap();
    connection.xclient(&client).await.unwrap().expect("it is offered");
    send(&mut connection).await;
    connection.quit().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let messages = postfix.wait_for_messages("alice", 2, std::time::Duration::from_secs(30)).unwrap();
        let log = postfix.log();
        let texts: Vec<_> = messages.iter().map(|m| String::from_utf8_lossy(m).into_owned()).collect();
        assert!(texts.iter().any(|text| text.contains("(c.test [198.51.100.7])")), "{texts:?}\n{log}");
        assert!(log.contains("f.test[198.51.100.8]") || log.contains("orig_client=f.test"), "{log}");
    })
    .await
    .unwrap();
}

/// The same through the binary, whose listeners say in their URLs whom they believe.
#[tokio::test(flavor = "multi_thread")]
async fn the_binary_believes_whom_its_listeners_name() {
    let listen = [
        "smtp://127.0.0.1:0?proxy=127.0.0.1&tls=required",
        "smtps://127.0.0.1:0?proxy=127.0.0.1",
        "smtp://127.0.0.1:0?proxy=127.0.0.1&tls=none",
        "smtp://127.0.0.1:0?proxy=10.0.0.0/8&tls=none",
        "smtp://127.0.0.1:0?xclient=127.0.0.1&tls=none",
        "smtp://127.0.0.1:0?xclient=10.0.0.0/8&tls=none",
    ];
    let arguments = listen.iter().flat_map(|url| ["--listen", url]).chain(["--domain", "ours.test"]);
    let arguments: Vec<&str> = arguments.collect();
    let Some(server) = require(binary::Server::start(&arguments)) else { return };
    let at = |n: usize| format!("127.0.0.1:{}", server.port(n));
    for (n, more) in [(0, &["--tls"][..]), (1, &["--tls-on-connect"]), (2, &[])] {
        let address = at(n);
        let haproxy = tokio::task::spawn_blocking(move || require(HaProxy::start(&address, "send-proxy-v2")));
        let Some(haproxy) = haproxy.await.unwrap() else { return };
        let front = format!("127.0.0.1:{}", haproxy.port());
        let Some(output) = swaks(&[&["--server", &front][..], more].concat()).await else { return };
        assert!(output.success(), "{}: {output}", listen[n]);
        if n == 0 {
            // The header changes the local address that the session sees, and not what the listener wants.
            let Some(output) = swaks(&["--server", &front]).await else { return };
            assert!(!output.success() && output.text().contains("530 5.7.0"), "{output}");
        }
        drop(tokio::task::spawn_blocking(move || drop(haproxy)).await);
    }
    let header = ["--proxy-version", "1", "--proxy-family", "TCP4", "--proxy-source", "198.51.100.7"];
    let header =
        [&header[..], &["--proxy-source-port", "4711", "--proxy-dest", "203.0.113.9", "--proxy-dest-port", "25"]];
    for (n, believed) in [(2, true), (3, false)] {
        let to = at(n);
        let Some(output) = swaks(&[&["--server", &to, "--timeout", "10"], &header.concat()[..]].concat()).await else {
            return;
        };
        assert_eq!(output.success(), believed, "{}: {output}", listen[n]);
        assert_eq!(output.text().contains("220 "), believed, "a stranger hears nothing: {output}");
    }
    for (n, believed) in [(4, true), (5, false)] {
        let to = at(n);
        let xclient = "NAME=c.test ADDR=198.51.100.8 PORT=4712 PROTO=ESMTP HELO=helo.c.test";
        let Some(output) = swaks(&["--server", &to, "--xclient", xclient]).await else { return };
        assert_eq!(output.success(), believed, "{}: {output}", listen[n]);
    }
    let messages = server.messages("ours.test", "alice").unwrap();
    let texts: Vec<_> = messages.iter().map(|m| String::from_utf8_lossy(m).into_owned()).collect();
    assert_eq!(texts.len(), 5, "{texts:?}");
    for client in ["[198.51.100.7]", "[198.51.100.8]"] {
        assert_eq!(texts.iter().filter(|text| text.contains(client)).count(), 1, "{client}: {texts:?}");
    }
}
