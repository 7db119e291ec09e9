//! Whose turn it is: next hops share a claim evenly, and so do the senders of one next hop.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use crate::error::Error;
use crate::id::JobId;
use crate::job::{Lane, NextHop};
use crate::spool::{Claim, Lease};

/// Next hops that are looked at in one claim. The rest has its turn in the next.
const LANES_MAX: usize = 10_000;

/// Senders that are looked at in one claim on one lane before the longest due jobs are taken, whosever they are.
const SENDERS_MAX: usize = 64;

/// When each lane has something to claim.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    due: HashMap<Lane, SystemTime>,
    order: BTreeSet<(SystemTime, Lane)>,
    /// The next hop that was served last, by priority.
    cursors: HashMap<i8, NextHop>,
}

impl Lanes {
    /// The earliest job of `lane` that nobody has is ready at `due`.
    pub(crate) fn set(&mut self, lane: Lane, due: Option<SystemTime>) {
        let before = match due {
            Some(due) => self.due.insert(lane.clone(), due),
            None => self.due.remove(&lane),
        };
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, lane.clone()));
        }
        if let Some(due) = due {
            self.order.insert((due, lane));
        }
    }

    /// Lanes have got jobs that nobody has, the first of which is ready then.
    pub(crate) fn add(&mut self, added: HashMap<Lane, SystemTime>) {
        for (lane, due) in added {
            let known = self.due.get(&lane);
            if known.is_none_or(|known| due < *known) {
                self.set(lane, Some(due));
            }
        }
    }

    /// Takes these for all that there are. True if one of them is due earlier than was known.
    pub(crate) fn replace(&mut self, found: Vec<(Lane, Option<SystemTime>)>) -> bool {
        let mut gone: HashSet<Lane> = self.due.keys().cloned().collect();
        let mut earlier = false;
        for (lane, due) in found {
            earlier |= due.is_some_and(|due| self.due.get(&lane).is_none_or(|known| due < *known));
            gone.remove(&lane);
            self.set(lane, due);
        }
        for lane in gone {
            self.set(lane, None);
        }
        earlier
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// When the first lane is due.
    #[cfg(feature = "postgres")]
    pub(crate) fn first(&self) -> Option<SystemTime> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Lanes that are due.
    #[cfg(feature = "postgres")]
    pub(crate) fn due(&self, now: SystemTime) -> impl Iterator<Item = &Lane> {
        self.order.iter().take_while(move |(due, _)| *due <= now).map(|(_, lane)| lane)
    }

    /// When the first lane is due that `claim` has room for.
    pub(crate) fn next(&self, claim: &Claim) -> Option<SystemTime> {
        if claim.max == 0 {
            return None;
        }
        self.order.iter().find(|(_, lane)| claim.room_of(&lane.next_hop) > 0).map(|(due, _)| *due)
    }

    /// How many jobs each lane may give: one each in turn until `max` or the rooms are used up; the highest priority
    /// first.
    pub(crate) fn pick(&mut self, claim: &Claim, max: usize) -> Vec<(Lane, usize)> {
        let mut by_priority = BTreeMap::<Reverse<i8>, Vec<&Lane>>::new();
        let due = self.order.iter().take_while(|(due, _)| *due <= claim.now).map(|(_, lane)| lane);
        // Next hops that get nothing now must not stand in the way of those that do.
        for lane in due.filter(|lane| claim.room_of(&lane.next_hop) > 0).take(LANES_MAX) {
            by_priority.entry(Reverse(lane.priority)).or_default().push(lane);
        }
        let (mut picks, mut left) = (Vec::new(), max);
        let mut rooms = HashMap::<&NextHop, usize>::new();
        for (Reverse(priority), mut lanes) in by_priority {
            lanes.sort_unstable();
            if let Some(last) = self.cursors.get(&priority) {
                let start = lanes.partition_point(|lane| lane.next_hop <= *last);
                lanes.rotate_left(start);
            }
            let mut takes = vec![0_usize; lanes.len()];
            let mut progress = true;
            while progress && left > 0 {
                progress = false;
                for (lane, take) in lanes.iter().zip(&mut takes) {
                    let room = rooms.entry(&lane.next_hop).or_insert_with(|| claim.room_of(&lane.next_hop));
                    if left > 0 && *room > 0 {
                        (*room, *take, left, progress) = (*room - 1, *take + 1, left - 1, true);
                        self.cursors.insert(priority, lane.next_hop.clone());
                    }
                }
            }
            picks.extend(lanes.into_iter().cloned().zip(takes).filter(|(_, take)| *take > 0));
        }
        picks
    }
}

