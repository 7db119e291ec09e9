//! The promises.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use smtp_core::types::Refusal;

use super::{Case, Failure, at, claim, content, message, settle_all, store};
use crate::{
    Action, Claim, Error, Filter, Health, NewJob, NewNotice, NextHop, RecipientState, Settled, Settlement, Spool,
    Status, Why,
};

/// Fails a case with what was expected.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+).into());
        }
    };
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) fn all() -> Vec<Case> {
            vec![$(Case { name: stringify!($name), run: |spool| Box::pin($name(spool)) }),*]
        }
    };
}

cases![
    a_message_is_claimed_as_it_was_stored,
    what_is_dropped_before_the_commit_never_was,
    a_message_without_recipients_is_refused,
    large_and_empty_bodies_come_back,
    what_is_not_due_is_not_claimed,
    a_lease_is_exclusive_and_ends,
    a_renewed_lease_lasts,
    a_released_lease_is_free_at_once,
    a_stale_lease_settles_nothing,
    settling_is_per_recipient,
    a_settled_job_is_gone_and_takes_its_message_along,
    a_body_stays_until_the_last_job,
    a_notice_comes_with_its_settlement_or_not_at_all,
    rooms_of_next_hops_are_kept,
    next_hops_share_evenly,
    senders_share_evenly,
    priorities_go_first,
    alarms_come_though_there_is_no_room,
    next_due_is_the_first_time,
    hold_and_release,
    retry_and_reroute,
    what_its_sender_holds_is_not_released_early,
    cancel_and_give_up,
    control_wins_over_a_lease,
    a_job_that_is_rerouted_under_way_stands_in_nobodys_way,
    quarantine_is_shown_and_released,
    lists_page_and_filter,
    ids_grow,
    stats_count,
];

const MINUTE: Duration = Duration::from_secs(60);

fn delivered() -> Settled {
    Settled::Delivered("250 2.0.0 taken".into())
}

fn deferred() -> Settled {
    Settled::Deferred(Refusal::fixed(451, (4, 2, 0), "greylisted"))
}

fn failed() -> Settled {
    Settled::Failed(Refusal::fixed(550, (5, 1, 1), "no such mailbox"))
}

async fn a_message_is_claimed_as_it_was_stored(spool: &dyn Spool) -> Result<(), Failure> {
    let now = at(0);
    let mut new = message(now, "jo@a.example", &[("b.example", &["x@b.example", "y@b.example"])])?;
    new.mail.parameters = smtp_core::types::Parameters::new("SIZE=7 BODY=8BITMIME")?;
    let id = store(spool, now, new.clone(), b"hello\r\n").await?;
    let leased = claim(spool, now, 10).await?;
    ensure!(leased.len() == 1, "{} jobs", leased.len());
    let leased = &leased[0];
    ensure!(leased.message.id == id && leased.job.id.message == id, "another id");
    ensure!(leased.message.mail == new.mail && leased.message.sender == new.sender, "another envelope: {leased:?}");
    ensure!(leased.message.accepted == now && leased.message.size == 7, "another time or size: {leased:?}");
    ensure!(leased.why == Why::Due && leased.job.attempts == 0, "{leased:?}");
    ensure!(leased.job.envelope(&new.mail).recipients == new.jobs[0].recipients, "other recipients: {leased:?}");
    ensure!(content(spool, id).await? == b"hello\r\n"[..], "another body");
    Ok(())
}

async fn what_is_dropped_before_the_commit_never_was(spool: &dyn Spool) -> Result<(), Failure> {
    let mut staged = spool.begin(at(0), None).await?;
    let id = staged.id();
    staged.write(Bytes::from(vec![b'x'; 400_000])).await?;
    drop(staged);
    ensure!(claim(spool, at(0), 10).await?.is_empty(), "it is claimed");
    ensure!(spool.get(id).await?.is_empty(), "it is shown");
    ensure!(matches!(spool.body(id).await, Err(Error::NotFound)), "its body is there");
    Ok(())
}

async fn a_message_without_recipients_is_refused(spool: &dyn Spool) -> Result<(), Failure> {
    for jobs in [&[][..], &[("b.example", &[][..])]] {
        let result = store(spool, at(0), message(at(0), "", jobs)?, b"x").await;
        ensure!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    }
    ensure!(spool.stats().messages == 0, "it is counted");
    Ok(())
}

