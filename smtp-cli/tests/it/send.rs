//! `smtp send`: what it shows, and what it tells the shell.

use std::time::{Duration, Instant};

use crate::play::{Server, dead_port, file, run_with, scripted, send, smtp};

#[test]
fn the_transcript_shows_both_sides_and_marks_tls() {
    let server = Server::serve(&[]);
    let sent = send(server.url(), &["--to", "u@localhost", "--transcript"]);
    let at = |part: &str| sent.stdout.find(part).unwrap_or_else(|| panic!("{part}: {}", sent.stdout));
    assert!(at("<- 220 ") < at("-> EHLO "));
    assert!(at("-> STARTTLS") < at("~> EHLO "));
    assert!(at("~> MAIL FROM:<a@sender.example>") < at("~> RCPT TO:<u@localhost>"));
    assert!(at("octets of content)") < at("~> QUIT"));
    assert!(at("<~ 221 ") < at("accepted  u@localhost  250 2.0.0"));
    assert!(at("TLSv1.3 ") < at("all "), "timing comes last");
}

#[test]
fn json_tells_every_recipient_apart() {
    let server = Server::serve(&["--mailbox", "jo@localhost"]);
    for more in [&[][..], &["--no-pipelining"], &["--no-chunking"], &["--no-pipelining", "--no-chunking"]] {
        let to = ["--to", "jo@localhost", "--to", "al@localhost,jö@localhost", "--json", "--transcript"];
        let sent = send(server.url(), &[&to, more].concat());
        assert_eq!(sent.code, Some(67), "{more:?}: {sent:?}");
        let json = sent.json();
        let status: Vec<_> = json["recipients"].as_array().unwrap().iter().map(|r| r["status"].clone()).collect();
        assert_eq!(status, ["accepted", "refused", "refused"], "{json}");
        assert_eq!(json["recipients"][1]["code"], 550);
        assert_eq!(json["recipients"][1]["enhanced"], "5.1.1");
        assert_eq!(json["recipients"][1]["stage"], "rcpt");
        assert_eq!(json["result"], "refused");
        assert_eq!(json["tls"]["verified"], false);
        assert!(json["steps"].as_array().unwrap().iter().any(|step| step["step"] == "starttls"), "{json}");
        assert!(json["error"].is_null());
        let chunks = sent.stderr.contains("~> BDAT ");
        assert_eq!(chunks, !more.contains(&"--no-chunking"), "{more:?}: {}", sent.stderr);
    }
    assert_eq!(server.messages("localhost", "jo").len(), 4);
}

