//! The embedded store: SQLite, one thread that writes, commits in groups.

mod bodies;
mod change;
mod checkpoint;
mod clean;
mod coming;
#[cfg(test)]
mod crash;
mod disk;
mod fold;
mod journal;
mod open;
mod reader;
mod rows;
mod schema;
mod segments;
mod staged;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use smtp_core::service::Body;
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use bodies::Sealed;
#[cfg(feature = "postgres")]
pub(crate) use writer::{WAITING_MAX, Waiting, gather};

use crate::engine::{Answer, Op, SCAN_MAX};
use crate::error::{Error, OpenError};
use crate::id::{Ids, JobId, MessageId};
use crate::job::{Action, Settlement};
use crate::spool::{Claim, Entry, Filter, Health, Lease, Leased, Limits, Page, Spool, Staged, Stats};
use coming::Coming;
use disk::{Disk, Folder};
use reader::Readers;
use staged::SqliteStaged;
use writer::Request;

/// A spool in one folder: `spool.db`; the journal (`journal`, `journal2` and so on, of 4 MiB each), in which content stays;
/// and `bodies/` for content over [`Limits::inline`].
///
/// **Durability.** What is done is written to the journal and synced before it is answered, for as many writers together as
/// wait, up to about 1 MiB; for messages whose content is just coming in a group waits up to 0.3 ms. SQLite gets the same a
/// moment later, without the content, in a transaction that is committed when a file of the journal is full, when nothing has
/// come for a second, and at every [`Spool::maintain`]. After a crash, opening does again what only the journal has. A large body is synced, renamed and its
/// folder synced before the row that names it is written; what no row names is removed when the spool is opened.
///
/// **Space.** A file of the journal is written over when no message needs content out of it. Where many files have little
/// in them that is needed, that is moved together; up to four files that are not needed are kept.
///
/// **Safety.** The folder is 0700 and files are 0600, whatever the umask. One process at a time: a lock keeps others out.
/// `sqlite3` may read along, and sees what was committed. Leases are kept in memory, since they end with the process.
///
/// **Damage.** Rows and bodies carry checksums. A job that cannot be read is set aside as quarantined.
///
/// Clones share everything.
#[derive(Debug, Clone)]
pub struct SqliteSpool(Arc<Shared>);

/// What the writer, the readers and those who stage bodies share.
#[derive(Debug)]
pub(crate) struct Shared {
    requests: mpsc::Sender<Request>,
    disk: Arc<dyn Disk>,
    readers: Readers,
    limits: Limits,
    ids: Ids,
    state: Arc<State>,
    space: Mutex<Space>,
}

/// Free octets, as they were lately.
#[derive(Debug, Default)]
struct Space {
    free: u64,
    /// When the disk was asked.
    asked: Option<Instant>,
    /// Octets that were written, or are about to be, since.
    taken: u64,
}

/// How long, and for how many octets, what the disk said about its free space is taken for true: asking for each message
/// costs.
const SPACE_KEPT: Duration = Duration::from_millis(50);
const SPACE_TAKEN: u64 = 1 << 20;

/// What waits for the tables, with what is being made there up to 14 MiB, has yet to be written into SQLite's log and into the
/// database, and what is in the log, up to 20 MiB, into the database. A file of the journal is made beside that.
const FREE_MIN: u64 = 48 << 20;

/// What the writer tells the others.
#[derive(Debug, Default)]
pub(crate) struct State {
    broken: Mutex<Option<String>>,
    stats: Mutex<Stats>,
    changed: Arc<Notify>,
    coming: Coming,
}

impl State {
    /// Nothing is to be written any more until a probe succeeds.
    pub(crate) fn poison(&self, reason: &str) {
        tracing::error!(reason, "the queue takes no mail until its disk works again; look at the kernel log");
        lock(&self.broken).get_or_insert_with(|| reason.to_owned());
    }

    fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SqliteSpool {
    /// The spool in the folder `path`, which is made if it is not there. Blocks: it reads the schedule, brings an older
    /// schema up to date and removes bodies that no row names.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: impl Into<PathBuf>, limits: Limits) -> Result<Self, OpenError> {
        let path = path.into();
        let disk = Arc::new(Folder::of(&path));
        open::open(&path, limits, disk)
    }

    /// The folder's database, for those who want to look into it.
    #[must_use]
    pub fn database(path: &Path) -> PathBuf {
        path.join(open::DATABASE)
    }

