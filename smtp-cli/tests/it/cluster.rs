//! Two servers on one queue in PostgreSQL: what was answered with 250 by either is delivered by one of them, whatever
//! happens to a server, or to the database.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::ledger::{Hop, Mood, Trouble, check, content, queued, sender};
use crate::pg_server::{self, PgServer};
use crate::play::{Server, run, smtp, until};

/// How long a node that says nothing keeps its work.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// What a node logs that has lost work.
pub(crate) const TAKEN_OVER: &str = "another node has taken over work";

/// What a node logs whose delivery was in vain.
const LOST: &str = "a lease was lost in mid-delivery";

/// What a busy node delivered this long ago it may not have written down yet.
fn shortly_before() -> SystemTime {
    SystemTime::now() - LEASE
}

/// A server with its folder, which outlives it.
pub(crate) struct Node {
    folder: TempDir,
    pub(crate) port: u16,
    arguments: Vec<String>,
}

impl Node {
    pub(crate) fn new(url: &str, bodies: &TempDir, hop: &Hop) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = [
            "serve",
            "--listen",
            &format!("smtp://127.0.0.1:{port}?tls=none"),
            "--relay-domain",
            "remote.example",
            "--route",
            &format!("remote.example={}", hop.url),
            "--queue",
            url,
            "--queue-bodies",
            bodies.path().to_str().unwrap(),
            "--queue-lease",
            &format!("{}s", LEASE.as_secs()),
            "--queue-retry",
            "1s",
            "--log",
            "warn",
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        Self { folder: TempDir::new().unwrap(), port, arguments }
    }

    pub(crate) fn start(&self) -> Server {
        let mut command = smtp(&self.arguments);
        command.current_dir(self.folder.path());
        Server::of(command, TempDir::new().unwrap(), 1)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("smtp-data")
    }

    pub(crate) fn send(&self, n: u64) {
        let message = self.folder.path().join("message");
        std::fs::write(&message, content(n)).unwrap();
        let url = format!("smtp://127.0.0.1:{}?tls=none", self.port);
        let sent = run(smtp([
            "send",
            "--server",
            &url,
            "--from",
            "ledger@localhost",
            "--to",
            "jo@remote.example",
            "--data",
            message.to_str().unwrap(),
        ]));
        assert_eq!(sent.code, Some(0), "{sent:?}");
    }
}

#[test]
fn no_250_is_lost_by_a_kill_a_hang_or_a_restart_of_the_database() {
    let Some(postgres) = PgServer::start() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let url = postgres.url();
    let nodes = [Node::new(&url, &bodies, &hop), Node::new(&url, &bodies, &hop)];
    let (next, stop, ledger) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let (mut troubles, begun) = (Vec::<Trouble>::new(), SystemTime::now());
    let pause = |seconds: f64| std::thread::sleep(Duration::from_secs_f64(seconds));
    std::thread::scope(|scope| {
        // Whatever fails, the senders end.
        let _stop = Stop(&stop);
        let (mut first, second) = (nodes[0].start(), nodes[1].start());
        for node in &nodes {
            for _ in 0..2 {
                let (next, stop, ledger) = (&next, &stop, &ledger);
                scope.spawn(move || sender(node.port, next, stop, ledger));
            }
        }
        let taken = |more: usize| {
            let before = ledger.lock().unwrap().len();
            until("more mail", || ledger.lock().unwrap().len() >= before + more);
        };
        taken(60);
        // One is ended by force, and comes back.
        let killed = shortly_before();
        hop.set(Mood::Slow);
        pause(0.3);
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        hop.set(Mood::Well);
        taken(40);
        troubles.push((killed, SystemTime::now() + LEASE));
        let first = nodes[0].start();
        taken(40);
        // The other hangs for longer than its lease, and goes on as if nothing had been.
        let stopped = shortly_before();
        hop.set(Mood::Slow);
        pause(0.3);
        second.signal("STOP");
        hop.set(Mood::Well);
        pause(2.5 * LEASE.as_secs_f64());
        second.signal("CONT");
        troubles.push((stopped, SystemTime::now() + LEASE));
        taken(40);
        // The database goes away in the middle of everything, and comes back.
        hop.set(Mood::Later);
        taken(20);
        hop.set(Mood::Well);
        let crashed = shortly_before();
        postgres.crash();
        pause(0.5);
        postgres.run();
        troubles.push((crashed, SystemTime::now() + 2 * LEASE));
        taken(40);
        stop.store(true, Ordering::SeqCst);
        until("an empty queue", || nodes.iter().all(|node| queued(&node.data()) == 0));
        for (server, planned) in [(first, 0), (second, 1)] {
            server.signal("TERM");
            let ended = server.finish();
            assert_eq!(ended.code, Some(0), "{ended:?}");
            // On a machine that has much else to do a node may lose its work without our help.
            if ended.stderr.matches(TAKEN_OVER).count() > planned {
                println!("a node has lost work that it was not meant to lose");
                troubles.push((begun, SystemTime::now()));
            }
        }
    });
    println!("{troubles:?}");
    let ledger = ledger.into_inner().unwrap();
    let data: Vec<_> = nodes.iter().map(Node::data).collect();
    check(&ledger, &hop, &data, &troubles);
    // All but the mark that says whose they are.
    let own = std::fs::read_dir(bodies.path()).unwrap().next().unwrap().unwrap().path();
    until("the end of all large bodies", || std::fs::read_dir(&own).unwrap().count() == 1);
}

