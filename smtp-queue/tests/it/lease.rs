//! The protocol by which nodes share a queue, in all orders in which it can happen: nodes that hang between any two steps,
//! answers that are lost, clocks that run too fast or too slow, a node that dies.
//!
//! One shard and one job, since shards know nothing of each other. Time is that of the database; a node only has its idea
//! of when its lease is over.

use stateright::{Checker, HasDiscoveries, Model, Property};

const NODES: usize = 3;
/// How long a lease lasts.
const LEASE: u8 = 2;
/// How long it goes on.
const END: u8 = 7;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    time: u8,
    /// The row of the shard.
    owner: Option<usize>,
    epoch: u8,
    until: u8,
    /// The job's row is gone.
    settled: bool,
    /// How often the job was sent to its next hop.
    sent: u8,
    /// A settlement was written under another epoch than the shard's.
    stale: bool,
    nodes: [Node; NODES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    alive: bool,
    /// What it believes to own: an epoch, and until when.
    owns: Option<(u8, u8)>,
    job: Job,
}

/// What a node does with the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Job {
    Nothing,
    /// Claimed under this epoch.
    Claimed(u8),
    /// Sent under this epoch, and not settled yet.
    Sent(u8),
}

/// How a node's clock errs, between asking and being answered.
const ERRORS: [i8; 3] = [-1, 0, 1];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Pass,
    Die,
    /// Renews, or learns that it owns nothing any more; the answer may be lost.
    Renew {
        node: usize,
        lost: bool,
        error: i8,
    },
    /// Takes a shard that nobody has, or whose time is over.
    Take {
        node: usize,
        lost: bool,
        error: i8,
    },
    /// Gives it back, with nothing under way.
    Give {
        node: usize,
    },
    Claim {
        node: usize,
    },
    Send {
        node: usize,
    },
    Settle {
        node: usize,
        lost: bool,
    },
}

/// The protocol; without the check of the epoch if it is not `fenced`.
struct Protocol {
    fenced: bool,
}

impl Protocol {
    fn take(state: &State, node: usize, lost: bool, error: i8) -> Option<State> {
        let free = state.owner.is_none() || state.until < state.time;
        if !free || state.owner == Some(node) || !state.nodes[node].alive {
            return None;
        }
        let mut next = state.clone();
        (next.owner, next.epoch, next.until) = (Some(node), state.epoch + 1, state.time + LEASE);
        if !lost {
            Self::learn(&mut next, node, error);
        }
        Some(next)
    }

