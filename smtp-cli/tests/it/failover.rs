//! A queue in PostgreSQL with a replica that waits to be promoted: what was answered with 250 outlives the loss of the
//! primary, and a primary that comes back by itself is left alone.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::cluster::{LEASE, Node, Stop};
use crate::ledger::{Hop, Mood, check, queued, sender};
use crate::pg_server::PgServer;
use crate::play::until;

/// A primary, and a standby without which it commits nothing.
fn pair() -> Option<(PgServer, PgServer)> {
    let primary = PgServer::listening()?;
    let standby = primary.standby();
    primary.set("synchronous_standby_names = '*'");
    primary.ask("SELECT pg_reload_conf()");
    until("a standby that is waited for", || primary.ask("SELECT sync_state FROM pg_stat_replication") == "sync");
    Some((primary, standby))
}

/// All that a node would change, in a server that takes writes.
fn written(server: &PgServer) -> String {
    server.ask(
        "SELECT pg_is_in_recovery(), (SELECT count(*) FROM queue.message), (SELECT sum(epoch) FROM queue.shard), \
         (SELECT max(until) FROM queue.shard), (SELECT max(until) FROM queue.node)",
    )
}

#[test]
fn no_250_is_lost_by_a_failover_and_a_former_primary_is_left_alone() {
    let Some((former, promoted)) = pair() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let url =
        format!("postgres://smtp@127.0.0.1:{},127.0.0.1:{}/postgres?schema=queue", former.port(), promoted.port());
    let nodes = [Node::new(&url, &bodies, &hop), Node::new(&url, &bodies, &hop)];
    let (next, stop, ledger) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let begun = SystemTime::now();
    let mut logs = String::new();
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
        // Every eighth goes straight into a mailbox, with the database or without.
        let count = || ledger.lock().unwrap().iter().filter(|n| *n % 8 > 0).count();
        let taken = |more: usize| {
            let before = count();
            until("more mail", || count() >= before + more);
        };
        taken(40);
        // There has to be something to lose.
        hop.set(Mood::Later);
        taken(20);
        // One that sleeps through all of it, and knows the former one only.
        second.signal("STOP");
        former.crash();
        promoted.promote();
        hop.set(Mood::Well);
        taken(40);
        // The former one comes back, as one that takes writes.
        former.set("synchronous_standby_names = ''");
        former.run();
        let left = written(&former);
        assert!(left.starts_with("f|"), "{left}");
        second.signal("CONT");
        // Whoever starts now has to see which of the two it is.
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        let first = nodes[0].start();
        taken(40);
        // And while the right one is away, the wrong one is no better than none.
        promoted.crash();
        std::thread::sleep(LEASE);
        assert_eq!(written(&former), left, "somebody works on the former primary");
        promoted.run();
        taken(40);
        stop.store(true, Ordering::SeqCst);
        until("an empty queue", || nodes.iter().all(|node| queued(&node.data()) == 0));
        assert_eq!(written(&former), left, "somebody has worked on the former primary");
        for server in [first, second] {
            server.signal("TERM");
            let ended = server.finish();
            assert_eq!(ended.code, Some(0), "{ended:?}");
            logs.push_str(&ended.stderr);
        }
    });
    assert!(logs.contains("a former primary has come back"), "nobody was told of the former primary: {logs}");
    let data: Vec<_> = nodes.iter().map(Node::data).collect();
    // Whatever arrives twice is explained by all that happens here; that nothing is lost or changed is the point.
    check(&ledger.into_inner().unwrap(), &hop, &data, &[(begun, SystemTime::now() + Duration::from_secs(1))]);
}

#[test]
fn a_host_that_says_nothing_is_passed_over() {
    let Some(postgres) = PgServer::listening() else { return };
    // As of a machine that hangs: a connection is made, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (silent.local_addr().unwrap().port(), postgres.port());
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let node = Node::new(&format!("postgres://smtp@127.0.0.1:{first},127.0.0.1:{second}/postgres"), &bodies, &hop);
    let server = node.start();
    node.send(3);
    until("a delivery", || hop.arrived().len() == 1);
    server.signal("TERM");
    let ended = server.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
