//! The one thread that writes: takes what waits, does it as one group, and answers when the group lasts.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpointer;
use super::coming::Patience;
use super::disk::Disk;
use super::rows::{FreshBodies, SqlRows};
use super::{State, bodies, lock, schema};
use crate::engine::{Answer, Engine, Op, Rows};
use crate::error::Error;
use crate::id::MessageId;
use crate::spool::Claim;

/// Requests that may wait for the writer; whoever has another waits outside.
pub(crate) const WAITING_MAX: usize = 4_096;
/// How long a group waits, at most, for messages whose content is coming in: about as long as a sync takes on a fast disk. On
/// a slower one more come while the group before it is synced.
const PATIENCE: Duration = Duration::from_micros(300);
/// Octets of content after which a group is full.
const GROUP_OCTETS: usize = 1 << 20;
/// Pages of 4 KiB that go back to the disk in one go: 16 MiB, so that nobody waits long.
const GIVE_BACK: i64 = 4_096;
/// Operations in a group.
const GROUP_OPS: usize = 1_024;
/// After so long without anything to do the journal is folded in: the database is then up to date for whoever looks into it.
const FOLD_IDLE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Request {
    Op { op: Box<Op>, reply: oneshot::Sender<Result<Answer, Error>> },
    Maintain { now: SystemTime, reply: oneshot::Sender<Result<(), Error>> },
    Close { reply: oneshot::Sender<Result<(), Error>> },
}

/// Where the database is, to open it again.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) fresh: FreshBodies,
}

/// Owns the rows.
#[derive(Debug)]
pub(super) struct Writer {
    engine: Engine<SqlRows>,
    home: Database,
    state: Arc<State>,
    /// Keeps other processes out. Let go last.
    lock: Option<File>,
    /// What was asked for last: who waits for news has no room beyond it.
    claim: Option<Claim>,
    patience: Patience,
    checkpointer: Option<Checkpointer>,
}

/// What is to be done, and who waits for it.
pub(crate) type Waiting = (Op, oneshot::Sender<Result<Answer, Error>>);

impl Writer {
    pub(super) fn new(engine: Engine<SqlRows>, home: Database, state: Arc<State>, lock: Option<File>) -> Self {
        let writer = Self { engine, home, state, lock, claim: None, patience: Patience::default(), checkpointer: None };
        writer.publish();
        writer
    }

    /// With a thread that copies the log.
    pub(super) fn checkpointing(mut self) -> io::Result<Self> {
        self.checkpointer = Some(Checkpointer::start(self.home.path.clone(), Arc::clone(&self.state))?);
        Ok(self)
    }

    /// Does later what it has others do.
    #[cfg(test)]
    pub(super) fn working_later(mut self) -> Self {
        self.engine.rows.tables.later();
        self
    }

    /// As now and then, however few files have little in them.
    #[cfg(test)]
    pub(super) fn clean(&mut self) {
        if self.state.broken().is_none()
            && let Err(error) = self.engine.rows.clean_beyond(0)
        {
            self.failed(&error);
        }
    }

