//! A queue in PostgreSQL with a replica that waits to be promoted: what was answered with 250 outlives the loss of the
//! primary, and a primary that comes back by itself is left alone.

use std::collections::HashSet;
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::cluster::{LEASE, Load, Node};
use crate::ledger::{Hop, Mood, Summary, check};
use crate::pg_server::PgServer;
use crate::play::{PATIENCE, Server, run, smtp, until};

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

/// A queue on either of these servers.
fn either(servers: [&PgServer; 2]) -> String {
    let [first, second] = servers.map(PgServer::port);
    format!("postgres://smtp@127.0.0.1:{first},127.0.0.1:{second}/postgres?schema=queue")
}

/// Two nodes whose queue is on either of these servers.
fn nodes(servers: [&PgServer; 2], bodies: &TempDir, hop: &Hop) -> [Node; 2] {
    let url = either(servers);
    [Node::new(&url, bodies, hop), Node::new(&url, bodies, hop)]
}

/// Ends both; what they have written to their logs.
fn end(servers: [Server; 2]) -> String {
    let ended = servers.map(|server| {
        server.signal("TERM");
        let ended = server.finish();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stderr
    });
    ended.concat()
}

/// Whatever arrives twice is explained by all that happens here; that nothing is lost or changed is the point.
fn check_since(begun: SystemTime, ledger: &HashSet<u64>, hop: &Hop, nodes: &[Node; 2]) {
    let data = nodes.each_ref().map(Node::data);
    let Summary { relayed, twice } = check(ledger, hop, &data, &[(begun, SystemTime::now() + Duration::from_secs(1))]);
    assert!(twice * 4 <= relayed, "{twice} of {relayed} were relayed twice");
}

#[test]
fn no_250_is_lost_by_a_failover_and_a_former_primary_is_left_alone() {
    let Some((former, promoted)) = pair() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let nodes = nodes([&former, &promoted], &bodies, &hop);
    let begun = SystemTime::now();
    let mut logs = String::new();
    let ledger = Load::during(&nodes, |load| {
        let (mut first, second) = (nodes[0].start(), nodes[1].start());
        load.taken(40);
        // There has to be something to lose.
        hop.set(Mood::Later);
        load.taken(20);
        // One that sleeps through all of it, and knows the former one only.
        second.signal("STOP");
        former.crash();
        promoted.promote();
        hop.set(Mood::Well);
        load.taken(40);
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
        load.taken(40);
        // And while the right one is away, the wrong one is no better than none.
        promoted.crash();
        std::thread::sleep(LEASE);
        assert_eq!(written(&former), left, "somebody works on the former primary");
        promoted.run();
        load.taken(40);
        load.end(&nodes, 3 * PATIENCE);
        assert_eq!(written(&former), left, "somebody has worked on the former primary");
        logs = end([first, second]);
    });
    assert!(logs.contains("a former primary has come back"), "nobody was told of the former primary: {logs}");
    check_since(begun, &ledger, &hop, &nodes);
}

#[test]
fn no_250_is_lost_when_a_primary_hangs_and_another_is_promoted() {
    let Some((former, promoted)) = pair() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let nodes = nodes([&former, &promoted], &bodies, &hop);
    let begun = SystemTime::now();
    let mut logs = String::new();
    let ledger = Load::during(&nodes, |load| {
        let servers = [nodes[0].start(), nodes[1].start()];
        load.taken(40);
        hop.set(Mood::Later);
        load.taken(20);
        // Its connections stay, and new ones are made; there is no answer on any.
        former.stop();
        promoted.promote();
        hop.set(Mood::Well);
        let silent = Instant::now();
        load.taken(40);
        println!("after {:?} there was more mail", silent.elapsed());
        // It comes back in the belief that it is the primary.
        former.go_on();
        load.taken(40);
        load.end(&nodes, 3 * PATIENCE);
        logs = end(servers);
    });
    assert_eq!(logs.matches("the queue's database has failed over").count(), 2, "{logs}");
    check_since(begun, &ledger, &hop, &nodes);
}

#[test]
fn a_node_that_started_on_a_former_primary_leaves_it() {
    let Some((former, promoted)) = pair() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let [node, _] = nodes([&former, &promoted], &bodies, &hop);
    // There are tables to begin with.
    let server = node.start();
    node.send(3);
    until("a delivery", || hop.arrived().len() == 1);
    server.signal("TERM");
    assert_eq!(server.finish().code, Some(0));
    former.crash();
    promoted.promote();
    promoted.crash();
    former.set("synchronous_standby_names = ''");
    former.run();
    // All that it can see.
    let server = node.start();
    node.send(4);
    until("a delivery", || hop.arrived().len() == 2);
    promoted.run();
    let epoch = |server: &PgServer| server.ask("SELECT max(epoch) FROM queue.shard");
    let before = epoch(&promoted);
    until("work on the one that was promoted", || epoch(&promoted) != before);
    let left = written(&former);
    node.send(5);
    until("a delivery", || hop.arrived().len() == 3);
    assert_eq!(written(&former), left, "somebody works on the former primary");
    server.signal("TERM");
    let ended = server.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("a former primary still takes what is written"), "{ended:?}");
}

#[test]
fn nothing_is_taken_while_the_standby_that_is_waited_for_is_away() {
    let Some((primary, standby)) = pair() else { return };
    let (hop, bodies) = (Hop::start(), TempDir::new().unwrap());
    let nodes = nodes([&primary, &standby], &bodies, &hop);
    let health = |node: &Node| {
        let stats = run(smtp(["queue", "stats", "--json", "--data-dir", node.data().to_str().unwrap()])).json();
        stats["health"].as_str().unwrap().to_owned()
    };
    let begun = SystemTime::now();
    let mut logs = String::new();
    let ledger = Load::during(&nodes, |load| {
        let servers = [nodes[0].start(), nodes[1].start()];
        load.taken(40);
        // The primary is reached, and answers; but no commit ends.
        standby.crash();
        until("somebody has seen it", || nodes.iter().all(|node| health(node) != "ready"));
        until("the reason", || nodes.iter().all(|node| health(node).contains("standby")));
        let taken = load.count();
        // One that starts now has nothing to begin with.
        let third = Node::new(&either([&primary, &standby]), &bodies, &hop);
        let refused = third.fails();
        assert_eq!(refused.code, Some(69), "{refused:?}");
        assert!(refused.stderr.contains("standby"), "{refused:?}");
        // An administrator is told to come again.
        let flush = run(smtp(["queue", "flush", "--data-dir", nodes[0].data().to_str().unwrap()]));
        assert_eq!(flush.code, Some(75), "{flush:?}");
        // Nobody who has waited in vain holds a connection for good.
        let waiting = || primary.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        until("an end of what waits in vain", || waiting().parse::<u32>().unwrap() <= 5);
        assert_eq!(load.count(), taken, "mail was taken that no standby has");
        let seen = nodes.each_ref().map(health);
        assert!(!seen.contains(&"ready".to_owned()), "{seen:?}");
        standby.run();
        until("all is well", || nodes.iter().all(|node| health(node) == "ready"));
        load.taken(40);
        load.end(&nodes, 3 * PATIENCE);
        logs = end(servers);
    });
    assert!(logs.matches("takes no mail until").count() >= 2, "{logs}");
    // What a sender was told 451 may have been stored, and was then sent again.
    check_since(begun, &ledger, &hop, &nodes);
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
