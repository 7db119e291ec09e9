use super::*;
use crate::id::JobId;
use crate::kit::at;

fn hop(name: &str) -> NextHop {
    NextHop::new(name).unwrap()
}

fn refusal() -> Refusal {
    Refusal::fixed(451, (4, 4, 1), "no answer")
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

fn within(pause: Duration, base: Duration) -> bool {
    pause >= base * 9 / 10 && pause <= base * 11 / 10
}

#[test]
fn the_schedule_is_what_it_says_with_jitter() {
    let schedule = Schedule::default();
    let ids = crate::id::Ids::after(0);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let job = JobId { message: ids.next(at(0)), n: 0 };
        for (attempts, expected) in (1..).zip([1, 5, 15, 30, 60, 120, 240, 240, 240]) {
            let pause = schedule.retry_at(job, attempts, at(0), at(10_000_000)).duration_since(at(0)).unwrap();
            assert!(within(pause, minutes(expected)), "attempt {attempts}: {pause:?}");
            seen.insert(pause);
        }
    }
    assert!(seen.len() > 500, "only {} different pauses", seen.len());
}

#[test]
fn the_last_attempt_is_at_the_end_of_the_lifetime() {
    let schedule = Schedule::default();
    let job = JobId { message: crate::id::Ids::after(0).next(at(0)), n: 0 };
    assert_eq!(schedule.retry_at(job, 9, at(0), at(100)), at(100));
    assert_eq!(schedule.retry_at(job, 9, at(200), at(100)), at(200), "never in the past");
}

#[test]
fn a_dead_next_hop_backs_off_as_a_whole_and_is_probed_by_one() {
    let mut scheduler = Scheduler::new(Schedule::default());
    let (dead, well) = (hop("dead.example"), hop("well.example"));
    let mut now = at(0);
    for _ in 0..5 {
        scheduler.started(&dead, now);
    }
    for _ in 0..5 {
        scheduler.finished(&dead, now, Feedback::Dead(refusal()));
    }
    for expected in [1, 5, 15, 30, 60, 120, 240, 240] {
        let retry = scheduler.hop(&dead).unwrap().retry_at.unwrap();
        assert!(within(retry.duration_since(now).unwrap(), minutes(expected)), "{expected} min");
        let just_before = retry - Duration::from_millis(1);
        assert_eq!(scheduler.claim(just_before, minutes(1)).room_of(&dead), 0);
        assert_eq!(scheduler.claim(just_before, minutes(1)).room_of(&well), 5);
        assert_eq!(scheduler.wake_at(just_before), Some(retry));
        assert_eq!(scheduler.claim(retry, minutes(1)).room_of(&dead), 1, "one alone finds out");
        scheduler.started(&dead, retry);
        assert_eq!(scheduler.claim(retry, minutes(1)).room_of(&dead), 0);
        scheduler.finished(&dead, retry, Feedback::Dead(refusal()));
        now = retry;
    }
    let retry = scheduler.hop(&dead).unwrap().retry_at.unwrap();
    scheduler.started(&dead, retry);
    scheduler.finished(&dead, retry, Feedback::Answered);
    assert_eq!(scheduler.claim(retry, minutes(1)).room_of(&dead), 5, "alive again");
}

#[test]
fn the_window_follows_what_the_next_hop_shows() {
    let mut scheduler = Scheduler::new(Schedule::default());
    let name = hop("b.example");
    let window = |scheduler: &Scheduler| scheduler.hop(&name).unwrap().window;
    for _ in 0..1_000 {
        scheduler.started(&name, at(0));
        scheduler.finished(&name, at(0), Feedback::Answered);
    }
    assert_eq!(window(&scheduler), 20);
    for _ in 0..1_000 {
        scheduler.started(&name, at(0));
        scheduler.finished(&name, at(0), Feedback::Troubled);
    }
    assert_eq!(window(&scheduler), 1);
}

#[test]
fn a_rate_is_kept() {
    let rate = Some(Rate { jobs: 10, per: minutes(1) });
    let limits = HopLimits { initial: 100, max: 100, rate };
    let mut scheduler = Scheduler::new(Schedule { hop: limits, ..Schedule::default() });
    let name = hop("b.example");
    let mut started = 0;
    for second in 0..600 {
        let room = scheduler.claim(at(second), minutes(1)).room_of(&name);
        for _ in 0..room {
            scheduler.started(&name, at(second));
            scheduler.finished(&name, at(second), Feedback::Answered);
            started += 1;
        }
    }
    assert!((100..=110).contains(&started), "{started} in ten minutes");
    assert!(scheduler.wake_at(at(599)).is_some_and(|wake| wake <= at(606)));
}

#[test]
fn the_limit_on_all_is_kept() {
    let mut scheduler = Scheduler::new(Schedule { under_way: 3, ..Schedule::default() });
    for n in 0..3 {
        assert_eq!(scheduler.claim(at(0), minutes(1)).max, 3 - n);
        scheduler.started(&hop(&format!("h{n}")), at(0));
    }
    assert_eq!(scheduler.claim(at(0), minutes(1)).max, 0);
    scheduler.finished(&hop("h1"), at(0), Feedback::Unused);
    assert_eq!(scheduler.claim(at(0), minutes(1)).max, 1);
}

#[test]
fn memory_is_bounded_by_the_setting() {
    let mut scheduler = Scheduler::new(Schedule { hops: 100, ..Schedule::default() });
    for n in 0..10_000 {
        let name = hop(&format!("h{n}"));
        scheduler.started(&name, at(n));
        let feedback = if n % 2 == 0 { Feedback::Answered } else { Feedback::Dead(refusal()) };
        scheduler.finished(&name, at(n), feedback);
        assert!(scheduler.hops() <= 100);
    }
}
