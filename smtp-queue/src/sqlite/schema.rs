//! The database: its schema, and how an older one becomes a newer one.
//!
//! An administrator may look into it with `sqlite3`. Times are milliseconds since 1970. A job's `status` is 0 waiting,
//! 1 held, 2 quarantined. `sum` columns are CRC-32 over the other columns of the row, so that damage is found.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::error::OpenError;

/// `SMTQ`, in the header of the file.
const APPLICATION: i64 = 0x534d_5451;

/// Each brings the schema one version further. Never changed once released; only added to. One that comes after the
/// journal (2) is applied before what is in a journal: its statements have to work on the newest schema.
const MIGRATIONS: [&str; 4] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const VERSION_1: &str = "
CREATE TABLE lane(
    id INTEGER PRIMARY KEY,
    next_hop TEXT NOT NULL,
    priority INTEGER NOT NULL,
    UNIQUE(next_hop, priority)
);
CREATE TABLE message(
    id INTEGER PRIMARY KEY,
    random INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    mail_from TEXT NOT NULL,
    parameters TEXT NOT NULL,
    sender TEXT NOT NULL,
    size INTEGER NOT NULL,
    body_sum INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    body BLOB
);
CREATE TABLE job(
    message INTEGER NOT NULL,
    n INTEGER NOT NULL,
    random INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    due INTEGER NOT NULL,
    alarm INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    give_up INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    recipients TEXT NOT NULL,
    sum INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reason TEXT,
    PRIMARY KEY(message, n)
) WITHOUT ROWID;
CREATE INDEX job_due ON job(lane, due) WHERE status = 0;
CREATE INDEX job_turn ON job(lane, turn, due) WHERE status = 0;
CREATE INDEX job_alarm ON job(alarm) WHERE status = 0;
CREATE INDEX job_status ON job(status) WHERE status <> 0;
CREATE INDEX job_cancelled ON job(message) WHERE cancelled <> 0;
CREATE INDEX message_file ON message(id, random) WHERE body IS NULL;
CREATE TABLE probe(id INTEGER PRIMARY KEY, time INTEGER NOT NULL);
";

/// Which frames of the journal are to be done again: those with this salt.
const VERSION_2: &str = "
CREATE TABLE journal(id INTEGER PRIMARY KEY, salt INTEGER NOT NULL);
INSERT INTO journal(id, salt) VALUES (1, 0);
";

/// The journal has two files. Who knows one only would forget what is in the other.
const VERSION_3: &str = "";

/// Content stays in the journal, which has as many files as that needs: in the file `segment`, from `place` on. Frames that
/// are to be done again are in the journal's `segment`, from its `place` on, and then in its file `next`. Before this they
/// were in the one or the other of the first two.
const VERSION_4: &str = "
ALTER TABLE message ADD COLUMN segment INTEGER;
ALTER TABLE message ADD COLUMN place INTEGER;
DROP INDEX message_file;
CREATE INDEX message_file ON message(id, random) WHERE body IS NULL AND segment IS NULL;
CREATE INDEX message_segment ON message(segment) WHERE segment IS NOT NULL;
ALTER TABLE journal ADD COLUMN segment INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN next INTEGER NOT NULL DEFAULT 1;
";

/// The newest schema that is known here.
pub(crate) const NEWEST: i64 = 4;

/// Pages of the log, 16 MiB, after which a commit does not end before they are copied.
const LOG_PAGES: i64 = 4_096;

/// Sets a connection up for durable commits.
///
/// Until a commit the changes are in memory, up to 16 MiB; the journal has them on disk.
///
/// Freed pages are kept for new mail and given back to the disk a few at a time (see `SqlRows::give_back`); that has to be
/// said before the file has its first page. WAL with `synchronous = FULL` syncs the log at every commit. It is copied into
/// the database beside the writer (see [`Checkpointer`](super::checkpoint::Checkpointer)), and by the writer once it is
/// long; a log that grew under a long reader is cut back.
///
/// The plan of a statement must not depend on what is bound to it: SQLite would make it anew for each mail, to see whether
/// a partial index fits the values, and that costs more than all the rest.
pub(crate) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    sync_all(connection)?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Makes commits and copies of the log wait for the disk.
pub(super) fn sync_all(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)
}

/// Brings the schema up to date.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let unreadable =
        |error: rusqlite::Error| OpenError::Unreadable { path: path.to_owned(), reason: error.to_string() };
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(unreadable);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(unreadable)?;
    if application != APPLICATION && (application != 0 || version != 0 || tables != 0) {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    if version > NEWEST {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known: NEWEST });
    }
    let done = usize::try_from(version).unwrap_or_default();
    for (migration, version) in MIGRATIONS.iter().zip(1_i64..).skip(done) {
        let mut step = || {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        };
        step().map_err(unreadable)?;
    }
    Ok(())
}
