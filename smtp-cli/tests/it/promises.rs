//! What `smtp serve` promises with a queue: notices, deadlines, held mail; and how its administrator sees and moves mail.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::ledger::{Hop, Mood};
use crate::play::{PATIENCE, Run, Server, run, smtp, until};

/// A session by hand, with whole replies.
struct Talk<S>(BufReader<S>);

impl<S: Read + Write> Talk<S> {
    /// Past the greeting and EHLO; with what that said.
    fn begin(stream: S) -> (Self, String) {
        let mut talk = Self(BufReader::new(stream));
        assert!(talk.reply().starts_with("220 "));
        let ehlo = talk.say("EHLO client.example");
        (talk, ehlo)
    }

    fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            assert_ne!(self.0.read_line(&mut reply).unwrap(), 0, "{reply}");
            if reply.as_bytes().get(start + 3) != Some(&b'-') {
                return reply;
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.reply()
    }

    /// One message, with what MAIL and RCPT ask; the last reply.
    fn send(&mut self, mail: &str, rcpt: &str) -> String {
        for command in [format!("MAIL FROM:{mail}"), format!("RCPT TO:{rcpt}")] {
            let reply = self.say(&command);
            assert!(reply.starts_with("250"), "{command}: {reply}");
        }
        assert!(self.say("DATA").starts_with("354"));
        self.say("Subject: promised\r\nX-Mark: 42\r\n\r\nthe content\r\n.")
    }
}