    async fn run(&self, op: Op) -> Result<Answer, Error> {
        self.ask(op).await?.await.unwrap_or(Err(Error::Closed))
    }

    /// As soon as it is the writer's turn to answer.
    async fn ask(&self, op: Op) -> Result<oneshot::Receiver<Result<Answer, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.requests.send(Request::Op { op: Box::new(op), reply }).await.map_err(|_| Error::Closed)?;
        Ok(answer)
    }
}

impl Shared {
    /// Whether a message of about `size` octets can be taken.
    fn check(&self, size: u64) -> Result<(), Error> {
        if let Some(reason) = self.state.broken() {
            return Err(Error::Unhealthy(reason));
        }
        if lock(&self.state.stats).messages >= self.limits.messages {
            return Err(Error::TooMany { limit: self.limits.messages });
        }
        let mut space = lock(&self.space);
        if space.taken >= SPACE_TAKEN || space.asked.is_none_or(|asked| asked.elapsed() > SPACE_KEPT) {
            let free = self.disk.free().map_err(|e| Error::io("see how much space is free", &e))?;
            *space = Space { free, asked: Some(Instant::now()), taken: 0 };
        }
        let free = space.free;
        if free < self.limits.free.max(FREE_MIN).saturating_add(size) {
            return Err(Error::Full(format!("{free} octets are free")));
        }
        Ok(())
    }

    /// So many octets are about to be written.
    fn taking(&self, size: u64) {
        let mut space = lock(&self.space);
        space.taken = space.taken.saturating_add(size);
    }
}

#[async_trait]
impl Spool for SqliteSpool {
    async fn begin(&self, now: SystemTime, size_hint: Option<u64>) -> Result<Box<dyn Staged>, Error> {
        let limit = self.0.limits.body;
        if size_hint.is_some_and(|size| size > limit) {
            return Err(Error::TooLarge { limit });
        }
        if self.0.requests.is_closed() {
            return Err(Error::Closed);
        }
        self.0.check(size_hint.unwrap_or_default())?;
        let id = self.0.ids.next(now);
        Ok(Box::new(SqliteStaged::new(self.clone(), id, now)))
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Leased>, Error> {
        self.run(Op::Claim(claim)).await?.claimed()
    }

    async fn renew(&self, leases: &[Lease], now: SystemTime, until: SystemTime) -> Result<Vec<Lease>, Error> {
        self.run(Op::Renew { leases: leases.to_vec(), now, until }).await?.lost()
    }

    async fn settle(&self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error> {
        self.run(Op::Settle { lease, now, settlement: Box::new(settlement) }).await?.settled()
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), Error> {
        self.run(Op::Release(leases.to_vec())).await.map(drop)
    }

    async fn body(&self, message: MessageId) -> Result<Body, Error> {
        self.0.readers.body(message, Arc::clone(&self.0.disk)).await
    }

    async fn next_due(&self, claim: &Claim) -> Result<Option<SystemTime>, Error> {
        self.run(Op::NextDue(claim.clone())).await?.due()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.state.changed)
    }

    async fn list(&self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error> {
        self.run(Op::Scan { filter: Box::new(filter.clone()), after, max }).await?.page()
    }

    async fn get(&self, message: MessageId) -> Result<Vec<Entry>, Error> {
        let filter = Box::new(Filter::message(message));
        Ok(self.run(Op::Scan { filter, after: None, max: SCAN_MAX }).await?.page()?.entries)
    }

    async fn control(&self, filter: &Filter, action: Action, now: SystemTime) -> Result<u64, Error> {
        let (mut total, mut after) = (0, None);
        loop {
            let op = Op::Control { filter: Box::new(filter.clone()), after, action: action.clone(), now };
            let (changed, next) = self.run(op).await?.controlled()?;
            total += changed;
            after = next;
            if after.is_none() {
                return Ok(total);
            }
        }
    }

    fn health(&self) -> Health {
        match self.0.check(0) {
            Ok(()) => Health::Ready,
            Err(error @ (Error::Full(_) | Error::TooMany { .. })) => Health::Full(error.to_string()),
            Err(error) => Health::Unhealthy(error.to_string()),
        }
    }

    fn stats(&self) -> Stats {
        *lock(&self.0.state.stats)
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), Error> {
        lock(&self.0.space).asked = None;
        let (reply, answer) = oneshot::channel();
        self.0.requests.send(Request::Maintain { now, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn close(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        // One that is closed already is closed.
        if self.0.requests.send(Request::Close { reply }).await.is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }
}