async fn large_and_empty_bodies_come_back(spool: &dyn Spool) -> Result<(), Failure> {
    for size in [0, 1, 262_143, 262_144, 262_145, 1_000_000] {
        let body: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[1] ^ 0x5a).collect();
        let id = store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, &body).await?;
        ensure!(content(spool, id).await? == body, "a body of {size} octets is another");
        // It can be read again and again.
        ensure!(content(spool, id).await?.len() == body.len(), "a body of {size} octets is another the second time");
    }
    Ok(())
}

async fn what_is_not_due_is_not_claimed(spool: &dyn Spool) -> Result<(), Failure> {
    let mut new = message(at(0), "", &[("b.example", &["x@b.example"])])?;
    new.jobs[0].due = at(10);
    store(spool, at(0), new, b"x").await?;
    ensure!(claim(spool, at(9), 10).await?.is_empty(), "too early");
    ensure!(claim(spool, at(10), 10).await?.len() == 1, "not in time");
    Ok(())
}

async fn a_lease_is_exclusive_and_ends(spool: &dyn Spool) -> Result<(), Failure> {
    store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let first = claim(spool, at(0), 10).await?;
    ensure!(first.len() == 1, "not claimed");
    ensure!(claim(spool, at(59), 10).await?.is_empty(), "claimed twice");
    let second = claim(spool, at(60), 10).await?;
    ensure!(second.len() == 1, "lost after its lease");
    ensure!(second[0].lease.epoch > first[0].lease.epoch, "the epoch does not grow");
    Ok(())
}

async fn a_renewed_lease_lasts(spool: &dyn Spool) -> Result<(), Failure> {
    store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let lease = claim(spool, at(0), 10).await?[0].lease;
    ensure!(spool.renew(&[lease], at(50), at(110)).await?.is_empty(), "lost while it lasted");
    ensure!(claim(spool, at(109), 10).await?.is_empty(), "claimed while it lasted");
    ensure!(spool.renew(&[lease], at(110), at(170)).await? == [lease], "renewed after its end");
    ensure!(claim(spool, at(110), 10).await?.len() == 1, "not free after its end");
    Ok(())
}

async fn a_released_lease_is_free_at_once(spool: &dyn Spool) -> Result<(), Failure> {
    store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let first = claim(spool, at(0), 10).await?;
    spool.release(&[first[0].lease]).await?;
    let again = claim(spool, at(0), 10).await?;
    ensure!(again.len() == 1 && again[0].job == first[0].job, "not as before: {again:?}");
    Ok(())
}

async fn a_stale_lease_settles_nothing(spool: &dyn Spool) -> Result<(), Failure> {
    store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let old = claim(spool, at(0), 10).await?.remove(0);
    let new = claim(spool, at(60), 10).await?.remove(0);
    let mut bounce = settle_all(&old, &failed(), at(0));
    let notice = message(at(0), "", &[("a.example", &["jo@a.example"])])?;
    bounce.notices.push(NewNotice { message: notice, body: Bytes::from_static(b"sorry") });
    for lease in [old.lease, crate::Lease { epoch: new.lease.epoch + 1, ..new.lease }] {
        let result = spool.settle(lease, at(61), bounce.clone()).await;
        ensure!(result == Err(Error::LeaseLost), "{result:?}");
    }
    ensure!(spool.stats().messages == 1, "a notice without its settlement");
    spool.settle(new.lease, at(61), settle_all(&new, &delivered(), at(61))).await?;
    let late = spool.settle(new.lease, at(61), settle_all(&new, &delivered(), at(61))).await;
    ensure!(late == Err(Error::LeaseLost), "settled twice: {late:?}");
    Ok(())
}

