//! What a listener's URL says of those who speak for others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::play::{Line, PATIENCE, Server, run, send, smtp};

/// A connection that begins with `header`, as a proxy's does.
fn behind(url: &str, header: &str) -> Line {
    let mut stream = TcpStream::connect(url.rsplit('/').next().unwrap()).unwrap();
    // Whoever is closed on at once may not get rid of it.
    let _ = stream.write_all(header.as_bytes());
    Line::over(stream)
}

const HEADER: &str = "PROXY TCP4 198.51.100.7 203.0.113.9 4711 25\r\n";

#[test]
fn behind_a_proxy_the_header_decides_who_it_is_and_tls_is_still_required() {
    let listen = "smtp://127.0.0.1:0?proxy=127.0.0.1&tls=required";
    let server = Server::start(&["serve", "--listen", listen, "--log", "debug"], 1);
    let mut line = behind(server.url(), HEADER);
    assert!(line.reply().starts_with("220 "));
    assert!(line.say("EHLO c.example").starts_with("250 "));
    // The header names another local address than the listener's.
    assert!(line.say("MAIL FROM:<a@c.example>").starts_with("530 5.7.0 "));
    assert!(line.say("STARTTLS").starts_with("220 "));
    // Without one, and one that is none: closed without a word.
    for header in ["EHLO c.example\r\n", "PROXY TCP4 nonsense\r\n"] {
        assert_eq!(behind(server.url(), header).rest(), "", "{header}");
    }
    server.signal("TERM");
    let ended = server.finish();
    assert!(ended.stderr.contains("198.51.100.7"), "{}", ended.stderr);
}

#[test]
fn a_stranger_s_header_is_refused() {
    // The whole of 127/8 is this machine; the client comes from 127.0.0.1.
    let listen =
        ["--listen", "smtp://127.0.0.1:0?proxy=127.0.0.2&tls=none", "--listen", "smtps://127.0.0.1:0?proxy=10.0.0.0/8"];
    let server = Server::start(&[&["serve"], &listen[..]].concat(), 2);
    for url in &server.urls {
        assert_eq!(behind(url, HEADER).rest(), "", "{url}");
    }
    // A listener that expects none takes the header for what it is: no command.
    let server = Server::serve(&[]);
    let mut line = behind(server.url(), HEADER);
    assert!(line.reply().starts_with("220 "));
    assert!(line.reply().starts_with("500 5.5."));
}

