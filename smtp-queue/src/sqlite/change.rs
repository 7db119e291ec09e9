//! What changes rows: a few statements with values, as they stand in the journal.

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// One of the statements that change rows. Their numbers stand in journals: they are only added to, and what one does to
/// the same rows with the same values never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    InsertLane,
    /// With its content: in journals up to schema 3 only.
    InsertMessage,
    DeleteMessage,
    WriteJob,
    DeleteJob,
    SetStatus,
    StoreMessage,
    MoveContent,
}

const ALL: [Statement; 8] = [
    Statement::InsertLane,
    Statement::InsertMessage,
    Statement::DeleteMessage,
    Statement::WriteJob,
    Statement::DeleteJob,
    Statement::SetStatus,
    Statement::StoreMessage,
    Statement::MoveContent,
];

impl Statement {
    const fn number(self) -> u8 {
        match self {
            Self::InsertLane => 0,
            Self::InsertMessage => 1,
            Self::DeleteMessage => 2,
            Self::WriteJob => 3,
            Self::DeleteJob => 4,
            Self::SetStatus => 5,
            Self::StoreMessage => 6,
            Self::MoveContent => 7,
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::InsertLane => "INSERT INTO lane(id, next_hop, priority) VALUES (?1, ?2, ?3)",
            Self::InsertMessage => {
                "INSERT INTO message(id, random, accepted, mail_from, parameters, sender, size, body_sum, sum, body) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
            }
            Self::DeleteMessage => "DELETE FROM message WHERE id = ?1 AND random = ?2",
            Self::WriteJob => {
                "INSERT OR REPLACE INTO job(message, n, random, lane, turn, due, alarm, expires, attempts, give_up, \
                 cancelled, recipients, sum, status, reason) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
            }
            Self::DeleteJob => "DELETE FROM job WHERE message = ?1 AND n = ?2",
            Self::SetStatus => "UPDATE job SET status = ?3, reason = ?4 WHERE message = ?1 AND n = ?2",
            Self::StoreMessage => {
                "INSERT INTO message(id, random, size, body_sum, segment, place, accepted, mail_from, parameters, sender, \
                 sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            }
            // Size and checksum stay as they are: they are for whoever reads the journal.
            Self::MoveContent => {
                "UPDATE message SET size = ?3, body_sum = ?4, segment = ?5, place = ?6, body = NULL \
                 WHERE id = ?1 AND random = ?2"
            }
        }
    }

    pub(super) fn execute(self, connection: &Connection, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
        let values = values.iter().map(|value| ToSqlOutput::Borrowed(*value));
        connection.prepare_cached(self.sql())?.execute(rusqlite::params_from_iter(values))?;
        Ok(())
    }

    /// Appends the statement and its values.
    pub(super) fn write(self, values: &[ValueRef<'_>], to: &mut Vec<u8>) {
        to.push(self.number());
        to.push(u8::try_from(values.len()).unwrap_or(u8::MAX));
        for value in values {
            match *value {
                ValueRef::Null => to.push(NULL),
                ValueRef::Integer(number) => put(to, INTEGER, &number.to_le_bytes()),
                ValueRef::Real(number) => put(to, REAL, &number.to_le_bytes()),
                ValueRef::Text(text) => put_long(to, TEXT, text),
                ValueRef::Blob(blob) => put_long(to, BLOB, blob),
            }
        }
    }
}

/// Stands where the number of a statement would: content, to which a change points.
const CONTENT: u8 = 255;

/// Appends content. It ends where `to` does.
pub(super) fn write_content(content: &[u8], to: &mut Vec<u8>) {
    put_long(to, CONTENT, content);
}

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const TEXT: u8 = 2;
const BLOB: u8 = 3;
const REAL: u8 = 4;

fn put(to: &mut Vec<u8>, kind: u8, octets: &[u8]) {
    to.push(kind);
    to.extend_from_slice(octets);
}

fn put_long(to: &mut Vec<u8>, kind: u8, octets: &[u8]) {
    // Everything in a row is bounded far below 4 GiB: content by `Limits::inline`, lists by the recipients of a session.
    put(to, kind, &u32::try_from(octets.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend_from_slice(octets);
}

/// A statement that was read back, with its values.
pub(super) type Change<'a> = (Statement, Vec<ValueRef<'a>>);

/// Takes the next change off `from`, and content before it. `None` if that is none: nothing is left, or it was written by
/// somebody else.
pub(super) fn read<'a>(from: &mut &'a [u8]) -> Option<Change<'a>> {
    let mut number = take(from, 1)?[0];
    while number == CONTENT {
        long(from)?;
        number = take(from, 1)?[0];
    }
    let statement = ALL.into_iter().find(|statement| statement.number() == number)?;
    let count = take(from, 1)?[0];
    let mut values = Vec::with_capacity(count.into());
    for _ in 0..count {
        values.push(value(from)?);
    }
    Some((statement, values))
}

fn value<'a>(from: &mut &'a [u8]) -> Option<ValueRef<'a>> {
    Some(match take(from, 1)?[0] {
        NULL => ValueRef::Null,
        INTEGER => ValueRef::Integer(i64::from_le_bytes(take(from, 8)?.try_into().ok()?)),
        REAL => ValueRef::Real(f64::from_le_bytes(take(from, 8)?.try_into().ok()?)),
        TEXT => ValueRef::Text(long(from)?),
        BLOB => ValueRef::Blob(long(from)?),
        _ => return None,
    })
}

fn long<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(from, 4)?.try_into().ok()?);
    take(from, usize::try_from(length).ok()?)
}

fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(n)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_places() {
        for (n, statement) in ALL.into_iter().enumerate() {
            assert_eq!(usize::from(statement.number()), n);
        }
    }

    fn values() -> impl Strategy<Value = Vec<rusqlite::types::Value>> {
        use rusqlite::types::Value;
        let one = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<i32>().prop_map(|n| Value::Real(n.into())),
            ".{0,30}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..60).prop_map(Value::Blob),
        ];
        proptest::collection::vec(one, 0..16)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_nothing_cut_short(n in 0..ALL.len(), values in values(), cut in any::<prop::sample::Index>()) {
            let values: Vec<ValueRef<'_>> = values.iter().map(Into::into).collect();
            let mut octets = Vec::new();
            write_content(b"content", &mut octets);
            prop_assert!(octets.ends_with(b"content"));
            ALL[n].write(&values, &mut octets);
            let first = octets.len();
            write_content(b"", &mut octets);
            write_content(&[1, 0], &mut octets);
            ALL[n].write(&[], &mut octets);
            let mut rest = &octets[..];
            prop_assert_eq!(read(&mut rest), Some((ALL[n], values)));
            prop_assert_eq!(read(&mut rest), Some((ALL[n], Vec::new())));
            prop_assert_eq!(read(&mut rest), None);
            let mut short = &octets[..cut.index(first)];
            prop_assert_eq!(read(&mut short), None);
        }

        #[test]
        fn garbage_is_no_change_and_no_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &octets[..];
            while read(&mut rest).is_some() {}
        }
    }
}
