//! Moving content that is still needed out of files of the journal in which there is little of it, so that these can be
//! written over.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::change::Statement;
use super::journal::READ_MAX;
use super::rows::{FreshBody, SqlRows, integer, signed, unsigned};
use crate::error::Error;
use crate::id::MessageId;

/// Files that may be sparse: 32 MiB are not worth the writing.
const SPARSE_MAX: usize = 8;
/// Octets that are moved at a time. A file in which that much is needed is not sparse: so at least a file gets free.
const MOVED_MAX: u64 = 1 << 20;

/// Content that is needed, and where it is.
struct Kept {
    id: MessageId,
    sum: u32,
    size: u64,
    offset: u64,
}

impl SqlRows {
    /// Moves some content, if there are many files with little in them.
    ///
    /// # Errors
    /// The journal cannot be written or the tables not read: they are to be [restored](Self::restore). Not for want of
    /// space: then nothing is moved.
    pub(super) fn clean(&mut self) -> Result<(), Error> {
        self.clean_beyond(SPARSE_MAX)
    }

    pub(super) fn clean_beyond(&mut self, sparse_max: usize) -> Result<(), Error> {
        let sparse = self.journal.segments.sparse(&self.journal.in_use(), self.journal.segment_octets());
        if sparse.len() <= sparse_max || self.is_folding() {
            return Ok(());
        }
        self.journal.begin();
        let (mut octets, mut moved) = (0, Vec::new());
        for (segment, needed) in sparse {
            octets += needed.octets;
            if octets > MOVED_MAX {
                break;
            }
            self.move_out(segment, &mut moved)?;
        }
        if self.journal.group().is_empty() {
            return Ok(());
        }
        match self.append() {
            Err(Error::Full(reason)) => {
                tracing::warn!(reason, "content was not moved together");
                self.restore()
            }
            result => {
                result?;
                // Not before: until it is written there, whoever reads has to find it where it was.
                for (id, body) in moved {
                    self.freshen(id, body);
                }
                Ok(())
            }
        }
    }

    /// Moves what is needed of a file into the one that is written, but for what is damaged: that is found when it is read.
    fn move_out(&mut self, segment: u32, moved: &mut Vec<(MessageId, FreshBody)>) -> Result<(), Error> {
        let kept = self.kept(segment)?;
        let read = self.disk.read_journal(segment, 0, READ_MAX).map_err(|e| Error::io("read the journal", &e))?;
        for Kept { id, sum, size, offset } in kept {
            let (Ok(from), Ok(length)) = (usize::try_from(offset), usize::try_from(size)) else { continue };
            let content = read.get(from..).and_then(|rest| rest.get(..length));
            let Some(content) = content.filter(|content| crc32fast::hash(content) == sum) else { continue };
            let to = self.store_content(content);
            self.journal.segments.remove(segment, size);
            let values: [ValueRef<'_>; 6] = [
                integer(signed(id.order())),
                integer(signed(id.random())),
                integer(signed(size)),
                integer(sum.into()),
                integer(to.segment.into()),
                integer(signed(to.offset)),
            ];
            self.change(Statement::MoveContent, &values);
            moved.push((id, FreshBody::Journal { size, sum, place: to }));
        }
        Ok(())
    }

    /// What is needed of a file.
    fn kept(&mut self, segment: u32) -> Result<Vec<Kept>, Error> {
        let mut statement = self.tables()?.prepare_cached(
            "SELECT id, random, body_sum, size, place FROM message WHERE segment = ?1 ORDER BY place",
        )?;
        let row = |row: &Row<'_>| {
            let number = |n| row.get(n).map(unsigned);
            let id = MessageId::from_parts(number(0)?, number(1)?);
            Ok(Kept { id, sum: row.get(2)?, size: number(3)?, offset: number(4)? })
        };
        // A row that cannot be read is found when its message is.
        Ok(statement.query_map([segment], row)?.filter_map(Result::ok).collect())
    }
}
