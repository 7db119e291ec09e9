//! What the store does when its disk fails, on a real folder.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rusqlite::Connection;

use super::disk::{BODIES, Disk, DiskFile, Folder, JournalFile};
use super::{SqliteSpool, open};
use crate::error::Error;
use crate::kit::{at, claim, content, message, settle_all, store};
use crate::{Health, Limits, MessageId, Settled, Spool};

/// A folder that fails for as long as it is told to.
#[derive(Debug)]
struct Failing {
    folder: Folder,
    what: Arc<AtomicU8>,
}

const FINE: u8 = 0;
const CONTENT: u8 = 1;
const NAMES: u8 = 2;
const ROWS: u8 = 3;
const JOURNAL: u8 = 4;

impl Failing {
    fn check(&self, what: u8) -> io::Result<()> {
        let failing = self.what.load(Ordering::Relaxed) == what;
        if failing { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

struct FailingFile(Box<dyn DiskFile>, Arc<AtomicU8>);

impl DiskFile for FailingFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn sync(&mut self) -> io::Result<()> {
        let failing = self.1.load(Ordering::Relaxed) == CONTENT;
        if failing { Err(io::Error::from_raw_os_error(5)) } else { self.0.sync() }
    }
}

impl Disk for Failing {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile(self.folder.create(name)?, Arc::clone(&self.what))))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.folder.read(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.folder.list()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.check(NAMES)?;
        self.folder.sync_folder()
    }

    fn free(&self) -> io::Result<u64> {
        self.folder.free()
    }

    fn journal(&self, n: usize) -> io::Result<Box<dyn JournalFile>> {
        Ok(Box::new(FailingJournal(self.folder.journal(n)?, Arc::clone(&self.what))))
    }

    fn commit(&self, connection: &Connection) -> rusqlite::Result<()> {
        if self.check(ROWS).is_err() {
            return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(10), None));
        }
        self.folder.commit(connection)
    }
}

#[derive(Debug)]
struct FailingJournal(Box<dyn JournalFile>, Arc<AtomicU8>);

impl JournalFile for FailingJournal {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.0.read()
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.0.write_at(offset, data)
    }

    fn sync(&mut self) -> io::Result<()> {
        let failing = self.1.load(Ordering::Relaxed) == JOURNAL;
        if failing { Err(io::Error::from_raw_os_error(5)) } else { self.0.sync() }
    }

    fn clear(&mut self) -> io::Result<()> {
        self.0.clear()
    }
}

