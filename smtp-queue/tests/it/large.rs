//! A queue of 100,000 messages for a dead next hop, on disk.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use smtp_queue::kit::{at, message, settle_all, store};
use smtp_queue::{Claim, Limits, NextHop, Settled, Spool, SqliteSpool};

const MESSAGES: u64 = 100_000;

/// Copies of the one message that is there, with ids of their own. Their checksums do not fit: nobody reads them here.
fn copy(folder: &Path) {
    let connection = Connection::open(SqliteSpool::database(folder)).unwrap();
    let numbers = format!("WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {})", MESSAGES - 1);
    let messages = "INSERT INTO message SELECT id + i, random, accepted, mail_from, parameters, sender, size, body_sum, \
                    sum, body, segment, place FROM message, k";
    let jobs = "INSERT INTO job SELECT message + i, n, random, lane, turn, due, alarm, expires, attempts, give_up, \
                cancelled, recipients, sum, status, reason FROM job, k";
    connection.execute_batch(&format!("BEGIN; {numbers} {messages}; {numbers} {jobs}; COMMIT")).unwrap();
}

/// Resident memory of this process, in MiB; 0 where the system does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1_024
}

#[tokio::test]
async fn it_opens_quickly_holds_little_and_delays_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let spool = SqliteSpool::open(folder.path(), Limits::default()).unwrap();
    let dead = message(at(0), "jo@a.example", &[("dead.example", &["x@dead.example"])]).unwrap();
    store(&spool, at(0), dead, &[b'x'; 1_000]).await.unwrap();
    spool.close().await.unwrap();
    copy(folder.path());

    let (before, start) = (resident(), Instant::now());
    let spool = SqliteSpool::open(folder.path(), Limits::default()).unwrap();
    let opened = start.elapsed();
    assert_eq!(spool.stats().jobs, MESSAGES);
    let rooms = HashMap::from([(NextHop::new("dead.example").unwrap(), 0)]);
    let mut times = Vec::new();
    for _ in 0..100 {
        let new = message(at(1), "amy@a.example", &[("well.example", &["x@well.example"])]).unwrap();
        store(&spool, at(1), new, b"y").await.unwrap();
        let start = Instant::now();
        let claim = Claim { rooms: rooms.clone(), ..Claim::up_to(10, at(1), Duration::from_secs(60)) };
        let leased = spool.claim(claim).await.unwrap().remove(0);
        times.push(start.elapsed());
        let done = settle_all(&leased, &Settled::Delivered("250".into()), at(1));
        spool.settle(leased.lease, at(1), done).await.unwrap();
    }
    times.sort_unstable();
    let grown = resident().saturating_sub(before);
    println!("opened in {opened:?}, {grown} MiB more, claims p50 {:?} p99 {:?}", times[49], times[98]);
    assert!(opened < Duration::from_secs(2), "opened in {opened:?}");
    assert!(grown < 64, "{grown} MiB");
    // Generous, for machines that do other things as well; a scan of the dead ones would take longer still.
    assert!(times[49] < Duration::from_millis(50), "a claim takes {:?}", times[49]);
    spool.close().await.unwrap();
}
