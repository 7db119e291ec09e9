//! What part of the work is this node's: shards of next hops, each with one owner at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::schema::SHARDS;
use crate::job::{NextHop, turn_of};
use crate::lanes::Fence;
use crate::spool::Lease;

/// The shard of a next hop.
pub(crate) fn home(next_hop: &NextHop) -> i32 {
    // Stored: a hash that never changes.
    i32::try_from(turn_of(next_hop.as_str()) % i64::from(SHARDS)).unwrap_or_default()
}

/// The shards of one node, as it knows them. That it is right is for the database to say, at every settlement.
#[derive(Debug)]
pub(crate) struct Shards {
    token: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With the epochs of their ownership.
    owned: HashMap<i32, i64>,
    /// Those of them that go to others as soon as nobody works on them.
    leaving: HashSet<i32>,
    /// Until when they are ours at least, by this machine's clock.
    until: Instant,
    /// Leases of jobs in shards that were lost; the last ten thousand or so.
    lost: HashSet<Lease>,
}

/// More lost leases are not remembered.
const LOST_MAX: usize = 10_000;

impl Shards {
    /// None yet; `token` is the owner's name in the database, and nobody else's ever.
    pub(crate) fn new(token: String) -> Self {
        let state =
            State { owned: HashMap::new(), leaving: HashSet::new(), until: Instant::now(), lost: HashSet::new() };
        Self { token, state: Mutex::new(state) }
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Takes these for all that there are, until then at least. Gives the rights that are gone, and whether any came.
    pub(crate) fn replace(&self, owned: HashMap<i32, i64>, until: Instant) -> (HashSet<Fence>, bool) {
        let mut state = self.state();
        let gone = state.owned.iter().filter(|(id, epoch)| owned.get(id) != Some(epoch));
        let gone = gone.map(|(shard, epoch)| Fence { shard: *shard, epoch: *epoch }).collect();
        let came = owned.iter().any(|(id, epoch)| state.owned.get(id) != Some(epoch));
        state.leaving.retain(|id| owned.contains_key(id));
        (state.owned, state.until) = (owned, until);
        drop(state);
        (gone, came)
    }

    /// The database says that this right is gone: nothing more is claimed by it, before the next renewal tells the rest.
    pub(crate) fn doubt(&self, fence: Fence) {
        let mut state = self.state();
        if state.owned.get(&fence.shard) == Some(&fence.epoch) {
            state.leaving.insert(fence.shard);
        }
    }

    /// These leases went with their shards.
    pub(crate) fn lose(&self, leases: Vec<Lease>) {
        let mut state = self.state();
        if state.lost.len() + leases.len() > LOST_MAX {
            state.lost.clear();
        }
        state.lost.extend(leases);
    }

    /// Keeps no more than `share`: the rest leaves, those first that nobody works on. Gives those that can go now, which
    /// are no longer ours here.
    pub(crate) fn leave(&self, share: usize, busy: &HashSet<Fence>) -> Vec<i32> {
        let mut state = self.state();
        let surplus = state.owned.len().saturating_sub(share);
        let mut ids: Vec<_> =
            state.owned.iter().map(|(id, epoch)| (busy.contains(&Fence { shard: *id, epoch: *epoch }), *id)).collect();
        // What leaves already goes on leaving.
        ids.sort_unstable_by_key(|(busy, id)| (*busy, !state.leaving.contains(id), *id));
        ids.truncate(surplus);
        state.leaving = ids.iter().map(|(_, id)| *id).collect();
        let idle: Vec<_> = ids.into_iter().filter(|(busy, _)| !busy).map(|(_, id)| id).collect();
        for id in &idle {
            state.owned.remove(id);
            state.leaving.remove(id);
        }
        idle
    }

    /// Whether jobs in it may be claimed now.
    pub(crate) fn may_use(&self, shard: i32) -> bool {
        let state = self.state();
        Instant::now() < state.until && state.owned.contains_key(&shard) && !state.leaving.contains(&shard)
    }

    /// Whether it is ours, as far as is known.
    pub(crate) fn is_ours(&self, shard: i32) -> bool {
        self.state().owned.contains_key(&shard)
    }

    /// Whether a lease can be ours still, by this machine's clock and by what is known.
    pub(crate) fn may_finish(&self, lease: Lease) -> bool {
        let state = self.state();
        Instant::now() < state.until && !state.lost.contains(&lease)
    }

    /// The right to it; one that never stands if it is not ours.
    pub(crate) fn fence(&self, shard: i32) -> Fence {
        Fence { shard, epoch: self.state().owned.get(&shard).copied().unwrap_or(-1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
