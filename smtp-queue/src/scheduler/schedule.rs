//! The settings of a schedule, and the times that follow from them alone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use crate::clock::later;
use crate::id::JobId;
use crate::job::NextHop;

/// When mail is tried again, when its sender is told, when it is given up, and how much goes out at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How long to wait after the first failure, the second, and so on; the last counts for all that follow. Default
    /// 1, 5, 15, 30 min, 1, 2, 4 h (RFC 5321 §4.5.4.1 wants 30 min after early quick attempts, and 2 to 3 h later).
    pub retries: Vec<Duration>,
    /// By how much each wait is longer or shorter, by chance, in percent: 10. What failed together is not tried together.
    pub jitter: u32,
    /// After how long the sender is told that it takes long: 4 h.
    pub delay_notice: Duration,
    /// After how long it is given up: 5 days (RFC 5321 §4.5.4.1: at least 4 to 5).
    pub lifetime: Duration,
    /// Jobs under way at once: 200.
    pub under_way: usize,
    /// Limits of a next hop.
    pub hop: HopLimits,
    /// Limits of these next hops instead.
    pub hops_limits: HashMap<NextHop, HopLimits>,
    /// Next hops that something is remembered of: 10,000.
    pub hops: usize,
}

/// How much goes to one next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopLimits {
    /// Jobs at once as long as nothing is known: 5.
    pub initial: usize,
    /// Jobs at once when all goes well: 20.
    pub max: usize,
    /// Jobs in a time: no limit.
    pub rate: Option<Rate>,
}

/// So many jobs in such a time, evenly; up to all of them at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0 counts as 1.
    pub jobs: u32,
    /// In which time.
    pub per: Duration,
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            retries: [1, 5, 15, 30, 60, 120, 240].map(minutes).to_vec(),
            jitter: 10,
            delay_notice: minutes(4 * 60),
            lifetime: minutes(5 * 24 * 60),
            under_way: 200,
            hop: HopLimits::default(),
            hops_limits: HashMap::new(),
            hops: 10_000,
        }
    }
}

impl Default for HopLimits {
    fn default() -> Self {
        Self { initial: 5, max: 20, rate: None }
    }
}

impl HopLimits {
    /// What may start at once at a next hop that nothing is known of.
    pub(super) fn first(&self) -> usize {
        self.rate.map_or(self.initial, |rate| self.initial.min(rate.jobs.max(1) as usize))
    }
}

impl Schedule {
    /// When a job is due after its attempt number `attempts` failed at `now`; never after it expires, so that it has a
    /// last chance then.
    #[must_use]
    pub fn retry_at(&self, job: JobId, attempts: u32, now: SystemTime, expires: SystemTime) -> SystemTime {
        later(now, self.pause(attempts, &job)).min(expires.max(now))
    }

    /// How long to wait after failure number `failures` of what `seed` names.
    pub(super) fn pause(&self, failures: u32, seed: &impl Hash) -> Duration {
        let last = self.retries.len().saturating_sub(1);
        let n = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX).min(last);
        // Nothing is tried again at once, whatever was set.
        let base = self.retries.get(n).copied().unwrap_or(minutes(30)).max(Duration::from_secs(1));
        let mut hasher = DefaultHasher::new();
        (seed, failures).hash(&mut hasher);
        let jitter = u64::from(self.jitter.min(90));
        // From 0 to twice the jitter, in thousandths.
        let chance = hasher.finish() % (jitter * 20 + 1);
        let thousandths = u32::try_from(1_000 - jitter * 10 + chance).unwrap_or(1_000);
        base * thousandths / 1_000
    }

    pub(super) fn limits(&self, next_hop: &NextHop) -> &HopLimits {
        self.hops_limits.get(next_hop).unwrap_or(&self.hop)
    }
}

impl Rate {
    fn each(&self) -> Duration {
        (self.per / self.jobs.max(1)).max(Duration::from_micros(1))
    }

    /// How many may start at `now`, if it is paid up to `paid`.
    pub(super) fn allowed(&self, paid: Option<SystemTime>, now: SystemTime) -> usize {
        let Some(paid) = paid else { return self.jobs.max(1) as usize };
        let jobs = later(now, self.per).duration_since(paid).unwrap_or_default().as_nanos() / self.each().as_nanos();
        usize::try_from(jobs).unwrap_or(usize::MAX).min(self.jobs.max(1) as usize)
    }

    /// What it is paid up to after one more started at `now`.
    pub(super) fn pay(&self, paid: Option<SystemTime>, now: SystemTime) -> SystemTime {
        later(paid.map_or(now, |paid| paid.max(now)), self.each())
    }

    /// When one more may start.
    pub(super) fn ready_at(&self, paid: SystemTime) -> SystemTime {
        paid.checked_sub(self.per - self.each().min(self.per)).unwrap_or(paid)
    }
}
