//! Faults planted between the store and its disk, one each: what a store would do that got the order wrong. The
//! simulation must find every one, or it finds nothing.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use super::sim::{Chance, Sim};
use crate::id::MessageId;
use crate::sqlite::disk::{Disk, DiskFile};

type Wrap = fn(Sim) -> Arc<dyn Disk>;

pub(super) const ALL: [(&str, Wrap); 8] = [
    ("content is not synced", |sim| Mutant::wrap(sim, Fault::NoFileSync)),
    ("the folder is not synced", |sim| Mutant::wrap(sim, Fault::NoFolderSync)),
    ("the row comes before its file", |sim| Mutant::wrap(sim, Fault::RowBeforeFile)),
    ("the file is freed before the settlement", |sim| Mutant::wrap(sim, Fault::FreedBeforeSettled)),
    ("the answer comes before the commit", |sim| Mutant::wrap(sim, Fault::AnswerBeforeCommit)),
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
    AnswerBeforeCommit,
    SyncErrorIgnored,
    ShortWriteIgnored,
    NoSweep,
}

#[derive(Debug)]
struct Mutant {
    sim: Sim,
    fault: Fault,
    chance: Mutex<Chance>,
    /// Renames that are put off.
    renames: Mutex<Vec<(String, String)>>,
}

impl Mutant {
    fn wrap(sim: Sim, fault: Fault) -> Arc<dyn Disk> {
        Arc::new(Self { sim, fault, chance: Mutex::new(Chance::new(1)), renames: Mutex::default() })
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

    fn commit(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self.fault {
            Fault::FreedBeforeSettled => {
                let named = named(connection)?;
                for name in self.sim.list().unwrap_or_default() {
                    if name.parse().is_ok_and(|id: MessageId| !named.contains(&id)) {
                        let _ = self.sim.remove(&name);
                        let _ = self.sim.sync_folder();
                    }
                }
                self.sim.commit(connection)
            }
            // The power goes between the answer and the commit.
            Fault::AnswerBeforeCommit if self.chance.lock().unwrap().below(10) == 0 => {
                connection.execute_batch("ROLLBACK")?;
                self.sim.cut_here();
                Ok(())
            }
            Fault::RowBeforeFile => {
                self.sim.commit(connection)?;
                for (from, to) in std::mem::take(&mut *self.renames.lock().unwrap()) {
                    let _ = self.sim.rename(&from, &to);
                }
                let _ = self.sim.sync_folder();
                Ok(())
            }
            _ => self.sim.commit(connection),
        }
    }
}

fn named(connection: &Connection) -> rusqlite::Result<Vec<MessageId>> {
    let half = |value: i64| u64::from_ne_bytes(value.to_ne_bytes());
    let mut statement = connection.prepare("SELECT id, random FROM message WHERE body IS NULL")?;
    let ids = statement.query_map([], |row| Ok(MessageId::from_parts(half(row.get(0)?), half(row.get(1)?))))?;
    ids.collect()
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
