//! The way out: claims what is due, hands it on, writes down what became of it.

mod attempt;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use smtp_core::types::Refusal;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, later};
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{NextHop, Settlement};
use crate::notice::Notices;
use crate::router::Router;
use crate::scheduler::{Feedback, HopState, Schedule, Scheduler, Verdict};
use crate::spool::{Claim, Health, Lease, Leased, Spool};
use attempt::Attempt;

/// How a [`Runner`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// When and how much.
    pub schedule: Schedule,
    /// How long a lease lasts: 15 min, more than the 10 min that a server may take to answer the end of a message
    /// (RFC 5321 §4.5.3.2.6). Renewed every third of it.
    pub lease: Duration,
    /// How long one attempt may take: 1 h. The job is deferred then.
    pub attempt: Duration,
    /// How often the store is maintained: 1 min; every second while it takes no mail.
    pub maintain: Duration,
    /// How long those under way may go on when it is told to stop: 30 s. What is left then goes back into the queue.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            lease: Duration::from_secs(15 * 60),
            attempt: Duration::from_secs(60 * 60),
            maintain: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

/// How a store that cannot be written is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The longest sleep without looking at the store, for stores that others write to.
const POLL: Duration = Duration::from_secs(30);

/// Empties a spool: each job that is due goes to the delivery that the router names, and what becomes of its recipients is
/// settled, together with the notices it causes.
///
/// A settlement that cannot be stored is tried again for as long as the lease is held, and nothing is claimed meanwhile:
/// what cannot be written down is not delivered.
pub struct Runner {
    worker: Arc<Worker>,
    hops: Hops,
}

/// What a [`Runner`] knows of next hops, to be looked at while it runs. Clones share it.
#[derive(Debug, Clone)]
pub struct Hops(Arc<Mutex<Scheduler>>);

impl Hops {
    /// What is known of `next_hop`; `None` if nothing is.
    #[must_use]
    pub fn get(&self, next_hop: &NextHop) -> Option<HopState> {
        self.lock().hop(next_hop)
    }

    /// The next hops that are not reached at `now`, and why: their jobs wait, whatever is known of these.
    #[must_use]
    pub fn unreached(&self, now: SystemTime) -> Vec<(NextHop, Refusal)> {
        self.lock().unreached(now)
    }

    /// Forgets that next hops are dead, one or all, so that what is due for them is tried when the runner looks next:
    /// after [`Spool::control`], at the latest after half a minute.
    pub fn revive(&self, next_hop: Option<&NextHop>) {
        self.lock().revive(next_hop);
    }

    fn lock(&self) -> MutexGuard<'_, Scheduler> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What attempts share.
pub(crate) struct Worker {
    pub(crate) spool: Arc<dyn Spool>,
    pub(crate) router: Arc<dyn Router>,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<Clock>,
    pub(crate) counters: Arc<Counters>,
    /// A settlement cannot be stored.
    pub(crate) stuck: AtomicBool,
}

/// What a [`Runner`] has done since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Recipients delivered.
    pub delivered: AtomicU64,
    /// Attempts that left a recipient waiting, by recipient.
    pub deferred: AtomicU64,
    /// Recipients failed.
    pub failed: AtomicU64,
    /// Of those, recipients that nobody was told of.
    pub failed_without_notice: AtomicU64,
    /// Notices made.
    pub notices: AtomicU64,
    /// Leases lost while an attempt was under way: the message may be delivered twice.
    pub leases_lost: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("settings", &self.worker.settings).finish_non_exhaustive()
    }
}

impl Runner {
    /// A runner for `spool`. `clock` is to be that of the queue that fills it.
    #[must_use]
    pub fn new(
        spool: Arc<dyn Spool>,
        router: Arc<dyn Router>,
        notices: Arc<dyn Notices>,
        settings: Settings,
        clock: Arc<Clock>,
    ) -> Self {
        let hops = Hops(Arc::new(Mutex::new(Scheduler::new(settings.schedule.clone()))));
        let (counters, stuck) = (Arc::default(), AtomicBool::new(false));
        let worker = Worker { spool, router, notices, settings, clock, counters, stuck };
        Self { worker: Arc::new(worker), hops }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.worker.counters)
    }

    /// What it knows of next hops.
    #[must_use]
    pub fn hops(&self) -> Hops {
        self.hops.clone()
    }

    /// Works until `stop` is cancelled, and then until what is under way is settled or [`Settings::drain`] has passed.
    pub async fn run(self, stop: CancellationToken) {
        let Self { worker, hops } = self;
        let mut running = Running { worker, hops, tasks: JoinSet::new(), under_way: HashMap::new() };
        running.work(&stop).await;
        running.drain().await;
    }
}

