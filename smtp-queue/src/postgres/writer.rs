//! The one thread of a node that claims and settles: takes what waits, does it in one transaction, answers after the
//! commit.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use object_store::ObjectStore;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::keeper::Renewal;
use super::rows::PgRows;
use super::shards::Shards;
use super::{State, bodies};
use crate::engine::{Answer, Engine, Op, Rows};
use crate::error::Error;
use crate::id::MessageId;
use crate::sqlite::{Waiting, gather};

#[derive(Debug)]
pub(super) enum Request {
    Op {
        op: Box<Op>,
        reply: oneshot::Sender<Result<Answer, Error>>,
    },
    Maintain {
        now: SystemTime,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// What is ours, by the database. Gives the shards to let go of.
    Owned {
        renewal: Renewal,
        reply: oneshot::Sender<Vec<i32>>,
    },
    /// Others may have changed something.
    Look,
    /// Shows that a commit still ends.
    Prove,
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Owns the rows.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) engine: Engine<PgRows>,
    pub(super) shards: Arc<Shards>,
    pub(super) state: Arc<State>,
    pub(super) bodies: Option<Arc<dyn ObjectStore>>,
    /// Where bodies are removed, so that nobody waits for it.
    pub(super) elsewhere: Handle,
    /// When it was last reached for in vain, and how long that took.
    pub(super) in_vain: Option<(Instant, Duration)>,
}

impl Writer {
    /// Works until the queue is closed or nobody has it any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut next = None;
        while let Some(request) = next.take().or_else(|| queue.blocking_recv()) {
            match request {
                Request::Op { op, reply } => {
                    let group;
                    (group, next) = gather((*op, reply), &mut queue, |request| match request {
                        Request::Op { op, reply } => Ok((*op, reply)),
                        other => Err(other),
                    });
                    self.commit(group);
                }
                Request::Maintain { now, reply } => {
                    let maintained = self.look().and_then(|()| self.apply(vec![Op::Expire(now)]).map(drop));
                    self.publish();
                    let _ = reply.send(maintained);
                }
                Request::Owned { renewal, reply } => {
                    let _ = reply.send(self.owned(renewal));
                }
                Request::Look => {
                    let start = Instant::now();
                    // An error is in the health already.
                    let _ = self.look();
                    self.state.looked(start.elapsed());
                }
                Request::Prove => self.prove(),
                Request::Close { reply } => {
                    queue.close();
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    /// Does a group and answers.
    fn commit(&mut self, group: Vec<Waiting>) {
        let (ops, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        if let Some(reason) = self.state.broken() {
            for reply in replies {
                let _ = reply.send(Err(Error::Unhealthy(reason.clone())));
            }
            return;
        }
        let news = ops.iter().any(Op::is_news);
        match self.apply(ops) {
            Ok(answers) => {
                // Whoever has an answer finds it in the figures too.
                self.publish();
                // And whoever waits for news has it no later.
                if news {
                    self.state.changed.notify_waiters();
                }
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn apply(&mut self, ops: Vec<Op>) -> Result<Vec<Result<Answer, Error>>, Error> {
        let applied = self.engine.apply(ops);
        // It may have failed behind the commit, too.
        if let Some(reason) = self.engine.rows.broken() {
            self.state.poison(reason);
        }
        let (answers, files) = applied?;
        self.free(files);
        Ok(answers)
    }

    fn free(&self, files: Vec<MessageId>) {
        if let Some(store) = self.bodies.clone().filter(|_| !files.is_empty()) {
            self.elsewhere.spawn(async move {
                for id in files {
                    bodies::remove(&*store, id).await;
                }
            });
        }
    }

    /// Sees what others have done; reaches for the database again if it was lost.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        let broken = self.state.broken();
        let was_broken = broken.is_some();
        // Half of the time is for those who are to hear that it is not there.
        if let Some(reason) = broken
            && self.in_vain.is_some_and(|(at, took)| at.elapsed() < took)
        {
            return Err(Error::Unhealthy(reason));
        }
        let begun = Instant::now();
        self.engine.rows.mend();
        self.engine.rows.start();
        let looked = self.engine.reload().and_then(|earlier| {
            let ended = self.engine.rows.cancelled()?;
            if was_broken {
                self.engine.rows.prove()?;
            }
            Ok((earlier, ended))
        });
        if let Some(reason) = self.engine.rows.broken() {
            self.state.poison(reason);
            self.in_vain = Some((Instant::now(), begun.elapsed()));
        }
        let (earlier, ended) = looked?;
        if was_broken {
            self.state.heal();
            tracing::info!("the queue's database is there again");
        }
        if !ended.is_empty() {
            self.apply(vec![Op::Bury(ended)])?;
        }
        self.publish();
        if earlier || was_broken {
            self.state.changed.notify_waiters();
        }
        Ok(())
    }

    fn prove(&mut self) {
        if self.state.broken().is_none() {
            self.engine.rows.start();
            // An error is in the health then.
            let _ = self.engine.rows.prove();
            if let Some(reason) = self.engine.rows.broken() {
                self.state.poison(reason);
            }
        }
    }

    fn owned(&mut self, Renewal { owned, share, until, .. }: Renewal) -> Vec<i32> {
        let (gone, came) = self.shards.replace(owned, until);
        if !gone.is_empty() {
            let leases = self.engine.revoke(|fence| gone.contains(&fence));
            let (shards, jobs) = (gone.len(), leases.len());
            tracing::warn!(shards, jobs, "another node has taken over work of this one");
            self.shards.lose(leases);
        }
        let idle = self.shards.leave(share, &self.engine.fences());
        if came || !gone.is_empty() || !idle.is_empty() {
            // If it fails, the next look does it.
            let _ = self.look();
        }
        idle
    }

    fn publish(&self) {
        self.state.publish(self.engine.stats());
    }
}