async fn settling_is_per_recipient(spool: &dyn Spool) -> Result<(), Failure> {
    let recipients: &[&str] = &["x@b.example", "y@b.example", "z@b.example"];
    let id = store(spool, at(0), message(at(0), "", &[("b.example", recipients)])?, b"x").await?;
    let leased = claim(spool, at(0), 10).await?.remove(0);
    let settlement = Settlement {
        results: vec![(0, delivered()), (1, failed()), (2, deferred())],
        due: at(300),
        ..settle_all(&leased, &deferred(), at(300))
    };
    spool.settle(leased.lease, at(1), settlement).await?;
    let [entry] = &spool.get(id).await?[..] else { return Err("not one job".into()) };
    let states: Vec<_> = entry.job.recipients.iter().map(|r| r.state).collect();
    ensure!(states == [RecipientState::Delivered, RecipientState::Failed, RecipientState::Waiting], "{states:?}");
    ensure!(entry.job.recipients[2].last.as_deref() == Some("451 4.2.0 greylisted"), "{entry:?}");
    ensure!(entry.job.attempts == 1 && entry.job.due == at(300) && entry.leased_until.is_none(), "{entry:?}");
    ensure!(claim(spool, at(299), 10).await?.is_empty(), "claimed before its time");
    let again = claim(spool, at(300), 10).await?.remove(0);
    ensure!(again.job.waiting().collect::<Vec<_>>() == [2], "{again:?}");
    // What is settled stays settled.
    let settlement =
        Settlement { results: vec![(0, failed()), (2, delivered())], ..settle_all(&again, &failed(), at(301)) };
    spool.settle(again.lease, at(301), settlement).await?;
    ensure!(spool.get(id).await?.is_empty(), "still there");
    Ok(())
}

async fn a_settled_job_is_gone_and_takes_its_message_along(spool: &dyn Spool) -> Result<(), Failure> {
    for body in [&b"x"[..], &[b'x'; 600_000]] {
        let id = store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, body).await?;
        let leased = claim(spool, at(0), 10).await?.remove(0);
        spool.settle(leased.lease, at(1), settle_all(&leased, &delivered(), at(1))).await?;
        ensure!(claim(spool, at(1_000_000), 10).await?.is_empty(), "it came back");
        ensure!(matches!(spool.body(id).await, Err(Error::NotFound)), "its body stayed");
        ensure!(spool.stats() == crate::Stats::default(), "{:?}", spool.stats());
    }
    Ok(())
}

async fn a_body_stays_until_the_last_job(spool: &dyn Spool) -> Result<(), Failure> {
    let jobs: &[(&str, &[&str])] = &[("b.example", &["x@b.example"]), ("c.example", &["x@c.example"])];
    let id = store(spool, at(0), message(at(0), "", jobs)?, &[b'y'; 300_000]).await?;
    let leased = claim(spool, at(0), 10).await?;
    ensure!(leased.len() == 2, "{} jobs", leased.len());
    spool.settle(leased[0].lease, at(1), settle_all(&leased[0], &delivered(), at(1))).await?;
    ensure!(content(spool, id).await?.len() == 300_000, "freed too early");
    spool.settle(leased[1].lease, at(1), settle_all(&leased[1], &delivered(), at(1))).await?;
    ensure!(spool.body(id).await.is_err(), "not freed");
    Ok(())
}

