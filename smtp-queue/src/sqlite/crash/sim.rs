//! A disk that forgets what was not synced, and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;

use crate::sqlite::disk::{Disk, DiskFile, JournalFile};

/// Numbers by chance, the same for a seed.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) const fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) const fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

#[derive(Debug, Clone)]
pub(in crate::sqlite) struct Sim(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    chance: Chance,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names that no sync has made last.
    pending: Vec<Change>,
    files: HashMap<u64, File>,
    journals: BTreeMap<u32, File>,
    /// Those whose names last.
    durable_journals: BTreeSet<u32>,
    next: u64,
    /// Operations until the power is cut.
    fuse: Option<u64>,
    cut: bool,
    /// One operation in so many fails; 0 for none.
    faults: u64,
}

#[derive(Debug, Clone, Default)]
struct File {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that the next sync makes last. After a sync that failed, what was written before is not among them,
    /// though nobody is told again.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Made(String, u64),
    Moved(String, String, u64),
    Gone(String),
}

const SECTOR: usize = 512;

impl Sim {
    pub(in crate::sqlite) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance: Chance::new(seed),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            files: HashMap::new(),
            journals: BTreeMap::new(),
            durable_journals: BTreeSet::new(),
            next: 0,
            fuse: None,
            cut: false,
            faults: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Cuts the power after so many operations; lets one in `faults` fail.
    pub(super) fn arm(&self, fuse: Option<u64>, faults: u64) {
        let mut state = self.state();
        (state.fuse, state.faults, state.cut) = (fuse, faults, false);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// The process ends now; what it wrote the kernel still has.
    pub(super) fn kill(&self) {
        self.state().cut = true;
    }

    /// The power goes now, and comes back: what was synced is there, and of the rest what chance has left.
    pub(super) fn cut(&self) {
        let mut state = self.state();
        state.cut = true;
        let pending = std::mem::take(&mut state.pending);
        for change in pending {
            if state.chance.below(2) == 0 {
                apply(&mut state.durable_names, &change);
            }
        }
        state.names = state.durable_names.clone();
        let mut ids: Vec<_> = state.files.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let State { files, chance, .. } = &mut *state;
            if let Some(file) = files.get_mut(&id) {
                file.tear(chance);
            }
        }
        let State { journals, durable_journals, chance, .. } = &mut *state;
        journals.retain(|n, _| durable_journals.contains(n) || chance.below(2) == 0);
        journals.values_mut().for_each(|journal| journal.tear(chance));
    }

    /// Has a file of the journal hold this.
    pub(in crate::sqlite) fn put_journal(&self, n: u32, content: Vec<u8>) {
        self.state().journals.insert(n, File { durable: content.clone(), content, dirty: BTreeSet::new() });
    }
}

impl File {
    fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[at..end].copy_from_slice(data);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self, works: bool) {
        let dirty = std::mem::take(&mut self.dirty);
        if works {
            self.durable.resize(self.content.len(), 0);
            for sector in dirty {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.content.len());
                self.durable[range.clone()].copy_from_slice(&self.content[range]);
            }
        }
    }

    /// Sectors that were not synced are new, old or nothing, each for itself; so is the length.
    fn tear(&mut self, chance: &mut Chance) {
        if self.content != self.durable {
            let length = if chance.below(2) == 0 { self.content.len() } else { self.durable.len() };
            let mut torn = self.durable.clone();
            torn.resize(self.content.len().max(self.durable.len()), 0);
            self.content.resize(torn.len(), 0);
            for (torn, new) in torn.chunks_mut(SECTOR).zip(self.content.chunks(SECTOR)) {
                match chance.below(3) {
                    _ if torn == new => {}
                    0 => torn.copy_from_slice(new),
                    1 => torn.fill(0),
                    _ => {}
                }
            }
            torn.truncate(length);
            self.durable = torn;
        }
        self.content.clone_from(&self.durable);
        self.dirty.clear();
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Made(name, id) => drop(names.insert(name.clone(), *id)),
        Change::Moved(from, to, id) => {
            names.remove(from);
            names.insert(to.clone(), *id);
        }
        Change::Gone(name) => drop(names.remove(name)),
    }
}

