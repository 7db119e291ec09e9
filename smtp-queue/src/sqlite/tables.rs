//! The tables, and what they are behind the journal.
//!
//! Nobody who stores a message waits for the tables: the journal is what makes it last. A thread of its own makes the changes
//! in them and commits, and has the connection meanwhile. Whoever reads takes it back, and has the rest done first.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::change;
use super::disk::Disk;
use super::journal::Position;
use super::rows::signed;
use super::segments::prepare;
use crate::error::Error;

/// Octets of changes for which another thread is worth while: a few messages.
const SENT_MIN: usize = 16 << 10;
/// Octets of changes that may wait for it; `FREE_MIN` counts on that.
const BEHIND_MAX: usize = 6 << 20;

#[derive(Debug)]
pub(super) struct Tables {
    /// `None` while somebody else has it.
    connection: Option<Connection>,
    hands: Hands,
    disk: Arc<dyn Disk>,
    /// Changes of groups that last, made up to `done`.
    behind: Vec<u8>,
    done: usize,
    /// How much of the group that is being put together is done.
    group: usize,
    /// The salt that the database names, as far as is known.
    committed: u64,
    /// A change failed, and those before it may be undone: no other must follow.
    failed: Option<Error>,
}

/// What is to be done in the tables.
#[derive(Debug)]
struct Work {
    connection: Connection,
    changes: Vec<u8>,
    fold: Option<Fold>,
}

/// To commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold {
    /// Where the journal goes on.
    pub(super) position: Position,
    /// Octets that its files are to have already.
    pub(super) prepared: u64,
}

type Done = (Box<Work>, Result<(), Error>);

impl Work {
    fn run(self: Box<Self>, disk: &dyn Disk) -> Done {
        let mut rest = &self.changes[..];
        let mut result = Ok(());
        while let (true, Some(change)) = (result.is_ok(), change::read(&mut rest)) {
            result = make(&self.connection, &change);
        }
        if let (Ok(()), Some(fold)) = (&result, self.fold) {
            result = commit(&self.connection, disk, fold);
        }
        (self, result)
    }
}

/// Makes a change, in the one transaction.
fn make(connection: &Connection, (statement, values): &change::Change<'_>) -> Result<(), Error> {
    begin(connection)?;
    Ok(statement.execute(connection, values)?)
}

fn begin(connection: &Connection) -> Result<(), Error> {
    if connection.is_autocommit() {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    }
    Ok(())
}

/// Commits, and makes all frames of the journal void that are before the position.
fn commit(connection: &Connection, disk: &dyn Disk, Fold { position, prepared }: Fold) -> Result<(), Error> {
    // What is written there may be answered, so that its name has to last.
    prepare(disk, [position.segment, position.next], prepared)
        .map_err(|e| Error::io("make a file of the journal", &e))?;
    begin(connection)?;
    let sql = "UPDATE journal SET salt = ?1, segment = ?2, place = ?3, next = ?4 WHERE id = 1";
    let values = (signed(position.salt), position.segment, signed(position.place), position.next);
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(disk.commit(connection)?)
}

impl Tables {
    pub(super) fn new(connection: Connection, disk: Arc<dyn Disk>) -> Self {
        let (behind, hands) = (Vec::new(), Hands::None);
        Self { connection: Some(connection), hands, disk, behind, done: 0, group: 0, committed: 0, failed: None }
    }

    pub(super) const fn committed(&self) -> u64 {
        self.committed
    }

    /// The database was found to name this salt, and the tables to have all that lasts.
    pub(super) fn restored(&mut self, committed: u64) {
        (self.committed, self.failed) = (committed, None);
        self.behind.clear();
        (self.done, self.group) = (0, 0);
    }

    /// The connection, once nobody else has it, whatever the tables are behind.
    pub(super) fn home(&mut self) -> Result<&Connection, Error> {
        if self.connection.is_none() {
            let done = self.hands.wait();
            self.absorb(done);
        }
        self.connection.as_ref().ok_or_else(|| Error::Storage("the thread that had the database has ended".into()))
    }

    /// The connection, with all changes made; those of `group` too, which was noted last.
    pub(super) fn current(&mut self, group: &[u8]) -> Result<&Connection, Error> {
        self.home()?;
        while self.step(group)? {}
        self.home()
    }