#[test]
fn a_unix_socket_behind_a_proxy_is_no_secure_channel() {
    let folder = tempfile::tempdir().unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    let path = folder.path().join("s");
    let listen = format!("smtp+unix://{}?proxy=uid:{uid}", path.display());
    let server = Server::start(&["serve", "--user", "jo:secret", "--listen", &listen], 1);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(HEADER.as_bytes()).unwrap();
    stream.write_all(b"EHLO c.example\r\nQUIT\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("SCRAM-SHA-256") && !text.contains("PLAIN") && !text.contains("EXTERNAL"), "{text}");
    drop(server);
}

#[test]
fn xclient_is_for_those_that_are_listed_and_login_needs_more() {
    let base = "smtp://127.0.0.1:0?tls=none";
    let listen = ["&xclient=127.0.0.1", "&xclient-login=127.0.0.1", "&xclient=10.0.0.0/8", "&xforward=127.0.0.0/8", ""]
        .map(|more| format!("{base}{more}"));
    let mut arguments = vec!["serve", "--log", "debug"];
    arguments.extend(listen.iter().flat_map(|url| ["--listen", url.as_str()]));
    let server = Server::start(&arguments, listen.len());
    let offers = |url: &str| {
        let mut line = Line::to(url);
        line.reply();
        line.all("EHLO p.example").join("\n")
    };
    let said: Vec<String> = server.urls.iter().map(|url| offers(url)).collect();
    let has = |n: usize, what: &str| said[n].contains(what);
    assert!(has(0, "XCLIENT") && !has(0, "LOGIN") && !has(0, "XFORWARD"), "{said:?}");
    assert!(has(1, "XCLIENT") && has(1, " LOGIN"), "{said:?}");
    for n in [2, 4] {
        assert!(!has(n, "XCLIENT") && !has(n, "XFORWARD"), "{said:?}");
    }
    assert!(has(3, "XFORWARD") && !has(3, "XCLIENT"), "{said:?}");

    let mut line = Line::to(&server.urls[0]);
    line.reply();
    line.say("EHLO p.example");
    assert!(line.say("XCLIENT ADDR=198.51.100.7 LOGIN=jo").starts_with("550 5.7."), "LOGIN was not allowed");
    assert!(line.say("XCLIENT ADDR=198.51.100.7 PORT=4711 HELO=c.example").starts_with("220 "));
    line.say("EHLO c.example");
    assert!(line.say("MAIL FROM:<a@c.example>").starts_with("250 "));
    assert!(line.say("RCPT TO:<u@localhost>").starts_with("250 "));
    assert!(line.say("DATA").starts_with("354 "));
    assert!(line.say("Subject: x\r\n\r\ny\r\n.").starts_with("250 "));
    let messages = server.messages("localhost", "u");
    assert!(messages[0].contains("[198.51.100.7]"), "{messages:?}");
    // Whoever is not listed: not known, and the session goes on.
    let mut line = Line::to(&server.urls[4]);
    line.reply();
    line.say("EHLO p.example");
    assert!(line.say("XCLIENT ADDR=198.51.100.7").starts_with("502 5.5.1"));
    assert!(line.say("XFORWARD ADDR=198.51.100.7").starts_with("502 5.5.1"));
    assert!(line.say("NOOP").starts_with("250 "));
}

#[test]
fn a_sink_has_the_same_listeners() {
    let listen = ["smtp://127.0.0.1:0?proxy=127.0.0.1&tls=none", "smtp://127.0.0.1:0?xforward=127.0.0.1&tls=required"];
    let server = Server::start(&["sink", "--exposed", "--listen", listen[0], "--listen", listen[1]], 2);
    let mut line = behind(&server.urls[0], HEADER);
    assert!(line.reply().starts_with("220 "));
    line.say("EHLO c.example");
    assert!(line.say("MAIL FROM:<a@c.example>").starts_with("250 "));
    let mut line = Line::to(&server.urls[1]);
    line.reply();
    assert!(line.all("EHLO c.example").iter().any(|line| line.contains("XFORWARD")));
    assert!(line.say("MAIL FROM:<a@c.example>").starts_with("530 "));
    server.signal("TERM");
    let ended = server.finish();
    assert!(ended.stdout.contains("sessions=2"), "{ended:?}");
}

#[test]
fn what_means_nothing_is_refused() {
    for (arguments, part) in [
        (&["serve", "--listen", "smtp+quic://127.0.0.1:0?proxy=127.0.0.1"][..], "does not go over QUIC"),
        (&["serve", "--listen", "smtp+quic://127.0.0.1:0?xclient=127.0.0.1"], "no XCLIENT over QUIC"),
        (&["serve", "--listen", "smtp://127.0.0.1:0?proxy=::1&xclient=::1"], "excludes"),
        (&["serve", "--listen", "smtp://127.0.0.1:0?proxy=mx.example"], "a network such as"),
        (
            &["send", "--server", "smtp://127.0.0.1:1?proxy=::1", "--from", "a@b.example", "--to", "c@d.example"],
            "listener's",
        ),
        (&["serve", "--etrn", "example.org"], "--etrn without a queue"),
        (&["sink", "--no-soliciting", "no thanks"], "classes such as"),
        (&["sink", "--priority-profile", "urgent"], "mixer"),
    ] {
        let ended = run(smtp(arguments));
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn the_terms_of_extensions_are_options() {
    let options = ["--no-soliciting", "net.example:ADV", "--deliver-by-min", "1m", "--priority-profile", "nsep"];
    let server = Server::start(&[&["sink", "--listen", "smtp://127.0.0.1:0"], &options[..]].concat(), 1);
    let mut line = server.connect();
    let offers = line.all("EHLO c.example");
    for offer in ["NO-SOLICITING net.example:ADV", "DELIVERBY 60", "MT-PRIORITY NSEP"] {
        assert!(offers.iter().any(|line| line.get(4..) == Some(offer)), "{offer}: {offers:?}");
    }
    assert!(!offers.iter().any(|line| line.contains("FUTURERELEASE")), "nothing is held: {offers:?}");
    assert!(line.say("MAIL FROM:<a@c.example> SOLICIT=net.example:ADV").starts_with("550 5.7.1 "));
    assert!(line.say("MAIL FROM:<a@c.example> BY=59;R").starts_with("550 5.4.7 "));
    assert!(line.say("MAIL FROM:<a@c.example> BY=60;R MT-PRIORITY=3").starts_with("250 "));

    // From a file too, and shown as what it means.
    let folder = tempfile::tempdir().unwrap();
    let text = "no-soliciting = \"\"\ndeliver_by_min = 90\npriority_profile = \"mixer\"\nhold_max = \"1d\"\n";
    let config = crate::play::file(folder.path(), "smtp.toml", text);
    let shown = run(smtp(["config", "show", config.to_str().unwrap()]));
    for line in ["no_soliciting = \"\"", "deliver_by_min = 90", "priority_profile = \"mixer\"", "hold_max = 86400"] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "{line}: {shown:?}");
    }
    let config = crate::play::file(folder.path(), "bad.toml", "deliver_by_mim = 90\n");
    let bad = run(smtp(["config", "check", config.to_str().unwrap()]));
    assert!(bad.stderr.contains("bad.toml:1:1") && bad.stderr.contains("did you mean \"deliver_by_min\""), "{bad:?}");
}

#[test]
fn etrn_sends_what_waits_for_the_domain() {
    // Where mail for example.org goes: nobody listens there at first.
    let parked = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = parked.local_addr().unwrap().port();
    drop(parked);
    let route = format!("example.org=smtp://127.0.0.1:{port}?tls=none");
    let other = format!("example.com=smtp://127.0.0.1:{port}?tls=none");
    let server = Server::start(
        &[
            "serve",
            "--listen",
            "smtp://127.0.0.1:0",
            "--route",
            &route,
            "--route",
            &other,
            "--relay-domain",
            "example.org,example.com",
            "--etrn",
            "example.org",
            "--queue-retry",
            "1h",
            "--listen",
            "smtp://127.0.0.1:0?role=submission",
        ],
        2,
    );
    for to in ["u@example.org", "u@example.com"] {
        assert_eq!(send(server.url(), &["--to", to]).code, Some(0));
    }
    let untried = || {
        let mut list = smtp(["queue", "list", "--json"]);
        list.current_dir(server.folder());
        run(list).stdout.matches("not tried yet").count()
    };
    let until = std::time::Instant::now() + PATIENCE;
    while untried() > 0 {
        assert!(std::time::Instant::now() < until, "not tried");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut line = server.connect();
    assert!(line.all("EHLO c.example").iter().any(|line| line.contains("ETRN")));
    assert!(line.say("ETRN example.com").starts_with("459 4.7.1 "), "not configured");
    assert!(line.say("ETRN mx..example").starts_with("501 5.5.4 "));
    let next = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let arrived = std::thread::spawn(move || {
        let (stream, _) = next.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"220 next\r\n").unwrap();
        let mut heard = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap() == 0 {
                return heard;
            }
            heard.push_str(&line);
            let answer: &[u8] = match line.split([' ', '\r']).next().unwrap() {
                "DATA" => b"354 go\r\n",
                "." | "EHLO" | "MAIL" | "RCPT" | "RSET" => b"250 ok\r\n",
                "QUIT" => b"221 bye\r\n",
                _ => continue,
            };
            stream.get_mut().write_all(answer).unwrap();
            if line.starts_with('.') {
                return heard;
            }
        }
    });
    assert!(line.say("ETRN example.org").starts_with("253 2.0.0 1 pending"), "one of the two");
    let heard = arrived.join().unwrap();
    assert!(heard.contains("RCPT TO:<u@example.org>") && !heard.contains("example.com"), "{heard}");
    assert!(line.say("ETRN @example.org").starts_with("458 4.7.0 "), "too soon");
    let mut line = Line::to(&server.urls[0]);
    line.reply();
    line.say("EHLO c.example");
    assert!(line.say("ETRN example.org").starts_with("458 "), "whoever asks");
    let mut line = Line::to(&server.urls[1]);
    line.reply();
    assert!(!line.all("EHLO c.example").iter().any(|line| line.contains("ETRN")), "not for submission");
}