/// Who works on what, and until when. Leases end with the process: they need not be stored.
#[derive(Debug)]
pub(crate) struct Leases {
    held: HashMap<JobId, Held>,
    ends: BTreeSet<(SystemTime, JobId)>,
    by_lane: HashMap<Lane, usize>,
    epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: u64,
    pub(crate) until: SystemTime,
    pub(crate) lane: Lane,
    pub(crate) fence: Fence,
}

/// The right under which a store that others share leases a job: a shard, and the epoch of its ownership. A store that one
/// process has to itself needs none, and has the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Fence {
    pub(crate) shard: i32,
    pub(crate) epoch: i64,
}

impl Leases {
    /// Leases whose epochs are above `epoch`.
    pub(crate) fn above(epoch: u64) -> Self {
        Self { held: HashMap::new(), ends: BTreeSet::new(), by_lane: HashMap::new(), epoch }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn get(&self, job: JobId) -> Option<&Held> {
        self.held.get(&job)
    }

    pub(crate) fn holds(&self, lease: Lease) -> bool {
        self.held.get(&lease.job).is_some_and(|held| held.epoch == lease.epoch)
    }

    /// How many jobs of `lane` are leased.
    pub(crate) fn in_lane(&self, lane: &Lane) -> usize {
        self.by_lane.get(lane).copied().unwrap_or_default()
    }

    pub(crate) fn grant(&mut self, job: JobId, lane: Lane, until: SystemTime, fence: Fence) -> Lease {
        self.epoch += 1;
        let epoch = self.epoch;
        self.restore(job, Held { epoch, until, lane, fence });
        Lease { job, epoch }
    }

    pub(crate) fn restore(&mut self, job: JobId, held: Held) {
        self.ends.insert((held.until, job));
        *self.by_lane.entry(held.lane.clone()).or_default() += 1;
        self.held.insert(job, held);
    }

    pub(crate) fn end(&mut self, job: JobId) -> Option<Held> {
        let held = self.held.remove(&job)?;
        self.ends.remove(&(held.until, job));
        if let Some(count) = self.by_lane.get_mut(&held.lane) {
            *count -= 1;
            if *count == 0 {
                self.by_lane.remove(&held.lane);
            }
        }
        Some(held)
    }

    /// True if the lease was there and lasts until then now.
    pub(crate) fn renew(&mut self, lease: Lease, until: SystemTime) -> bool {
        if !self.holds(lease) {
            return false;
        }
        if let Some(held) = self.end(lease.job) {
            self.restore(lease.job, Held { until, ..held });
        }
        true
    }

    /// Those that last no longer than `now`.
    pub(crate) fn ending(&self, now: SystemTime) -> impl Iterator<Item = JobId> + '_ {
        self.ends.range(..=(now, LAST_ID)).map(|(_, job)| *job)
    }

    /// Ends those.
    pub(crate) fn expire(&mut self, now: SystemTime) -> Vec<(JobId, Held)> {
        let ended: Vec<_> = self.ending(now).collect();
        ended.into_iter().filter_map(|job| self.end(job).map(|held| (job, held))).collect()
    }

