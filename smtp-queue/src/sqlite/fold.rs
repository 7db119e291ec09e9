//! How journal and tables stay one: folding the journal in, and doing again what only the journal has.

use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Row};

use super::change::{Change, Statement};
use super::journal::{Contents, Position, new_salt};
use super::lock;
use super::rows::{Fresh, FreshBody, SqlRows, unsigned};
use super::segments::{Needed, Place, Segments};
use super::tables::Fold;
use crate::error::Error;
use crate::id::MessageId;

impl SqlRows {
    /// Whether the journal has what the database has not.
    pub(super) const fn is_unfolded(&self) -> bool {
        self.journal.len() > 0 || self.is_folding()
    }

    /// Whether somebody else is folding the journal in, or failed to.
    pub(super) const fn is_folding(&self) -> bool {
        self.tables.committed() != self.journal.salt()
    }

    /// Octets of the journal that nobody folds in yet.
    pub(super) const fn unfolded(&self) -> u64 {
        self.journal.len()
    }

    /// Commits what the journal has made last, and makes it void there.
    pub(super) fn fold(&mut self) -> Result<(), Error> {
        let position = self.journal.anew();
        match self.tables.fold(Fold { position, prepared: self.journal.segment_octets() }) {
            Ok(()) => {
                self.journal.restart(position);
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

    /// Has somebody else make the changes that wait, if it is worth while; and has the journal folded in if its file is
    /// full, while others go on with the next. Gives the octets that were folded in since the last time.
    ///
    /// # Errors
    /// The tables cannot be written: they are to be [restored](Self::restore).
    pub(super) fn pass_on(&mut self) -> Result<u64, Error> {
        // There is no next file while the database names a salt before this: after a failure, until a probe.
        if !self.tables.is_home()? || self.is_folding() {
            return Ok(0);
        }
        let (folded, salt) = (std::mem::take(&mut self.folding), self.journal.salt());
        if folded > 0 {
            lock(&self.fresh).retain(|_, fresh| fresh.salt == salt);
            self.clean()?;
        }
        let mut fold = None;
        if self.journal.is_full() && self.journal.len() > 0 {
            self.folding = self.journal.len();
            fold = Some(Fold { position: self.journal.switch()?, prepared: self.journal.segment_octets() });
        }
        self.tables.send(fold);
        Ok(folded)
    }

    /// Gives back to the disk files out of which nothing is needed.
    pub(super) fn trim(&mut self) -> Result<(), Error> {
        if self.is_unfolded() {
            return Ok(());
        }
        let in_use = self.journal.in_use();
        self.journal.segments.trim(&*self.disk, &in_use).map_err(|e| Error::io("remove a file of the journal", &e))
    }

    /// Lets go of the transaction, so that another connection can have it.
    pub(super) fn release(&mut self) {
        if let Ok(connection) = self.tables.home()
            && !connection.is_autocommit()
        {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }

    /// Brings the rows to what is on disk: what the database has, and what the journal has beyond it. Nothing of that may be
    /// folded in after a failure, before the spool is opened anew.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        self.read_back(false)
    }

    /// The same for the opening of a spool, with what the journal has on disk for sure.
    pub(super) fn secure(&mut self) -> Result<(), Error> {
        self.read_back(true)
    }

    fn read_back(&mut self, again: bool) -> Result<(), Error> {
        // Whoever looks for content waits meanwhile, or would take it for missing.
        let held = std::sync::Arc::clone(&self.fresh);
        let mut fresh = lock(&held);
        self.release();
        fresh.clear();
        self.folding = 0;
        let position = position(self.tables.home()?)?;
        self.tables.restored(position.salt);
        let contents = self.journal.read(position).map_err(|e| Error::io("read the journal", &e))?;
        if contents.damaged {
            self.keep(&contents);
        }
        if again {
            self.journal.write_again(&contents)?;
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
        let there = self.disk.journals().map_err(|e| Error::io("list the files of the journal", &e))?;
        self.journal.found(Segments::found(there, needed(self.tables.home()?)?));
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

fn position(connection: &Connection) -> Result<Position, Error> {
    let row = |row: &Row<'_>| {
        let (salt, place) = (unsigned(row.get(0)?), unsigned(row.get(2)?));
        Ok(Position { salt, segment: row.get(1)?, place, next: row.get(3)? })
    };
    Ok(connection.query_row("SELECT salt, segment, place, next FROM journal WHERE id = 1", [], row)?)
}

/// What messages need of the files of the journal.
fn needed(connection: &Connection) -> Result<Vec<(u32, Needed)>, Error> {
    let mut statement = connection.prepare(
        "SELECT segment, count(*), sum(size) FROM message WHERE segment BETWEEN 0 AND 4294967295 GROUP BY segment",
    )?;
    let row = |row: &Row<'_>| {
        let number = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
        Ok((row.get(0)?, Needed { messages: number(1)?, octets: number(2)? }))
    };
    Ok(statement.query_map([], row)?.collect::<Result<_, _>>()?)
}

/// A body that comes, moves or goes with a change.
fn follow(fresh: &mut HashMap<MessageId, Fresh>, (statement, values): &Change<'_>, salt: u64) {
    let number = |n: usize| values.get(n).and_then(|value| value.as_i64().ok()).map(unsigned);
    let short = |n: usize| number(n).and_then(|value| u32::try_from(value).ok());
    let (Some(order), Some(random)) = (number(0), number(1)) else { return };
    let file = |size: usize, sum: usize| Some(FreshBody::File { size: number(size)?, sum: short(sum)? });
    let place = || {
        let place = Place { segment: short(4)?, offset: number(5)? };
        Some(FreshBody::Journal { size: number(2)?, sum: short(3)?, place })
    };
    let body = match (statement, values.last()) {
        (Statement::DeleteMessage, _) => Some(FreshBody::Gone),
        (Statement::InsertMessage, Some(ValueRef::Blob(content))) => Some(FreshBody::Memory(content.to_vec().into())),
        (Statement::InsertMessage, _) => file(6, 7),
        (Statement::StoreMessage | Statement::MoveContent, _) => place().or_else(|| file(2, 3)),
        _ => return,
    };
    if let Some(body) = body {
        fresh.insert(MessageId::from_parts(order, random), Fresh { body, salt });
    }
}
