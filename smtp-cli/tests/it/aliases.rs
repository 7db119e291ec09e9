//! What senders hear of mail for aliases, with Python's `smtplib` as the client.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::play::{Server, file, run, run_with, smtp, until};

/// Sends a message for each line of its input: ENVID, sender, NOTIFY, recipients.
const CLIENT: &str = r"
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='client.example') as s:
    s.ehlo()
    assert s.has_extn('dsn'), s.esmtp_features
    for line in sys.stdin:
        mark, sender, notify, *to = line.split()
        refused = s.sendmail('' if sender == '<>' else sender, to, f'Subject: {mark}\r\n\r\nhi\r\n',
            mail_options=['RET=HDRS', f'ENVID={mark}'], rcpt_options=[f'NOTIFY={notify}'])
        assert not refused, refused
print('sent')
";

fn python(port: &str, letters: &str) -> bool {
    // The system's own: another one earlier in `PATH` may be a slow wrapper.
    let program = Path::new("/usr/bin/python3");
    if !program.exists() {
        assert!(std::env::var_os("CI").is_none(), "{} is not there", program.display());
        println!("skipped: {} is not there", program.display());
        return false;
    }
    let mut command = Command::new(program);
    command.args(["-c", CLIENT, port]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ended = run_with(command, letters.as_bytes());
    assert!(ended.code == Some(0) && ended.stdout == "sent\n", "{ended:?}");
    true
}

/// A host of this name that knows the other.
fn host(folder: &Path, name: &str, other: &str, more: &[&str]) -> Server {
    let socket = |name: &str| format!("smtp+unix://{}", folder.join(name).display());
    let (domain, hostname, own) = (format!("{name}.example"), format!("mx.{name}.example"), socket(name));
    let names = ["--domain", &domain, "--hostname", &hostname, "--relay-host", &socket(other), "--queue-retry", "1s"];
    Server::start(
        &[&["serve", "--listen", "smtp://127.0.0.1:0?tls=none", "--listen", &own], &names[..], more].concat(),
        2,
    )
}

fn is_idle(server: &Server) -> bool {
    let data = server.folder().join("smtp-data");
    run(smtp(["queue", "stats", "--json", "--data-dir", data.to_str().unwrap()])).json()["messages"] == 0
}

#[test]
fn success_is_told_of_one_address_and_expansion_of_several() {
    let folder = TempDir::new().unwrap();
    let aliases = file(
        folder.path(),
        "aliases",
        "one: amy@there.example\nremote: amy@there.example, bob@there.example\nlocal: eve, kim\n\
         mixed: eve, amy@there.example\nme: me, amy@there.example\nbroken: eve, nobody@there.example\n",
    );
    let here = host(folder.path(), "here", "there", &["--alias-file", aliases.to_str().unwrap()]);
    let there = host(folder.path(), "there", "here", &["--mailbox", "amy@there.example,bob@there.example"]);
    let letters = "\
        one jo@here.example SUCCESS,FAILURE one@here.example\n\
        remote jo@here.example SUCCESS,FAILURE remote@here.example\n\
        local jo@here.example SUCCESS,FAILURE local@here.example\n\
        mixed jo@here.example SUCCESS,FAILURE mixed@here.example\n\
        me jo@here.example SUCCESS,FAILURE me@here.example\n\
        both jo@here.example SUCCESS,FAILURE local@here.example kim@here.example remote@here.example\n\
        broken jo@here.example SUCCESS,FAILURE broken@here.example\n\
        quiet jo@here.example SUCCESS broken@here.example\n\
        never jo@here.example NEVER broken@here.example\n\
        nobody <> SUCCESS,FAILURE remote@here.example\n\
        nobody-here <> SUCCESS local@here.example\n";
    let (_, port) = here.url().rsplit_once(':').unwrap();
    if !python(port.split('?').next().unwrap(), letters) {
        return;
    }
    // What each letter is told, by whom, of which recipient, and for which.
    let expected = [
        ("one", "there", "delivered", "amy@there.example", "one"),
        ("remote", "here", "expanded", "remote@here.example", ""),
        ("local", "here", "expanded", "local@here.example", ""),
        ("mixed", "here", "expanded", "mixed@here.example", ""),
        ("me", "here", "expanded", "me@here.example", ""),
        ("both", "here", "expanded", "local@here.example", ""),
        ("both", "here", "expanded", "remote@here.example", ""),
        ("both", "here", "delivered", "kim@here.example", ""),
        ("broken", "here", "expanded", "broken@here.example", ""),
        ("broken", "here", "failed", "nobody@there.example", "broken"),
        ("quiet", "here", "expanded", "broken@here.example", ""),
    ];
    let told = || -> Vec<String> {
        let about = |notice: &String| notice.split("\nFinal-Recipient: ").count() - 1;
        let notices = here.messages("here.example", "jo");
        notices.iter().flat_map(|notice| std::iter::repeat_n(notice.clone(), about(notice))).collect()
    };
    until("all is told", || told().len() >= expected.len());
    until("nothing waits", || is_idle(&here) && is_idle(&there));
    assert_eq!(told().len(), expected.len(), "{:?}", told());
    let notices = here.messages("here.example", "jo");
    for (mark, host, action, to, original) in expected {
        let original = match original {
            "" => "\n\n".to_owned(),
            alias => format!("\n\nOriginal-Recipient: rfc822; {alias}@here.example\n"),
        };
        let of = format!("{original}Final-Recipient: rfc822; {to}\nAction: {action}\n");
        let head = format!("Reporting-MTA: dns; mx.{host}.example\nOriginal-Envelope-Id: {mark}\n");
        let found = notices.iter().filter(|notice| notice.contains(&head) && notice.contains(&of)).count();
        assert_eq!(found, 1, "{head}{of} in {notices:?}");
    }
    for notice in &notices {
        for part in ["Return-Path: <>\n", "Auto-Submitted: auto-replied\n", "\nSubject: "] {
            assert!(notice.contains(part), "{part}: {notice}");
        }
    }
    // Each has each letter once, and the aliases' own mailboxes have none but that which is among its own targets.
    let subjects = |server: &Server, domain: &str, user: &str| {
        let subject = |text: String| text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned));
        let mut found: Vec<_> = server.messages(domain, user).into_iter().filter_map(subject).collect();
        found.sort();
        found.join(" ")
    };
    for (user, letters) in [
        ("eve", "both broken local mixed never nobody-here quiet"),
        ("kim", "both local nobody-here"),
        ("me", "me"),
        ("one", ""),
        ("remote", ""),
        ("local", ""),
        ("mixed", ""),
        ("broken", ""),
    ] {
        assert_eq!(subjects(&here, "here.example", user), letters, "{user}");
    }
    for (user, letters) in [("amy", "both me mixed nobody one remote"), ("bob", "both nobody remote")] {
        assert_eq!(subjects(&there, "there.example", user), letters, "{user}");
    }
}
