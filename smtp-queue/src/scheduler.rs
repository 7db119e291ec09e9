//! When to try what, and how much of it at once. No I/O and no clock: state in, times out.

mod schedule;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use smtp_core::types::Refusal;

use crate::clock::later;
use crate::job::NextHop;
use crate::spool::{Claim, Leased, Why};
use crate::terms::too_late;
pub use schedule::{HopLimits, Rate, Schedule};

/// How a job whose next hop has no room, though it is not known to be dead, is put off when its time is over.
const PUT_OFF: Duration = Duration::from_secs(600);

/// What is known of each next hop, and what follows from it.
///
/// - A next hop gets as many jobs at once as it shows it can take: from [`HopLimits::initial`], one more for each round
///   that went well, one less for each that did not, up to [`HopLimits::max`].
/// - One that cannot be reached is dead as a whole: none of its jobs is tried until the retry time, then one alone is.
///   The retry times are those of [`Schedule::retries`]. The jobs themselves stay as they are, due.
/// - What is not known is assumed to be well: after a restart each next hop is tried anew.
///
/// Memory is bounded by [`Schedule::hops`]; how many messages are queued does not matter.
#[derive(Debug)]
pub struct Scheduler {
    schedule: Schedule,
    hops: HashMap<NextHop, Hop>,
    under_way: usize,
}

#[derive(Debug, Clone)]
struct Hop {
    /// In thousandths of a job.
    window: u64,
    under_way: usize,
    failures: u32,
    retry_at: Option<SystemTime>,
    last: Option<Refusal>,
    /// The time that the rate has been used up to.
    paid: Option<SystemTime>,
    used: SystemTime,
}

/// What is known of a next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopState {
    /// Jobs under way.
    pub under_way: usize,
    /// Jobs that may be under way at once.
    pub window: usize,
    /// If it is dead: when it is tried again.
    pub retry_at: Option<SystemTime>,
    /// If it has a rate: when one more job may start.
    pub ready_at: Option<SystemTime>,
    /// Why it is dead.
    pub last: Option<Refusal>,
}

/// What an attempt tells about its next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    /// It answered, whatever it said.
    Answered,
    /// It was reached, and then something broke.
    Troubled,
    /// It was not reached, for this reason.
    Dead(Refusal),
    /// Nothing: it was not asked.
    Unused,
}

/// What to do with a leased job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Try to deliver it.
    Deliver,
    /// Give up, for this reason, and tell the sender.
    GiveUp(Refusal),
    /// Tell the sender that it takes long.
    TellDelay,
    /// Look again at this time.
    PutOff(SystemTime),
}

