//! `smtp serve`: what a newcomer gets, and what the options change.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::play::{Line, Server, run, send, smtp};

#[test]
fn a_message_lands_in_the_maildir_as_readers_expect_it() {
    let server = Server::serve(&[]);
    let sent = send(server.url(), &["--to", "User+tag@LOCALHOST", "--body", ".dot\nend"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let messages = server.messages("localhost", "user");
    let [message] = &*messages else { panic!("{messages:?}") };
    let (header, body) = message.split_once("\n\n").unwrap();
    assert!(message.starts_with("Return-Path: <a@sender.example>\nDelivered-To: User+tag@"), "{message}");
    assert!(header.contains("\nReceived: from ") && header.contains(" with ESMTPS "), "{message}");
    assert!(header.contains("\nFrom: <a@sender.example>\n") && header.contains("\nMessage-ID: <"), "{message}");
    assert_eq!(body, ".dot\nend\n");
    assert!(!message.contains('\r'), "line ends are LF on disk");
}

#[test]
fn names_beyond_ascii_are_told_in_a_labels() {
    let server = Server::serve(&["--hostname", "mx.bücher.example", "--domain", "bücher.example"]);
    assert!(server.connect().say("QUIT").starts_with("221 2.0.0 mx.xn--bcher-kva.example "));
    assert_eq!(send(server.url(), &["--to", "u@xn--bcher-kva.example"]).code, Some(0));
    assert_eq!(server.messages("xn--bcher-kva.example", "u").len(), 1);
}

#[test]
fn nobody_else_can_read_it() {
    let server = Server::serve(&["--user", "jo:secret"]);
    assert_eq!(send(server.url(), &["--to", "u@localhost"]).code, Some(0));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut folders = vec![server.folder().join("smtp-data")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "certificate.pem") {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert_eq!(files, 2, "a message and the key");
}

#[test]
fn the_screen_says_what_it_does_and_what_to_paste() {
    let server = Server::serve(&[]);
    let url = server.url().to_owned();
    server.signal("TERM");
    let ended = server.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, "", "nothing but listeners is on stdout");
    for part in [
        &*format!("send --server {url} --from me@example.org --to you@localhost"),
        "with STARTTLS",
        "for anybody at localhost",
        "smtp-data/mail/",
        "self-signed, made just now",
        "curl --crlf",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\u{1b}'), "no colours but on a terminal");
}

#[test]
fn the_line_to_paste_works() {
    let server = Server::serve(&[]);
    server.signal("HUP");
    let url = server.url().to_owned();
    // As the screen has it; the program's name is that of the one under test.
    let line = format!("{} send --server {url} --from me@example.org --to you@localhost", env!("CARGO_BIN_EXE_smtp"));
    let status = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    assert_eq!(server.messages("localhost", "you").len(), 1);
    server.signal("TERM");
    let ended = server.finish();
    assert!(ended.stderr.contains(&line), "{}", ended.stderr);
    assert!(ended.stderr.contains("certificates were read again"), "{}", ended.stderr);
}

#[test]
fn each_listener_is_announced_in_order_with_its_real_port() {
    let arguments = [
        "serve",
        "--listen",
        "smtps://127.0.0.1:0",
        "--listen",
        "smtp://[::1]:0?tls=none",
        "--listen",
        "smtp://localhost:0",
    ];
    let server = Server::start(&arguments, 3);
    for (url, start) in server.urls.iter().zip(["smtps://127.0.0.1:", "smtp://[::1]:", "smtp://127.0.0.1:"]) {
        assert!(url.starts_with(start) && !url.ends_with(":0"), "{url}");
        let sent = send(url, &["--to", "u@localhost", "--insecure"]);
        assert_eq!(sent.code, Some(0), "{url}: {sent:?}");
    }
    let messages = server.messages("localhost", "u");
    assert_eq!(messages.iter().filter(|message| message.contains(" with ESMTPS ")).count(), 2);
    assert_eq!(messages.len(), 3);
}

#[test]
fn required_tls_comes_before_mail_on_that_listener_only() {
    let arguments = ["serve", "--listen", "smtp://127.0.0.1:0?tls=required", "--listen", "smtp://127.0.0.1:0"];
    let server = Server::start(&arguments, 2);
    for (url, code) in server.urls.iter().zip(["530 5.7.0", "250 2.1.0"]) {
        let mut line = Line::to(url);
        line.reply();
        assert!(line.say("EHLO me").starts_with("250"));
        let reply = line.say("MAIL FROM:<a@b.example>");
        assert!(reply.starts_with(code), "{url}: {reply}");
    }
    assert_eq!(send(server.url(), &["--to", "u@localhost"]).code, Some(0));
}

#[test]
fn listed_mailboxes_and_postmaster_exist_and_no_others() {
    let more = ["--domain", "x.example", "--domain", "y.example", "--mailbox", "jo@x.example"];
    let server = Server::serve(&more);
    for (to, code) in [
        ("jo@x.example", 0),
        ("JO@X.example", 0),
        ("postmaster@x.example", 0),
        ("postmaster@y.example", 0),
        ("jo@y.example", 67),
        ("al@x.example", 67),
        ("jo@localhost", 67),
        ("jo@elsewhere.example", 67),
    ] {
        let sent = send(server.url(), &["--to", to]);
        assert_eq!(sent.code, Some(code), "{to}: {sent:?}");
    }
    assert_eq!(server.messages("x.example", "jo").len(), 2);
    let mut line = server.connect();
    line.say("EHLO me");
    line.say("MAIL FROM:<>");
    assert!(line.say("RCPT TO:<al@x.example>").starts_with("550 5.1.1"));
    assert!(line.say("RCPT TO:<al@z.example>").starts_with("550 5.7.1"));
    assert!(line.say("RCPT TO:<Postmaster>").starts_with("250"));
}

#[test]
fn auth_is_offered_where_it_cannot_be_overheard() {
    let server = Server::serve(&["--user", "a@sender.example:se:cret"]);
    let folder = tempfile::tempdir().unwrap();
    let right = crate::play::file(folder.path(), "right", "se:cret\n");
    let wrong = crate::play::file(folder.path(), "wrong", "secret\n");
    let mut line = server.connect();
    line.say("EHLO me");
    let reply = line.say("AUTH PLAIN AGFAc2VuZGVyLmV4YW1wbGUAc2U6Y3JldA==");
    assert!(reply.starts_with('5'), "not in clear: {reply}");
    drop(line);
    let certificate = server.folder().join("smtp-data/tls/certificate.pem");
    let certificate = certificate.to_str().unwrap();
    for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        for (password, code) in [(&right, 0), (&wrong, 77)] {
            let more = ["--to", "u@localhost", "--user", "a@sender.example", "--auth", mechanism, "--password-file"];
            let tls = [password.to_str().unwrap(), "--tls-ca", certificate, "--transcript"];
            let sent = send(server.url(), &[&more[..], &tls].concat());
            assert_eq!(sent.code, Some(code), "{mechanism} {sent:?}");
            assert!(sent.stdout.contains(&format!("~> AUTH {mechanism}")), "{sent:?}");
            // base64 of the password, and of the whole PLAIN message.
            for secret in ["se:cret", "c2U6Y3JldA", "AGFAc2VuZGVy"] {
                assert!(!sent.stdout.contains(secret) && !sent.stderr.contains(secret), "{sent:?}");
            }
        }
    }
    server.signal("TERM");
    let log = server.finish().stderr;
    assert!(log.contains("can see the password") && !log.contains("se:cret"), "{log}");
}

#[test]
fn the_largest_size_is_told_and_enforced() {
    let server = Server::serve(&["--max-size", "1k"]);
    let mut line = Line::to(server.url());
    line.reply();
    line.say("EHLO me");
    assert!(line.say("MAIL FROM:<a@b.example> SIZE=1025").starts_with("552 5.3.4"));
    let sent = send(server.url(), &["--to", "u@localhost", "--body", &"x".repeat(2000)]);
    assert_eq!(sent.code, Some(65), "{sent:?}");
    assert!(sent.stdout.contains("552 5.3.4") && sent.stdout.contains("1024"), "{sent:?}");
}

#[test]
fn a_certificate_of_ones_own_is_served_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    // Made by another run, taken over from its folder.
    let maker = Server::serve(&["--hostname", "mx.example"]);
    let pem = maker.folder().join("smtp-data/tls/identity.pem");
    let (first, second) = (folder.path().join("first.pem"), folder.path().join("second.pem"));
    std::fs::copy(pem, &first).unwrap();
    let maker = Server::serve(&["--hostname", "mx.example"]);
    std::fs::copy(maker.folder().join("smtp-data/tls/identity.pem"), &second).unwrap();
    let used = folder.path().join("used.pem");
    std::fs::copy(&first, &used).unwrap();

    let used = used.to_str().unwrap();
    let server = Server::serve(&["--tls-cert", used, "--tls-key", used]);
    let pin = |server: &Server| {
        let sent = send(server.url(), &["--to", "u@localhost", "--json", "--quit-after", "starttls"]);
        sent.json()["tls"]["pin"].as_str().unwrap().to_owned()
    };
    let before = pin(&server);
    std::fs::copy(&second, used).unwrap();
    server.signal("HUP");
    let until = std::time::Instant::now() + crate::play::PATIENCE;
    while pin(&server) == before {
        assert!(std::time::Instant::now() < until, "the new certificate is never served");
    }
    assert!(!server.folder().join("smtp-data/tls").exists(), "nothing of our own is made then");
}

#[test]
fn json_logs_are_json_in_every_line() {
    let server = Server::serve(&["--log-format", "json", "--log", "debug"]);
    assert_eq!(send(server.url(), &["--to", "u@localhost"]).code, Some(0));
    server.signal("TERM");
    let ended = server.finish();
    assert!(ended.stderr.lines().count() > 3);
    for line in ended.stderr.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_second_server_on_the_same_port_says_so() {
    let server = Server::serve(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut command = smtp(["serve", "--listen", server.url()]);
    command.current_dir(folder.path());
    let second = run(command);
    assert_eq!(second.code, Some(69), "{second:?}");
    assert!(second.stderr.contains("another program listens there"), "{second:?}");
    assert_eq!(second.stdout, "");
}
