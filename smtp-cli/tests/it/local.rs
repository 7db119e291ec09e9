//! `smtp serve` and what local mailboxes can be: tags, aliases, quotas, programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::ledger::Hop;
use crate::play::{Line, Run, Server, file, run, send, smtp, until};

/// The option without which root runs no programs.
fn program_user() -> &'static [&'static str] {
    let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root { &["--program-user", "nobody"] } else { &[] }
}

/// A folder that anybody may write to.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn send_as(from: &str, url: &str, to: &[&str]) -> Run {
    let to = to.iter().map(|to| format!("--to={to}"));
    let words = ["send", "--server", url, "--from", from, "--body", "hello"].map(String::from);
    run(smtp(words.into_iter().chain(to)))
}

fn rcpt(line: &mut Line, to: &str) -> String {
    line.say("RSET");
    line.say("MAIL FROM:<x@y.example>");
    line.say(&format!("RCPT TO:<{to}>"))
}

#[test]
fn aliases_lead_to_mailboxes_programs_and_elsewhere() {
    let (hop, folder) = (Hop::start(), folder());
    let place = folder.path().display().to_string();
    let common = format!(
        "info: jo,\n  amy@remote.example\nboss: jo\njo: jo, jo@remote.example\n\
         ticket: |/bin/sh -c 'cat > \"$1/part\"; mv \"$1/part\" \"$1/$2\"' sh {place} {{tag}}\n\
         broken: |/bin/sh -c 'echo \"a reason; $0\" >&2; exit 65' {{sender}}\n"
    );
    let aliases = file(folder.path(), "aliases", &format!("{common}@localhost: amy\n"));
    let mut arguments = vec!["--alias-file", aliases.to_str().unwrap(), "--relay-host", &hop.url];
    arguments.extend(["--mailbox", "jo@localhost", "--mailbox", "amy@localhost", "--queue-retry", "1s"]);
    let server = Server::serve(&[&arguments, program_user()].concat());
    let to = |to: &str| {
        let sent = send_as("boss@localhost", server.url(), &[to]);
        assert_eq!(sent.code, Some(0), "{to}: {sent:?}");
        sent.stdout
    };
    // jo stands for jo and an address elsewhere; all of it is one queued message.
    assert!(to("info@localhost").contains("queued as"));
    until("it is relayed", || !hop.arrived().is_empty());
    until("it is in the mailbox", || server.messages("localhost", "jo").len() == 1);
    let message = server.messages("localhost", "jo").remove(0);
    assert!(message.starts_with("Return-Path: <boss@localhost>\nDelivered-To: jo@localhost\n"), "{message}");
    // Mailboxes alone are written to at once, and take their tags.
    for (address, delivered_to) in [("amy+tag@localhost", "amy+tag@localhost"), ("anybody@localhost", "amy@localhost")]
    {
        assert!(to(address).contains("message stored"));
        let found = server.messages("localhost", "amy");
        assert!(found.iter().any(|text| text.contains(&format!("\nDelivered-To: {delivered_to}\n"))), "{found:?}");
    }
    // Postmaster is there without being named.
    assert!(to("postmaster@localhost").contains("message stored"));
    assert_eq!(server.messages("localhost", "postmaster").len(), 1);

    assert!(to("ticket+42@localhost").contains("queued as"));
    until("the program has it", || folder.path().join("42").exists());
    let message = fs::read_to_string(folder.path().join("42")).unwrap();
    assert!(message.starts_with("Return-Path: <boss@localhost>\nDelivered-To: ticket+42@localhost\n"), "{message}");
    assert!(message.trim_end().ends_with("hello"), "{message}");

    // A notice to an alias goes where the alias leads, and has what the program said.
    to("broken@localhost");
    let notice = |text: &String| text.contains("Action: failed");
    until("it comes back", || server.messages("localhost", "jo").iter().any(notice));
    let notice = server.messages("localhost", "jo").into_iter().find(notice).unwrap();
    for part in ["Final-Recipient: rfc822; broken@localhost", "Status: 5.6.0", "a reason; boss@localhost"] {
        assert!(notice.contains(part), "{part}: {notice}");
    }

    // A hangup reads the file again.
    fs::write(&aliases, format!("{common}fresh: amy\n")).unwrap();
    server.signal("HUP");
    until("a new session knows it", || {
        let mut new = server.connect();
        new.say("EHLO x");
        rcpt(&mut new, "fresh@localhost").starts_with("250")
            && rcpt(&mut new, "anybody@localhost").starts_with("550 5.1.1")
    });
    // One with a mistake changes nothing.
    fs::write(&aliases, "fresh: nobody-here\n").unwrap();
    server.signal("HUP");
    let mut new = server.connect();
    new.say("EHLO x");
    assert!(rcpt(&mut new, "fresh@localhost").starts_with("250"));
    assert!(rcpt(&mut new, "x@remote.example").starts_with("550 5.7.1"), "aliases open no relay");
    drop(new);
    server.signal("TERM");
    let ended = server.finish();
    assert!(ended.stderr.contains("aliases:1: in localhost: nobody-here@localhost is no mailbox here"), "{ended:?}");
}

