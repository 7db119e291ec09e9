//! How journal and tables stay one: folding the journal in, and doing again what only the journal has.

use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};

use super::change::{Change, Statement};
use super::journal::{Contents, new_salt};
use super::lock;
use super::rows::{Fresh, FreshBody, SqlRows, unsigned};
use crate::error::Error;
use crate::id::MessageId;

impl SqlRows {
    /// Whether the journal has what the database has not.
    pub(super) const fn is_unfolded(&self) -> bool {
        self.journal.len() > 0 || self.tables.committed() != self.journal.salt()
    }

    /// Octets of the journal that nobody folds in yet.
    pub(super) const fn unfolded(&self) -> u64 {
        self.journal.len()
    }

    /// Commits what the journal has made last, and makes it void there.
    pub(super) fn fold(&mut self) -> Result<(), Error> {
        let salt = new_salt();
        match self.tables.fold(salt) {
            Ok(()) => {
                self.journal.restart(salt);
                lock(&self.fresh).clear();
                Ok(())
            }
            Err(error) => {
                // Whether it happened or not: the database names the salt that counts.
                self.restore()?;
                Err(error)
            }
        }
    }

    /// Has somebody else make the changes that wait, if it is worth while; and has the journal folded in if it is longer
    /// than `fold_at`, while others go on with its other file. Gives the octets that were folded in since the last time.
    ///
    /// # Errors
    /// The tables cannot be written: they are to be [restored](Self::restore).
    pub(super) fn pass_on(&mut self, fold_at: u64) -> Result<u64, Error> {
        // The other file is not free while the database names a salt before this: after a failure, until a probe.
        if !self.tables.is_home()? || self.tables.committed() != self.journal.salt() {
            return Ok(0);
        }
        let (folded, salt) = (std::mem::take(&mut self.folding), self.journal.salt());
        if folded > 0 {
            lock(&self.fresh).retain(|_, fresh| fresh.salt == salt);
        }
        let fold = (self.journal.len() >= fold_at).then(|| {
            self.folding = self.journal.len();
            self.journal.switch()
        });
        self.tables.send(fold);
        Ok(folded)
    }

    /// Lets go of the transaction, so that another connection can have it.
    pub(super) fn release(&mut self) {
        if let Ok(connection) = self.tables.home()
            && !connection.is_autocommit()
        {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }

    /// Brings the rows to what is on disk: what the database has, and what the journal has beyond it.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        // Whoever looks for content waits meanwhile, or would take it for missing.
        let held = std::sync::Arc::clone(&self.fresh);
        let mut fresh = lock(&held);
        self.release();
        fresh.clear();
        self.folding = 0;
        let committed = salt(self.tables.home()?)?;
        self.tables.restored(committed);
        let contents = self.journal.read(committed).map_err(|e| Error::io("read the journal", &e))?;
        if contents.damaged {
            self.keep(&contents);
        }
        let (connection, salt) = (self.tables.home()?, self.journal.salt());
        if contents.changes().next().is_some() {
            connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        for change in contents.changes() {
            match change.0.execute(connection, &change.1) {
                Ok(()) => follow(&mut fresh, &change, salt),
                // Only where frames before it are missing, or somebody has changed the database.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    tracing::error!(%error, "a change in the journal of the queue does not fit the database; skipped");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.read_lanes()
    }

    /// Puts a journal aside that is not as it was written.
    fn keep(&self, contents: &Contents) {
        let name = format!("damaged-journal-{:016x}", new_salt());
        let written = self.disk.create(&name).and_then(|mut file| {
            for mut octets in contents.octets() {
                while !octets.is_empty() {
                    let n = file.write(octets)?;
                    octets = octets.get(n.max(1)..).unwrap_or_default();
                }
            }
            file.sync()
        });
        tracing::error!(
            copy = name,
            kept = written.is_ok(),
            "the journal of the queue is not what was written: messages may be missing, and others may be sent again; \
             a copy is in the folder of the bodies; look at the disk"
        );
    }
}

fn salt(connection: &Connection) -> Result<u64, Error> {
    Ok(unsigned(connection.query_row("SELECT salt FROM journal WHERE id = 1", [], |row| row.get(0))?))
}

/// Where size and checksum of a body are among the values of [`Statement::InsertMessage`].
const SIZE: usize = 6;
const SUM: usize = 7;

/// A body that comes or goes with a change.
fn follow(fresh: &mut HashMap<MessageId, Fresh>, (statement, values): &Change<'_>, salt: u64) {
    let number = |n: usize| values.get(n)?.as_i64().ok().map(unsigned);
    let (Some(order), Some(random)) = (number(0), number(1)) else { return };
    let body = match (statement, values.last()) {
        (Statement::DeleteMessage, _) => FreshBody::Gone,
        (Statement::InsertMessage, Some(ValueRef::Blob(content))) => FreshBody::Row(content.to_vec().into()),
        (Statement::InsertMessage, _) => {
            let (Some(size), Some(Ok(sum))) = (number(SIZE), number(SUM).map(u32::try_from)) else { return };
            FreshBody::File { size, sum }
        }
        _ => return,
    };
    fresh.insert(MessageId::from_parts(order, random), Fresh { body, salt });
}
