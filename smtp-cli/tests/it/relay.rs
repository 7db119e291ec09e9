//! `smtp serve` with a queue, and what goes with it: who may relay, where mail goes, what an administrator sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::ledger::{Hop, Mood};
use crate::play::{Line, Run, Server, file, run, smtp, until};

/// `AUTH PLAIN` for jo with the password "secret".
const AUTH: &str = "AUTH PLAIN AGpvAHNlY3JldA==";

/// `smtp serve` with these listeners and a user, and a relay host.
pub(crate) fn server(hop: &Hop, listeners: &[&str], more: &[&str]) -> Server {
    let listen = listeners.iter().flat_map(|url| ["--listen", url]);
    let common = ["--user", "jo:secret", "--relay-host", &hop.url];
    let soon: &[&str] = if more.contains(&"--queue-retry") { &[] } else { &["--queue-retry", "1s"] };
    let arguments: Vec<&str> = std::iter::once("serve")
        .chain(listen)
        .chain(common)
        .chain(soon.iter().copied())
        .chain(more.iter().copied())
        .collect();
    Server::start(&arguments, listeners.len())
}

/// `smtp send` as jo.
fn submit(url: &str, from: &str, to: &str) -> Run {
    let folder = TempDir::new().unwrap();
    let password = file(folder.path(), "password", "secret\n");
    let (from, to) = (["--from", from], ["--to", to]);
    let user = ["--user", "jo", "--insecure", "--password-file", password.to_str().unwrap()];
    run(smtp(["send", "--server", url].iter().chain(&from).chain(&to).chain(&user)))
}

fn queue(server: &Server, arguments: &[&str]) -> Run {
    let data = server.folder().join("smtp-data");
    let words = ["queue", arguments[0], "--data-dir", data.to_str().unwrap()];
    run(smtp(words.iter().chain(&arguments[1..])))
}