struct Running {
    worker: Arc<Worker>,
    hops: Hops,
    tasks: JoinSet<()>,
    /// By task, and not by job: one whose lease was lost may be claimed again before its first attempt has ended.
    under_way: HashMap<Id, UnderWay>,
}

struct UnderWay {
    lease: Lease,
    /// If it is being delivered and not only judged.
    next_hop: Option<NextHop>,
    task: AbortHandle,
}

impl Running {
    async fn work(&mut self, stop: &CancellationToken) {
        let third = self.worker.settings.lease / 3;
        let mut renew = tokio::time::interval(third.max(Duration::from_millis(10)));
        let mut maintained = tokio::time::Instant::now();
        let changed = self.worker.spool.changed();
        loop {
            // Listening begins before looking, so that nothing comes unnoticed in between.
            let news = changed.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if stop.is_cancelled() {
                return;
            }
            let idle = self.fill().await;
            let maintain = self.maintain_every();
            let until = (tokio::time::Instant::now() + idle).min(maintained + maintain);
            tokio::select! {
                () = stop.cancelled() => return,
                () = news => {}
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.done(done),
                _ = renew.tick() => self.renew().await,
                () = tokio::time::sleep_until(until) => {}
            }
            // All that has ended by now makes room together.
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.done(done);
            }
            if maintained.elapsed() >= maintain {
                maintained = tokio::time::Instant::now();
                if let Err(error) = self.worker.spool.maintain(self.worker.clock.now()).await {
                    tracing::warn!(%error, "the queue is still out of order");
                }
            }
        }
    }

    fn maintain_every(&self) -> Duration {
        match self.worker.spool.health() {
            Health::Unhealthy(_) | Health::Full(_) => STORE_RETRY,
            Health::Ready => self.worker.settings.maintain,
        }
    }

    /// Starts all that there is room for; gives how long there will be nothing more to start.
    async fn fill(&mut self) -> Duration {
        loop {
            if self.worker.stuck.load(Ordering::Acquire) {
                return STORE_RETRY;
            }
            let now = self.worker.clock.now();
            let claim = self.claim(now);
            if claim.alarms == 0 {
                return POLL;
            }
            let leased = match self.worker.spool.claim(claim).await {
                Ok(leased) => leased,
                Err(error) => {
                    tracing::warn!(%error, "no jobs can be claimed");
                    return STORE_RETRY;
                }
            };
            if leased.is_empty() {
                return self.idle(now).await;
            }
            for leased in leased {
                self.start(leased, now);
            }
        }
    }

    /// What there is room for. Jobs that are only judged take no room at their next hops, but places like all others.
    fn claim(&self, now: SystemTime) -> Claim {
        let claim = self.hops.lock().claim(now, self.worker.settings.lease);
        let places = self.worker.settings.schedule.under_way.saturating_sub(self.under_way.len());
        // Alarms come on top of what is due.
        let max = claim.max.min(places);
        Claim { max, alarms: places, ..claim }
    }

    async fn idle(&self, now: SystemTime) -> Duration {
        let Ok(due) = self.worker.spool.next_due(&self.claim(now)).await else { return STORE_RETRY };
        let wake = self.hops.lock().wake_at(now).into_iter().chain(due).min();
        let wait = wake.map_or(POLL, |wake| wake.duration_since(now).unwrap_or_default());
        // Something that is due and yet was not given must not be asked for in a circle.
        wait.clamp(Duration::from_millis(50), POLL)
    }

    fn start(&mut self, leased: Leased, now: SystemTime) {
        let (verdict, hop) = {
            let hops = self.hops.lock();
            (hops.verdict(&leased, now), hops.hop(&leased.job.next_hop))
        };
        let next_hop = (verdict == Verdict::Deliver).then(|| leased.job.next_hop.clone());
        let lease = leased.lease;
        if let Some(next_hop) = &next_hop {
            self.hops.lock().started(next_hop, now);
        }
        let unreached = hop.and_then(|hop| hop.last);
        let attempt = Attempt { worker: Arc::clone(&self.worker), hops: self.hops.clone(), leased, unreached };
        let task = self.tasks.spawn(attempt.run(verdict));
        self.under_way.insert(task.id(), UnderWay { lease, next_hop, task });
    }

    fn done(&mut self, done: Result<(Id, ()), JoinError>) {
        let task = done.map_or_else(
            |error| {
                // Aborted, since its lease was lost; or it panicked, and its lease ends by itself.
                if error.is_panic() {
                    tracing::error!("a delivery panicked; its job is tried again when the lease has ended");
                }
                error.id()
            },
            |(task, ())| task,
        );
        if let Some(next_hop) = self.under_way.remove(&task).and_then(|gone| gone.next_hop) {
            // What it has learned was said already.
            self.hops.lock().finished(&next_hop, self.worker.clock.now(), Feedback::Unused);
        }
    }

    async fn renew(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let leases: Vec<_> = self.under_way.values().map(|under_way| under_way.lease).collect();
        let now = self.worker.clock.now();
        match self.worker.spool.renew(&leases, now, later(now, self.worker.settings.lease)).await {
            Ok(lost) => {
                for lease in lost {
                    // One that has just been settled has no lease either, and its task has ended.
                    let lost = self.under_way.values().find(|under_way| under_way.lease == lease);
                    if let Some(under_way) = lost.filter(|under_way| !under_way.task.is_finished()) {
                        under_way.task.abort();
                        self.worker.lease_lost(lease.job);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "leases cannot be renewed now"),
        }
    }

    async fn drain(&mut self) {
        let deadline = tokio::time::Instant::now() + self.worker.settings.drain;
        let third = (self.worker.settings.lease / 3).max(Duration::from_millis(10));
        let mut renew = tokio::time::interval_at(tokio::time::Instant::now() + third, third);
        while !self.tasks.is_empty() {
            tokio::select! {
                Some(done) = self.tasks.join_next_with_id() => self.done(done),
                _ = renew.tick() => self.renew().await,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        let leases: Vec<_> = self.under_way.values().map(|under_way| under_way.lease).collect();
        self.tasks.shutdown().await;
        if !leases.is_empty() {
            tracing::info!(jobs = leases.len(), "stopped in the middle of deliveries; they are tried again");
            if let Err(error) = self.worker.spool.release(&leases).await {
                tracing::warn!(%error, "leases could not be released; they end by themselves");
            }
        }
    }
}

impl Worker {
    /// Whether the job stands as the settlement leaves it.
    async fn was_settled(&self, leased: &Leased, settlement: &Settlement) -> bool {
        let mut expected = leased.job.clone();
        let done = expected.settle(settlement);
        let Ok(entries) = self.spool.get(leased.message.id).await else { return false };
        match entries.into_iter().find(|entry| entry.job.id == leased.job.id) {
            Some(entry) => {
                !done && entry.job.recipients == expected.recipients && entry.job.attempts == expected.attempts
            }
            None => done,
        }
    }

    fn lease_lost(&self, job: JobId) {
        Counters::add(&self.counters.leases_lost, 1);
        tracing::warn!(%job, "a lease was lost in mid-delivery; the message may be delivered twice");
    }

    /// Keeps trying to store a settlement. Gives the ids of its notices, as far as they are known; `None` if it is not
    /// stored.
    pub(crate) async fn settle(&self, leased: &Leased, mut settlement: Settlement) -> Option<Vec<MessageId>> {
        let mut in_doubt = false;
        loop {
            match self.spool.settle(leased.lease, self.clock.now(), settlement.clone()).await {
                Ok(notices) => {
                    self.stuck.store(false, Ordering::Release);
                    return Some(notices);
                }
                // It was written at an earlier try, whose answer was an error.
                Err(Error::LeaseLost) if in_doubt && self.was_settled(leased, &settlement).await => {
                    self.stuck.store(false, Ordering::Release);
                    return Some(Vec::new());
                }
                Err(Error::LeaseLost) => {
                    self.stuck.store(false, Ordering::Release);
                    self.lease_lost(leased.job.id);
                    return None;
                }
                Err(Error::Closed) => return None,
                // A notice that no store takes must not hold everything up for ever.
                Err(error @ (Error::TooLarge { .. } | Error::Invalid(_))) if !settlement.notices.is_empty() => {
                    tracing::error!(job = %leased.job.id, %error, "a notice cannot be stored, and its sender is not told");
                    settlement.notices.clear();
                }
                Err(error) => {
                    in_doubt = true;
                    self.stuck.store(true, Ordering::Release);
                    tracing::warn!(job = %leased.job.id, %error, "what became of a job cannot be stored; trying again");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }
}