    /// Works until the spool is closed or nobody has it any more. `timer` tells when nothing has come for a while.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>, timer: &Runtime) {
        let mut next = None;
        while let Some(request) = next.take().or_else(|| self.wait(&mut queue, timer)) {
            match request {
                Request::Op { op, reply } => {
                    let group;
                    self.await_more(&queue);
                    (group, next) = gather((*op, reply), &mut queue, |request| match request {
                        Request::Op { op, reply } => Ok((*op, reply)),
                        other => Err(other),
                    });
                    self.commit(group);
                    self.catch_up(&queue);
                }
                Request::Maintain { now, reply } => {
                    let _ = reply.send(self.maintain(now));
                }
                Request::Close { reply } => {
                    queue.close();
                    let _ = reply.send(self.close());
                    return;
                }
            }
        }
        let _ = self.close();
    }

    fn wait(&mut self, queue: &mut mpsc::Receiver<Request>, timer: &Runtime) -> Option<Request> {
        while self.engine.rows.is_unfolded() && self.state.broken().is_none() {
            let request = timer.block_on(async { tokio::time::timeout(FOLD_IDLE, queue.recv()).await });
            match request {
                Ok(request) => return request,
                Err(_) => drop(self.fold()),
            }
        }
        queue.blocking_recv()
    }

    /// Lets those catch up whose content is just coming in: a sync for all is cheaper than one for each.
    fn await_more(&mut self, queue: &mpsc::Receiver<Request>) {
        let (mut failure, rows) = (None, &mut self.engine.rows);
        let work = || match rows.step() {
            Ok(done) => done,
            Err(error) => {
                failure = Some(error);
                false
            }
        };
        self.patience.wait(&self.state.coming, Instant::now() + PATIENCE, || queue.len(), work);
        if let Some(error) = failure {
            self.failed(&error);
        }
    }

    /// Does what the tables are behind while nobody wants anything.
    fn catch_up(&mut self, queue: &mpsc::Receiver<Request>) {
        while queue.is_empty() {
            match self.engine.rows.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.failed(&error),
            }
        }
    }

    /// The tables are not what they should be. What lasts is in the journal.
    fn failed(&mut self, error: &Error) {
        self.state.poison(&error.to_string());
        self.engine.rows.rollback();
    }

    /// So many octets of the journal were folded in.
    fn folded(&mut self, octets: u64) {
        if let Some(checkpointer) = self.checkpointer.as_mut().filter(|_| octets > 0) {
            checkpointer.folded(octets);
        }
    }

    /// Folds the journal in. What it says lasts if that fails, but nobody can go on with it.
    fn fold(&mut self) -> Result<(), Error> {
        let octets = self.engine.rows.unfolded();
        self.engine.rows.fold().inspect_err(|error| self.state.poison(&error.to_string()))?;
        self.folded(octets);
        Ok(())
    }

    /// Does a group and answers.
    pub(super) fn commit(&mut self, group: Vec<Waiting>) {
        let broken = self.state.broken();
        let (mut ops, mut replies, mut news) = (Vec::new(), Vec::new(), false);
        for (op, reply) in group {
            match &broken {
                // What is known can still be looked at.
                Some(reason) if !op.only_looks() => {
                    let _ = reply.send(Err(Error::Unhealthy(reason.clone())));
                }
                _ => {
                    news |= self.is_news(&op);
                    if let Op::Claim(claim) = &op {
                        self.claim = Some(claim.clone());
                    }
                    ops.push(op);
                    replies.push(reply);
                }
            }
        }
        match self.engine.apply(ops) {
            Ok((answers, files)) => {
                // Whoever has an answer finds it in the figures too.
                self.publish();
                // And whoever waits for news has it no later.
                if news {
                    self.state.changed.notify_waiters();
                }
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
                free(&*self.home.disk, files);
                // What is not certain to be on disk must not be folded in.
                if broken.is_none() {
                    match self.engine.rows.pass_on() {
                        Ok(folded) => self.folded(folded),
                        Err(error) => self.failed(&error),
                    }
                }
            }
            Err(error) => {
                if let Error::Storage(reason) = &error {
                    self.state.poison(reason);
                }
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Whether whoever claims is to look again. Not for a message to next hops that there was no room for when it
    /// looked last: it looks by itself when there is room, and a next hop that takes no mail, or all it can, would
    /// otherwise cost a look for each message.
    fn is_news(&self, op: &Op) -> bool {
        match (op, &self.claim) {
            (Op::Insert { now, message, .. }, Some(claim)) => {
                message.jobs.iter().any(|job| claim.room_of(&job.next_hop) > 0 || job.due > *now || job.alarm <= *now)
            }
            _ => op.is_news(),
        }
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        self.engine.rows.tables.here().unwrap()
    }

    #[cfg(test)]
    pub(super) fn into_rows(self) -> SqlRows {
        self.engine.rows
    }

    fn publish(&self) {
        *lock(&self.state.stats) = self.engine.stats();
    }

    fn maintain(&mut self, now: SystemTime) -> Result<(), Error> {
        if self.state.broken().is_some() {
            self.probe(now)?;
            *lock(&self.state.broken) = None;
            tracing::info!("the queue's disk works again");
        }
        let (_, files) = self.engine.apply(vec![Op::Expire(now)])?;
        free(&*self.home.disk, files);
        self.publish();
        if let Err(error) = self.engine.rows.clean() {
            self.failed(&error);
            return Err(error);
        }
        if self.engine.rows.is_unfolded() {
            self.fold()?;
        }
        self.engine.rows.trim()?;
        let used = self.engine.lanes_in_use();
        self.engine.rows.bound_lanes(used)?;
        self.engine.rows.give_back(GIVE_BACK)
    }

    /// Writes with fresh handles, since what failed on the old ones is never known for sure: after a failed sync the
    /// kernel takes the lost pages for clean.
    fn probe(&mut self, now: SystemTime) -> Result<(), Error> {
        let disk = &*self.home.disk;
        // What a probe left that failed.
        let _ = disk.remove(PROBE);
        let written = disk.create(PROBE).and_then(|mut file| {
            file.write(b"probe")?;
            file.sync()?;
            disk.sync_folder()?;
            disk.remove(PROBE)
        });
        written.map_err(|e| Error::io("write to the disk again", &e))?;
        self.engine.rows.release();
        let reopened = self.reopen(now);
        match reopened {
            Ok(rows) => {
                self.engine.rows = rows;
                if self.checkpointer.take().is_some() {
                    let fresh = Checkpointer::start(self.home.path.clone(), Arc::clone(&self.state));
                    self.checkpointer = fresh.inspect_err(|error| tracing::warn!(%error, "no thread for the log")).ok();
                }
            }
            // What is known can still be looked at.
            Err(error) => {
                self.engine.rows.rollback();
                return Err(error);
            }
        }
        self.engine.reload().map(drop)
    }

    fn reopen(&self, now: SystemTime) -> Result<SqlRows, Error> {
        let connection = Connection::open(&self.home.path)?;
        schema::configure(&connection)?;
        let octets = self.engine.rows.journal.segment_octets();
        let mut rows = SqlRows::open(connection, Arc::clone(&self.home.disk), Arc::clone(&self.home.fresh), octets)?;
        rows.probe(now)?;
        Ok(rows)
    }

    fn close(mut self) -> Result<(), Error> {
        if self.state.broken().is_none() && self.engine.rows.is_unfolded() {
            // If that fails the next opening does it.
            let _ = self.engine.rows.fold();
        }
        self.checkpointer = None;
        self.engine.rows.release();
        let connection = self.engine.rows.into_connection().ok_or(Error::Closed)?;
        // The log is folded into the database; if that fails, the next opening does it.
        let _ = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
        let closed = connection.close().map_err(|(_, error)| error.into());
        // Not only closed: a process that is being started has it open for a moment, too.
        if let Some(lock) = self.lock {
            let _ = lock.unlock();
        }
        closed
    }
}

const PROBE: &str = "probe.tmp";

fn free(disk: &dyn Disk, files: Vec<MessageId>) {
    for id in files {
        bodies::remove(disk, id);
    }
}

/// The first and what waits behind it, up to a full group; and a request that is not for a group.
pub(crate) fn gather<R>(
    first: Waiting,
    queue: &mut mpsc::Receiver<R>,
    waiting: impl Fn(R) -> Result<Waiting, R>,
) -> (Vec<Waiting>, Option<R>) {
    let mut octets = first.0.weight();
    let mut group = vec![first];
    while octets < GROUP_OCTETS && group.len() < GROUP_OPS {
        let Ok(request) = queue.try_recv() else { break };
        match waiting(request) {
            Ok(next) => {
                octets += next.0.weight();
                group.push(next);
            }
            Err(other) => return (group, Some(other)),
        }
    }
    (group, None)
}