async fn a_notice_comes_with_its_settlement_or_not_at_all(spool: &dyn Spool) -> Result<(), Failure> {
    store(spool, at(0), message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let leased = claim(spool, at(0), 10).await?.remove(0);
    let mut settlement = settle_all(&leased, &failed(), at(1));
    // One that cannot be stored stops all of it.
    settlement.notices.push(NewNotice { message: message(at(1), "", &[])?, body: Bytes::new() });
    ensure!(spool.settle(leased.lease, at(1), settlement.clone()).await.is_err(), "an empty notice");
    ensure!(spool.stats().jobs == 1, "half of a settlement");
    let notice = message(at(1), "", &[("a.example", &["jo@a.example"])])?;
    settlement.notices = vec![NewNotice { message: notice, body: Bytes::from_static(b"sorry\r\n") }];
    let ids = spool.settle(leased.lease, at(1), settlement).await?;
    let after = claim(spool, at(1), 10).await?;
    ensure!(after.len() == 1 && ids == [after[0].message.id], "{after:?}");
    ensure!(content(spool, ids[0]).await? == b"sorry\r\n"[..], "another body");
    Ok(())
}

async fn rooms_of_next_hops_are_kept(spool: &dyn Spool) -> Result<(), Failure> {
    for hop in ["a.example", "b.example", "c.example"] {
        for _ in 0..5 {
            store(spool, at(0), message(at(0), "", &[(hop, &["x@y.example"])])?, b"x").await?;
        }
    }
    let rooms = HashMap::from([(NextHop::new("a.example")?, 0), (NextHop::new("b.example")?, 4)]);
    let claimed = spool.claim(Claim { room: 2, rooms, ..Claim::up_to(100, at(0), MINUTE) }).await?;
    let count = |hop: &str| claimed.iter().filter(|leased| leased.job.next_hop.as_str() == hop).count();
    let counts = ["a.example", "b.example", "c.example"].map(count);
    ensure!(counts == [0, 4, 2], "{counts:?}");
    Ok(())
}

async fn next_hops_share_evenly(spool: &dyn Spool) -> Result<(), Failure> {
    for _ in 0..30 {
        store(spool, at(0), message(at(0), "", &[("a.example", &["x@a.example"])])?, b"x").await?;
    }
    for hop in ["b.example", "c.example", "d.example"] {
        store(spool, at(5), message(at(5), "", &[(hop, &["x@y.example"])])?, b"x").await?;
    }
    let hops: HashSet<_> = claim(spool, at(5), 4).await?.into_iter().map(|leased| leased.job.next_hop).collect();
    ensure!(hops.len() == 4, "only {hops:?} had a turn");
    // Round after round, each goes on where the last ended.
    for _ in 0..2 {
        ensure!(claim(spool, at(5), 3).await?.len() == 3, "room unused");
    }
    Ok(())
}

async fn senders_share_evenly(spool: &dyn Spool) -> Result<(), Failure> {
    for _ in 0..300 {
        store(spool, at(0), message(at(0), "bulk@a.example", &[("b.example", &["x@b.example"])])?, b"x").await?;
    }
    store(spool, at(5), message(at(5), "jo@a.example", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let senders: HashSet<_> = claim(spool, at(5), 4).await?.into_iter().map(|leased| leased.message.sender).collect();
    ensure!(senders.len() == 2, "only {senders:?} had a turn");
    Ok(())
}

async fn priorities_go_first(spool: &dyn Spool) -> Result<(), Failure> {
    for (time, priority) in [(0, -3), (1, 0), (2, 9)] {
        let mut new = message(at(time), "", &[("b.example", &["x@b.example"])])?;
        new.jobs[0].priority = priority;
        store(spool, at(time), new, b"x").await?;
    }
    for expected in [9, 0, -3] {
        let claimed = claim(spool, at(5), 1).await?;
        ensure!(claimed.len() == 1 && claimed[0].job.priority == expected, "{claimed:?} instead of {expected}");
    }
    Ok(())
}

async fn alarms_come_though_there_is_no_room(spool: &dyn Spool) -> Result<(), Failure> {
    let mut new = message(at(0), "", &[("b.example", &["x@b.example"])])?;
    new.jobs[0].alarm = at(100);
    store(spool, at(0), new, b"x").await?;
    let none = |now| Claim { room: 0, ..Claim::up_to(10, now, MINUTE) };
    ensure!(spool.claim(none(at(99))).await?.is_empty(), "too early");
    let claimed = spool.claim(none(at(100))).await?;
    ensure!(claimed.len() == 1 && claimed[0].why == Why::Alarm, "{claimed:?}");
    ensure!(spool.claim(none(at(100))).await?.is_empty(), "claimed twice");
    let settlement =
        Settlement { results: vec![], attempted: false, alarm: at(500), ..settle_all(&claimed[0], &failed(), at(0)) };
    spool.settle(claimed[0].lease, at(101), settlement).await?;
    ensure!(spool.claim(none(at(499))).await?.is_empty(), "the alarm was not put off");
    ensure!(claim(spool, at(499), 1).await?.len() == 1, "it is no longer due");
    Ok(())
}

async fn next_due_is_the_first_time(spool: &dyn Spool) -> Result<(), Failure> {
    let any = Claim::up_to(10, at(0), MINUTE);
    ensure!(spool.next_due(&any).await?.is_none(), "an empty spool");
    for (hop, due) in [("a.example", 70), ("b.example", 50)] {
        let mut new = message(at(0), "", &[(hop, &["x@b.example"])])?;
        new.jobs[0].due = at(due);
        store(spool, at(0), new, b"x").await?;
    }
    ensure!(spool.next_due(&any).await? == Some(at(50)), "{:?}", spool.next_due(&any).await);
    let not_b = Claim { rooms: HashMap::from([(NextHop::new("b.example")?, 0)]), ..any.clone() };
    ensure!(spool.next_due(&not_b).await? == Some(at(70)), "{:?}", spool.next_due(&not_b).await);
    let leased = claim(spool, at(55), 10).await?.remove(0);
    ensure!(spool.next_due(&any).await? == Some(at(70)), "{:?}", spool.next_due(&any).await);
    spool.settle(leased.lease, at(56), settle_all(&leased, &deferred(), at(60))).await?;
    ensure!(spool.next_due(&any).await? == Some(at(60)), "{:?}", spool.next_due(&any).await);
    Ok(())
}

async fn hold_and_release(spool: &dyn Spool) -> Result<(), Failure> {
    let id = store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let all = Filter::default();
    ensure!(spool.control(&all, Action::Hold, at(1)).await? == 1, "not held");
    ensure!(spool.control(&all, Action::Hold, at(1)).await? == 0, "held twice");
    ensure!(claim(spool, at(10_000_000), 10).await?.is_empty(), "claimed though held");
    let any = Claim::up_to(10, at(1), MINUTE);
    ensure!(spool.next_due(&any).await?.is_none(), "due though held");
    ensure!(spool.stats().held == 1 && spool.get(id).await?[0].job.status == Status::Held, "not shown as held");
    ensure!(spool.control(&all, Action::Release, at(2)).await? == 1, "not released");
    ensure!(claim(spool, at(2), 10).await?.len() == 1 && spool.stats().held == 0, "not free");
    Ok(())
}

async fn retry_and_reroute(spool: &dyn Spool) -> Result<(), Failure> {
    let mut new = message(at(0), "", &[("b.example", &["x@b.example"])])?;
    new.jobs[0].due = at(5_000);
    store(spool, at(0), new, b"x").await?;
    ensure!(spool.control(&Filter::default(), Action::RetryAt(at(1)), at(1)).await? == 1, "not changed");
    ensure!(spool.control(&Filter::default(), Action::RetryAt(at(1)), at(1)).await? == 0, "changed again");
    let to = NextHop::new("c.example")?;
    ensure!(spool.control(&Filter::default(), Action::Reroute(to.clone()), at(1)).await? == 1, "not rerouted");
    let leased = claim(spool, at(1), 10).await?;
    ensure!(leased.len() == 1 && leased[0].job.next_hop == to, "{leased:?}");
    // What is under way is due when its attempt says, and what is held when it is released.
    ensure!(spool.control(&Filter::default(), Action::RetryAt(at(2)), at(2)).await? == 0, "changed under way");
    spool.settle(leased[0].lease, at(3), settle_all(&leased[0], &deferred(), at(9_000))).await?;
    spool.control(&Filter::default(), Action::Hold, at(4)).await?;
    ensure!(spool.control(&Filter::default(), Action::RetryAt(at(5)), at(5)).await? == 0, "changed though held");
    Ok(())
}

async fn what_its_sender_holds_is_not_released_early(spool: &dyn Spool) -> Result<(), Failure> {
    let mut new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])])?;
    new.mail.parameters = smtp_core::types::Parameters::new("HOLDFOR=600")?;
    new.jobs[0].due = at(600);
    store(spool, at(0), new.clone(), b"x").await?;
    ensure!(spool.control(&Filter::default(), Action::RetryAt(at(1)), at(1)).await? == 0, "it is not tried now");
    ensure!(claim(spool, at(599), 10).await?.is_empty(), "released too early");
    let leased = claim(spool, at(600), 10).await?;
    ensure!(leased.len() == 1 && leased[0].message.mail == new.mail, "not released in time: {leased:?}");
    // Later its time is over like any other's.
    spool.settle(leased[0].lease, at(601), settle_all(&leased[0], &deferred(), at(9_000))).await?;
    spool.control(&Filter::default(), Action::RetryAt(at(700)), at(700)).await?;
    ensure!(claim(spool, at(700), 10).await?.len() == 1, "not tried again when told to");
    let id = store(spool, at(700), new, b"x").await?;
    ensure!(spool.control(&Filter::message(id), Action::Cancel, at(701)).await? == 1, "not cancelled");
    ensure!(spool.get(id).await?.is_empty(), "still there");
    Ok(())
}

