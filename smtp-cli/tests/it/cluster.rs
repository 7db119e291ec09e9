//! Two servers on one queue in PostgreSQL: what was answered with 250 by either is delivered by one of them, whatever
//! happens to a server, or to the database.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::ledger::{Hop, Mood, Summary, Trouble, chance, check, content, kills, queued, sender};
use crate::pg_server::{self, PgServer};
use crate::play::{PATIENCE, Run, Server, run, smtp, until};

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

    /// It does not start: what it says.
    pub(crate) fn fails(&self) -> Run {
        let mut command = smtp(&self.arguments);
        command.current_dir(self.folder.path());
        run(command)
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

/// Mail that is sent to two nodes.
#[derive(Default)]
pub(crate) struct Load {
    next: AtomicU64,
    stop: AtomicBool,
    ledger: Mutex<HashSet<u64>>,
}

impl Load {
    /// Two senders for each node, while `events` happen to them. What was answered with 250.
    pub(crate) fn during(nodes: &[Node; 2], events: impl FnOnce(&Self)) -> HashSet<u64> {
        let load = Self::default();
        std::thread::scope(|scope| {
            // Whatever fails, the senders end.
            let _stop = Stop(&load.stop);
            for node in nodes.iter().flat_map(|node| [node, node]) {
                scope.spawn(|| sender(node.port, &load.next, &load.stop, &load.ledger));
            }
            events(&load);
        });
        load.ledger.into_inner().unwrap()
    }

    /// Waits until so many more are taken into the queue: every eighth goes straight into a mailbox, with the database or
    /// without.
    pub(crate) fn taken(&self, more: usize) {
        let before = self.count();
        until("more mail", || self.count() >= before + more);
    }

    /// How many were taken into the queue.
    pub(crate) fn count(&self) -> usize {
        self.ledger.lock().unwrap().iter().filter(|n| *n % 8 > 0).count()
    }

    /// Ends it, and waits until all is delivered.
    pub(crate) fn end(&self, nodes: &[Node; 2], patience: Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let last = Instant::now() + patience;
        while nodes.iter().any(|node| queued(&node.data()) > 0) {
            assert!(Instant::now() < last, "{} are still queued", queued(&nodes[0].data()));
            pause(0.1);
        }
    }
}

/// Stops senders when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What happens to two nodes under load: as many kills as asked for, now of one and now of the other; every tenth time
/// the database is restarted as well, and every twentieth time a node hangs for longer than its lease.
#[test]
fn no_250_is_lost_by_twenty_kills_a_hang_and_restarts_of_the_database() {
    let Some(postgres) = PgServer::start() else { return };
    let (kills, mut chance) = (kills(), chance());
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let url = postgres.url();
    let nodes = [Node::new(&url, &bodies, &hop), Node::new(&url, &bodies, &hop)];
    let (mut troubles, begun) = (Vec::<Trouble>::new(), SystemTime::now());
    let ledger = Load::during(&nodes, |load| {
        let mut servers = [nodes[0].start(), nodes[1].start()];
        load.taken(60);
        for n in 1..=kills {
            let (one, moods) = (chance.usize(..2), [Mood::Well, Mood::Well, Mood::Slow, Mood::Later, Mood::Gone]);
            hop.set(moods[chance.usize(..moods.len())]);
            // Now and then long enough for a node to take over what the one before it had.
            pause(0.02 + [0.7, 0.7, 2.0 * LEASE.as_secs_f64()][chance.usize(..3)] * chance.f64());
            let from = shortly_before();
            servers[one].child.kill().unwrap();
            servers[one].child.wait().unwrap();
            servers[one] = nodes[one].start();
            if n % 10 == 5 {
                println!("after {n} kills the database is restarted");
                postgres.crash();
                pause(0.5);
                postgres.run();
            }
            // The other one hangs, and goes on as if nothing had been.
            if n % 20 == 10 {
                println!("after {n} kills the other node hangs");
                servers[1 - one].signal("STOP");
                pause(2.5 * LEASE.as_secs_f64());
                servers[1 - one].signal("CONT");
            }
            troubles.push((from, SystemTime::now() + LEASE));
            hop.check();
        }
        hop.set(Mood::Well);
        load.taken(40);
        load.end(&nodes, 3 * PATIENCE + kills * Duration::from_millis(500));
        for server in servers {
            server.signal("TERM");
            let ended = server.finish();
            assert_eq!(ended.code, Some(0), "{ended:?}");
            // On a machine that has much else to do a node may lose its work without our help.
            if ended.stderr.contains(TAKEN_OVER) {
                println!("a node has lost work, which it was perhaps not meant to lose");
                troubles.push((begun, SystemTime::now()));
            }
        }
    });
    let data: Vec<_> = nodes.iter().map(Node::data).collect();
    let Summary { relayed, twice } = check(&ledger, &hop, &data, &troubles);
    // However troubled it was: what was on its way is little beside what was not.
    assert!(twice * 20 <= relayed, "{twice} of {relayed} were relayed twice");
    // All but the mark that says whose they are, the timeline of the database, and what was just being written or removed when its node was killed,
    // which is looked for a day later.
    let own = std::fs::read_dir(bodies.path()).unwrap().next().unwrap().unwrap().path();
    let left = std::fs::read_dir(&own).unwrap().count() - 2;
    println!("{left} bodies are left");
    assert!(left <= 2 * troubles.len(), "{left} bodies are left of {} kills", troubles.len());
}

fn pause(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
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