    /// Ends those whose right is gone, and gives them.
    #[cfg(feature = "postgres")]
    pub(crate) fn revoke(&mut self, gone: impl Fn(Fence) -> bool) -> Vec<Lease> {
        let gone = self.held.iter().filter(|(_, held)| gone(held.fence));
        let leases: Vec<_> = gone.map(|(job, held)| Lease { job: *job, epoch: held.epoch }).collect();
        for lease in &leases {
            self.end(lease.job);
        }
        leases
    }

    /// The rights that are in use.
    #[cfg(feature = "postgres")]
    pub(crate) fn fences(&self) -> HashSet<Fence> {
        self.held.values().map(|held| held.fence).collect()
    }

    pub(crate) fn next_end(&self) -> Option<SystemTime> {
        self.ends.first().map(|(until, _)| *until)
    }
}

const LAST_ID: JobId = JobId { message: crate::id::MessageId::from_parts(u64::MAX, u64::MAX), n: u32::MAX };

/// Jobs by lane, sender and time, as a store's index has them.
pub(crate) trait LaneIndex {
    /// The first sender's number in `lane` above `after`.
    fn next_turn(&mut self, lane: &Lane, after: Option<i64>) -> Result<Option<i64>, Error>;

    /// Jobs of `lane` that are ready by `now`, longest first, of one sender or of all.
    fn ready(
        &mut self,
        lane: &Lane,
        turn: Option<i64>,
        now: SystemTime,
        max: usize,
    ) -> Result<Vec<(SystemTime, JobId)>, Error>;
}

/// Up to `n` jobs of `lane` that are ready, one of each sender in turn, beginning after `cursor`.
pub(crate) fn take(
    index: &mut impl LaneIndex,
    lane: &Lane,
    cursor: &mut Option<i64>,
    leases: &Leases,
    now: SystemTime,
    n: usize,
) -> Result<Vec<JobId>, Error> {
    let skip = leases.in_lane(lane);
    // Where all that is due can go, nobody needs to wait for a turn.
    let jobs = index.ready(lane, None, now, skip.saturating_add(n).saturating_add(1))?;
    let all: Vec<_> = jobs.into_iter().map(|(_, job)| job).filter(|job| leases.get(*job).is_none()).collect();
    if all.len() <= n {
        return Ok(all);
    }
    let mut taken = Vec::new();
    let mut chosen = HashSet::<JobId>::new();
    let first = index.next_turn(lane, *cursor)?.or(index.next_turn(lane, None)?);
    let mut turn = first;
    for _ in 0..SENDERS_MAX {
        let (Some(sender), true) = (turn, taken.len() < n) else { break };
        let next = index.next_turn(lane, Some(sender))?.or(index.next_turn(lane, None)?);
        // The only sender needs no turns.
        let want = if next == Some(sender) { n - taken.len() } else { 1 };
        let jobs = index.ready(lane, Some(sender), now, skip + taken.len() + want)?;
        let free = |job: &JobId| leases.get(*job).is_none();
        let fresh = jobs.into_iter().map(|(_, job)| job).filter(free).filter(|job| !chosen.contains(job)).take(want);
        let fresh: Vec<_> = fresh.collect();
        chosen.extend(&fresh);
        taken.extend(fresh);
        *cursor = Some(sender);
        turn = next;
    }
    if taken.len() < n {
        let jobs = index.ready(lane, None, now, skip + n + taken.len())?;
        let free = jobs.into_iter().map(|(_, job)| job).filter(|job| leases.get(*job).is_none());
        let fresh: Vec<_> = free.filter(|job| !chosen.contains(job)).take(n - taken.len()).collect();
        taken.extend(fresh);
    }
    Ok(taken)
}

/// When the first job of `lane` that nobody has is ready.
pub(crate) fn first_free(
    index: &mut impl LaneIndex,
    lane: &Lane,
    leases: &Leases,
) -> Result<Option<SystemTime>, Error> {
    let jobs = index.ready(lane, None, crate::clock::from_millis(i64::MAX), leases.in_lane(lane) + 1)?;
    Ok(jobs.into_iter().find(|(_, job)| leases.get(*job).is_none()).map(|(due, _)| due))
}
