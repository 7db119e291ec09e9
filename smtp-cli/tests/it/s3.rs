//! Large messages of a shared queue in a bucket, with a server that speaks S3: moto's, from PyPI.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::ledger::{Hop, Mood};
use crate::pg_server::PgServer;
use crate::play::{PATIENCE, Run, Server, run, smtp, until};

/// A server that runs, with nothing in it. Ended when dropped.
struct Moto {
    child: Child,
    port: u16,
    _home: TempDir,
}

impl Moto {
    /// A new one; `None` after printing why there is none.
    fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let Some(program) = all.iter().map(|folder| folder.join("moto_server")).find(|program| program.exists()) else {
            println!("skipped: moto_server is not in PATH; `pip install 'moto[server]'` into a venv brings it");
            return None;
        };
        let (port, home) =
            (TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(), TempDir::new().unwrap());
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(home.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moto = Self { child, port, _home: home };
        until("moto", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(moto)
    }

    /// The answer to a request.
    fn ask(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head =
            format!("{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n");
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The names of the objects in the bucket, but for the mark.
    fn objects(&self) -> Vec<String> {
        let answer = self.ask("GET /mail-bodies?list-type=2", "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let keys = answer.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        keys.map(|(key, _)| key.to_owned()).filter(|key| !key.ends_with("/mark")).collect()
    }

    /// From now on nobody's keys will do.
    fn lock(&self) {
        let answer = self.ask("POST /moto-api/reset-auth", "0");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.end();
    }
}

/// `smtp serve` with a queue in PostgreSQL and large bodies in `bucket`.
fn serve(moto: &Moto, queue: &str, bucket: &str, hop: &Hop) -> Command {
    let route = format!("remote.example={}", hop.url);
    let mut command = smtp(["serve", "--listen", "smtp://127.0.0.1:0?tls=none", "--relay-domain", "remote.example"]);
    command.args(["--route", &route, "--queue", queue, "--queue-bodies", bucket, "--queue-retry", "1s"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", moto.port));
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret").env("AWS_REGION", "us-east-1");
    command
}

fn send(server: &Server, content: &str) -> Run {
    let message = server.folder().join("message");
    std::fs::write(&message, content).unwrap();
    let from = ["--from", "a@sender.example", "--to", "jo@remote.example"];
    let data = ["--data", message.to_str().unwrap()];
    run(smtp(["send", "--server", server.url()].iter().chain(&from).chain(&data)))
}

/// A message of about so many octets.
fn message(octets: usize) -> String {
    let lines = (0..octets / 60).map(|n| format!("{n:058}\r\n"));
    std::iter::once("Subject: large\r\n\r\n".to_owned()).chain(lines).collect()
}

#[test]
fn large_bodies_are_objects_in_a_bucket_until_they_are_delivered() {
    let (Some(mut moto), Some(postgres)) = (Moto::start(), PgServer::start()) else { return };
    let hop = Hop::start();
    let queue = postgres.url();
    // What stands in the way is told at the start.
    let cannot_start = |moto: &Moto, why: &str| {
        let folder = TempDir::new().unwrap();
        let mut command = serve(moto, &queue, "s3://mail-bodies/queue", &hop);
        command.current_dir(folder.path());
        let ended = run(command);
        assert_eq!(ended.code, Some(69), "{ended:?}");
        for part in ["smtp: error: the queue at ", ": cannot look in the store of bodies: ", "/mail-bodies/", why] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    };
    cannot_start(&moto, "<Code>NoSuchBucket</Code>");
    let made = moto.ask("PUT /mail-bodies", "");
    assert!(made.starts_with("HTTP/1.1 200 "), "{made}");
    let folder = TempDir::new().unwrap();
    let mut command = serve(&moto, &queue, "s3://mail-bodies/queue", &hop);
    command.current_dir(folder.path());
    let server = Server::of(command, folder, 1);
    hop.set(Mood::Later);
    // In its row, in one part, and in two, as they are sent.
    let contents = [1 << 10, 1 << 20, 6 << 20].map(message);
    for content in &contents {
        let sent = send(&server, content);
        assert_eq!(sent.code, Some(0), "{sent:?}");
    }
    let objects = moto.objects();
    assert!(objects.len() == 2 && objects.iter().all(|name| name.starts_with("queue/")), "{objects:?}");

    hop.set(Mood::Well);
    until("all of them", || hop.arrived().len() == contents.len());
    let arrived: Vec<String> = hop.arrived().into_iter().map(|(_, mail)| String::from_utf8(mail).unwrap()).collect();
    for content in &contents {
        assert_eq!(arrived.iter().filter(|mail| mail.ends_with(&**content)).count(), 1, "{} octets", content.len());
    }
    until("an empty bucket", || moto.objects().is_empty());

    // Without the store large messages have to come again, and all others go on.
    let only_small_ones = |arrived: usize| {
        for content in &contents[1..] {
            let sent = send(&server, content);
            assert!(sent.code == Some(75) && sent.stdout.contains("451 4.3.0"), "{sent:?}");
        }
        assert_eq!(send(&server, &contents[0]).code, Some(0));
        until("the small one", || hop.arrived().len() == arrived);
    };
    hop.set(Mood::Later);
    assert_eq!(send(&server, &contents[1]).code, Some(0));
    moto.lock();
    let data = server.folder().join("smtp-data");
    let listed = || run(smtp(["queue", "list", "--data-dir", data.to_str().unwrap()])).stdout;
    until("what is queued waits", || listed().contains("the queued message cannot be read now"));
    hop.set(Mood::Well);
    only_small_ones(contents.len() + 1);
    cannot_start(&moto, "403 Forbidden");
    moto.end();
    only_small_ones(contents.len() + 2);
    cannot_start(&moto, "error sending request");
    server.signal("TERM");
    let ended = server.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in [
        "go to their store in clear",
        "a queued message cannot be read now",
        "cannot begin a body in the store of bodies: ",
        "cannot read a body in the store of bodies: ",
        "403 Forbidden",
        "error sending request",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
}