/// As a program on this machine.
fn program(server: &Server) -> Talk<UnixStream> {
    let stream = UnixStream::connect(server.folder().join("smtp-data/run/submit.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Talk::begin(stream).0
}

fn offers(url: &str) -> String {
    let stream = TcpStream::connect(url.rsplit('/').next().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Talk::begin(stream).1
}

fn serve(hop: &Hop, more: &[&str]) -> Server {
    let soon: &[&str] = if more.contains(&"--queue-retry") { &[] } else { &["--queue-retry", "1s"] };
    let common = ["--listen", "smtp://127.0.0.1:0?tls=none", "--relay-host", &hop.url];
    Server::start(&[&["serve"], &common[..], soon, more].concat(), 1)
}

fn queue(server: &Server, arguments: &[&str]) -> Run {
    let data = server.folder().join("smtp-data");
    let words = ["queue", arguments[0], "--data-dir", data.to_str().unwrap()];
    run(smtp(words.iter().chain(&arguments[1..])))
}

/// The types of the parts of a report, as another's parser sees them.
fn parts(report: &str) -> Vec<String> {
    use mail_parser::{MessageParser, MimeHeaders, PartType};
    let report = MessageParser::default().parse(report.as_bytes()).unwrap();
    let name = |part: &mail_parser::MessagePart<'_>| {
        let kind = part.content_type().unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default())
    };
    let root = report.root_part();
    assert_eq!(name(root), "multipart/report");
    let PartType::Multipart(parts) = &root.body else { panic!("{report:?}") };
    parts.iter().map(|n| name(&report.parts[*n as usize])).collect()
}

#[test]
fn what_is_offered_depends_on_the_queue_and_on_who_comes() {
    let hop = Hop::start();
    let submission = ["--listen", "smtp://127.0.0.1:0?role=submission", "--user", "jo:secret"];
    let server = Server::start(
        &[&["serve", "--listen", "smtp://127.0.0.1:0?role=mx", "--relay-host", &hop.url], &submission[..]].concat(),
        2,
    );
    let (mx, users) = (offers(&server.urls[0]), offers(&server.urls[1]));
    for (ehlo, keyword, offered) in [
        (&mx, "DSN", true),
        (&mx, "DELIVERBY 60", true),
        (&mx, "FUTURERELEASE", false),
        (&mx, "MT-PRIORITY", false),
        (&users, "DSN", true),
        (&users, "DELIVERBY 60", true),
        (&users, "FUTURERELEASE 2592000 2", true),
        (&users, "MT-PRIORITY", true),
    ] {
        assert_eq!(ehlo.contains(keyword), offered, "{keyword}: {ehlo}");
    }
    let stream = TcpStream::connect(server.urls[0].rsplit('/').next().unwrap()).unwrap();
    let mut talk = Talk::begin(stream).0;
    assert!(talk.say("MAIL FROM:<a@b.example> BY=59;R").starts_with("550 5.4.7"), "less than it takes to try again");
    assert!(talk.say("MAIL FROM:<a@b.example> HOLDFOR=60").starts_with("555 5.5.4"));
    assert!(talk.say("MAIL FROM:<a@b.example> BY=60;R RET=HDRS").starts_with("250"));
    let alone = Server::serve(&[]);
    let ehlo = offers(alone.url());
    for keyword in ["DSN", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY"] {
        assert!(!ehlo.contains(keyword), "{keyword}: {ehlo}");
    }
}

#[test]
fn senders_are_told_what_they_asked_for() {
    let hop = Hop::start();
    let server = serve(&hop, &[]);
    let mut talk = program(&server);
    // Into a mailbox here, by the queue: somebody has to write the notice.
    let queued = talk.send("<jo@localhost> ENVID=one", "<amy@localhost> NOTIFY=SUCCESS ORCPT=rfc822;amy@old.example");
    assert!(queued.contains("queued as"), "{queued}");
    // Nobody asked: straight into the mailbox.
    assert!(talk.send("<jo@localhost>", "<eve@localhost>").contains("message stored"));
    // To a server without DSN.
    talk.send("<jo@localhost> ENVID=two", "<amy@remote.example> NOTIFY=SUCCESS,FAILURE");
    talk.send("<jo@localhost> ENVID=three RET=FULL", "<nobody@remote.example>");
    talk.send("<jo@localhost> ENVID=four RET=HDRS", "<nobody@remote.example>");
    talk.send("<jo@localhost> ENVID=five", "<nobody@remote.example> NOTIFY=NEVER");
    // A deadline that nobody further on keeps: by the rule of mode R it does not go there.
    talk.send("<jo@localhost> ENVID=six BY=600;R", "<late@remote.example>");
    until("all were told", || server.messages("localhost", "jo").len() == 5);
    until("nothing waits", || queue(&server, &["stats", "--json"]).json()["messages"] == 0);
    let notices = server.messages("localhost", "jo");
    assert_eq!(notices.len(), 5, "{notices:?}");
    let about = |mark: &str| {
        let line = format!("Original-Envelope-Id: {mark}\n");
        notices.iter().find(|text| text.contains(&line)).unwrap_or_else(|| panic!("nothing about {mark}: {notices:?}"))
    };
    for (mark, part) in [
        ("one", "Action: delivered\nStatus: 2.0.0\n"),
        ("one", "Original-Recipient: rfc822; amy@old.example\n"),
        ("two", "Action: relayed\nStatus: 2.0.0\n"),
        ("three", "Action: failed\nStatus: 5.1.1\n"),
        ("three", "the content\n"),
        ("four", "Action: failed\nStatus: 5.1.1\n"),
        ("six", "Status: 5.4.7\n"),
        ("six", "Deliver-By-Date: "),
    ] {
        assert!(about(mark).contains(part) && about(mark).contains("X-Mark: 42\n"), "{mark}, {part}: {}", about(mark));
    }
    assert!(!about("four").contains("the content\n"), "{}", about("four"));
    for (mark, returned) in
        [("one", "text/rfc822-headers"), ("three", "message/rfc822"), ("four", "text/rfc822-headers")]
    {
        assert_eq!(parts(about(mark)), ["text/plain", "message/delivery-status", returned], "{}", about(mark));
    }
    assert_eq!(hop.arrived().len(), 1);
    assert_eq!(server.messages("localhost", "amy").len(), 1);
}

#[test]
fn the_next_server_tells_where_it_can() {
    let folder = tempfile::TempDir::new().unwrap();
    let socket = |name: &str| format!("smtp+unix://{}", folder.path().join(name).display());
    let host = |name: &str, other: &str| {
        let (domain, hostname) = (format!("{name}.example"), format!("mx.{name}.example"));
        let names = ["--listen", &socket(name), "--domain", &domain, "--hostname", &hostname];
        Server::start(&[&["serve"], &names[..], &["--relay-host", &socket(other), "--queue-retry", "1s"]].concat(), 1)
    };
    let (here, there) = (host("here", "there"), host("there", "here"));
    let asked = "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;amy@old.example";
    program(&here).send("<jo@here.example> ENVID=e BY=600;N", &format!("<amy@there.example> {asked}"));
    until("it is told", || !here.messages("here.example", "jo").is_empty());
    for server in [&here, &there] {
        until("nothing waits", || queue(server, &["stats", "--json"]).json()["messages"] == 0);
    }
    assert_eq!(there.messages("there.example", "amy").len(), 1);
    let [notice] = &here.messages("here.example", "jo")[..] else { panic!("one notice") };
    for part in [
        "Reporting-MTA: dns; mx.there.example\nOriginal-Envelope-Id: e\n",
        "Deliver-By-Date: ",
        "Original-Recipient: rfc822; amy@old.example\nFinal-Recipient: rfc822; amy@there.example\nAction: delivered\n",
    ] {
        assert!(notice.contains(part), "{part}: {notice}");
    }
}

#[test]
fn what_is_held_for_its_sender_is_shown_and_stays() {
    let hop = Hop::start();
    let server = serve(&hop, &[]);
    let mut talk = program(&server);
    assert!(talk.say("MAIL FROM:<jo@localhost> HOLDFOR=2592001").starts_with("501 5.5.4"));
    for to in ["<amy@localhost>", "<bob@remote.example>"] {
        talk.send("<jo@localhost> HOLDFOR=9000", to);
    }
    let shown = queue(&server, &["list"]);
    assert_eq!(shown.stdout.matches("held for its sender").count(), 2, "{shown:?}");
    assert_eq!(shown.stdout.matches(" in 2h ").count(), 2, "{shown:?}");
    assert_eq!(queue(&server, &["flush"]).code, Some(0));
    let shown = queue(&server, &["list"]);
    assert_eq!(shown.stdout.matches(" in 2h ").count(), 2, "a flush releases nothing: {shown:?}");
    assert!(queue(&server, &["cancel", "--recipient", "bob"]).stdout.contains("1 job was changed"));
    assert_eq!(queue(&server, &["stats", "--json"]).json()["jobs"], 1);
    talk.send("<jo@localhost> MT-PRIORITY=7", "<amy@remote.example>");
    until("what is not held goes", || hop.arrived().len() == 1);
}

#[test]
fn mail_is_sent_another_way() {
    let hop = Hop::start();
    let more = ["--route", "gone.example=smtp://127.0.0.1:1?tls=none", "--queue-retry", "1h"];
    let server = serve(&hop, &more);
    program(&server).send("<jo@localhost>", "<amy@gone.example>");
    until("it was tried", || queue(&server, &["list", "--reason", "refused"]).stdout.contains("gone.example"));
    for (wrong, code) in [
        (&["reroute", "--all"][..], 64),
        (&["reroute", "--to", "relay:"], 64),
        (&["list", "--to", "relay:"], 64),
        (&["reroute", "--all", "--to", "local:"], 65),
        (&["reroute", "--all", "--to", "no domain"], 65),
        (&["reroute", "--all", "--to", ".unknown.example"], 65),
    ] {
        let wrong_way = queue(&server, wrong);
        assert_eq!(wrong_way.code, Some(code), "{wrong:?}: {wrong_way:?}");
    }
    assert!(hop.arrived().is_empty());
    let moved = queue(&server, &["reroute", "--destination", "gone.example", "--to", "RELAY:"]);
    assert!(moved.stdout.contains("1 job was changed"), "{moved:?}");
    until("it is delivered", || hop.arrived().len() == 1);
    until("nothing waits", || queue(&server, &["stats", "--json"]).json()["jobs"] == 0);
}

#[test]
fn the_log_has_a_line_for_each_recipient() {
    let hop = Hop::start();
    let server = serve(&hop, &["--user", "jo:hunter2"]);
    let mut talk = program(&server);
    talk.send("<jo@localhost>", "<nobody@remote.example>");
    talk.send("<jo@localhost>", "<amy@remote.example>");
    until("it is relayed", || hop.arrived().len() == 1);
    hop.set(Mood::Later);
    let queued = talk.send("<jo@localhost>", "<late@remote.example>");
    until("it was tried", || queue(&server, &["list"]).stdout.contains("not now"));
    hop.set(Mood::Well);
    until("nothing waits", || queue(&server, &["stats", "--json"]).json()["messages"] == 0);
    server.signal("TERM");
    let log = server.finish().stderr;
    let lines = |what: &str, to: &str| {
        let found =
            log.lines().filter(|line| line.contains(what) && line.contains(&format!("to=\"<{to}@remote.example>\"")));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    for (what, to, reply) in [
        ("bounced", "nobody", "550 5.1.1 no such mailbox"),
        ("delivered", "amy", "250 2.0.0 taken"),
        ("deferred", "late", "451 4.7.1 not now"),
    ] {
        let found = lines(what, to);
        assert!(!found.is_empty() && (to == "late" || found.len() == 1), "{what} {to}: {log}");
        for part in ["id=", "next_hop=\"relay:\"", "delay=", reply] {
            assert!(found[0].contains(part), "{part}: {}", found[0]);
        }
    }
    let id = queued.trim().rsplit(' ').next().unwrap();
    assert!(lines("delivered", "late")[0].contains(&format!("id={id}.0")), "{id}: {log}");
    assert!(log.contains("a notice to the sender was queued") && !log.contains("hunter2"), "{log}");
}

/// `smtp queue list` as the user `uid`, by a copy of the program that everybody can reach.
fn as_user(uid: u32, program: &Path, data: &Path) -> Run {
    let mut command = Command::new(program);
    let words = ["queue", "list", "--data-dir", data.to_str().unwrap()];
    command.args(words).uid(uid).gid(uid).current_dir("/").env_clear();
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    run(command)
}

#[test]
fn other_users_of_the_machine_are_turned_away() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        println!("skipped: only root can be another user");
        return;
    }
    let hop = Hop::start();
    let server = serve(&hop, &[]);
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let program = server.folder().join("smtp");
    fs::copy(env!("CARGO_BIN_EXE_smtp"), &program).unwrap();
    open(&program, 0o755);
    open(server.folder(), 0o755);
    let data = server.folder().join("smtp-data");
    // The folders keep them out.
    let out = as_user(NOBODY, &program, &data);
    assert!(out.code == Some(69) && out.stderr.contains("Permission denied"), "{out:?}");
    // If somebody opened them all, the peer is still asked who it is.
    let run_folder = data.join("run");
    for (path, mode) in [(&data, 0o755), (&run_folder, 0o755), (&run_folder.join("admin.sock"), 0o777)] {
        open(path, mode);
    }
    let out = as_user(NOBODY, &program, &data);
    assert_eq!(out.code, Some(69), "{out:?}");
    assert!(out.stdout.is_empty() && !out.stderr.contains("Permission denied"), "{out:?}");
    assert_eq!(as_user(0, &program, &data).code, Some(0), "root may");
    server.signal("TERM");
    let log = server.finish().stderr;
    assert!(log.contains("was turned away") && log.contains("uid=65534"), "{log}");
}
