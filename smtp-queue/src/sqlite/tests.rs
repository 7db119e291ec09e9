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
use crate::{Action, Filter, Health, Limits, MessageId, Settled, Spool};

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
/// Nothing is written to the journal; `HELD` once somebody waits for that.
const HOLD: u8 = 5;
const HELD: u8 = 6;

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

    fn journal(&self, n: u32) -> io::Result<Box<dyn JournalFile>> {
        Ok(Box::new(FailingJournal(self.folder.journal(n)?, Arc::clone(&self.what))))
    }

    fn read_journal(&self, n: u32, offset: u64, max: u64) -> io::Result<Vec<u8>> {
        self.folder.read_journal(n, offset, max)
    }

    fn remove_journal(&self, n: u32) -> io::Result<()> {
        self.folder.remove_journal(n)
    }

    fn journals(&self) -> io::Result<Vec<u32>> {
        self.folder.journals()
    }

    fn sync_journals(&self) -> io::Result<()> {
        self.check(NAMES)?;
        self.folder.sync_journals()
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
    fn length(&mut self) -> io::Result<u64> {
        self.0.length()
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        while matches!(self.1.load(Ordering::Relaxed), HOLD | HELD) {
            self.1.store(HELD, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.0.write_at(offset, data)
    }

    fn sync(&mut self) -> io::Result<()> {
        let failing = self.1.load(Ordering::Relaxed) == JOURNAL;
        if failing { Err(io::Error::from_raw_os_error(5)) } else { self.0.sync() }
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

/// Opens a queue of an older version, as it was left when that was killed: two messages in the database and, if `journal`
/// says where, two in the journal. Gives the contents that are there afterwards, and what is needed of files.
async fn taken_over(change: &str, journal: Option<&str>) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let connection = Connection::open(SqliteSpool::database(root.path())).unwrap();
    connection.execute_batch(include_str!("tests/schema-3.sql")).unwrap();
    connection.execute_batch(change).unwrap();
    drop(connection);
    if let Some(name) = journal {
        std::fs::write(root.path().join(name), include_bytes!("tests/schema-3.journal")).unwrap();
    }
    let mut contents = Vec::new();
    // It is as it should be when it is opened again, too.
    for _ in 0..2 {
        let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
        let page = spool.list(&Filter::default(), None, 10).await.unwrap();
        contents = Vec::new();
        for entry in page.entries {
            let content = content(&spool, entry.message.id).await.unwrap();
            let text = String::from_utf8(content.to_vec()).unwrap();
            contents.push(text.lines().last().unwrap().to_owned());
        }
        let new = put(&spool, b"new").await.unwrap();
        assert_eq!(content(&spool, new).await.unwrap(), "new");
        let done = Filter::message(new);
        assert_eq!(spool.control(&done, Action::Cancel, at(1)).await.unwrap(), 1);
        spool.close().await.unwrap();
    }
    // What was in the database stays there until it leaves.
    assert!(journals(root.path()).is_empty(), "something is needed of {:?}", journals(root.path()));
    contents
}

#[tokio::test]
async fn older_queues_are_taken_over() {
    let all = ["kept in row 1", "kept in row 2", "kept in journal 3", "kept in journal 4"];
    assert_eq!(taken_over("", Some("journal")).await, all);
    assert_eq!(taken_over("", Some("journal2")).await, all, "while the other was folded in");
    assert_eq!(taken_over("PRAGMA user_version = 2", Some("journal")).await, all, "when there was one journal");
    assert_eq!(taken_over("DROP TABLE journal; PRAGMA user_version = 1", None).await, all[..2], "when there was none");
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
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    assert_eq!(content(&spool, id).await.unwrap(), "x");
    let leased = claim(&spool, at(1), 1).await.unwrap().remove(0);
    let done = settle_all(&leased, &Settled::Delivered("250".into()), at(1));
    spool.settle(leased.lease, at(1), done).await.unwrap();
    spool.close().await.unwrap();
    assert!(journals(root.path()).is_empty(), "mail is left behind");
}

/// Settles messages, all but those with a number that `stays`.
async fn leave(spool: &SqliteSpool, ids: &[MessageId], stays: impl Fn(usize) -> bool) {
    let leaving: Vec<_> = (0..ids.len()).filter(|n| !stays(*n)).map(|n| ids[n]).collect();
    for leased in claim(spool, at(1), ids.len()).await.unwrap() {
        if leaving.contains(&leased.message.id) {
            let done = settle_all(&leased, &Settled::Delivered("250".into()), at(1));
            spool.settle(leased.lease, at(1), done).await.unwrap();
        } else {
            spool.release(&[leased.lease]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn content_that_stays_is_moved_together_and_the_rest_of_the_files_is_used_again() {
    const SIZE: usize = 250_000;
    let root = tempfile::tempdir().unwrap();
    let what = Arc::new(AtomicU8::new(FINE));
    let disk = Failing { folder: Folder::of(root.path()), what: Arc::clone(&what) };
    let spool = open::open(root.path(), Limits::default(), Arc::new(disk)).unwrap();
    // One of them stays of each file, more or less.
    let (stays, text) = (|n: usize| n.is_multiple_of(17), |n: usize| vec![b'a' + u8::try_from(n % 26).unwrap(); SIZE]);
    let mut ids = Vec::new();
    for n in 0..230 {
        ids.push(put(&spool, &text(n)).await.unwrap());
    }
    let full = journals(root.path()).len();
    assert!(full >= 14, "{full} files");
    leave(&spool, &ids, stays).await;
    let mut reading = Vec::new();
    for n in (0..ids.len()).filter(|n| stays(*n)) {
        reading.push(n);
    }
    // It can be read all the time: where it was, until it is where it will be.
    what.store(HOLD, Ordering::Relaxed);
    let maintained = tokio::spawn({
        let spool = spool.clone();
        async move { spool.maintain(at(2)).await }
    });
    while what.load(Ordering::Relaxed) != HELD {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let mut read = Vec::new();
    for n in &reading {
        read.push(content(&spool, ids[*n]).await);
    }
    what.store(FINE, Ordering::Relaxed);
    maintained.await.unwrap().unwrap();
    for (n, read) in reading.iter().zip(read) {
        assert_eq!(read.unwrap(), text(*n), "{n}");
    }
    // A file or more gets free each time; those that are free are removed, all but a few.
    for _ in 0..4 {
        spool.maintain(at(2)).await.unwrap();
        for n in &reading {
            assert_eq!(content(&spool, ids[*n]).await.unwrap(), text(*n), "{n}");
        }
    }
    let left = journals(root.path()).len();
    assert!(left <= 9 + 4 + 2, "{left} of {full} files are left");
    // What comes now has room in files that are there.
    for n in 0..30 {
        ids.push(put(&spool, &text(n)).await.unwrap());
    }
    assert!(journals(root.path()).len() <= left, "{:?}", journals(root.path()));
    spool.close().await.unwrap();
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    for n in &reading {
        assert_eq!(content(&spool, ids[*n]).await.unwrap(), text(*n), "{n}");
    }
    assert_eq!(spool.stats().messages, reading.len() as u64 + 30);
    leave(&spool, &ids, |_| false).await;
    assert_eq!(spool.stats().messages, 0);
    spool.close().await.unwrap();
    assert!(journals(root.path()).is_empty(), "mail is left behind");
}

#[tokio::test]
async fn a_backup_of_a_running_queue_has_what_was_committed() {
    let (root, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let (stays, leaves) = (put(&spool, &[b's'; 9_000]).await.unwrap(), put(&spool, &[b'l'; 9_000]).await.unwrap());
    spool.maintain(at(1)).await.unwrap();
    let database = SqliteSpool::database(backup.path());
    let into = format!("VACUUM INTO '{}'", database.display());
    Connection::open(SqliteSpool::database(root.path())).unwrap().execute_batch(&into).unwrap();
    Connection::open(&database).unwrap().execute_batch("UPDATE journal SET salt = random()").unwrap();
    // It goes on, and the files of the journal are copied later.
    leave(&spool, &[stays, leaves], |n| n == 0).await;
    for _ in 0..60 {
        put(&spool, &[b'n'; 250_000]).await.unwrap();
    }
    for name in journals(root.path()) {
        std::fs::copy(root.path().join(&name), backup.path().join(&name)).unwrap();
    }
    let restored = SqliteSpool::open(backup.path(), Limits::default()).unwrap();
    assert_eq!(restored.stats().messages, 2, "what came later is there");
    put(&restored, &[b'm'; 250_000]).await.unwrap();
    assert_eq!(content(&restored, stays).await.unwrap(), [b's'; 9_000][..]);
    // As it was, or found to be damaged, and not something else.
    let left = content(&restored, leaves).await;
    assert!(left.is_err() || left.unwrap() == [b'l'; 9_000][..]);
}

/// The names of the journal's files.
fn journals(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("journal")).collect()
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

#[tokio::test]
async fn a_group_waits_for_what_is_short_and_on_its_way_only() {
    use smtp_core::service::{Body, Chunk};
    let root = tempfile::tempdir().unwrap();
    let spool = SqliteSpool::open(root.path(), Limits::default()).unwrap();
    let is_coming = || spool.0.state.coming.any();
    assert!(!is_coming());
    drop(spool.begin(at(0), None).await.unwrap());
    assert!(!is_coming(), "given up");

    let mut long = spool.begin(at(0), None).await.unwrap();
    assert!(is_coming());
    long.write(vec![b'x'; Limits::default().inline + 1].into()).await.unwrap();
    assert!(!is_coming(), "it may take long");

    let stored = spool.begin(at(0), None).await.unwrap();
    let Ok(Chunk::End(complete)) = Body::from_bytes(&b""[..]).next().await else { panic!("no end") };
    assert!(is_coming());
    stored.commit(complete, message(at(0), "a@x.example", &[("y", &["b@y.example"])]).unwrap()).await.unwrap();
    assert!(!is_coming(), "stored");
}
