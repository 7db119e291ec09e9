//! A next hop that is dead for five days, with thousands of messages for it; SMTP_TEST_WEEK says another number.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use smtp_core::service::{BoxError, Outcome, Receipt, Transaction};
use smtp_queue::kit::{at, store};
use smtp_queue::{
    BoxDelivery, ByDomain, Limits, MemSpool, NewMessage, Schedule, Settings, Spool, SqliteSpool, Stats, new_message,
};
use tower::service_fn;

use crate::awake::Awake;
use crate::rig::{Does, Rig, World};

const MESSAGES: u64 = 2_000;
const HOUR: u64 = 3_600;

fn messages() -> u64 {
    std::env::var("SMTP_TEST_WEEK").ok().and_then(|n| n.parse().ok()).unwrap_or(MESSAGES)
}

/// From jo to a user of the dead next hop.
fn letter(n: u64, now: SystemTime) -> NewMessage {
    use smtp_core::types::{Envelope, Mail, Mailbox, Parameters, Rcpt};
    let to = Mailbox::new(&format!("user{n}@dead.example")).unwrap().into();
    let rcpt = Rcpt { to, parameters: Parameters::new("NOTIFY=FAILURE").unwrap() };
    let mail = Mail::new(Mailbox::new(&format!("jo{}@a.example", n % 100)).unwrap());
    let sender = format!("jo{}", n % 100).as_str().into();
    new_message(Envelope { mail, recipients: vec![rcpt] }, sender, &ByDomain, &Schedule::default(), now)
}

async fn fill(spool: &Arc<dyn Spool>, now: SystemTime) {
    let content = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(4_000));
    for first in (0..messages()).step_by(500) {
        let put = |n| {
            let (spool, content) = (Arc::clone(spool), content.clone());
            tokio::spawn(async move { store(&*spool, now, letter(n, now), content.as_bytes()).await.unwrap() })
        };
        for task in (first..messages().min(first + 500)).map(put).collect::<Vec<_>>() {
            task.await.unwrap();
        }
    }
}

/// What this process has in memory, and had at most, in MiB.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1_024
    })
}

/// A week of it, with the spool filled.
async fn week(spool: Arc<dyn Spool>, world: World) {
    let (began, filled) = (Instant::now(), memory());
    world.set("dead.example", Does::Dead);
    // Whom the notices name: for 100,000 of them their texts would be more than all else.
    let told = Arc::new(Mutex::new(HashSet::<String>::new()));
    let (seen, clock) = (Arc::clone(&told), world.clock());
    world.delegate("a.example", move |_| {
        let (seen, clock) = (Arc::clone(&seen), Arc::clone(&clock));
        BoxDelivery::new(service_fn(move |mut mail: Transaction| {
            let (seen, clock) = (Arc::clone(&seen), Arc::clone(&clock));
            async move {
                let (content, complete) = mail.body.collect(1 << 20).await?;
                let text = String::from_utf8_lossy(&content);
                let line = text.lines().find(|line| line.starts_with("Final-Recipient: ")).unwrap().to_owned();
                assert!(text.contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{text}");
                assert!(clock.now() >= at(120 * HOUR), "told too early");
                assert!(seen.lock().unwrap().insert(line), "told twice");
                Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), 1))
            }
        }))
    });
    let rig = Rig::over(spool, world, Settings::default());
    let mut late = Duration::ZERO;
    // Every hour somebody writes to a next hop that is well.
    for hour in 0..122 {
        let before = rig.world.clock().now();
        rig.send("amy@a.example", &["x@well.example"], "Subject: y\r\n\r\ny\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(HOUR)).await;
        let taken = rig.world.taken("well.example");
        assert_eq!(taken.len(), hour + 1, "in hour {hour}");
        late = late.max(taken[hour].time.duration_since(before).unwrap());
    }
    assert!(late < Duration::from_secs(1), "a message to another next hop waited {late:?}");

    // The next hop was probed by one job at a time, at the times of the schedule.
    let tries = rig.world.tries("dead.example");
    let start = tries[0];
    let rounds: Vec<_> = tries.iter().filter(|time| **time > start).collect();
    let pauses = std::iter::once(&start).chain(rounds.iter().copied()).zip(rounds.iter().copied());
    let expected = [1, 5, 15, 30, 60, 120].into_iter().chain(std::iter::repeat(240));
    for ((before, after), minutes) in pauses.zip(expected) {
        let pause = after.duration_since(*before).unwrap().as_secs_f64() / 60.0;
        assert!((pause / f64::from(minutes) - 1.0).abs() < 0.11, "{pause} min instead of {minutes}");
    }
    assert!((30..=45).contains(&rounds.len()), "{} rounds of attempts", rounds.len());
    assert!(tries.len() - rounds.len() <= 5, "{} attempts at once", tries.len() - rounds.len());

    // Each sender was told, once, and not before the time was over.
    assert_eq!(told.lock().unwrap().len() as u64, messages());
    assert_eq!(rig.counters.failed.load(Ordering::Relaxed), messages());
    assert_eq!(rig.counters.failed_without_notice.load(Ordering::Relaxed), 0);
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
    println!(
        "{} messages: {} attempts, {late:?} the longest wait of others, {:?} in all; [now, most] in memory: {filled:?} MiB \
         filled, {:?} MiB at the end",
        messages(),
        tries.len(),
        began.elapsed(),
        memory(),
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_next_hop_harms_nobody_and_its_senders_are_told_once() {
    let world = World::new();
    let spool: Arc<dyn Spool> = Arc::new(MemSpool::default());
    fill(&spool, world.clock().now()).await;
    week(spool, world).await;
}

#[tokio::test(start_paused = true)]
async fn nor_does_it_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| -> Arc<dyn Spool> { Arc::new(SqliteSpool::open(path, Limits::default()).unwrap()) };
    let (spool, world) = (open(folder.path()), World::new());
    fill(&spool, world.clock().now()).await;
    spool.close().await.unwrap();
    drop(spool);
    let start = Instant::now();
    let spool = open(folder.path());
    println!("opened with {} messages in {:?}", spool.stats().messages, start.elapsed());
    assert_eq!(spool.stats().messages, messages());
    week(Arc::new(Awake(Arc::clone(&spool))), world).await;
    spool.close().await.unwrap();
}