async fn put(spool: &SqliteSpool, body: &[u8]) -> Result<MessageId, Error> {
    let new = message(at(0), "jo@a.example", &[("b.example", &["x@b.example"])]).unwrap();
    store(spool, at(0), new, body).await
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_taken_until_a_probe_succeeds() {
    for what in [CONTENT, NAMES, JOURNAL] {
        let root = tempfile::tempdir().unwrap();
        let failing = Arc::new(AtomicU8::new(FINE));
        let disk = Failing { folder: Folder::of(root.path()), what: Arc::clone(&failing) };
        let spool = open::open(root.path(), Limits::default(), Arc::new(disk)).unwrap();
        let large = vec![b'x'; 400_000];
        let first = put(&spool, &large).await.unwrap();
        let leased = claim(&spool, at(1), 1).await.unwrap().remove(0);

        failing.store(what, Ordering::Relaxed);
        let error = put(&spool, &large).await.unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{what}: {error}");
        assert!(matches!(spool.health(), Health::Unhealthy(_)), "{what}");
        assert!(matches!(spool.begin(at(0), None).await, Err(Error::Unhealthy(_))), "{what}");
        let done = settle_all(&leased, &Settled::Delivered("250".into()), at(1));
        let refused = spool.settle(leased.lease, at(1), done.clone()).await.unwrap_err();
        assert!(matches!(refused, Error::Unhealthy(_)), "{what}: {refused}");
        assert!(claim(&spool, at(1), 1).await.is_err(), "{what}: what cannot be settled is claimed");
        // What is there can be looked at.
        assert_eq!(spool.get(first).await.unwrap().len(), 1, "{what}");
        assert!(spool.maintain(at(2)).await.is_err(), "{what}: a probe succeeds on a disk that fails");
        assert!(matches!(spool.health(), Health::Unhealthy(_)), "{what}");

        failing.store(FINE, Ordering::Relaxed);
        spool.maintain(at(3)).await.unwrap();
        assert_eq!(spool.health(), Health::Ready, "{what}");
        assert_eq!(content(&spool, first).await.unwrap().len(), large.len());
        // The lease is still that of its owner.
        spool.settle(leased.lease, at(3), done).await.unwrap();
        let second = put(&spool, b"again").await.unwrap();
        let claimed = claim(&spool, at(4), 10).await.unwrap();
        assert_eq!(claimed.iter().map(|leased| leased.message.id).collect::<Vec<_>>(), [second], "{what}");
        spool.close().await.unwrap();
        assert_eq!(files(root.path()), 0, "{what}: a body stays behind");
    }
}

#[tokio::test]
async fn what_was_answered_stays_when_the_database_cannot_take_it() {
    let root = tempfile::tempdir().unwrap();
    let failing = Arc::new(AtomicU8::new(FINE));
    let disk = Failing { folder: Folder::of(root.path()), what: Arc::clone(&failing) };
    let spool = open::open(root.path(), Limits::default(), Arc::new(disk)).unwrap();
    let settled = put(&spool, b"settled").await.unwrap();
    let leased = claim(&spool, at(1), 1).await.unwrap().remove(0);
    failing.store(ROWS, Ordering::Relaxed);
    let first = put(&spool, b"first").await.unwrap();
    let large = put(&spool, &[b'l'; 400_000]).await.unwrap();
    let done = settle_all(&leased, &Settled::Delivered("250".into()), at(1));
    spool.settle(leased.lease, at(1), done).await.unwrap();
    assert!(matches!(spool.maintain(at(2)).await, Err(Error::Storage(_))));
    assert!(matches!(spool.health(), Health::Unhealthy(_)));
    assert!(put(&spool, b"second").await.is_err());
    for _ in 0..2 {
        assert_eq!(spool.get(first).await.unwrap().len(), 1);
        assert_eq!(content(&spool, first).await.unwrap(), "first");
        assert_eq!(content(&spool, large).await.unwrap().len(), 400_000);
        assert!(content(&spool, settled).await.is_err(), "what has left is read");
        assert!(spool.maintain(at(3)).await.is_err(), "a probe succeeds on a disk that fails");
    }
    failing.store(FINE, Ordering::Relaxed);
    spool.maintain(at(4)).await.unwrap();
    assert_eq!(spool.health(), Health::Ready);
    assert_eq!(content(&spool, first).await.unwrap(), "first");
    assert!(spool.get(settled).await.unwrap().is_empty());
    put(&spool, b"third").await.unwrap();
    assert_eq!(spool.stats().messages, 3);
}

#[tokio::test]
async fn a_queue_from_before_the_journal_is_taken_over() {
    let root = tempfile::tempdir().unwrap();
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let id = put(&spool, b"old").await.unwrap();
    spool.close().await.unwrap();
    let connection = Connection::open(SqliteSpool::database(root.path())).unwrap();
    connection.execute_batch("DROP TABLE journal; PRAGMA user_version = 1").unwrap();
    drop(connection);
    std::fs::remove_file(root.path().join("journal")).unwrap();
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    assert_eq!(content(&spool, id).await.unwrap(), "old");
    put(&spool, b"new").await.unwrap();
    assert_eq!(spool.stats().messages, 2);
}

#[tokio::test]
async fn a_journal_from_before_there_were_two_files_is_taken_over() {
    let (root, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let (one, two) = (put(&spool, b"one").await.unwrap(), put(&spool, b"two").await.unwrap());
    // As after a crash of a program that knew schema 2.
    for name in ["spool.db", "spool.db-wal", "journal"] {
        std::fs::copy(root.path().join(name), after.path().join(name)).unwrap();
    }
    let connection = Connection::open(SqliteSpool::database(after.path())).unwrap();
    let count: i64 = connection.query_row("SELECT count(*) FROM message", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0, "the journal is folded in already");
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    drop(connection);
    let spool = SqliteSpool::open(after.path(), Limits::default()).unwrap();
    assert_eq!(content(&spool, one).await.unwrap(), "one");
    assert_eq!(content(&spool, two).await.unwrap(), "two");
}

#[tokio::test]
async fn a_journal_that_the_disk_has_changed_costs_one_group_and_is_kept() {
    let (root, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let mut ids = Vec::new();
    for body in [b"one", b"two", b"six"] {
        ids.push(put(&spool, body).await.unwrap());
    }
    // As after a crash: what is on disk, before the journal is folded in.
    for name in ["spool.db", "spool.db-wal", "journal"] {
        std::fs::copy(root.path().join(name), after.path().join(name)).unwrap();
    }
    let journal = after.path().join("journal");
    let mut octets = std::fs::read(&journal).unwrap();
    let second = octets.windows(3).position(|octets| octets == b"two").expect("the journal is folded in already");
    octets[second] ^= 1;
    std::fs::write(&journal, octets).unwrap();
    let spool = SqliteSpool::open(after.path(), Limits::default()).unwrap();
    assert_eq!(content(&spool, ids[0]).await.unwrap(), "one");
    assert!(spool.get(ids[1]).await.unwrap().is_empty());
    assert_eq!(content(&spool, ids[2]).await.unwrap(), "six");
    let mut names = std::fs::read_dir(after.path().join(BODIES)).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.any(|name| name.to_string_lossy().starts_with("damaged-journal-")), "no copy is kept");
}

#[tokio::test]
async fn the_database_is_up_to_date_a_moment_after_the_last_change() {
    let root = tempfile::tempdir().unwrap();
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let id = put(&spool, b"x").await.unwrap();
    let beside = Connection::open(SqliteSpool::database(root.path())).unwrap();
    let count = || beside.query_row("SELECT count(*) FROM message", [], |row| row.get::<_, i64>(0)).unwrap();
    while count() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // And others may write to it, and the journal has nothing more to say.
    beside.execute("UPDATE probe SET time = 0", []).unwrap();
    assert_eq!(content(&spool, id).await.unwrap(), "x");
    spool.close().await.unwrap();
    assert_eq!(std::fs::metadata(root.path().join("journal")).unwrap().len(), 0, "mail is left behind");
}

fn files(root: &Path) -> usize {
    // Opening sweeps.
    let spool = SqliteSpool::open(root, Limits::default());
    drop(spool);
    std::fs::read_dir(root.join(BODIES)).unwrap().count()
}

#[tokio::test]
async fn a_closed_spool_says_so_and_can_be_opened_at_once() {
    let root = tempfile::tempdir().unwrap();
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let id = put(&spool, b"x").await.unwrap();
    spool.close().await.unwrap();
    spool.close().await.unwrap();
    assert_eq!(put(&spool, b"x").await, Err(Error::Closed));
    assert_eq!(claim(&spool, at(0), 1).await, Err(Error::Closed));
    let again = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    assert_eq!(again.get(id).await.unwrap().len(), 1);
}