impl State {
    /// Counts an operation; fails if the power is off or chance wants it.
    fn tick(&mut self) -> io::Result<()> {
        if self.cut {
            return Err(io::Error::other("the power is off"));
        }
        if let Some(fuse) = &mut self.fuse {
            if *fuse == 0 {
                self.cut = true;
                return Err(io::Error::other("the power is off"));
            }
            *fuse -= 1;
        }
        if self.faults > 0 && self.chance.below(self.faults) == 0 {
            let full = self.chance.below(2) == 0;
            return Err(if full { io::ErrorKind::StorageFull.into() } else { io::Error::from_raw_os_error(5) });
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn id(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Sim {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.tick()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.next += 1;
        let id = state.next;
        state.files.insert(id, File::default());
        state.change(Change::Made(name.into(), id));
        Ok(Box::new(Open(self.clone(), id)))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let state = self.state();
        let id = state.id(name)?;
        Ok(Box::new(io::Cursor::new(state.files.get(&id).map(|file| file.content.clone()).unwrap_or_default())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        let id = state.id(from)?;
        state.change(Change::Moved(from.into(), to.into(), id));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        state.id(name)?;
        state.change(Change::Gone(name.into()));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        state.pending.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn journal(&self, n: u32) -> io::Result<Box<dyn JournalFile>> {
        let mut state = self.state();
        if !state.journals.contains_key(&n) {
            state.tick()?;
            state.journals.insert(n, File::default());
        }
        Ok(Box::new(Journal(self.clone(), n)))
    }

    fn read_journal(&self, n: u32, offset: u64, max: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let content = state.journals.get(&n).map_or(&[][..], |file| &file.content);
        let rest = content.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        Ok(rest[..rest.len().min(usize::try_from(max).unwrap())].to_vec())
    }

    fn remove_journal(&self, n: u32) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        // It may come back, for all that anybody knows.
        state.journals.remove(&n).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn journals(&self) -> io::Result<Vec<u32>> {
        Ok(self.state().journals.keys().copied().collect())
    }

    fn sync_journals(&self) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        state.durable_journals = state.journals.keys().copied().collect();
        Ok(())
    }

    /// Atomic, but a failure leaves open whether it happened.
    fn commit(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (result, happens) = {
            let mut state = self.state();
            let before = state.cut;
            let result = state.tick();
            (result, !before && state.chance.below(2) == 0)
        };
        if result.is_ok() || happens {
            connection.execute_batch("COMMIT")?;
        }
        result.map_err(|_| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(10), None))
    }
}

struct Open(Sim, u64);

impl DiskFile for Open {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        state.tick()?;
        let n = match state.chance.below(4) {
            0 => data.len().div_ceil(2),
            _ => data.len(),
        };
        if let Some(file) = state.files.get_mut(&self.1) {
            file.write(file.content.len(), &data[..n]);
        }
        Ok(n)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.state();
        let result = state.tick();
        if let Some(file) = state.files.get_mut(&self.1) {
            file.sync(result.is_ok());
        }
        result
    }
}

#[derive(Debug)]
struct Journal(Sim, u32);

impl JournalFile for Journal {
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.0.state().journals.get(&self.1).map_or(0, |file| file.content.len() as u64))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        state.tick()?;
        let n = match state.chance.below(4) {
            0 => data.len().div_ceil(2),
            _ => data.len(),
        };
        // What is written to a file whose name is gone is gone.
        if let Some(file) = state.journals.get_mut(&self.1) {
            file.write(usize::try_from(offset).unwrap(), &data[..n]);
        }
        Ok(n)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.state();
        let result = state.tick();
        if let Some(file) = state.journals.get_mut(&self.1) {
            file.sync(result.is_ok());
        }
        result
    }
}
