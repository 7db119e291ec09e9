//! The disk, as far as body files and commits go: a trait, so that crashes can be simulated.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rusqlite::Connection;

/// One flat folder of files, and the commits of the rows beside it.
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

/// A folder of the file system.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Disk for Folder {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.0.join(name))?;
        Ok(Box::new(file))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
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
