//! The disk, as far as body files, the journal and commits go: a trait, so that crashes can be simulated.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// One flat folder of files, the journal, and the commits of the rows beside them.
pub(crate) trait Disk: Send + Sync + std::fmt::Debug + 'static {
    /// A new file that only its owner may read. Fails if it is there.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes names last.
    fn sync_folder(&self) -> io::Result<()>;
    /// Free octets.
    fn free(&self) -> io::Result<u64>;

    /// One of the two files of the journal, which is made if it is not there.
    fn journal(&self, n: usize) -> io::Result<Box<dyn JournalFile>>;

    /// Commits the transaction that is open.
    fn commit(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

/// A file that is being written.
pub(crate) trait DiskFile: Send {
    /// Writes some of `data`, perhaps not all.
    fn write(&mut self, data: &[u8]) -> io::Result<usize>;
    /// Makes the content last.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is written over in place.
pub(crate) trait JournalFile: Send + std::fmt::Debug {
    /// All of it.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Writes some of `data`, perhaps not all. The file becomes as long as that needs.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize>;
    /// Makes the content last.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes it empty.
    fn clear(&mut self) -> io::Result<()>;
}

/// A spool's folder in the file system.
#[derive(Debug)]
pub(crate) struct Folder {
    bodies: PathBuf,
    journals: [PathBuf; 2],
}

/// Where body files are, in a spool's folder.
pub(super) const BODIES: &str = "bodies";
/// The files of the journal, in a spool's folder.
const JOURNALS: [&str; 2] = ["journal", "journal2"];

impl Folder {
    pub(crate) fn of(spool: &Path) -> Self {
        Self { bodies: spool.join(BODIES), journals: JOURNALS.map(|name| spool.join(name)) }
    }
}

impl Disk for Folder {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.bodies.join(name))?;
        Ok(Box::new(file))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.bodies.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.bodies.join(from), self.bodies.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.bodies.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            std::fs::read_dir(&self.bodies)?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.bodies)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.bodies)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn journal(&self, n: usize) -> io::Result<Box<dyn JournalFile>> {
        let path = self.journals.get(n).ok_or(io::ErrorKind::NotFound)?;
        let mut options = OpenOptions::new();
        Ok(Box::new(options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?))
    }
}

impl DiskFile for File {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Write::write(self, data)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// The longest journal that is read: it is folded in long before.
const JOURNAL_MAX: u64 = 1 << 30;

impl JournalFile for File {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let length = self.metadata()?.len().min(JOURNAL_MAX);
        let mut all = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.read_exact_at(&mut all, 0)?;
        Ok(all)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        FileExt::write_at(self, data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn clear(&mut self) -> io::Result<()> {
        self.set_len(0)
    }
}