impl Scheduler {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, hops: HashMap::new(), under_way: 0 }
    }

    /// The settings.
    #[must_use]
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// What may be claimed now.
    #[must_use]
    pub fn claim(&self, now: SystemTime, lease: Duration) -> Claim {
        let max = self.schedule.under_way.saturating_sub(self.under_way);
        let rooms = self.hops.iter().map(|(name, hop)| (name.clone(), self.room(name, hop, now)));
        let room = self.schedule.hop.first();
        let mut rooms: HashMap<_, _> = rooms.filter(|(_, free)| *free != room).collect();
        for (name, limits) in &self.schedule.hops_limits {
            if !self.hops.contains_key(name) {
                rooms.insert(name.clone(), limits.first());
            }
        }
        Claim { now, until: later(now, lease), max, room, rooms, alarms: max }
    }

    /// When there will be more room than there is at `now`, if nothing else happens.
    #[must_use]
    pub fn wake_at(&self, now: SystemTime) -> Option<SystemTime> {
        let wake = |(name, hop): (&NextHop, &Hop)| {
            let rate = self.schedule.limits(name).rate.and_then(|rate| hop.paid.map(|paid| rate.ready_at(paid)));
            [hop.retry_at, rate].into_iter().flatten().filter(|time| *time > now).min()
        };
        self.hops.iter().filter_map(wake).min()
    }

    /// A job for `next_hop` is under way.
    pub fn started(&mut self, next_hop: &NextHop, now: SystemTime) {
        self.make_room(now);
        let limits = self.schedule.limits(next_hop);
        let hop = self.hops.entry(next_hop.clone()).or_insert_with(|| Hop::new(limits, now));
        hop.under_way += 1;
        hop.used = now;
        if let Some(rate) = limits.rate {
            hop.paid = Some(rate.pay(hop.paid, now));
        }
        self.under_way += 1;
    }

    /// It is no longer.
    pub fn finished(&mut self, next_hop: &NextHop, now: SystemTime, feedback: Feedback) {
        self.learned(next_hop, now, feedback);
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(hop) = self.hops.get_mut(next_hop) {
            hop.under_way = hop.under_way.saturating_sub(1);
            hop.used = now;
        }
    }

    /// What a job that is still under way has shown of its next hop. To be said before the job can be claimed again, or else
    /// one that was not reached is tried again at once.
    pub fn learned(&mut self, next_hop: &NextHop, now: SystemTime, feedback: Feedback) {
        let limits = self.schedule.limits(next_hop);
        let Some(hop) = self.hops.get_mut(next_hop) else { return };
        match feedback {
            Feedback::Answered => {
                (hop.failures, hop.retry_at, hop.last) = (0, None, None);
                hop.window = (hop.window + 1_000_000 / hop.window.max(1)).min(thousandths(limits.max));
            }
            Feedback::Troubled => hop.window = hop.window.saturating_sub(1_000_000 / hop.window.max(1)).max(1_000),
            // Attempts that began together fail together: that is one failure.
            Feedback::Dead(refusal) if hop.retry_at.is_some_and(|at| now < at) => hop.last = Some(refusal),
            Feedback::Dead(refusal) => {
                hop.failures = hop.failures.saturating_add(1);
                hop.retry_at = Some(later(now, self.schedule.pause(hop.failures, next_hop)));
                hop.window = thousandths(limits.initial);
                hop.last = Some(refusal);
            }
            Feedback::Unused => {}
        }
    }

    /// What to do with a job that was claimed at `now`.
    #[must_use]
    pub fn verdict(&self, leased: &Leased, now: SystemTime) -> Verdict {
        let job = &leased.job;
        if job.give_up {
            return Verdict::GiveUp(Refusal::fixed(554, (5, 0, 0), "given up by the administrator"));
        }
        // There is no last chance after a deadline that the sender set.
        if let Some(refusal) = too_late(&leased.message, now) {
            return Verdict::GiveUp(refusal);
        }
        match leased.why {
            Why::Due => Verdict::Deliver,
            Why::Alarm if now < job.expires => Verdict::TellDelay,
            Why::Alarm => match self.hops.get(&job.next_hop).and_then(|hop| hop.last.as_ref()) {
                Some(last) => Verdict::GiveUp(expired(last)),
                // It has had no last chance yet.
                None => Verdict::PutOff(later(now, PUT_OFF)),
            },
        }
    }

    /// What is known of `next_hop`; `None` if nothing is.
    #[must_use]
    pub fn hop(&self, next_hop: &NextHop) -> Option<HopState> {
        self.hops.get(next_hop).map(|hop| HopState {
            under_way: hop.under_way,
            window: usize::try_from(hop.window / 1_000).unwrap_or(usize::MAX),
            retry_at: hop.retry_at,
            ready_at: self.schedule.limits(next_hop).rate.and_then(|rate| hop.paid.map(|paid| rate.ready_at(paid))),
            last: hop.last.clone(),
        })
    }

    /// The next hops that are not tried at `now` since they were not reached, and why they were not.
    #[must_use]
    pub fn unreached(&self, now: SystemTime) -> Vec<(NextHop, Refusal)> {
        let dead = self.hops.iter().filter(|(_, hop)| hop.retry_at.is_some_and(|at| now < at));
        dead.filter_map(|(name, hop)| Some((name.clone(), hop.last.clone()?))).collect()
    }

    /// Takes a next hop, or all, for alive.
    pub fn revive(&mut self, next_hop: Option<&NextHop>) {
        for (_, hop) in self.hops.iter_mut().filter(|(name, _)| next_hop.is_none_or(|wanted| wanted == *name)) {
            (hop.failures, hop.retry_at) = (0, None);
        }
    }

    /// How many next hops something is known of.
    #[must_use]
    pub fn hops(&self) -> usize {
        self.hops.len()
    }

    fn room(&self, name: &NextHop, hop: &Hop, now: SystemTime) -> usize {
        let limits = self.schedule.limits(name);
        let window = match hop.retry_at {
            Some(at) if now < at => 0,
            // One alone finds out whether it is alive.
            Some(_) => 1,
            None => usize::try_from(hop.window / 1_000).unwrap_or(usize::MAX).max(1),
        };
        let allowed = limits.rate.map_or(usize::MAX, |rate| rate.allowed(hop.paid, now));
        window.saturating_sub(hop.under_way).min(allowed)
    }

    /// Forgets next hops that are idle, the well ones first, then those that were used longest ago.
    fn make_room(&mut self, now: SystemTime) {
        if self.hops.len() < self.schedule.hops {
            return;
        }
        let limits = |name: &NextHop| self.schedule.limits(name).rate;
        let owes = |name: &NextHop, hop: &Hop| {
            hop.paid.zip(limits(name)).is_some_and(|(paid, rate)| rate.ready_at(paid) > now)
        };
        let useless: Vec<_> = self
            .hops
            .iter()
            .filter(|(name, hop)| hop.under_way == 0 && hop.retry_at.is_none() && !owes(name, hop))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &useless {
            self.hops.remove(name);
        }
        if self.hops.len() >= self.schedule.hops {
            let idle = self.hops.iter().filter(|(_, hop)| hop.under_way == 0);
            let mut idle: Vec<_> = idle.map(|(name, hop)| (hop.used, name.clone())).collect();
            idle.sort_unstable();
            for (_, name) in idle.into_iter().take(self.schedule.hops.div_ceil(10)) {
                self.hops.remove(&name);
            }
        }
    }
}

impl Hop {
    const fn new(limits: &HopLimits, now: SystemTime) -> Self {
        Self {
            window: thousandths(limits.initial),
            under_way: 0,
            failures: 0,
            retry_at: None,
            last: None,
            paid: None,
            used: now,
        }
    }
}

const fn thousandths(jobs: usize) -> u64 {
    (jobs as u64).saturating_mul(1_000)
}

/// What the sender is told when the time is over: 5.4.7 (RFC 3463 §3.5), with the last reason.
#[must_use]
pub fn expired(last: &Refusal) -> Refusal {
    Refusal::new(554, (5, 4, 7), format!("delivery time expired; the last attempt: {last}"))
}
