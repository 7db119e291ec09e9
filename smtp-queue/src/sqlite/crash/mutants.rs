//! Faults planted between the store and its disk, one each: what a store would do that got the order wrong. The
//! simulation must find every one, or it finds nothing.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use super::sim::Sim;
use crate::id::MessageId;
use crate::sqlite::disk::{Disk, DiskFile, JournalFile};

type Wrap = fn(Sim) -> Arc<dyn Disk>;

pub(super) const ALL: [(&str, Wrap); 15] = [
    ("content is not synced", |sim| Mutant::wrap(sim, Fault::NoFileSync)),
    ("the folder is not synced", |sim| Mutant::wrap(sim, Fault::NoFolderSync)),
    ("the row comes before its file", |sim| Mutant::wrap(sim, Fault::RowBeforeFile)),
    ("the file is freed before the settlement", |sim| Mutant::wrap(sim, Fault::FreedBeforeSettled)),
    ("the journal is written over before the commit", |sim| Mutant::wrap(sim, Fault::FoldWithoutCommit)),
    ("the name of a file of the journal is not synced", |sim| Mutant::wrap(sim, Fault::NoJournalNameSync)),
    ("what follows is written into the file that is folded in", |sim| Mutant::wrap(sim, Fault::OneJournal)),
    ("a file of the journal that is needed is written over", |sim| Mutant::wrap(sim, Fault::TwoJournals)),
    ("the journal is not synced", |sim| Mutant::wrap(sim, Fault::NoJournalSync)),
    ("the answer comes before the journal is written", |sim| Mutant::wrap(sim, Fault::AnswerBeforeJournal)),
    ("a failed sync of the journal is taken for success", |sim| Mutant::wrap(sim, Fault::JournalErrorIgnored)),
    ("what a failed sync left is taken for written", |sim| Mutant::wrap(sim, Fault::NotWrittenAgain)),
    ("a failed sync is taken for success", |sim| Mutant::wrap(sim, Fault::SyncErrorIgnored)),
    ("a short write is taken for a whole one", |sim| Mutant::wrap(sim, Fault::ShortWriteIgnored)),
    ("nothing is swept", |sim| Mutant::wrap(sim, Fault::NoSweep)),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoFileSync,
    NoFolderSync,
    RowBeforeFile,
    FreedBeforeSettled,
    FoldWithoutCommit,
    NoJournalNameSync,
    OneJournal,
    TwoJournals,
    NoJournalSync,
    AnswerBeforeJournal,
    JournalErrorIgnored,
    NotWrittenAgain,
    SyncErrorIgnored,
    ShortWriteIgnored,
    NoSweep,
}

#[derive(Debug)]
struct Mutant {
    sim: Sim,
    fault: Fault,
    /// Renames that are put off.
    renames: Renames,
}

type Renames = Arc<Mutex<Vec<(String, String)>>>;

impl Mutant {
    fn wrap(sim: Sim, fault: Fault) -> Arc<dyn Disk> {
        Arc::new(Self { sim, fault, renames: Renames::default() })
    }

    /// Which file it is in truth.
    const fn file(&self, n: u32) -> u32 {
        match self.fault {
            Fault::OneJournal => 0,
            Fault::TwoJournals => n % 2,
            _ => n,
        }
    }
}