    /// Makes the next change. False if there is none, or somebody else is at it.
    ///
    /// # Errors
    /// The tables cannot be written. From then on nothing is done until they are [restored](Self::restored).
    pub(super) fn step(&mut self, group: &[u8]) -> Result<bool, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some(connection) = &self.connection else { return Ok(false) };
        let (from, done) = match self.behind.len() > self.done {
            true => (&self.behind[..], &mut self.done),
            false => (group, &mut self.group),
        };
        let mut rest = from.get(*done..).unwrap_or_default();
        let Some(change) = change::read(&mut rest) else { return Ok(false) };
        *done = from.len() - rest.len();
        make(connection, &change).inspect_err(|error| self.failed = Some(error.clone()))?;
        Ok(true)
    }

    /// The group lasts: what is left of it can wait.
    pub(super) fn keep(&mut self, group: &[u8]) {
        if self.done == self.behind.len() {
            self.behind.clear();
            self.done = 0;
        }
        self.behind.extend_from_slice(group.get(self.group..).unwrap_or_default());
        self.group = 0;
    }

    /// Takes the connection back if it is to be had, or must be since too much waits. True if it is here.
    pub(super) fn is_home(&mut self) -> Result<bool, Error> {
        if self.connection.is_none() {
            match self.hands.look() {
                None if self.behind.len() > BEHIND_MAX => drop(self.home()?),
                None => {}
                done => self.absorb(done),
            }
        }
        self.failed.clone().map_or(Ok(self.connection.is_some()), Err)
    }

    fn absorb(&mut self, done: Option<Done>) {
        let Some((work, result)) = done else { return };
        match (result, work.fold) {
            (Ok(()), Some(fold)) => self.committed = fold.position.salt,
            (Ok(()), None) => {}
            (Err(error), _) => self.failed = Some(error),
        }
        self.connection = Some(work.connection);
    }

    /// Has somebody else make the changes, if it is worth while or `fold` wants it: then they are committed, too.
    pub(super) fn send(&mut self, fold: Option<Fold>) {
        if fold.is_none() && self.behind.len() - self.done < SENT_MIN {
            return;
        }
        let Some(connection) = self.connection.take() else { return };
        let mut changes = std::mem::take(&mut self.behind);
        changes.drain(..self.done);
        self.done = 0;
        let done = self.hands.send(Box::new(Work { connection, changes, fold }), &self.disk);
        self.absorb(done);
    }

    /// Commits here and now.
    pub(super) fn fold(&mut self, fold: Fold) -> Result<(), Error> {
        let disk = Arc::clone(&self.disk);
        commit(self.current(&[])?, &*disk, fold)?;
        self.committed = fold.position.salt;
        Ok(())
    }

    /// The connection as it is; what was to be done is not done.
    pub(super) fn into_connection(mut self) -> Option<Connection> {
        #[cfg(test)]
        if let Hands::Later { work: Some(work), .. } = self.hands {
            return Some(work.connection);
        }
        let _ = self.home();
        self.connection
    }

    #[cfg(test)]
    pub(super) const fn here(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// In place of a thread: what is sent is done when it has been looked for so often, more and less in turn.
    #[cfg(test)]
    pub(super) fn later(&mut self) {
        self.hands = Hands::Later { disk: Arc::clone(&self.disk), work: None, looks: 0, next: 0 };
    }
}

/// Who makes changes for others.
#[derive(Debug)]
enum Hands {
    /// Nobody yet.
    None,
    Thread(Helper),
    #[cfg(test)]
    Later {
        disk: Arc<dyn Disk>,
        work: Option<Box<Work>>,
        looks: u32,
        next: u32,
    },
}

/// A thread that does what it is given, and gives it back. Ends when it is dropped.
#[derive(Debug)]
struct Helper {
    give: Option<SyncSender<Box<Work>>>,
    back: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Hands {
    /// Gives it back at once if there is nobody to do it.
    fn send(&mut self, work: Box<Work>, disk: &Arc<dyn Disk>) -> Option<Done> {
        if let Self::None = self {
            match Helper::start(Arc::clone(disk)) {
                Ok(helper) => *self = Self::Thread(helper),
                Err(error) => tracing::warn!(%error, "no thread for the tables"),
            }
        }
        match self {
            Self::None => Some(work.run(&**disk)),
            Self::Thread(helper) => match helper.give.as_ref().map(|give| give.send(work)) {
                Some(Err(error)) => Some((error.0, Err(Error::Storage("the thread for the tables has ended".into())))),
                Some(Ok(())) | None => None,
            },
            #[cfg(test)]
            Self::Later { work: later, looks, next, .. } => {
                (*later, *looks, *next) = (Some(work), *next, (*next + 1) % 4);
                None
            }
        }
    }

    /// What is done by now.
    fn look(&mut self) -> Option<Done> {
        match self {
            Self::None => None,
            Self::Thread(helper) => helper.back.try_recv().ok(),
            #[cfg(test)]
            Self::Later { looks: 0, .. } => self.wait(),
            #[cfg(test)]
            Self::Later { looks, .. } => {
                *looks -= 1;
                None
            }
        }
    }

    /// What is done once it is. `None` if nobody is at it.
    fn wait(&mut self) -> Option<Done> {
        match self {
            Self::None => None,
            Self::Thread(helper) => helper.back.recv().ok(),
            #[cfg(test)]
            Self::Later { disk, work, .. } => work.take().map(|work| work.run(&**disk)),
        }
    }
}

impl Helper {
    fn start(disk: Arc<dyn Disk>) -> std::io::Result<Self> {
        let (give, given) = sync_channel::<Box<Work>>(1);
        let (done, back) = sync_channel(1);
        let work = move || {
            for work in given {
                if done.send(work.run(&*disk)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("spool-tables".into()).spawn(work)?;
        Ok(Self { give: Some(give), back, thread: Some(thread) })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.give = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