async fn cancel_and_give_up(spool: &dyn Spool) -> Result<(), Failure> {
    let mut new = message(at(0), "", &[("b.example", &["x@b.example"])])?;
    new.jobs[0].due = at(5_000);
    let cancelled = store(spool, at(0), new.clone(), &[0; 400_000]).await?;
    ensure!(spool.control(&Filter::message(cancelled), Action::Cancel, at(1)).await? == 1, "not cancelled");
    ensure!(spool.stats().messages == 0 && spool.body(cancelled).await.is_err(), "still there");
    let given_up = store(spool, at(0), new, b"x").await?;
    ensure!(spool.control(&Filter::message(given_up), Action::GiveUp, at(2)).await? == 1, "not given up");
    let leased = claim(spool, at(2), 10).await?;
    ensure!(leased.len() == 1 && leased[0].job.give_up, "{leased:?}");
    Ok(())
}

async fn control_wins_over_a_lease(spool: &dyn Spool) -> Result<(), Failure> {
    let all = Filter::default();
    let recipients: &[&str] = &["x@b.example", "y@b.example"];
    // Cancelled under way: what was delivered was, and the rest vanishes.
    let id = store(spool, at(0), message(at(0), "", &[("b.example", recipients)])?, b"x").await?;
    let leased = claim(spool, at(0), 10).await?.remove(0);
    spool.control(&all, Action::Cancel, at(1)).await?;
    ensure!(spool.get(id).await?.len() == 1, "taken from under whoever works on it");
    let half =
        Settlement { results: vec![(0, delivered()), (1, deferred())], ..settle_all(&leased, &deferred(), at(9)) };
    spool.settle(leased.lease, at(2), half).await?;
    ensure!(spool.get(id).await?.is_empty(), "not cancelled");
    // Nobody is told, if it failed.
    let id = store(spool, at(0), message(at(0), "jo@a.example", &[("b.example", recipients)])?, b"x").await?;
    let leased = claim(spool, at(3), 10).await?.remove(0);
    spool.control(&all, Action::Cancel, at(4)).await?;
    let notice = message(at(4), "", &[("a.example", &["jo@a.example"])])?;
    let told = Settlement {
        notices: vec![NewNotice { message: notice, body: Bytes::from_static(b"sorry\r\n") }],
        ..settle_all(&leased, &failed(), at(9))
    };
    ensure!(spool.settle(leased.lease, at(5), told).await?.is_empty(), "the sender is told");
    ensure!(spool.get(id).await?.is_empty() && spool.stats().messages == 0, "not cancelled");
    // Cancelled under way, and never heard of again.
    let id = store(spool, at(0), message(at(0), "", &[("b.example", recipients)])?, b"x").await?;
    claim(spool, at(10), 10).await?;
    spool.control(&all, Action::Cancel, at(11)).await?;
    ensure!(claim(spool, at(500), 10).await?.is_empty() && spool.get(id).await?.is_empty(), "it came back");
    // Held under way.
    store(spool, at(0), message(at(0), "", &[("b.example", recipients)])?, b"x").await?;
    let leased = claim(spool, at(600), 10).await?.remove(0);
    spool.control(&all, Action::Hold, at(601)).await?;
    spool.settle(leased.lease, at(602), settle_all(&leased, &deferred(), at(603))).await?;
    ensure!(claim(spool, at(9_000), 10).await?.is_empty(), "not held");
    spool.control(&all, Action::Release, at(9_000)).await?;
    // Given up under way.
    let leased = claim(spool, at(9_000), 10).await?.remove(0);
    spool.control(&all, Action::GiveUp, at(9_001)).await?;
    spool.settle(leased.lease, at(9_002), settle_all(&leased, &deferred(), at(99_999))).await?;
    let again = claim(spool, at(9_002), 10).await?;
    ensure!(again.len() == 1 && again[0].job.give_up, "{again:?}");
    Ok(())
}