#[test]
fn users_send_to_anybody_and_strangers_to_nobody_else() {
    let hop = Hop::start();
    let listeners = ["smtp://127.0.0.1:0?role=submission", "smtp://127.0.0.1:0?role=mx", "smtp://127.0.0.1:0"];
    let server = server(&hop, &listeners, &[]);
    let sent = submit(&server.urls[0], "jo@localhost", "amy@remote.example");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(sent.stdout.contains("250 2.0.0 queued as "), "{sent:?}");
    until("it is relayed", || hop.arrived().len() == 1);
    let message = String::from_utf8(hop.arrived()[0].1.clone()).unwrap();
    assert!(message.starts_with("Received: from ") && message.contains(" with ESMTPSA "), "{message}");
    assert!(!message.contains("Return-Path") && message.matches("\nDate: ").count() == 1, "{message}");

    let said = |url: &str, words: &[&str]| {
        let mut line = Line::to(url);
        line.reply();
        words.iter().map(|word| line.say(word)).last().unwrap()
    };
    // Nobody authenticates where other hosts come in, and nobody sends without where users do.
    let greeted =
        run(smtp(["send", "--server", &server.urls[1], "--from", "a@b.example", "--to", "u@localhost", "--json"]));
    assert_eq!(greeted.code, Some(0), "{greeted:?}");
    assert!(said(&server.urls[1], &["EHLO x", AUTH]).starts_with("50"), "no AUTH is offered");
    assert!(said(&server.urls[0], &["EHLO x", "MAIL FROM:<a@b.example>"]).starts_with("530 5.7.0"));
    let sent = submit(&server.urls[2], "jo@localhost", "amy@remote.example");
    assert_eq!(sent.code, Some(0), "without a role it is both: {sent:?}");

    // The classic ways to talk a host into passing mail on.
    for url in &server.urls[1..] {
        for (from, to) in [
            ("<a@b.example>", "<x@remote.example>"),
            ("<>", "<x@remote.example>"),
            ("<a@localhost>", "<x@remote.example>"),
            ("<jo@localhost>", "<x@remote.example>"),
            ("<a@[127.0.0.1]>", "<x@remote.example>"),
            ("<a@b.example>", "<x%remote.example@localhost>"),
            ("<a@b.example>", "<x%remote.example@[127.0.0.1]>"),
            ("<a@b.example>", "<\"x@remote.example\"@localhost>"),
            ("<a@b.example>", "<\"x%remote.example\"@localhost>"),
            ("<a@b.example>", "<remote.example!x@localhost>"),
            ("<a@b.example>", "<remote.example!x@[127.0.0.1]>"),
            ("<a@b.example>", "<@localhost:x@remote.example>"),
            ("<a@b.example>", "<@localhost,@[127.0.0.1]:x@remote.example>"),
            ("<a@b.example>", "<x@REMOTE.example>"),
            ("<a@b.example>", "<x@[127.0.0.1]>"),
            ("<a@b.example>", "<x@localhost.remote.example>"),
            ("<a@b.example>", "<\"x@remote.example\"@remote.example>"),
            ("<a@b.example>", "<x@remote.example@localhost>"),
            ("<a@b.example>", "<\"x\"@remote.example>"),
        ] {
            let reply = said(url, &["EHLO x", &format!("MAIL FROM:{from}"), &format!("RCPT TO:{to}")]);
            assert!(reply.starts_with('5'), "{from} {to}: {reply}");
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(hop.arrived().len(), 2, "nothing but the user's mail got out");
}

#[test]
fn what_cannot_be_delivered_comes_back_once_and_to_nobody_who_is_nobody() {
    let hop = Hop::start();
    let server = server(&hop, &["smtp://127.0.0.1:0"], &[]);
    for from in ["jo@localhost", "<>"] {
        assert_eq!(submit(server.url(), from, "nobody@remote.example").code, Some(0));
    }
    until("it came back", || server.messages("localhost", "jo").len() == 1);
    let bounce = server.messages("localhost", "jo").remove(0);
    assert!(bounce.starts_with("Return-Path: <>\n"), "{bounce}");
    for part in ["Final-Recipient: rfc822; nobody@remote.example", "Action: failed", "Status: 5.1.1", "no such mailbox"]
    {
        assert!(bounce.contains(part), "{part}: {bounce}");
    }
    until("nothing waits", || queue(&server, &["stats", "--json"]).json()["messages"] == 0);
    assert_eq!(server.messages("localhost", "jo").len(), 1);
    assert!(hop.arrived().is_empty());
}

#[test]
fn mail_waits_while_the_next_hop_is_down_and_goes_when_it_is_back() {
    let hop = Hop::start();
    let server = server(&hop, &["smtp://127.0.0.1:0"], &["--queue-delay-notice", "1s"]);
    for (n, mood) in [Mood::Later, Mood::Gone].into_iter().enumerate() {
        hop.set(mood);
        assert_eq!(submit(server.url(), "jo@localhost", "amy@remote.example").code, Some(0));
        let why = if mood == Mood::Later { "451 4.7.1 not now" } else { "not reached" };
        until("the reason is told", || queue(&server, &["list", "--reason", "4"]).stdout.contains(why));
        hop.set(Mood::Well);
        until("it is delivered", || hop.arrived().len() == n + 1);
    }
    until("nothing waits", || queue(&server, &["stats", "--json"]).json()["jobs"] == 0);
    assert_eq!(hop.arrived().len(), 2, "once each");
}

#[test]
fn a_sender_is_told_of_a_delay_and_of_the_end() {
    let hop = Hop::start();
    hop.set(Mood::Later);
    let more = ["--queue-delay-notice", "1s", "--queue-lifetime", "3s"];
    let server = server(&hop, &["smtp://127.0.0.1:0"], &more);
    assert_eq!(submit(server.url(), "jo@localhost", "amy@remote.example").code, Some(0));
    let told = |what: &str| server.messages("localhost", "jo").iter().filter(|text| text.contains(what)).count();
    until("both notices came", || told("Action: delayed") == 1 && told("Action: failed") == 1);
    assert_eq!(told("Status: 5.4.7"), 1, "the time was over");
    until("nothing waits", || queue(&server, &["stats", "--json"]).json()["messages"] == 0);
}

#[test]
fn an_administrator_sees_and_changes_the_queue() {
    let hop = Hop::start();
    hop.set(Mood::Later);
    let more = ["--route", "other.example=smtp://127.0.0.1:1?tls=none", "--queue-retry", "1h"];
    let server = server(&hop, &["smtp://127.0.0.1:0"], &more);
    for to in ["amy@remote.example", "bob@remote.example", "eve@other.example"] {
        assert_eq!(submit(server.url(), "jo@localhost", to).code, Some(0));
    }
    let count = |filter: &[&str]| queue(&server, &[&["list", "--json"], filter].concat()).stdout.lines().count();
    until("all were tried", || count(&["--reason", "4."]) == 3);
    for (filter, n) in [
        (&["--destination", "relay:"][..], 2),
        (&["--destination", "other.example"], 1),
        (&["--destination", "no.example"], 0),
        (&["--sender", "jo"], 3),
        (&["--sender", "JO@localhost"], 3),
        (&["--sender", "<>"], 0),
        (&["--recipient", "BOB@"], 1),
        (&["--reason", "refused", "--destination", "other.example"], 1),
        (&["--older", "1h"], 0),
        (&["--status", "held"], 0),
        (&["--max", "2"], 2),
    ] {
        assert_eq!(count(filter), n, "{filter:?}");
    }
    // What waits behind another for a destination that is not reached is found by what is shown of it.
    assert_eq!(submit(server.url(), "jo@localhost", "dan@other.example").code, Some(0));
    assert_eq!(count(&["--reason", "IS NOT REACHED"]), 2);
    assert!(
        queue(&server, &["cancel", "--reason", "is not reached", "--recipient", "dan"]).stdout.contains("1 job was")
    );
    let shown = queue(&server, &["show", "--recipient", "eve"]);
    assert!(shown.stdout.contains("Connection refused"), "{shown:?}");
    // An hour, more or less a tenth.
    let next = shown.stdout.lines().find_map(|line| line.trim().strip_prefix("next         in ")).unwrap();
    assert!(next == "1h" || (next.ends_with('m') && next.starts_with('5')), "{shown:?}");

    // Nothing is changed by leaving something out.
    let all = queue(&server, &["cancel"]);
    assert_eq!(all.code, Some(64), "{all:?}");
    assert!(queue(&server, &["hold", "--recipient", "amy"]).stdout.contains("1 job was changed"));
    assert_eq!(count(&["--status", "held"]), 1);
    let id = queue(&server, &["list", "--json", "--recipient", "eve"]).json()["message"].as_str().unwrap().to_owned();
    assert!(queue(&server, &["cancel", &id]).stdout.contains("1 job was changed"));
    assert_eq!(count(&[]), 2);
    assert!(server.messages("localhost", "jo").is_empty(), "a cancelled message tells nobody");

    hop.set(Mood::Well);
    assert!(queue(&server, &["flush"]).code == Some(0));
    until("what is not held goes at once", || hop.arrived().len() == 1);
    assert_eq!(count(&[]), 1);
    assert!(queue(&server, &["release", "--all"]).stdout.contains("1 job was changed"));
    assert!(queue(&server, &["retry", "--all"]).code == Some(0));
    until("then that goes too", || hop.arrived().len() == 2);

    let stats = queue(&server, &["stats", "--json"]).json();
    assert_eq!((&stats["delivered"], &stats["failed_without_notice"]), (&2.into(), &0.into()), "{stats}");
    assert_eq!(queue(&server, &["stats", "--sender", "jo"]).code, Some(64));
    for wrong in [&["list", "--status", "lost"][..], &["hold", "xyz"]] {
        assert_eq!(queue(&server, wrong).code, Some(65), "{wrong:?}");
    }
    let run_folder = server.folder().join("smtp-data/run");
    assert_eq!(fs::metadata(run_folder).unwrap().permissions().mode() & 0o777, 0o700);
    let nobody = run(smtp(["queue", "list", "--data-dir", "/nowhere"]));
    assert_eq!(nobody.code, Some(69), "{nobody:?}");
}

#[test]
fn a_destination_gets_no_more_than_its_limit() {
    let hop = Hop::start();
    hop.set(Mood::Slow);
    let server = server(&hop, &["smtp://127.0.0.1:0"], &["--destination-limit", "relay:=2"]);
    for _ in 0..4 {
        assert_eq!(submit(server.url(), "jo@localhost", "amy@remote.example").code, Some(0));
    }
    let under_way = || queue(&server, &["stats", "--json"]).json()["under_way"].as_u64();
    until("two are under way", || under_way() == Some(2));
    let waiting = queue(&server, &["list"]).stdout;
    assert_eq!(waiting.matches("its turn has not come: 2 for its destination").count(), 2, "{waiting}");
    hop.set(Mood::Well);
    until("all arrive", || hop.arrived().len() == 4);
}

#[test]
fn a_destination_gets_no_more_in_a_time_than_its_rate() {
    let hop = Hop::start();
    let server = server(&hop, &["smtp://127.0.0.1:0"], &["--destination-limit", "relay:=2/1h"]);
    for _ in 0..3 {
        assert_eq!(submit(server.url(), "jo@localhost", "amy@remote.example").code, Some(0));
    }
    until("two arrive", || hop.arrived().len() == 2);
    until("it is said why the third does not", || {
        queue(&server, &["list"]).stdout.contains("gets no more in this time")
    });
    let shown = queue(&server, &["list", "--json"]).json();
    let next = shown["next"].as_u64().unwrap() - shown["accepted"].as_u64().unwrap();
    assert!((1_500..=1_860).contains(&next), "half an hour each: {shown}");
    assert_eq!(hop.arrived().len(), 2);
}

#[test]
fn a_hangup_reads_the_configuration_and_no_session_notices() {
    let hop = Hop::start();
    let folder = TempDir::new().unwrap();
    let config = |domains: &str, more: &str| {
        let text = format!(
            "listen = \"smtp://127.0.0.1:0?tls=none\"\ndomain = {domains}\nmailbox = [\"a@one.example\"{more}]\n"
        );
        file(
            folder.path(),
            "smtp.toml",
            &format!("{text}relay_domain = \"inside.example\"\nroute = \"inside.example={}\"\n", hop.url),
        )
    };
    let path = config("\"one.example\"", "");
    let server = Server::start(&["serve", "--config", path.to_str().unwrap()], 1);
    let mut old = server.connect();
    old.say("EHLO x");
    let rcpt = |line: &mut Line, to: &str| {
        line.say("RSET");
        line.say("MAIL FROM:<x@y.example>");
        line.say(&format!("RCPT TO:<{to}>"))
    };
    assert!(rcpt(&mut old, "b@one.example").starts_with("550 5.1.1"));
    config("[\"one.example\", \"two.example\"]", ", \"b@one.example\", \"c@two.example\"");
    server.signal("HUP");
    until("a new session knows it", || {
        let mut new = server.connect();
        new.say("EHLO x");
        rcpt(&mut new, "b@one.example").starts_with("250") && rcpt(&mut new, "c@two.example").starts_with("250")
    });
    assert!(rcpt(&mut old, "a@one.example").starts_with("250"), "the old one goes on");
    assert!(rcpt(&mut old, "x@inside.example").starts_with("250"));
    assert!(old.say("DATA").starts_with("354") && old.say("Subject: x\r\n\r\n.").starts_with("250"));
    until("it is relayed", || hop.arrived().len() == 1);

    // One that cannot be used changes nothing.
    fs::write(&path, "listen = 7").unwrap();
    server.signal("HUP");
    let mut new = server.connect();
    new.say("EHLO x");
    assert!(rcpt(&mut new, "c@two.example").starts_with("250"));
    // What is open may go on; these do not want to.
    drop((old, new));
    server.signal("TERM");
    let ended = server.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stderr.contains("configuration was read again") && ended.stderr.contains("the old one stays"),
        "{ended:?}"
    );
}

#[test]
fn the_example_configuration_can_be_used() {
    let folder = TempDir::new().unwrap();
    let example = include_str!("../../../docs/smtp.toml");
    // As it is, and with every line that it offers.
    for (name, text) in [("as-it-is.toml", example.to_owned()), ("all.toml", with_offers(example, folder.path()))] {
        let path = file(folder.path(), name, &text);
        let checked = run(smtp(["config", "check", path.to_str().unwrap()]));
        assert_eq!(checked.code, Some(0), "{name}: {checked:?}");
        let shown = run(smtp(["config", "show", path.to_str().unwrap()]));
        assert_eq!(shown.code, Some(0), "{shown:?}");
        // What is shown is a configuration, and means the same.
        let again = file(folder.path(), "again.toml", &shown.stdout);
        assert_eq!(run(smtp(["config", "show", again.to_str().unwrap()])).stdout, shown.stdout);
    }
    let path = file(folder.path(), "wrong.toml", "route = \"a.example=smtp://x user=jo password-file=/nowhere\"\n");
    let checked = run(smtp(["config", "check", path.to_str().unwrap()]));
    assert_eq!(checked.code, Some(78), "{checked:?}");
    let path = file(folder.path(), "unknown.toml", "relay_hots = \"smtp://x\"\n");
    let checked = run(smtp(["config", "check", path.to_str().unwrap()]));
    assert!(checked.stderr.contains("did you mean \"relay_host\"?"), "{checked:?}");
}

/// The example with its offers (`#key = …`) taken up, and files for those that name some.
fn with_offers(example: &str, folder: &Path) -> String {
    let password = file(folder, "password", "secret\n");
    let users = file(folder, "users", "");
    let aliases = file(folder, "aliases", "postmaster: jo\ntickets: |/bin/cat {user}\n");
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(offer) if offer.starts_with(|c: char| c.is_ascii_lowercase()) => offer,
        _ => line,
    });
    // Only root can name another user; and has to.
    let root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    let usable = |line: &&str| !line.starts_with("tls_") && (root || !line.starts_with("program_user"));
    let text = lines.filter(usable).collect::<Vec<_>>().join("\n");
    text.replace("/etc/smtp/relay-password", password.to_str().unwrap())
        .replace("/etc/smtp/users", users.to_str().unwrap())
        .replace("/etc/smtp/aliases", aliases.to_str().unwrap())
        .replace("/usr/bin/lists", "/bin/cat")
}
