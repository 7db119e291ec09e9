use std::time::Instant;

use crate::play::{PATIENCE, Run, Server, file, run, run_with, send, smtp};

#[test]
fn users_come_and_go_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("deep/users");
    let users = users.to_str().unwrap();
    let user = |arguments: &[&str], password: &str| -> Run {
        run_with(smtp([&["user"], arguments, &["--user-file", users]].concat()), password.as_bytes())
    };
    let added = user(&["add", "a@sender.example", "--send-as", "@lists.example"], "hunter2\n");
    assert_eq!((added.code, &*added.stdout), (Some(0), ""), "{added:?}");
    assert_eq!(user(&["add", "backup", "--no-password", "--uid", "34"], "").code, Some(0));
    let listed = user(&["list"], "").stdout;
    assert_eq!(listed, "a@sender.example\tSCRAM-SHA-256 PLAIN LOGIN\t@lists.example\nbackup\tEXTERNAL\n");

    let server = Server::serve(&["--user-file", users]);
    let certificate = server.folder().join("smtp-data/tls/certificate.pem");
    let log_in = |name: &str, password: &str| {
        let password = file(folder.path(), "pw", password);
        let auth = ["--to", "u@localhost", "--user", name, "--password-file", password.to_str().unwrap()];
        let tls = ["--tls-ca", certificate.to_str().unwrap(), "--transcript"];
        send(server.url(), &[&auth[..], &tls].concat())
    };
    let sent = log_in("a@sender.example", "hunter2");
    assert!(sent.code == Some(0) && sent.stdout.contains("AUTH SCRAM-SHA-256-PLUS"), "{sent:?}");

    assert_eq!(user(&["passwd", "a@sender.example", "--cram-md5"], "hunter3").code, Some(0));
    assert_eq!(user(&["add", "al", "--cram-md5"], "hunter4").code, Some(0));
    server.signal("HUP");
    let until = Instant::now() + PATIENCE;
    while log_in("a@sender.example", "hunter3").code != Some(0) {
        assert!(Instant::now() < until, "the file is never read again");
    }
    assert_eq!(log_in("a@sender.example", "hunter2").code, Some(77));
    // Somebody else's address: refused, after AUTH.
    let al = log_in("al", "hunter4");
    assert!(al.stdout.contains("<~ 235 ") && al.stdout.contains("553 5.7.1"), "{al:?}");
    // The mechanisms are those of the start, until the next one.
    assert!(al.stdout.contains("PLAIN LOGIN") && !al.stdout.contains("CRAM-MD5"), "{al:?}");
    let next = Server::serve(&["--user-file", users]);
    let offered = send(next.url(), &["--to", "u@localhost", "--transcript", "--quit-after", "starttls"]);
    assert!(offered.stdout.contains("PLAIN LOGIN CRAM-MD5"), "{offered:?}");
    assert_eq!(user(&["remove", "al"], "").code, Some(0));
    assert!(!user(&["list"], "").stdout.contains("al\t"));
}

#[test]
fn what_cannot_be_is_said_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let user = |arguments: &[&str], password: &str| {
        run_with(smtp([&["user"], arguments, &["--user-file", users.to_str().unwrap()]].concat()), password.as_bytes())
    };
    for (arguments, password, code, words) in [
        (&["add"][..], "x", 64, "no user is named"),
        (&["add", "a:b"], "x", 64, "a user's name"),
        (&["add", "*"], "x", 64, "stands for unknown users"),
        (&["add", "jo"], "", 64, "password is empty"),
        (&["add", "jo", "--no-password"], "", 64, "no way to log in"),
        (&["add", "jo", "--send-as", "nothing"], "x", 64, "neither an address"),
        (&["add", "jo", "--password-file", "/nonexistent"], "", 78, "/nonexistent"),
        (&["remove", "jo"], "", 78, "no user jo"),
        (&["passwd", "jo"], "x", 78, "no user jo"),
        (&["list"], "", 78, "users"),
    ] {
        let ended = user(arguments, password);
        assert_eq!(ended.code, Some(code), "{arguments:?} {ended:?}");
        assert!(ended.stderr.contains(words), "{arguments:?} {ended:?}");
        assert!(!users.exists(), "{arguments:?}");
    }
    assert_eq!(run(smtp(["user", "jump"])).code, Some(64));

    assert_eq!(user(&["add", "al"], "x").code, Some(0));
    let before = std::fs::read(&users).unwrap();
    for arguments in [
        ["--send-as", "\"a b\"@example.org"],
        ["--send-as", "uid=5@example.org"],
        ["--send-as", "cert=a@example.org"],
        ["--certificate-address", "\"a b\"@example.org"],
    ] {
        let ended = user(&[&["add", "jo"], &arguments[..]].concat(), "x");
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(ended.stderr.contains(&format!("{} cannot stand in a user file", arguments[1])), "{ended:?}");
        assert_eq!(std::fs::read(&users).unwrap(), before, "{arguments:?}");
    }
}
