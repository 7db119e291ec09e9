//! A store that fails under the queue and the runner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smtp_queue::{Call, Error, Fault, FaultSpool, Filter, MemSpool, Settings, Stats};

use crate::rig::{Does, Rig, World};

const MAIL: &str = "Subject: x\r\n\r\nx\r\n";

fn broken() -> Error {
    Error::Storage("EIO".into())
}

/// The first `n` calls of a kind fail.
fn first(n: u64, call: Call, fault: Fault) -> impl Fn(Call) -> Option<Fault> + Send + Sync {
    let seen = AtomicU64::new(0);
    move |made| (made == call && seen.fetch_add(1, Ordering::Relaxed) < n).then(|| fault.clone())
}

fn rig(plan: impl Fn(Call) -> Option<Fault> + Send + Sync + 'static) -> Rig {
    let spool = FaultSpool::new(Arc::new(MemSpool::default()), plan);
    Rig::over(Arc::new(spool), World::new(), Settings::default())
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_refused() {
    for (call, error, code) in [
        (Call::Begin, Error::Full("no space".into()), 452),
        (Call::Begin, Error::Unhealthy("EIO".into()), 451),
        (Call::Write, Error::TooLarge { limit: 1 }, 552),
        (Call::Commit, broken(), 451),
    ] {
        let rig = rig(first(1, call, Fault::Before(error)));
        let refusal = rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap_err();
        assert_eq!(refusal.reply().code().get(), code, "{call:?}: {refusal}");
        assert!(!refusal.to_string().contains("EIO"), "strangers are told too much: {refusal}");
        assert_eq!(rig.spool.stats(), Stats::default());
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_is_a_refusal_though_the_message_is_there() {
    let rig = rig(first(1, Call::Commit, Fault::After(broken())));
    rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.world.taken("b.example").len(), 1, "better twice than never");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_while_nothing_can_be_settled_and_nothing_twice() {
    for lost in [false, true] {
        let fault = if lost { Fault::After(broken()) } else { Fault::Before(broken()) };
        let rig = rig(first(20, Call::Settle, fault));
        rig.world.set("b.example", Does::Takes(Duration::ZERO));
        rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        for _ in 0..10 {
            rig.send("jo@a.example", &["y@b.example"], MAIL).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        if !lost {
            assert_eq!(rig.world.tries("b.example").len(), 1, "more is delivered than can be written down");
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(rig.world.taken("b.example").len(), 11, "lost: {lost}");
        assert_eq!(rig.spool.stats(), Stats::default());
        assert_eq!(rig.counters.delivered.load(Ordering::Relaxed), 11, "lost: {lost}");
        assert_eq!(rig.counters.leases_lost.load(Ordering::Relaxed), 0, "lost: {lost}");
        rig.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_runner_outlives_a_store_that_cannot_be_read() {
    for call in [Call::Claim, Call::NextDue, Call::Body, Call::Maintain, Call::Renew] {
        let rig = rig(first(5, call, Fault::Before(broken())));
        rig.send("jo@a.example", &["x@b.example"], MAIL).await.unwrap();
        if call == Call::Body {
            // Whoever looks, or is told in the end, learns why it waits, and no more than that.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let listed = rig.spool.list(&Filter::default(), None, 9).await.unwrap().entries;
            let last = listed[0].job.recipients[0].last.as_deref();
            assert_eq!(last, Some("451 4.3.0 the queued message cannot be read now"));
        }
        tokio::time::sleep(Duration::from_secs(8 * 3_600)).await;
        assert_eq!(rig.world.taken("b.example").len(), 1, "{call:?}");
        rig.stop().await;
    }
}