#[test]
fn a_message_from_a_file_or_a_pipe_gets_crlf() {
    let server = Server::serve(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "mail", "Subject: old\nX-Keep: yes\n\nline\r\n.\nend");
    let sent =
        send(server.url(), &["--to", "f@localhost", "--data", path.to_str().unwrap(), "--header", "Subject: new"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let [message] = &*server.messages("localhost", "f") else { panic!() };
    assert!(message.ends_with("Subject: new\nX-Keep: yes\n\nline\n.\nend\n"), "{message:?}");

    let arguments = ["send", "--server", server.url(), "--from", "<>", "--to", "p@localhost", "--data", "-"];
    let sent = run_with(smtp(arguments), b"Subject: piped\n\nbody\n");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let [message] = &*server.messages("localhost", "p") else { panic!() };
    assert!(message.starts_with("Return-Path: <>\n") && message.ends_with("Subject: piped\n\nbody\n"), "{message:?}");
}

#[test]
fn a_header_cannot_bring_another() {
    for header in ["X: a\r\nBcc: b@c", "X: a\nb", "X: a\u{0}", "X"] {
        // A NUL cannot even be put into an argument.
        if !header.contains('\0') {
            let sent = send(&dead_port(), &["--to", "u@localhost", "--header", header]);
            assert_eq!(sent.code, Some(64), "{sent:?}");
        }
    }
}

#[test]
fn a_session_can_end_after_each_stage() {
    let server = Server::serve(&[]);
    for (stage, last, next) in [
        ("connect", "<- 220", "-> EHLO"),
        ("ehlo", "-> EHLO", "-> STARTTLS"),
        ("starttls", "~> EHLO", "~> MAIL"),
        ("auth", "~> EHLO", "~> MAIL"),
        ("mail", "~> MAIL", "~> RCPT"),
        ("rcpt", "~> RCPT", "~> BDAT"),
        ("data", "~> BDAT", "never"),
    ] {
        let sent = send(server.url(), &["--to", "u@localhost", "--transcript", "--quit-after", stage]);
        assert_eq!(sent.code, Some(0), "{stage}: {sent:?}");
        assert!(sent.stdout.contains(last) && !sent.stdout.contains(next), "{stage}: {}", sent.stdout);
        assert!(sent.stdout.contains("> QUIT"), "{stage}: {}", sent.stdout);
    }
    assert_eq!(server.messages("localhost", "u").len(), 1);
}

#[test]
fn a_key_that_is_not_the_pinned_one_is_a_matter_of_policy() {
    let server = Server::serve(&[]);
    let right = send(server.url(), &["--to", "u@localhost", "--json", "--quit-after", "starttls"]);
    let pin = right.json()["tls"]["pin"].as_str().unwrap().to_owned();
    let wrong = "0".repeat(64);
    for (pin, code, mails) in [(&wrong, 77, 0), (&pin, 0, 1)] {
        let sent = send(server.url(), &["--to", "u@localhost", "--pin", pin, "--json"]);
        assert_eq!(sent.code, Some(code), "{sent:?}");
        assert_eq!(server.messages("localhost", "u").len(), mails);
        let status = &sent.json()["recipients"][0]["status"];
        assert_eq!(status, if mails == 0 { "unsent" } else { "accepted" });
        assert!(mails == 1 || sent.stderr.contains("not the pinned one"), "{sent:?}");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_does_not_hold() {
    let server = Server::start(&["serve", "--listen", "smtp://127.0.0.1:0", "--listen", "smtps://127.0.0.1:0"], 2);
    let [clear, implicit] = &*server.urls else { panic!() };
    let required = format!("{clear}?tls=required");
    let certificate = server.folder().join("smtp-data/tls/certificate.pem");
    let certificate = certificate.to_str().unwrap();
    for url in [&required, implicit] {
        let sent = send(url, &["--to", "u@localhost"]);
        assert!(matches!(sent.code, Some(77 | 78)), "78 where the system has no trust anchors: {sent:?}");
        assert_eq!(send(url, &["--to", "u@localhost", "--tls-ca", certificate]).code, Some(0));
        assert_eq!(send(url, &["--to", "u@localhost", "--insecure"]).code, Some(0));
        // A CA file without a CA in it.
        assert_eq!(send(url, &["--to", "u@localhost", "--tls-ca", "/dev/null"]).code, Some(78));
    }
}

#[test]
fn a_password_goes_to_nobody_unknown() {
    let server = Server::serve(&["--user", "a@sender.example:secret"]);
    let folder = tempfile::tempdir().unwrap();
    let password = file(folder.path(), "pw", "secret");
    let auth = [
        "--to",
        "u@localhost",
        "--user",
        "a@sender.example",
        "--password-file",
        password.to_str().unwrap(),
        "--transcript",
    ];
    for (url, code) in [
        (server.url().to_owned(), [77, 78]),
        (format!("{}?tls=none", server.url()), [77, 77]),
        (format!("{}?tls=opportunistic", server.url()), [77, 77]),
    ] {
        let sent = send(&url, &auth);
        assert!(code.contains(&sent.code.unwrap()), "{url}: {sent:?}");
        assert!(!sent.stdout.contains("> AUTH") && !sent.stdout.contains("MAIL"), "{sent:?}");
    }
    let sent = send(server.url(), &[&auth[..], &["--insecure"]].concat());
    assert_eq!(sent.code, Some(0), "{sent:?}");
    // Nothing of the password goes out by this, whoever the server is.
    assert!(sent.stdout.contains("~> AUTH SCRAM-SHA-256-PLUS ***"), "{sent:?}");
}

#[test]
fn nobody_there_is_unavailable() {
    let sent = send(&dead_port(), &["--to", "u@localhost", "--json"]);
    assert_eq!(sent.code, Some(69), "{sent:?}");
    let json = sent.json();
    assert_eq!(json["error"]["step"], "connect");
    assert_eq!(json["error"]["class"], "unavailable");
    assert_eq!(json["recipients"][0]["status"], "unsent");
    let sent = send("smtp://no-such-host.invalid", &["--to", "u@localhost"]);
    assert_eq!(sent.code, Some(69), "{sent:?}");
}

#[test]
fn silence_has_an_end_that_names_the_step() {
    const EHLO: (&str, &str) = ("EHLO", "250-x\r\n250 8BITMIME\r\n");
    const FINE: (&str, &str) = ("MAIL", "250 ok\r\n");
    const RCPT: (&str, &str) = ("RCPT", "250 ok\r\n");
    const DATA: (&str, &str) = ("DATA", "354 go\r\n");
    for (url, step) in [
        (scripted("", &[]), "greeting"),
        (scripted("220 x\r\n", &[]), "EHLO"),
        (scripted("220 x\r\n", &[EHLO]), "MAIL"),
        (scripted("220 x\r\n", &[EHLO, FINE]), "RCPT"),
        (scripted("220 x\r\n", &[EHLO, FINE, RCPT]), "DATA"),
        (scripted("220 x\r\n", &[EHLO, FINE, RCPT, DATA]), "may have been delivered"),
    ] {
        let start = Instant::now();
        let sent = send(&url, &["--to", "u@localhost", "--timeout", "0.5"]);
        assert_eq!(sent.code, Some(75), "{step}: {sent:?}");
        assert!(sent.stderr.contains(step) && sent.stderr.contains("500ms"), "{step}: {sent:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{step}");
    }
}

#[test]
fn each_refusal_has_its_code() {
    const EHLO: (&str, &str) = ("EHLO", "250-x\r\n250 8BITMIME\r\n");
    const MAIL: (&str, &str) = ("MAIL", "250 ok\r\n");
    const RCPT: (&str, &str) = ("RCPT", "250 ok\r\n");
    const DATA: (&str, &str) = ("DATA", "354 go\r\n");
    const QUIT: (&str, &str) = ("QUIT", "221 bye\r\n");
    for (url, code, stage) in [
        (scripted("554 go away\r\n", &[QUIT]), 69, ""),
        (scripted("421 too busy\r\n", &[]), 75, ""),
        (scripted("220 x\r\n", &[("EHLO", "550 no\r\n"), ("HELO", "550 no\r\n"), QUIT]), 69, ""),
        (scripted("220 x\r\n", &[EHLO, ("MAIL", "550 5.7.1 not you\r\n"), QUIT]), 67, "mail"),
        (scripted("220 x\r\n", &[EHLO, ("MAIL", "451 later\r\n"), QUIT]), 75, "mail"),
        (scripted("220 x\r\n", &[EHLO, MAIL, ("RCPT", "550 5.1.1 no\r\n"), QUIT]), 67, "rcpt"),
        (scripted("220 x\r\n", &[EHLO, MAIL, ("RCPT", "450 later\r\n"), QUIT]), 75, "rcpt"),
        (scripted("220 x\r\n", &[EHLO, MAIL, RCPT, ("DATA", "554 no\r\n"), QUIT]), 65, "data"),
        (scripted("220 x\r\n", &[EHLO, MAIL, RCPT, DATA, (".", "554 5.6.0 spam\r\n"), QUIT]), 65, "data"),
        (scripted("220 x\r\n", &[EHLO, MAIL, RCPT, DATA, (".", "452 full\r\n"), QUIT]), 75, "data"),
        (scripted("220 x\r\n", &[EHLO, MAIL, RCPT, DATA, (".", "250 ok\r\n"), QUIT]), 0, "data"),
        (scripted("SSH-2.0-x\r\n", &[]), 76, ""),
        (scripted("220 x\r\n", &[EHLO, ("MAIL", "354 what\r\n")]), 76, ""),
    ] {
        for more in [&[][..], &["--no-pipelining"]] {
            let sent = send(&url, &[&["--to", "u@localhost", "--timeout", "5", "--json"], more].concat());
            assert_eq!(sent.code, Some(code), "{sent:?}");
            let json = sent.json();
            assert_eq!(json["recipients"][0]["stage"].as_str().unwrap_or_default(), stage, "{json}");
            assert_eq!(json["exit"], code);
            assert_eq!(json["error"].is_null(), !stage.is_empty(), "{json}");
        }
    }
}

#[test]
fn one_command_at_a_time_keeps_to_the_limits() {
    const OK: &str = "250 ok\r\n";
    let url = scripted(
        "220 x\r\n",
        &[
            ("EHLO", "250-x\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1\r\n"),
            ("MAIL", OK),
            ("RCPT", OK),
            ("DATA", "354 go\r\n"),
            (".", OK),
            ("QUIT", "221 bye\r\n"),
        ],
    );
    let sent = send(&url, &["--to", "a@localhost,b@localhost", "--no-pipelining", "--transcript", "--timeout", "5"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let said: Vec<&str> = sent
        .stdout
        .lines()
        .filter_map(|line| line.split_once("-> ").or_else(|| line.split_once("<- ")))
        .filter_map(|(_, words)| words.split([' ', ':', '-']).next())
        .skip_while(|word| *word != "MAIL")
        // The content.
        .filter(|word| !word.starts_with('('))
        .collect();
    let message = ["MAIL", "250", "RCPT", "250", "DATA", "354", "250"];
    assert_eq!(said, [&message[..], &message, &["QUIT", "221"]].concat(), "{}", sent.stdout);
}

/// What was said of the first message stays said when the second breaks.
#[test]
fn a_late_break_takes_no_result_away() {
    let url = scripted(
        "220 x\r\n",
        &[
            ("EHLO", "250-x\r\n250 LIMITS RCPTMAX=1\r\n"),
            ("MAIL", "250 ok\r\n"),
            ("RCPT TO:<a", "250 ok\r\n"),
            ("RCPT TO:<b", "what?\r\n"),
            ("DATA", "354 go\r\n"),
            (".", "250 ok\r\n"),
        ],
    );
    let sent = send(&url, &["--to", "a@localhost,b@localhost", "--no-pipelining", "--json", "--timeout", "5"]);
    let recipients = &sent.json()["recipients"];
    assert_eq!(recipients[0]["status"], "accepted", "{sent:?}");
    assert_ne!(recipients[1]["status"], "accepted", "{sent:?}");
    assert_ne!(sent.code, Some(0), "{sent:?}");
}

#[test]
fn tls_that_is_not_to_be_had_is_unavailable() {
    const EHLO: (&str, &str) = ("EHLO", "250-x\r\n250 8BITMIME\r\n");
    const OFFER: (&str, &str) = ("EHLO", "250-x\r\n250 STARTTLS\r\n");
    for (url, code) in [
        (scripted("220 x\r\n", &[EHLO]), 69),
        (scripted("220 x\r\n", &[OFFER, ("STARTTLS", "454 4.7.0 not now\r\n")]), 75),
        (scripted("220 x\r\n", &[OFFER, ("STARTTLS", "502 no\r\n")]), 69),
        (scripted("220 x\r\n", &[OFFER, ("STARTTLS", "220 go\r\n250 injected\r\n")]), 76),
    ] {
        let more = ["--to", "u@localhost", "--insecure", "--timeout", "5", "--transcript"];
        let sent = send(&format!("{url}?tls=required"), &more);
        assert_eq!(sent.code, Some(code), "{sent:?}");
        assert!(!sent.stdout.contains("MAIL"), "{sent:?}");
    }
}
