//! Who a client of the binary is to a server of the binary, beyond passwords: by a certificate, by a token.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::play::{PATIENCE, Run, Server, file, run, run_with, send, smtp};

fn user(file: &Path, arguments: &[&str]) -> Run {
    let mut command = smtp(["user"]);
    command.args(arguments).args(["--user-file", file.to_str().unwrap()]);
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended
}

#[test]
fn a_client_certificate_logs_in_from_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&ca_key).unwrap().pem();
    let leaf_key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::Rfc822Name("jo@client.example".try_into().unwrap())];
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(params, ca_key)).unwrap();
    let ca = file(folder.path(), "ca.pem", &ca_pem).display().to_string();
    let cert = file(folder.path(), "certificate.pem", &leaf.pem()).display().to_string();
    let key = file(folder.path(), "key.pem", &leaf_key.serialize_pem()).display().to_string();
    let users = folder.path().join("users");
    let how = ["--no-password", "--certificate-address", "jo@client.example", "--send-as", "a@sender.example"];
    user(&users, &[&["add", "jo"], &how[..]].concat());
    let listen =
        ["--listen", "smtps://127.0.0.1:0", "--listen", "smtp+quic://127.0.0.1:0", "--listen", "smtp://127.0.0.1:0"];
    let server = ["serve", "--user-file", users.to_str().unwrap(), "--tls-client-ca", &ca];
    let server = Server::start(&[&server, &listen[..]].concat(), 3);
    let mine = ["--insecure", "--tls-cert", &cert, "--tls-key", &key];
    for url in &server.urls {
        let more = ["--auth", "EXTERNAL", "--transcript", "--to", "u@localhost"];
        let sent = send(url, &[&mine, &more[..]].concat());
        assert_eq!(sent.code, Some(0), "{url}: {sent:?}");
        assert!(sent.stdout.contains("AUTH EXTERNAL") && sent.stdout.contains(" 235 2.7.0 "), "{url}: {sent:?}");
        // Without one it is not offered.
        let sent = send(url, &[&["--insecure"], &more[..]].concat());
        assert_eq!(sent.code, Some(77), "{url}: {sent:?}");
    }
    let url = &server.urls[0];
    let shell = run_with(smtp([&["shell", url], &mine[..]].concat()), b"EHLO c.example\nauth EXTERNAL\nquit\n");
    assert!(shell.stdout.contains(" 235 2.7.0 "), "{shell:?}");
    let scenario = "title: EXTERNAL\nrfc: 4422\n\nS: 220 *\nC: EHLO c.example\nS: 250-*\nS: ...\nC: AUTH EXTERNAL =\nS: 235 2.7.0 *\nC: QUIT\nS: 221 *\n";
    let scenario = file(folder.path(), "external.txt", scenario).display().to_string();
    let replay = run(smtp([&["replay", url, &scenario], &mine[..]].concat()));
    assert!(replay.code == Some(0) && replay.stdout.contains("1 passed"), "{replay:?}");
    #[cfg(feature = "bench")]
    {
        let more = ["--auth", "EXTERNAL", "--messages", "2", "--sessions", "1", "--from", "a@sender.example", "--json"];
        let bench = run(smtp([&["bench", url], &mine[..], &more].concat()));
        assert_eq!(bench.code, Some(0), "{bench:?}");
    }
}

#[test]
fn a_certificate_that_cannot_be_shown_is_told_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let junk = file(folder.path(), "junk.pem", "junk").display().to_string();
    for (more, code, part) in [
        (&["--tls-cert", "x.pem"][..], 64, "--tls-cert without --tls-key"),
        (&["--tls-key", "x.pem"], 64, "--tls-key without --tls-cert"),
        (&["--tls-cert", "/nowhere/c.pem", "--tls-key", "/nowhere/k.pem"], 78, "/nowhere/"),
        (&["--tls-cert", &junk, "--tls-key", &junk], 78, "junk.pem"),
    ] {
        let sent = send("smtps://127.0.0.1:1", &[more, &["--to", "u@localhost"]].concat());
        assert_eq!(sent.code, Some(code), "{sent:?}");
        assert!(sent.stderr.contains(part), "{part}: {}", sent.stderr);
    }
}

#[test]
fn a_token_logs_in_until_there_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let added = user(&users, &["add", "ci", "--no-password", "--token", "--send-as", "a@sender.example"]);
    let first = added.stdout.trim().to_owned();
    assert!(first.len() == 43 && !added.stderr.contains(&first), "{added:?}");
    assert!(!std::fs::read_to_string(&users).unwrap().contains(&first), "the file has its hash");
    let listed = user(&users, &["list"]);
    assert_eq!(listed.stdout, "ci\tOAUTHBEARER XOAUTH2\ta@sender.example\n");

    let server = ["serve", "--user-file", users.to_str().unwrap(), "--listen", "smtps://127.0.0.1:0"];
    let server = Server::start(&server, 1);
    let log_in = |mechanism: &str, token: &str| {
        let token = file(folder.path(), "token", &format!("{token}\n")).display().to_string();
        let who = ["--insecure", "--auth", mechanism, "--user", "ci", "--password-file", &token];
        send(server.url(), &[&who[..], &["--to", "u@localhost", "--transcript"]].concat())
    };
    for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
        let sent = log_in(mechanism, &first);
        assert_eq!(sent.code, Some(0), "{sent:?}");
        assert!(!format!("{sent:?}").contains(&first), "a token is not shown");
        let sent = log_in(mechanism, "guess");
        assert_eq!(sent.code, Some(77), "{sent:?}");
        assert!(sent.stdout.contains(" 535 5.7.8 "), "{sent:?}");
    }

    let second = user(&users, &["token", "ci"]).stdout.trim().to_owned();
    assert_ne!(first, second);
    server.signal("HUP");
    let until = std::time::Instant::now() + PATIENCE;
    while log_in("OAUTHBEARER", &second).code != Some(0) {
        assert!(std::time::Instant::now() < until, "the file is read again");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(log_in("OAUTHBEARER", &first).code, Some(77));
    user(&users, &["revoke", "ci"]);
    assert!(!std::fs::read_to_string(&users).unwrap().contains("token="));
}
