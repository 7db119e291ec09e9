//! Which address of this machine mail leaves from, as the other side sees it.

use crate::ledger::Hop;
use crate::play::{Run, Server, dead_port, file, run, send, smtp, until};

/// A server over TCP and QUIC for mailboxes of its own.
fn receiver(domains: &[&str]) -> Server {
    let domains = domains.iter().flat_map(|domain| ["--domain", domain]);
    let listen = ["serve", "--listen", "smtp://127.0.0.1:0", "--listen", "smtp+quic://127.0.0.1:0"];
    Server::start(&listen.into_iter().chain(domains).collect::<Vec<_>>(), 2)
}

/// A server with a queue, and domains whose mail everybody may send there.
fn relay(more: &[&str]) -> Server {
    let open = ["tcp.example", "quic.example", "tls.example", "usual.example"];
    let open = open.iter().flat_map(|domain| ["--relay-domain", domain]);
    let queue = ["--queue", "sqlite", "--queue-retry", "1h"];
    Server::serve(&queue.into_iter().chain(open).chain(more.iter().copied()).collect::<Vec<_>>())
}

fn list(server: &Server) -> Run {
    let data = server.folder().join("smtp-data");
    run(smtp(["queue", "show", "--all", "--data-dir", data.to_str().unwrap()]))
}

/// From where the one message for jo at `domain` was sent.
fn came_from(receiver: &Server, domain: &str, address: &str) {
    until("it arrives", || receiver.messages(domain, "jo").len() == 1);
    let message = receiver.messages(domain, "jo").remove(0);
    let field = message.split_once("Received: ").unwrap().1;
    assert!(field.contains(&format!("([{address}])")), "{message}");
}

#[test]
fn a_message_is_sent_from_the_address_that_the_url_names() {
    let receiver = receiver(&["tcp.example", "quic.example"]);
    let source = |url: &str| format!("{url}?source=127.0.0.2&source=::1");
    let sent = send(&source(&receiver.urls[0]), &["--to", "jo@tcp.example"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    came_from(&receiver, "tcp.example", "127.0.0.2");
    let sent = send(&source(&receiver.urls[1]), &["--to", "jo@quic.example", "--insecure"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    came_from(&receiver, "quic.example", "127.0.0.2");
    for url in &receiver.urls {
        // An address of documentation is nobody's (RFC 5737).
        let sent = send(&format!("{url}?source=192.0.2.7"), &["--to", "jo@tcp.example", "--insecure"]);
        assert_eq!(sent.code, Some(69), "{sent:?}");
        assert!(sent.stderr.contains("from 192.0.2.7: ") && sent.stderr.contains("is it this machine's?"), "{sent:?}");
        let sent = send(&format!("{url}?source=::1"), &["--to", "jo@tcp.example", "--insecure"]);
        assert_eq!(sent.code, Some(69), "{sent:?}");
        assert!(sent.stderr.contains("not tried: it is IPv4, and the source address is ::1"), "{sent:?}");
        let sent = send(&format!("{url}?source=127.0.0.2:25"), &["--to", "jo@tcp.example"]);
        assert_eq!(sent.code, Some(64), "{sent:?}");
        assert!(sent.stderr.contains("without a port"), "{sent:?}");
    }
}

#[test]
fn each_route_has_its_own_address_and_all_others_the_usual_one() {
    let domains = ["tcp.example", "quic.example", "usual.example", "tls.example"];
    let receiver = receiver(&domains);
    let (tcp, quic) = (&receiver.urls[0], &receiver.urls[1]);
    let routes = [
        format!("tcp.example={tcp}?source=127.0.0.2"),
        format!("quic.example={quic}?source=127.0.0.3 insecure"),
        format!("usual.example={tcp}"),
        format!("tls.example={quic} insecure"),
    ];
    let mut more = vec!["--source-address", "127.0.0.4"];
    more.extend(routes.iter().flat_map(|route| ["--route", route]));
    let relay = relay(&more);
    for domain in domains {
        let sent = send(relay.url(), &["--to", &format!("jo@{domain}")]);
        assert_eq!(sent.code, Some(0), "{sent:?}");
    }
    came_from(&receiver, "tcp.example", "127.0.0.2");
    came_from(&receiver, "quic.example", "127.0.0.3");
    came_from(&receiver, "usual.example", "127.0.0.4");
    came_from(&receiver, "tls.example", "127.0.0.4");
}

#[test]
fn hosts_that_no_route_names_see_the_usual_address() {
    let hop = Hop::start();
    let port = hop.url.trim_end_matches("?tls=none").rsplit(':').next().unwrap().to_owned();
    let more = ["--mx-port", &port, "--source-address", "127.0.0.2", "--user", "jo:secret"];
    let relay = relay(&more);
    let password = file(relay.folder(), "password", "secret\n");
    let by_submission = |to: &str| {
        let envelope = ["--from", "jo@localhost", "--to", to, "--server", relay.url()];
        let user = ["--user", "jo", "--insecure", "--password-file", password.to_str().unwrap()];
        run(smtp(["send"].iter().chain(&envelope).chain(&user)))
    };
    let sent = by_submission("amy@[127.0.0.1]");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    until("it arrives", || hop.arrived().len() == 1);
    assert_eq!(hop.peers(), ["127.0.0.2".parse::<std::net::IpAddr>().unwrap()]);

    let sent = by_submission("amy@[IPv6:::1]");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let why = "::1: not tried: it is IPv6, and the source address is 127.0.0.2";
    until("the reason is told", || list(&relay).stdout.contains(why));
}

#[test]
fn mail_waits_while_its_address_is_not_this_machines() {
    let dead = dead_port();
    let routes = [
        format!("tcp.example={dead}?source=192.0.2.7"),
        format!("quic.example={}?source=192.0.2.8", dead.replace("smtp:", "smtp+quic:")),
        format!("tls.example={dead}?source=::1"),
    ];
    let more: Vec<&str> = routes.iter().flat_map(|route| ["--route", route]).collect();
    let relay = relay(&more);
    for domain in ["tcp.example", "quic.example", "tls.example"] {
        assert_eq!(send(relay.url(), &["--to", &format!("jo@{domain}")]).code, Some(0));
    }
    let expected = [
        format!("451 4.4.1 {dead}?source=192.0.2.7: no connection: "),
        "cannot connect from 192.0.2.7: ".to_owned(),
        "cannot send from 192.0.2.8: ".to_owned(),
        "not tried: it is IPv4, and the source address is ::1".to_owned(),
    ];
    until("the reasons are told", || {
        let shown = list(&relay).stdout;
        expected.iter().all(|part| shown.contains(part))
    });
}

#[test]
fn what_is_no_source_address_is_told_before_the_start() {
    for (arguments, code, part) in [
        (["--source-address", "127.0.0.1,127.0.0.2"], 78, "there is 127.0.0.1 already"),
        (["--source-address", "mx.example"], 64, "not an IP address"),
        (["--route", "a.example=smtp://x?source=224.0.0.1"], 64, "address of many"),
        (["--route", "a.example=smtp+unix:///x?source=127.0.0.1"], 64, "no parameter"),
        (["--listen", "smtp://127.0.0.1:0?source=127.0.0.2"], 64, "source= is for connecting"),
    ] {
        let folder = tempfile::TempDir::new().unwrap();
        let data = folder.path().to_str().unwrap();
        let ended = run(smtp([&["serve", "--data-dir", data], &arguments[..]].concat()));
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(part), "{ended:?}");
    }
}