/// Stops senders when it is dropped.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_a_dead_node_was_delivering_is_delivered_by_the_other() {
    let Some(postgres) = pg_server::shared() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let url = postgres.url();
    let nodes = [Node::new(&url, &bodies, &hop), Node::new(&url, &bodies, &hop)];
    // The one that is alone has all of the work.
    let mut first = nodes[0].start();
    hop.set(Mood::Slow);
    nodes[0].send(3);
    until("a delivery", || hop.arrived().len() == 1);
    let second = nodes[1].start();
    // What both see, from either.
    let shown = run(smtp(["queue", "list", "--json", "--data-dir", nodes[1].data().to_str().unwrap()]));
    assert_eq!(shown.json()["destination"], "remote.example", "{shown:?}");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    hop.set(Mood::Well);
    until("another delivery", || hop.arrived().len() == 2);
    until("an empty queue", || queued(&nodes[1].data()) == 0);
    // And what the dead one has never seen.
    nodes[1].send(4);
    until("a new one", || hop.arrived().len() == 3);
    second.signal("TERM");
    let ended = second.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_node_that_hung_in_mid_delivery_settles_nothing_any_more() {
    let Some(postgres) = pg_server::shared() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let url = postgres.url();
    let nodes = [Node::new(&url, &bodies, &hop), Node::new(&url, &bodies, &hop)];
    let first = nodes[0].start();
    hop.set(Mood::Slow);
    nodes[0].send(5);
    until("a delivery", || hop.arrived().len() == 1);
    let second = nodes[1].start();
    first.signal("STOP");
    // The other takes it over, and has not heard its 250 when the first one comes back and hears its own.
    until("another delivery", || hop.arrived().len() == 2);
    first.signal("CONT");
    std::thread::sleep(LEASE / 2);
    hop.set(Mood::Well);
    until("an empty queue", || nodes.iter().all(|node| queued(&node.data()) == 0));
    for server in [&first, &second] {
        server.signal("TERM");
    }
    let (first, second) = (first.finish(), second.finish());
    assert_eq!((first.code, second.code), (Some(0), Some(0)), "{first:?} {second:?}");
    assert!(first.stderr.contains(TAKEN_OVER) || first.stderr.contains(LOST), "{first:?}");
    // Unless the machine was so busy that the other lost it as well.
    let again = second.stderr.contains(TAKEN_OVER) || second.stderr.contains(LOST);
    assert!(hop.arrived().len() == 2 || again, "delivered again though it was settled");
}

#[test]
fn a_database_that_is_not_there_is_named_without_its_password() {
    let folder = TempDir::new().unwrap();
    let mut command =
        smtp(["serve", "--listen", "smtp://127.0.0.1:0", "--queue", "postgres://jo:hunter2@127.0.0.1:1/mail"]);
    command.current_dir(folder.path());
    let ended = run(command);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("127.0.0.1:1/mail") && ended.stderr.contains("PGPASSWORD"), "{ended:?}");
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}
