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

    /// What the database said may not hold any more: nothing is claimed before the next renewal.
    pub(crate) fn doubt_all(&self) {
        let mut state = self.state();
        state.leaving = state.owned.keys().copied().collect();
    }

    /// These leases went with their shards.
    pub(crate) fn lose(&self, leases: Vec<Lease>) {
        let mut state = self.state();
        if state.lost.len() + leases.len() > LOST_MAX {
            state.lost.clear();
        }
        state.lost.extend(leases);
    }

    /// Keeps no more than `share`. The rest leaves, also where there is much to do, or a node that comes would get what
    /// nobody writes to. Gives those of it that nobody works on, which are no longer ours here; the others go later, and
    /// nothing more is claimed from them.
    pub(crate) fn leave(&self, share: usize, busy: &HashSet<Fence>) -> Vec<i32> {
        let mut state = self.state();
        let mut ids: Vec<_> = state.owned.iter().map(|(shard, epoch)| Fence { shard: *shard, epoch: *epoch }).collect();
        // What leaves already goes on leaving.
        ids.sort_unstable_by_key(|fence| (!state.leaving.contains(&fence.shard), fence.shard));
        ids.truncate(state.owned.len().saturating_sub(share));
        let (stay, idle): (Vec<_>, Vec<_>) = ids.into_iter().partition(|fence| busy.contains(fence));
        state.leaving = stay.into_iter().map(|fence| fence.shard).collect();
        let idle: Vec<_> = idle.into_iter().map(|fence| fence.shard).collect();
        for id in &idle {
            state.owned.remove(id);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_worked_on_leaves_too_and_goes_when_it_is_done() {
        let shards = Shards::new("one".into());
        shards.replace((0..10).map(|id| (id, 1)).collect(), Instant::now() + Duration::from_secs(3_600));
        let busy: HashSet<_> = (0..3).map(|shard| Fence { shard, epoch: 1 }).collect();
        assert_eq!(shards.leave(5, &busy), [3, 4]);
        assert!((0..3).all(|id| shards.is_ours(id) && !shards.may_use(id)), "nothing more is claimed there");
        assert!((5..10).all(|id| shards.may_use(id)));
        assert_eq!(shards.leave(5, &HashSet::new()), [0, 1, 2]);
        assert!(shards.leave(5, &HashSet::new()).is_empty() && (5..10).all(|id| shards.may_use(id)));
    }
}