async fn a_job_that_is_rerouted_under_way_stands_in_nobodys_way(spool: &dyn Spool) -> Result<(), Failure> {
    let moved = store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    claim(spool, at(0), 10).await?;
    let to = Action::Reroute(NextHop::new("c.example")?);
    spool.control(&Filter::message(moved), to, at(1)).await?;
    store(spool, at(2), message(at(2), "", &[("c.example", &["y@c.example"])])?, b"x").await?;
    let others = claim(spool, at(2), 10).await?;
    ensure!(others.len() == 1 && others[0].message.id != moved, "{others:?}");
    // The lease ends without a word.
    let again = claim(spool, at(61), 10).await?;
    ensure!(again.len() == 1 && again[0].message.id == moved, "lost: {again:?}");
    ensure!(again[0].job.next_hop.as_str() == "c.example", "{again:?}");
    Ok(())
}

async fn quarantine_is_shown_and_released(spool: &dyn Spool) -> Result<(), Failure> {
    let id = store(spool, at(0), message(at(0), "", &[("b.example", &["x@b.example"])])?, b"x").await?;
    let leased = claim(spool, at(0), 10).await?.remove(0);
    let quarantine = Some("its body is damaged".to_owned());
    let settlement = Settlement { results: vec![], quarantine, ..settle_all(&leased, &failed(), at(1)) };
    spool.settle(leased.lease, at(1), settlement).await?;
    ensure!(claim(spool, at(100), 10).await?.is_empty(), "claimed though set aside");
    let entry = spool.get(id).await?.remove(0);
    ensure!(entry.job.status == Status::Quarantined, "{entry:?}");
    ensure!(entry.job.reason.as_deref() == Some("its body is damaged"), "{entry:?}");
    ensure!(spool.stats().quarantined == 1, "not counted");
    spool.control(&Filter::default(), Action::Release, at(101)).await?;
    ensure!(claim(spool, at(101), 10).await?.len() == 1 && spool.stats().quarantined == 0, "not released");
    Ok(())
}

