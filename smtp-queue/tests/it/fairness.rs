//! Nobody waits for others longer than their share, and clocks that jump change nothing.

use std::time::Duration;

use smtp_core::types::Refusal;
use smtp_queue::Settings;
use smtp_queue::kit::at;

use crate::rig::{Does, Rig};

const MAIL: &str = "Subject: hello\r\n\r\nthe content\r\n";
const YEAR: i64 = 365 * 86_400;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_sender_who_floods_a_destination_does_not_hold_up_another() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Takes(seconds(10)));
    for n in 0..500 {
        rig.send("flood@a.example", &[&format!("u{n}@b.example")], MAIL).await.unwrap();
    }
    tokio::time::sleep(seconds(1)).await;
    rig.send("jo@c.example", &["jo@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(3_600)).await;
    let taken = rig.world.taken("b.example");
    assert_eq!(taken.len(), 501);
    let place = taken.iter().position(|taken| taken.envelope.mail.from.to_string() == "<jo@c.example>").unwrap();
    // Those that were under way when it came, and at most one round more.
    assert!(place <= 20, "it was number {place}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_slow_and_flooded_does_not_hold_up_another() {
    let rig = Rig::start(Settings::default());
    rig.world.set("slow.example", Does::Takes(seconds(1_000)));
    for n in 0..500 {
        rig.send("flood@a.example", &[&format!("u{n}@slow.example")], MAIL).await.unwrap();
    }
    tokio::time::sleep(seconds(1)).await;
    for n in 0..50 {
        let sent = rig.world.clock().now();
        rig.send("flood@a.example", &["x@well.example"], MAIL).await.unwrap();
        tokio::time::sleep(seconds(60)).await;
        let taken = rig.world.taken("well.example");
        assert_eq!(taken.len(), n + 1);
        assert!(taken[n].time.duration_since(sent).unwrap() < seconds(1), "number {n} waited");
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_makes_no_storm_and_no_early_end() {
    for jump in [YEAR, -YEAR, 3_600, -3_600] {
        let rig = Rig::start(Settings::default());
        rig.world.set("grey.example", Does::Says(Refusal::fixed(451, (4, 7, 1), "greylisted")));
        rig.world.set("dead.example", Does::Dead);
        for hop in ["grey", "dead"] {
            rig.send("jo@a.example", &[&format!("x@{hop}.example")], MAIL).await.unwrap();
        }
        tokio::time::sleep(seconds(30)).await;
        rig.world.set_clock(jump);
        // After 1, 5, 15 and 30 min, a tenth by chance and a tenth by the clock that follows slowly.
        tokio::time::sleep(seconds(68 * 60)).await;
        for hop in ["grey.example", "dead.example"] {
            let tries = rig.world.tries(hop).len();
            assert_eq!(tries, 5, "{hop} was tried {tries} times after a jump of {jump} s");
        }
        // The delay notice is not early either, and comes.
        assert!(rig.world.taken("a.example").is_empty(), "told after an hour of a jump of {jump} s");
        tokio::time::sleep(seconds(4 * 3_600)).await;
        assert_eq!(rig.world.taken("a.example").len(), 2, "a jump of {jump} s");
        // What comes now goes now.
        rig.send("jo@a.example", &["x@well.example"], MAIL).await.unwrap();
        tokio::time::sleep(seconds(2)).await;
        assert_eq!(rig.world.taken("well.example").len(), 1, "a jump of {jump} s");
        assert_eq!(rig.spool.stats().jobs, 2, "given up too early after a jump of {jump} s");
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_in_time_though_the_clock_jumped() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Dead);
    rig.send("jo@a.example", &["x@b.example NOTIFY=FAILURE"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(30)).await;
    rig.world.set_clock(YEAR);
    // The clock gains a tenth as long as it is behind.
    tokio::time::sleep(seconds(100 * 3_600)).await;
    assert!(rig.world.taken("a.example").is_empty(), "given up too early");
    tokio::time::sleep(seconds(20 * 3_600)).await;
    assert_eq!(rig.world.taken("a.example").len(), 1);
    assert!(rig.world.clock().now() > at(120 * 3_600));
    rig.stop().await;
}