    /// The node hears what it owns. What it had under another epoch is lost to it.
    fn learn(state: &mut State, node: usize, error: i8) {
        let owns = (state.owner == Some(node)).then(|| (state.epoch, state.until.saturating_add_signed(error)));
        let known = &mut state.nodes[node];
        if known.owns.map(|(epoch, _)| epoch) != owns.map(|(epoch, _)| epoch) {
            known.job = match known.job {
                // It may be on its way: whoever sent it tries to settle it.
                Job::Sent(epoch) => Job::Sent(epoch),
                Job::Nothing | Job::Claimed(_) => Job::Nothing,
            };
        }
        known.owns = owns;
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let node = Node { alive: true, owns: None, job: Job::Nothing };
        let nodes = [node; NODES];
        vec![State { time: 1, owner: None, epoch: 0, until: 0, settled: false, sent: 0, stale: false, nodes }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend([Step::Pass, Step::Die]);
        for node in 0..NODES {
            steps.extend([Step::Give { node }, Step::Claim { node }, Step::Send { node }]);
            steps.extend([true, false].map(|lost| Step::Settle { node, lost }));
            steps.extend([Step::Renew { node, lost: true, error: 0 }, Step::Take { node, lost: true, error: 0 }]);
            for error in ERRORS {
                steps.extend([Step::Renew { node, lost: false, error }, Step::Take { node, lost: false, error }]);
            }
        }
        let _ = state;
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Pass => next.time += 1,
            // One is enough: a node that does nothing for long is as good as dead.
            Step::Die if state.nodes.iter().all(|node| node.alive) => next.nodes[0].alive = false,
            Step::Die => return None,
            Step::Renew { node, lost, error } => {
                let known = state.nodes[node];
                if !known.alive || (state.owner != Some(node) && known.owns.is_none()) {
                    return None;
                }
                if state.owner == Some(node) {
                    next.until = state.time + LEASE;
                }
                if !lost {
                    Self::learn(&mut next, node, error);
                }
            }
            Step::Take { node, lost, error } => return Self::take(state, node, lost, error),
            Step::Give { node } => {
                let known = state.nodes[node];
                if !known.alive || known.owns.is_none() || known.job != Job::Nothing || state.owner != Some(node) {
                    return None;
                }
                next.nodes[node].owns = None;
                next.owner = None;
            }
            Step::Claim { node } => {
                let known = state.nodes[node];
                let (epoch, until) = known.owns?;
                if !known.alive || known.job != Job::Nothing || until < state.time || state.settled {
                    return None;
                }
                next.nodes[node].job = Job::Claimed(epoch);
            }
            Step::Send { node } => {
                let known = state.nodes[node];
                let (Job::Claimed(epoch), true) = (known.job, known.alive) else { return None };
                // Asked before the end of the message: by its clock it may be its own still.
                if known.owns.is_none_or(|(_, until)| until < state.time) {
                    return None;
                }
                next.nodes[node].job = Job::Sent(epoch);
                next.sent += 1;
            }
            Step::Settle { node, lost } => {
                let known = state.nodes[node];
                let (Job::Sent(epoch), true) = (known.job, known.alive) else { return None };
                let is_right = state.owner == Some(node) && state.epoch == epoch;
                if !state.settled && (is_right || !self.fenced) {
                    next.settled = true;
                    next.stale |= !is_right;
                }
                // Without an answer it asks again; one that says no says that the shard is gone, too.
                if !lost {
                    next.nodes[node].job = Job::Nothing;
                    if !is_right && known.owns.is_some_and(|(owned, _)| owned == epoch) {
                        next.nodes[node].owns = None;
                    }
                }
            }
        }
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.time <= END && state.sent <= 3 && state.epoch <= 4
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is settled under a stale epoch", |_, state: &State| !state.stale),
            Property::always("it is sent twice only after its shard has changed hands", |_, state: &State| {
                u32::from(state.sent) <= u32::from(state.epoch)
            }),
            Property::always("what is over can be taken, by anybody who lives", |_, state: &State| {
                let over = state.owner.is_none() || state.until < state.time;
                let others = (0..NODES).filter(|node| state.nodes[*node].alive && state.owner != Some(*node));
                !over
                    || others.into_iter().all(|node| {
                        let taken = Self::take(state, node, false, 0);
                        taken.is_some_and(|taken| taken.owner == Some(node) && taken.epoch > state.epoch)
                    })
            }),
            Property::sometimes("a dead node's job is settled by another", |_, state: &State| {
                !state.nodes[0].alive && state.nodes[0].job != Job::Nothing && state.settled && state.epoch > 1
            }),
            Property::sometimes("a node that hung comes too late", |_, state: &State| {
                let late = |node: &Node| matches!(node.job, Job::Sent(epoch) if epoch < state.epoch);
                state.settled && state.nodes.iter().any(|node| node.alive && late(node))
            }),
        ]
    }
}

#[test]
fn the_lease_protocol_holds_in_every_order() {
    let checker = Protocol { fenced: true }.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    assert!(checker.unique_state_count() > 10_000, "that explores too little");
    checker.assert_properties();
}

#[test]
fn a_settlement_without_a_look_at_the_epoch_is_found_out() {
    let checker = Protocol { fenced: false }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discovery("nothing is settled under a stale epoch");
    assert!(found.is_some(), "the planted fault was not found");
}