async fn lists_page_and_filter(spool: &dyn Spool) -> Result<(), Failure> {
    let mut ids = Vec::new();
    for n in 0..25 {
        let (sender, hop) = if n % 2 == 0 { ("even@a.example", "b.example") } else { ("odd@a.example", "c.example") };
        let recipient = format!("user{n}@{hop}");
        let mut new = message(at(n), sender, &[(hop, &[&recipient])])?;
        if n == 1 {
            new.sender = "user".into();
        }
        ids.push(store(spool, at(n), new, b"x").await?);
    }
    let all = Filter::default();
    let (mut seen, mut after) = (Vec::new(), None);
    for _ in 0..10 {
        let page = spool.list(&all, after, 10).await?;
        ensure!(page.entries.len() <= 10, "a page of {}", page.entries.len());
        seen.extend(page.entries.into_iter().map(|entry| entry.job.id.message));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ensure!(seen == ids, "not all, or not in order");
    let hop = NextHop::new("c.example")?;
    let filters = [
        (Filter { next_hop: Some(hop.clone()), ..Filter::default() }, 12),
        (Filter { sender: Some("even@a.example".into()), ..Filter::default() }, 13),
        // The user who handed it in, and the address in MAIL FROM.
        (Filter { sender: Some("user".into()), ..Filter::default() }, 1),
        (Filter { sender: Some("Odd@a.example".into()), ..Filter::default() }, 12),
        (Filter { sender: Some("<>".into()), ..Filter::default() }, 0),
        (Filter { recipient: Some("USER7@".into()), ..Filter::default() }, 1),
        (Filter { before: Some(at(5)), ..Filter::default() }, 5),
        (Filter { status: Some(Status::Held), ..Filter::default() }, 0),
        (Filter { reason: Some("grey".into()), ..Filter::default() }, 0),
        (Filter { reason: Some("dead".into()), unreached: vec![hop], ..Filter::default() }, 12),
        (Filter::message(ids[3]), 1),
    ];
    for (filter, expected) in filters {
        let found = spool.list(&filter, None, 100).await?.entries.len();
        ensure!(found == expected, "{filter:?}: {found} instead of {expected}");
    }
    let leased = claim(spool, at(30), 1).await?.remove(0);
    let entry = spool.get(leased.message.id).await?.remove(0);
    ensure!(entry.leased_until == Some(at(90)), "{entry:?}");
    Ok(())
}

async fn ids_grow(spool: &dyn Spool) -> Result<(), Failure> {
    let mut last = None;
    for now in [at(10), at(10), at(5), at(11)] {
        let id = spool.begin(now, None).await?.id();
        ensure!(Some(id) > last, "{id} after {last:?}");
        last = Some(id);
    }
    Ok(())
}

async fn stats_count(spool: &dyn Spool) -> Result<(), Failure> {
    ensure!(spool.health() == Health::Ready, "{:?}", spool.health());
    let mut new = message(at(0), "", &[("b.example", &["x@b.example"]), ("c.example", &["x@c.example"])])?;
    let job: NewJob = new.jobs[0].clone();
    new.jobs.push(NewJob { due: at(1_000), ..job });
    store(spool, at(0), new, b"x").await?;
    claim(spool, at(0), 10).await?;
    let stats = spool.stats();
    ensure!((stats.messages, stats.jobs, stats.leased) == (1, 3, 2), "{stats:?}");
    spool.maintain(at(60)).await?;
    ensure!(spool.stats().leased == 0, "leases outlive their end");
    Ok(())
}
