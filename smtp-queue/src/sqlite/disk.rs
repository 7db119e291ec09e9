//! The disk, as far as body files, the journal and commits go: a trait, so that crashes can be simulated.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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

    /// A file of the journal, to be written to, which is made if it is not there.
    fn journal(&self, n: u32) -> io::Result<Box<dyn JournalFile>>;
    /// Up to `max` octets of a file of the journal; fewer at its end, and none of one that is not there.
    fn read_journal(&self, n: u32, offset: u64, max: u64) -> io::Result<Vec<u8>>;
    fn remove_journal(&self, n: u32) -> io::Result<()>;
    /// The numbers of the files of the journal.
    fn journals(&self) -> io::Result<Vec<u32>>;
    /// Makes the names of the journal's files last.
    fn sync_journals(&self) -> io::Result<()>;

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
    fn length(&mut self) -> io::Result<u64>;
    /// Writes some of `data`, perhaps not all. The file becomes as long as that needs.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize>;
    /// Makes the content last.
    fn sync(&mut self) -> io::Result<()>;
}

/// A spool's folder in the file system.
#[derive(Debug)]
pub(crate) struct Folder {
    spool: PathBuf,
    bodies: PathBuf,
}

/// Where body files are, in a spool's folder.
pub(super) const BODIES: &str = "bodies";
/// The first file of the journal, in a spool's folder; the next is `journal2`.
const JOURNAL: &str = "journal";

impl Folder {
    pub(crate) fn of(spool: &Path) -> Self {
        Self { spool: spool.to_owned(), bodies: spool.join(BODIES) }
    }

    fn journal_path(&self, n: u32) -> PathBuf {
        self.spool.join(if n == 0 { JOURNAL.to_owned() } else { format!("{JOURNAL}{}", u64::from(n) + 1) })
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

    fn journal(&self, n: u32) -> io::Result<Box<dyn JournalFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(Box::new(options.open(self.journal_path(n))?))
    }

    fn read_journal(&self, n: u32, offset: u64, max: u64) -> io::Result<Vec<u8>> {
        let mut file = match File::open(self.journal_path(n)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len().saturating_sub(offset).min(max);
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut octets = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.seek(SeekFrom::Start(offset))?;
        file.take(max).read_to_end(&mut octets)?;
        Ok(octets)
    }

    fn remove_journal(&self, n: u32) -> io::Result<()> {
        std::fs::remove_file(self.journal_path(n))
    }

    fn journals(&self) -> io::Result<Vec<u32>> {
        let number = |name: &str| match name.strip_prefix(JOURNAL)? {
            "" => Some(0),
            rest => rest.parse::<u32>().ok().filter(|n| *n > 1 && n.to_string() == rest).map(|n| n - 1),
        };
        let names = std::fs::read_dir(&self.spool)?.map(|entry| Ok(entry?.file_name().to_str().and_then(number)));
        names.filter_map(Result::transpose).collect()
    }

    fn sync_journals(&self) -> io::Result<()> {
        File::open(&self.spool)?.sync_all()
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

impl JournalFile for File {
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        FileExt::write_at(self, data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