impl Disk for Mutant {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Open { file: self.sim.create(name)?, fault: self.fault }))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.sim.read(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.fault == Fault::RowBeforeFile {
            self.renames.lock().unwrap().push((from.into(), to.into()));
            return Ok(());
        }
        self.sim.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.sim.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        if self.fault == Fault::NoSweep { Ok(Vec::new()) } else { self.sim.list() }
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self.fault {
            Fault::NoFolderSync | Fault::RowBeforeFile => Ok(()),
            _ => self.sim.sync_folder(),
        }
    }

    fn free(&self) -> io::Result<u64> {
        self.sim.free()
    }

    fn journal(&self, n: u32) -> io::Result<Box<dyn JournalFile>> {
        let (sim, renames) = (self.sim.clone(), Arc::clone(&self.renames));
        let file = self.sim.journal(self.file(n))?;
        Ok(Box::new(Journal { file, n: self.file(n), sim, fault: self.fault, renames, kept: None }))
    }

    fn read_journal(&self, n: u32, offset: u64, max: u64) -> io::Result<Vec<u8>> {
        self.sim.read_journal(self.file(n), offset, max)
    }

    fn remove_journal(&self, n: u32) -> io::Result<()> {
        self.sim.remove_journal(self.file(n))
    }

    fn journals(&self) -> io::Result<Vec<u32>> {
        self.sim.journals()
    }

    fn sync_journals(&self) -> io::Result<()> {
        if self.fault == Fault::NoJournalNameSync { Ok(()) } else { self.sim.sync_journals() }
    }

    fn commit(&self, connection: &Connection) -> rusqlite::Result<()> {
        if self.fault == Fault::FoldWithoutCommit {
            return connection.execute_batch("ROLLBACK");
        }
        self.sim.commit(connection)
    }
}

#[derive(Debug)]
struct Journal {
    file: Box<dyn JournalFile>,
    n: u32,
    sim: Sim,
    fault: Fault,
    renames: Renames,
    /// A frame that is put off, and where it belongs.
    kept: Option<(u64, Vec<u8>)>,
}

impl Journal {
    fn catch_up(&mut self) -> io::Result<()> {
        let Some((offset, data)) = self.kept.take() else { return Ok(()) };
        let mut done = 0;
        while done < data.len() {
            done += self.file.write_at(offset + done as u64, &data[done..])?;
        }
        self.file.sync()
    }

    /// Removes the file of the message of which a frame deletes the first job.
    fn free_early(&self, frame: &[u8]) {
        const DELETE_JOB: u8 = 4;
        let order = frame.get(23..31).and_then(|order| order.try_into().ok()).map(u64::from_le_bytes);
        for name in self.sim.list().unwrap_or_default() {
            if frame.get(20) == Some(&DELETE_JOB) && name.parse().ok().map(MessageId::order) == order {
                let _ = self.sim.remove(&name);
                let _ = self.sim.sync_folder();
            }
        }
    }
}

impl JournalFile for Journal {
    fn length(&mut self) -> io::Result<u64> {
        self.file.length()
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        match self.fault {
            Fault::AnswerBeforeJournal => {
                self.catch_up()?;
                self.kept = Some((offset, data.to_vec()));
                return Ok(data.len());
            }
            Fault::FreedBeforeSettled => self.free_early(data),
            Fault::NotWrittenAgain if self.sim.read_journal(self.n, offset, data.len() as u64)? == data => {
                return Ok(data.len());
            }
            _ => {}
        }
        let n = self.file.write_at(offset, data)?;
        Ok(if self.fault == Fault::ShortWriteIgnored { data.len() } else { n })
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.fault {
            Fault::NoJournalSync | Fault::AnswerBeforeJournal => Ok(()),
            Fault::JournalErrorIgnored => {
                let _ = self.file.sync();
                Ok(())
            }
            Fault::RowBeforeFile => {
                self.file.sync()?;
                for (from, to) in std::mem::take(&mut *self.renames.lock().unwrap()) {
                    let _ = self.sim.rename(&from, &to);
                }
                let _ = self.sim.sync_folder();
                Ok(())
            }
            _ => self.file.sync(),
        }
    }
}

struct Open {
    file: Box<dyn DiskFile>,
    fault: Fault,
}

impl DiskFile for Open {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.file.write(data)?;
        Ok(if self.fault == Fault::ShortWriteIgnored { data.len() } else { n })
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.fault {
            Fault::NoFileSync => Ok(()),
            Fault::SyncErrorIgnored => {
                let _ = self.file.sync();
                Ok(())
            }
            _ => self.file.sync(),
        }
    }
}