#[test]
fn a_route_may_lead_to_a_program() {
    let folder = folder();
    let route = format!(
        "lists.example=|/bin/sh -c 'cat > \"$1/part\"; mv \"$1/part\" \"$1/$2\"' sh {} {{user}}-{{domain}}",
        folder.path().display()
    );
    let server = Server::serve(&[&["--route", &route, "--relay-domain", "lists.example"], program_user()].concat());
    let sent = send_as("jo@localhost", server.url(), &["all+x@lists.example", "new@lists.example"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    until("both runs ended", || {
        ["all", "new"].iter().all(|user| folder.path().join(format!("{user}-lists.example")).exists())
    });
    // What looks like an option is refused before anything is started, and its sender told.
    assert_eq!(send_as("jo@localhost", server.url(), &["-x@lists.example"]).code, Some(0));
    until("it comes back", || server.messages("localhost", "jo").len() == 1);
    assert!(server.messages("localhost", "jo")[0].contains("Status: 5.1.3"));
}

#[test]
fn a_full_mailbox_says_so() {
    let server =
        Server::serve(&["--quota", "4k", "--quota", "jo@localhost=/1", "--mailbox", "jo@localhost,amy@localhost"]);
    let to = |to: &str| send(server.url(), &["--to", to, "--body", "hello"]);
    assert_eq!(to("jo@localhost").code, Some(0));
    for _ in 0..2 {
        let full = to("jo+tag@localhost");
        assert!(full.code == Some(75) && format!("{full:?}").contains("452 4.2.2"), "{full:?}");
    }
    // Its owner makes room.
    let new = server.folder().join("smtp-data/mail/localhost/jo/new");
    fs::remove_file(fs::read_dir(&new).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert_eq!(to("jo@localhost").code, Some(0));

    let mut line = server.connect();
    line.say("EHLO x");
    let asked = |line: &mut Line, size: usize, to: &str| {
        line.say("RSET");
        line.say(&format!("MAIL FROM:<x@y.example> SIZE={size}"));
        line.say(&format!("RCPT TO:<{to}>"))
    };
    assert!(asked(&mut line, 5_000, "amy@localhost").starts_with("552 5.2.2"));
    assert!(asked(&mut line, 3_000, "amy@localhost").starts_with("250"));
    assert!(asked(&mut line, 5_000, "postmaster@localhost").starts_with("250"));
    assert!(asked(&mut line, 9, "jo@localhost").starts_with("452 4.2.2"));
}

#[test]
fn what_cannot_be_is_told_at_the_start() {
    let folder = TempDir::new().unwrap();
    let started = |aliases: &str, more: &[&str]| -> Run {
        let aliases = file(folder.path(), "aliases", aliases);
        let data = folder.path().join("data");
        let words = ["serve", "--listen", "smtp://127.0.0.1:0?tls=none", "--data-dir", data.to_str().unwrap()];
        let aliases = ["--alias-file", aliases.to_str().unwrap()];
        run(smtp(words.iter().chain(&aliases).chain(more)))
    };
    let nobody: &[&str] = &["--queue", "sqlite", "--program-user", "root"];
    for (aliases, more, parts) in [
        ("a: b\nc: d@elsewhere.example\n", &[][..], ["aliases:2: mail for d@elsewhere.example", "--queue sqlite"]),
        ("c: |/bin/cat\n", &[], ["aliases:1: mail for |/bin/cat", "--queue sqlite"]),
        ("a: b\nb: c\nc: a\n", &[], ["aliases:", "stands for itself"]),
        ("a b c\n", &[], ["aliases:1: ", "name: target"]),
        ("@localhost: b\n", &[], ["aliases:1: ", "list of mailboxes"]),
        ("a: |/nowhere/x\n", &["--queue", "sqlite"], ["|/nowhere/x", "there is no program"]),
        ("a: |/bin/cat\n", nobody, ["never run as root", "--program-user NAME"]),
        ("", &["--tag-separator", "x"], ["--tag-separator x", "such as +"]),
        ("", &["--quota", "jo@elsewhere.example=1G"], ["--quota jo@elsewhere.example", "local mailbox"]),
    ] {
        let ended = started(aliases, more);
        assert_eq!(ended.code, Some(78), "{aliases:?}: {ended:?}");
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{aliases:?}: {ended:?}");
    }
    if !program_user().is_empty() {
        let ended = started("a: |/bin/cat\n", &["--queue", "sqlite"]);
        assert!(ended.code == Some(78) && ended.stderr.contains("--program-user NAME"), "{ended:?}");
    }
    let ended = started("", &["--quota", "lots"]);
    assert!(ended.code == Some(64) && ended.stderr.contains("a quota is"), "{ended:?}");
}
