//! From the way in to the way out, in virtual time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smtp_core::types::Refusal;
use smtp_queue::kit::{at, message, store};
use smtp_queue::{Action, Filter, Limits, MemSpool, Settings, SqliteSpool, Stats};

use crate::rig::{Does, Rig, World};

const MAIL: &str = "Subject: hello\r\nX-Mark: 42\r\n\r\nthe content\r\n";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn greylisted() -> Refusal {
    Refusal::fixed(451, (4, 7, 1), "greylisted")
}

fn unknown() -> Refusal {
    Refusal::fixed(550, (5, 1, 1), "no such mailbox")
}

#[tokio::test(start_paused = true)]
async fn mail_goes_to_its_next_hops_and_leaves_nothing() {
    let rig = Rig::start(Settings::default());
    let receipt = rig.send("jo@a.example", &["x@b.example", "y@c.example", "z@b.example"], MAIL).await.unwrap();
    assert!(receipt.reply().text().starts_with("queued in memory as "));
    tokio::time::sleep(seconds(1)).await;
    let [b] = &rig.world.taken("b.example")[..] else { panic!("one message for b") };
    assert_eq!(b.envelope.recipients.len(), 2);
    assert_eq!(b.content, MAIL.as_bytes());
    assert_eq!(rig.world.taken("c.example").len(), 1);
    assert_eq!(rig.spool.stats(), Stats::default());
    assert_eq!(rig.counters.delivered.load(Ordering::Relaxed), 3);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deferred_message_is_tried_on_schedule() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Says(greylisted()));
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(3_600)).await;
    let tries = rig.world.tries("b.example");
    let minutes: Vec<_> =
        tries.windows(2).map(|two| two[1].duration_since(two[0]).unwrap().as_secs_f64() / 60.0).collect();
    for (pause, expected) in minutes.iter().zip([1.0, 5.0, 15.0, 30.0]) {
        assert!((pause / expected - 1.0).abs() < 0.11, "{minutes:?}");
    }
    assert_eq!(tries.len(), 5, "{minutes:?}");
    rig.world.set("b.example", Does::Takes(Duration::ZERO));
    tokio::time::sleep(seconds(2 * 3_600)).await;
    assert_eq!(rig.world.taken("b.example").len(), 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_mixed_answer_is_settled_for_each_recipient() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Each(vec![Ok(()), Err(unknown()), Err(greylisted())]));
    rig.send("jo@a.example", &["x@b.example", "y@b.example", "z@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    rig.world.set("b.example", Does::Takes(Duration::ZERO));
    tokio::time::sleep(seconds(120)).await;
    let [b] = &rig.world.taken("b.example")[..] else { panic!("one more attempt") };
    assert_eq!(b.envelope.recipients.len(), 1);
    assert_eq!(b.envelope.recipients[0].to.to_string(), "<z@b.example>");
    let [bounce] = &rig.world.taken("a.example")[..] else { panic!("one bounce") };
    let text = String::from_utf8(bounce.content.clone()).unwrap();
    assert_eq!(bounce.envelope.mail.from.to_string(), "<>");
    for line in [
        "To: <jo@a.example>",
        "Content-Type: multipart/report; report-type=delivery-status;",
        "Auto-Submitted: auto-replied",
        "Reporting-MTA: dns; mx.example",
        "Final-Recipient: rfc822; y@b.example",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 no such mailbox",
        "X-Mark: 42",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "no {line} in\n{text}");
    }
    assert!(!text.contains("x@b.example") && !text.contains("the content"), "{text}");
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_notice_nor_against_notify_never() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Says(unknown()));
    rig.send("", &["x@b.example"], MAIL).await.unwrap();
    rig.send("jo@a.example", &["x@b.example NOTIFY=NEVER", "y@b.example NOTIFY=DELAY"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(rig.spool.stats(), Stats::default());
    assert!(rig.world.taken("a.example").is_empty());
    assert_eq!(rig.counters.failed_without_notice.load(Ordering::Relaxed), 3);
    // A bounce that bounces ends there.
    rig.world.set("a.example", Does::Says(unknown()));
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_breaks_defers_the_message_and_not_the_next_hop() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Breaks);
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    rig.world.set("b.example", Does::Takes(Duration::ZERO));
    rig.send("jo@a.example", &["y@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(rig.world.taken("b.example").len(), 1, "the other message went at once");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_its_sender_leaves_when_it_should() {
    let rig = Rig::start(Settings::default());
    rig.send("jo@a.example HOLDFOR=600", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(3_600)).await;
    let [b] = &rig.world.taken("b.example")[..] else { panic!("one message") };
    let late = b.time.duration_since(at(600)).unwrap();
    assert!(late < seconds(1), "{late:?}");
    assert!(b.envelope.mail.parameters.is_empty(), "the next hop is asked for nothing");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_sender_is_kept() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Says(greylisted()));
    rig.send("jo@a.example BY=600;R", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(599)).await;
    assert!(rig.world.taken("a.example").is_empty());
    tokio::time::sleep(seconds(2)).await;
    let [bounce] = &rig.world.taken("a.example")[..] else { panic!("one bounce") };
    assert!(String::from_utf8_lossy(&bounce.content).contains("Status: 5.4.7\r\n"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_is_told_once_of_a_delay_and_once_of_the_end() {
    const HOUR: u64 = 3_600;
    for does in [Does::Dead, Does::Says(greylisted())] {
        let rig = Rig::start(Settings::default());
        rig.world.set("b.example", does);
        rig.send("jo@a.example", &["x@b.example", "y@b.example NOTIFY=FAILURE"], MAIL).await.unwrap();
        rig.send("jo@a.example", &["z@b.example NOTIFY=FAILURE"], MAIL).await.unwrap();
        tokio::time::sleep(seconds(4 * HOUR - 1)).await;
        assert!(rig.world.taken("a.example").is_empty(), "too early");
        tokio::time::sleep(seconds(2)).await;
        let [delay] = &rig.world.taken("a.example")[..] else { panic!("one delay notice") };
        let text = String::from_utf8_lossy(&delay.content);
        assert!(text.contains("Action: delayed\r\nStatus: 4.") && text.contains("Will-Retry-Until: "), "{text}");
        assert!(text.contains("x@b.example") && !text.contains("y@b.example"), "{text}");
        tokio::time::sleep(seconds(116 * HOUR - 10)).await;
        assert_eq!(rig.world.taken("a.example").len(), 1, "told again, or too early");
        tokio::time::sleep(seconds(HOUR)).await;
        let notices = rig.world.taken("a.example");
        let failed = notices.iter().filter(|n| String::from_utf8_lossy(&n.content).contains("Action: failed"));
        assert_eq!((notices.len(), failed.count()), (3, 2));
        assert_eq!(rig.spool.stats(), Stats::default());
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_nothing_ran_has_a_last_chance() {
    let (spool, world) = (Arc::new(MemSpool::default()), World::new());
    for _ in 0..50 {
        let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
        store(&*spool, at(0), new, MAIL.as_bytes()).await.unwrap();
    }
    tokio::time::sleep(seconds(6 * 86_400)).await;
    world.set("b.example", Does::Takes(seconds(30)));
    let rig = Rig::over(spool, world, Settings::default());
    tokio::time::sleep(seconds(86_400)).await;
    assert_eq!(rig.world.taken("b.example").len(), 50);
    assert!(rig.world.taken("a.example").is_empty(), "given up without a try");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_administrator_may_give_up_and_the_sender_hears_of_it() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Dead);
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    rig.spool.control(&Filter::default(), Action::GiveUp, at(5)).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(rig.world.taken("a.example").len(), 1);
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_can_see_why_mail_waits_and_have_it_tried_at_once() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Dead);
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    let hop = smtp_queue::NextHop::new("b.example").unwrap();
    let state = rig.hops.get(&hop).unwrap();
    assert!(state.retry_at.is_some() && state.last.is_some(), "{state:?}");
    let page = rig.spool.list(&Filter::default(), None, 10).await.unwrap();
    assert!(page.entries[0].job.recipients[0].last.is_some(), "{page:?}");
    rig.world.set("b.example", Does::Takes(Duration::ZERO));
    rig.hops.revive(Some(&hop));
    rig.spool.control(&Filter::default(), Action::RetryAt(at(5)), at(5)).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(rig.world.taken("b.example").len(), 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_next_hop_keeps_its_lease_and_gets_the_mail_once() {
    let rig = Rig::start(Settings { lease: seconds(30), ..Settings::default() });
    rig.world.set("b.example", Does::Takes(seconds(300)));
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(rig.world.tries("b.example").len(), 1);
    assert_eq!(rig.spool.stats(), Stats::default());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_never_ends_is_ended() {
    let rig = Rig::start(Settings { attempt: seconds(600), ..Settings::default() });
    rig.world.set("b.example", Does::Takes(seconds(1_000_000)));
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(605)).await;
    let page = rig.spool.list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!((page.entries[0].job.attempts, page.entries[0].leased_until), (1, None), "{page:?}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_lease_is_lost_is_ended_and_settles_nothing() {
    let (spool, world) = (Arc::new(MemSpool::default()), World::new());
    let faulty = smtp_queue::FaultSpool::new(spool.clone(), |call| {
        (call == smtp_queue::Call::Renew).then(|| smtp_queue::Fault::Before(smtp_queue::Error::Storage("EIO".into())))
    });
    world.set("b.example", Does::Takes(seconds(100)));
    let rig = Rig::over(Arc::new(faulty), world, Settings { lease: seconds(30), ..Settings::default() });
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(95)).await;
    // Nobody could renew it, and so it was claimed again: the window of its next hop is what limits that.
    let tries = rig.world.tries("b.example").len();
    assert!((2..=4).contains(&tries), "{tries} attempts");
    rig.world.set("b.example", Does::Takes(Duration::ZERO));
    tokio::time::sleep(seconds(400)).await;
    assert_eq!(rig.spool.stats(), Stats::default());
    assert!(rig.counters.leases_lost.load(Ordering::Relaxed) >= 1);
    assert_eq!(rig.counters.delivered.load(Ordering::Relaxed), 1, "settled once");
    let hop = rig.hops.get(&smtp_queue::NextHop::new("b.example").unwrap()).unwrap();
    assert_eq!(hop.under_way, 0, "a place is lost for good: {hop:?}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_is_under_way_and_gives_the_rest_back() {
    let rig = Rig::start(Settings::default());
    rig.world.set("quick.example", Does::Takes(seconds(10)));
    rig.world.set("slow.example", Does::Takes(seconds(1_000)));
    rig.send("jo@a.example", &["x@quick.example", "x@slow.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    let (spool, world) = (rig.spool.clone(), rig.world.clone());
    rig.stop().await;
    assert_eq!(world.taken("quick.example").len(), 1);
    let stats = spool.stats();
    assert_eq!((stats.jobs, stats.leased), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_go_to_a_next_hop_at_once_than_it_has_shown_to_take() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Takes(seconds(10)));
    for _ in 0..500 {
        rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    }
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(rig.world.most_at_once(), 5);
    tokio::time::sleep(seconds(3_600)).await;
    assert_eq!(rig.world.most_at_once(), 20);
    assert_eq!(rig.world.taken("b.example").len(), 500);
    rig.stop().await;
}

/// In real time, over a store whose thread tells of a settlement before whoever asked for it hears.
#[tokio::test(flavor = "multi_thread")]
async fn a_next_hop_that_is_not_reached_is_tried_once() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(SqliteSpool::open(folder.path(), Limits::default()).unwrap());
    let rig = Rig::over(spool, World::new(), Settings::default());
    let hops: Vec<_> = (0..50).map(|n| format!("dead{n}.example")).collect();
    for hop in &hops {
        rig.world.set(hop, Does::Dead);
        rig.send("jo@a.example", &[&format!("x@{hop}")], MAIL).await.unwrap();
    }
    while hops.iter().any(|hop| rig.world.tries(hop).is_empty()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for hop in &hops {
        assert_eq!(rig.world.tries(hop).len(), 1, "{hop}");
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_behind_another_for_a_next_hop_is_told_why() {
    let rig = Rig::start(Settings::default());
    rig.world.set("b.example", Does::Dead);
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    rig.send("jo@a.example BY=20;N", &["y@b.example"], MAIL).await.unwrap();
    tokio::time::sleep(seconds(30)).await;
    let [notice] = &rig.world.taken("a.example")[..] else { panic!("one notice") };
    let text = std::str::from_utf8(&notice.content).unwrap();
    assert!(text.contains("Action: delayed\r\n") && text.contains("\r\nDiagnostic-Code: "), "{text}");
    assert!(!text.contains("it was not tried"), "{text}");
    rig.stop().await;
}
