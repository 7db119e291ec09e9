//! A next hop that is dead for five days, with 100,000 messages for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use smtp_queue::kit::at;
use smtp_queue::{Settings, Stats};

use crate::rig::{Does, Rig};

const MESSAGES: u64 = 100_000;
const HOUR: u64 = 3_600;

#[tokio::test(start_paused = true)]
async fn a_dead_next_hop_harms_nobody_and_its_senders_are_told_once() {
    let rig = Rig::start(Settings::default());
    rig.world.set("dead.example", Does::Dead);
    for n in 0..MESSAGES {
        let recipient = format!("user{n}@dead.example NOTIFY=FAILURE");
        rig.send("jo@a.example", &[&recipient], "Subject: x\r\n\r\nx\r\n").await.unwrap();
    }
    let mut late = Duration::ZERO;
    // Every hour somebody writes to a next hop that is well.
    for hour in 0..121 {
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
    let bounces = rig.world.taken("a.example");
    assert_eq!(bounces.len() as u64, MESSAGES);
    let told: std::collections::HashSet<_> = bounces
        .iter()
        .map(|bounce| {
            let text = String::from_utf8_lossy(&bounce.content);
            let line = text.lines().find(|line| line.starts_with("Final-Recipient: ")).unwrap().to_owned();
            assert!(text.contains("Status: 5.4.7\r\n"), "{text}");
            line
        })
        .collect();
    assert_eq!(told.len() as u64, MESSAGES);
    let first = bounces.iter().map(|bounce| bounce.time).min().unwrap();
    assert!(first >= at(120 * HOUR), "told too early");
    assert_eq!(rig.counters.failed.load(Ordering::Relaxed), MESSAGES);
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}
