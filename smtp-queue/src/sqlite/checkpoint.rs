//! The log of SQLite is copied into the database by a thread of its own, so that the writer need not wait for it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::{State, schema};

/// Octets that are folded in between two copies.
const EVERY_OCTETS: u64 = 4 << 20;

/// Ends, once what it does is done, when it is dropped.
#[derive(Debug)]
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    folded: u64,
}

impl Checkpointer {
    pub(super) fn start(database: PathBuf, state: Arc<State>) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let work = move || {
            // A log that is never copied becomes long, and then it is the writer that copies it.
            if let Err(error) = run(&database, &woken) {
                state.poison(&format!("cannot copy the log into the database: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name("spool-log".into()).spawn(work)?;
        Ok(Self { wake: Some(wake), thread: Some(thread), folded: 0 })
    }

    /// So many octets were folded in.
    pub(super) fn folded(&mut self, octets: u64) {
        self.folded += octets;
        if self.folded >= EVERY_OCTETS {
            self.folded = 0;
            // If it has not begun with the last one it does both at once.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(database: &PathBuf, woken: &Receiver<()>) -> rusqlite::Result<()> {
    let connection = Connection::open(database)?;
    // Nothing that would write: the writer has a transaction open nearly always.
    schema::sync_all(&connection)?;
    while woken.recv().is_ok() {
        // As much as no reader needs any more; nobody is waited for.
        connection.pragma_query(None, "wal_checkpoint", |_| Ok(()))?;
    }
    Ok(())
}
