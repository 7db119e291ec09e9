//! The journal: changes of rows that last before SQLite commits them.
//!
//! A group of changes is a frame, written and synced before anybody is answered; SQLite gets the same changes in an open
//! transaction, a little later. Now and then the transaction is committed (the journal is *folded in*), and in the same
//! transaction the journal gets the next salt: all frames with the one before are void then. There are two files, each
//! written over from its start: while what one has is being folded in, the other is written, with the next salt. After a
//! crash the frames that carry the salt of the database are done again, and then those of the next. Now and then the
//! salt is a new one altogether. It cannot be guessed, so that nothing inside a mail can be taken for a frame.
//!
//! So what SQLite writes it writes once for up to a thousand messages, and not at all for those that have left by then; and
//! a file that does not grow is synced faster than one that does.
//!
//! A frame: salt (8 octets), its number (4), which is one more than that of the frame before, length of the changes (4),
//! CRC-32 of all but itself (4), the changes, zeros up to a multiple of 512. Little-endian. No frame shares a sector with
//! another: one that is being written when the power goes damages no other.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;

use rusqlite::types::ValueRef;

use super::change::{self, Change, Statement};
use super::disk::JournalFile;
use crate::error::Error;

const HEADER: usize = 20;
const SECTOR: usize = 512;
/// The buffer for a group is given back if it has become larger.
const KEPT_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Journal {
    files: [Box<dyn JournalFile>; 2],
    /// Which of them is written.
    at: usize,
    salt: u64,
    /// The number of the next frame.
    frames: u32,
    end: u64,
    /// The frame that is being made.
    frame: Vec<u8>,
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// All of both files.
    files: [Vec<u8>; 2],
    /// In which of them, and where, the changes of each frame are.
    groups: Vec<(usize, Range<usize>)>,
    /// Frames are missing between others: the disk has changed what was synced.
    pub(super) damaged: bool,
}

/// A salt that was not there before.
pub(super) fn new_salt() -> u64 {
    RandomState::new().hash_one(std::time::Instant::now())
}

impl Journal {
    pub(super) fn new(files: [Box<dyn JournalFile>; 2]) -> Self {
        Self { files, at: 0, salt: 0, frames: 0, end: 0, frame: Vec::new() }
    }

    /// The salt of what is written now.
    pub(super) const fn salt(&self) -> u64 {
        self.salt
    }

    /// Octets that carry the salt of now.
    pub(super) const fn len(&self) -> u64 {
        self.end
    }

    /// A group begins; what was noted of another is forgotten.
    pub(super) fn begin(&mut self) {
        self.frame.clear();
        self.frame.shrink_to(KEPT_MAX);
        self.frame.resize(HEADER, 0);
    }

    /// Notes a change.
    pub(super) fn note(&mut self, statement: Statement, values: &[ValueRef<'_>]) {
        statement.write(values, &mut self.frame);
    }

    /// What was noted.
    pub(super) fn group(&self) -> &[u8] {
        self.frame.get(HEADER..).unwrap_or_default()
    }

    /// Makes the group last.
    ///
    /// # Errors
    /// [`Error::Full`] if it could not be written, [`Error::Storage`] if it is not known whether it lasts.
    pub(super) fn append(&mut self) -> Result<(), Error> {
        let too_large = Error::Invalid("a group of changes of more than 4 GiB");
        let changes = self.frame.len();
        let length = u32::try_from(changes.saturating_sub(HEADER)).map_err(|_| too_large)?;
        seal(&mut self.frame, self.salt, self.frames, length);
        self.frame.resize(changes.next_multiple_of(SECTOR), 0);
        let file = &mut *self.files[self.at];
        // A sync that failed for want of space leaves as much open as any other.
        let written = write(file, self.end, &self.frame)
            .map_err(|e| Error::io("write the journal", &e))
            .and_then(|()| file.sync().map_err(|e| Error::Storage(format!("cannot sync the journal: {e}"))));
        if written.is_err() {
            // Whoever is told so tries again: better not to find it here after all. It may be found after a crash.
            let _ = file.write_at(self.end, &[0; HEADER]);
        }
        written?;
        self.end += self.frame.len() as u64;
        self.frames = self.frames.wrapping_add(1);
        self.frame.truncate(changes);
        Ok(())
    }

    /// What is there is void: the database has it, and names this salt.
    pub(super) fn restart(&mut self, salt: u64) {
        (self.salt, self.frames, self.end) = (salt, 0, 0);
        self.begin();
    }

    /// Goes on in the other file, which has nothing that is of use, with the next salt, which is given.
    pub(super) fn switch(&mut self) -> u64 {
        (self.at, self.salt, self.end) = (self.at ^ 1, self.next_salt(), 0);
        self.begin();
        self.salt
    }

    const fn next_salt(&self) -> u64 {
        self.salt.wrapping_add(1)
    }

    /// Reads the frames that carry `salt`, and those of the next, and goes on behind them.
    pub(super) fn read(&mut self, salt: u64) -> io::Result<Contents> {
        self.restart(salt);
        let [one, other] = &mut self.files;
        let mut contents = Contents { files: [one.read()?, other.read()?], groups: Vec::new(), damaged: false };
        let holds = |contents: &Contents, salt| (0..2).find(|n| contents.next(*n, salt, 0, 0).is_some());
        if let Some(file) = holds(&contents, salt) {
            self.read_file(&mut contents, file);
        }
        if let Some(file) = holds(&contents, self.next_salt()) {
            contents.damaged |= contents.groups.is_empty();
            self.salt = self.next_salt();
            self.read_file(&mut contents, file);
        }
        Ok(contents)
    }

    fn read_file(&mut self, contents: &mut Contents, file: usize) {
        (self.at, self.end) = (file, 0);
        // Whatever the first says of its number, it is read: nothing that was answered is to be passed over.
        let (mut at, mut lowest) = (0, 0);
        while let Some((start, frame)) = contents.next(file, self.salt, lowest, at) {
            let follows = contents.groups.is_empty() || frame.number == self.frames;
            contents.damaged |= start != at || !follows;
            at = frame.changes.end.next_multiple_of(SECTOR);
            self.frames = frame.number.wrapping_add(1);
            lowest = self.frames;
            contents.groups.push((file, frame.changes));
        }
        self.end = at as u64;
    }

    /// Leaves no mail behind in the files. Only when nothing is in them that is to be folded in.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.files.iter_mut().try_for_each(|file| file.clear())
    }
}

impl Contents {
    /// The next frame: at `at`, if nothing is damaged; else further on, where a later one is. What was being written when
    /// the power went is followed by no other: a frame is synced before the next is written.
    fn next(&self, file: usize, salt: u64, number: u32, at: usize) -> Option<(usize, Frame)> {
        let octets = &self.files[file][..];
        let later = |start: usize| frame(octets, salt, start).filter(|frame| frame.number >= number);
        (at..octets.len()).step_by(SECTOR).find_map(|start| Some((start, later(start)?)))
    }

    /// The changes of all frames, in order.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.groups.iter().flat_map(|(file, group)| {
            let mut rest = self.files[*file].get(group.clone()).unwrap_or_default();
            std::iter::from_fn(move || change::read(&mut rest))
        })
    }

    /// All octets of the files.
    pub(super) fn octets(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(Vec::as_slice)
    }
}

fn write(file: &mut dyn JournalFile, mut at: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match file.write_at(at, data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                data = data.get(n..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Frame {
    number: u32,
    changes: Range<usize>,
}

/// Fills in the header.
fn seal(frame: &mut [u8], salt: u64, number: u32, length: u32) {
    let Some((header, changes)) = frame.split_at_mut_checked(HEADER) else { return };
    header[..8].copy_from_slice(&salt.to_le_bytes());
    header[8..12].copy_from_slice(&number.to_le_bytes());
    header[12..16].copy_from_slice(&length.to_le_bytes());
    let sum = sum(&header[..16], changes);
    header[16..].copy_from_slice(&sum.to_le_bytes());
}

fn sum(header: &[u8], changes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(header);
    sum.update(changes);
    sum.finalize()
}

/// The frame at `start`, if there is a whole one.
fn frame(octets: &[u8], salt: u64, start: usize) -> Option<Frame> {
    let header = octets.get(start..)?.get(..HEADER)?;
    let number = |range: Range<usize>| header.get(range)?.try_into().ok().map(u32::from_le_bytes);
    let from = start + HEADER;
    let changes = from..from.checked_add(usize::try_from(number(12..16)?).ok()?)?;
    let whole =
        header[..8] == salt.to_le_bytes() && sum(&header[..16], octets.get(changes.clone())?) == number(16..20)?;
    whole.then_some(Frame { number: number(8..12)?, changes })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl JournalFile for Memory {
        fn read(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.0.lock().unwrap().clone())
        }

        fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
            let (mut file, offset) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
            // Never all at once.
            let n = data.len().div_ceil(2);
            let longer = file.len().max(offset + n);
            file.resize(longer, 0);
            file[offset..offset + n].copy_from_slice(&data[..n]);
            Ok(n)
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn clear(&mut self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
    }

    /// A journal that has this file, and another.
    fn journal_in(file: &Memory) -> Journal {
        Journal::new([Box::new(file.clone()), Box::new(Memory::default())])
    }

    /// A group that deletes the message with this number.
    fn group(journal: &mut Journal, n: i64) {
        journal.begin();
        journal.note(Statement::DeleteMessage, &[ValueRef::Integer(n), ValueRef::Blob(&[7; 50])]);
        journal.append().unwrap();
    }

    fn numbers(contents: &Contents) -> Vec<i64> {
        contents.changes().map(|(_, values)| values[0].as_i64().unwrap()).collect()
    }

    fn written() -> (Memory, Journal) {
        let file = Memory::default();
        let mut journal = journal_in(&file);
        journal.restart(5);
        (1..=4).for_each(|n| group(&mut journal, n));
        (file, journal)
    }

    #[test]
    fn what_was_appended_is_read_and_appended_to() {
        let (file, _) = written();
        let mut again = journal_in(&file);
        let contents = again.read(5).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![1, 2, 3, 4], false));
        group(&mut again, 5);
        assert_eq!(numbers(&again.read(5).unwrap()), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_new_salt_makes_all_before_it_void() {
        let (_, mut journal) = written();
        journal.restart(6);
        assert_eq!(journal.len(), 0);
        group(&mut journal, 9);
        assert_eq!(numbers(&journal.read(6).unwrap()), [9]);
        // The frames behind it are still there, and nothing to the database that names the new salt.
        assert!(!journal.read(6).unwrap().damaged);
    }

    #[test]
    fn what_follows_while_it_is_folded_in_is_in_the_other_file() {
        let (file, other) = (Memory::default(), Memory::default());
        let journal = || Journal::new([Box::new(file.clone()), Box::new(other.clone())]);
        let mut writing = journal();
        writing.restart(5);
        (1..=3).for_each(|n| group(&mut writing, n));
        assert_eq!((writing.switch(), writing.len()), (6, 0));
        (4..=5).for_each(|n| group(&mut writing, n));
        // Not folded in yet: both. Folded in: the second.
        let mut again = journal();
        let contents = again.read(5).unwrap();
        assert_eq!((numbers(&contents), contents.damaged, again.salt()), (vec![1, 2, 3, 4, 5], false, 6));
        group(&mut again, 6);
        let contents = again.read(6).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![4, 5, 6], false));
        // And on into the first again, where the old frames are void.
        assert_eq!(again.switch(), 7);
        group(&mut again, 7);
        assert_eq!(numbers(&journal().read(6).unwrap()), [4, 5, 6, 7]);
        assert_eq!(numbers(&journal().read(7).unwrap()), [7]);
        // What is missing at the end of the first is missed.
        let mut short = journal();
        let end = other.0.lock().unwrap().len();
        other.0.lock().unwrap()[end - 512..].fill(0);
        let contents = short.read(6).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![4, 5, 7], true));
        other.0.lock().unwrap().clear();
        let contents = short.read(6).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![7], true));
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_none() {
        let (file, journal) = written();
        let whole = file.0.lock().unwrap().clone();
        let frame = whole.len() / 4;
        // What is behind the changes is of no use.
        for cut in 0..HEADER + 66 {
            *file.0.lock().unwrap() = whole[..3 * frame + cut].to_vec();
            let mut again = journal_in(&file);
            let contents = again.read(5).unwrap();
            assert_eq!((numbers(&contents), contents.damaged), (vec![1, 2, 3], false), "{cut}");
        }
        drop(journal);
    }

    #[test]
    fn an_octet_that_changed_costs_its_frame_and_is_noticed() {
        let (file, _) = written();
        let whole = file.0.lock().unwrap().clone();
        let frame = whole.len() / 4;
        for at in (0..3 * frame).filter(|at| at % frame < HEADER + 66) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            *file.0.lock().unwrap() = damaged;
            let contents = journal_in(&file).read(5).unwrap();
            let lost = i64::try_from(at / frame + 1).unwrap();
            let expected: Vec<_> = (1..=4).filter(|n| *n != lost).collect();
            assert_eq!((numbers(&contents), contents.damaged), (expected, true), "{at}");
        }
    }

    #[test]
    fn a_forged_frame_needs_the_salt() {
        let mut journal = journal_in(&Memory::default());
        journal.restart(5);
        let mut forged = journal_in(&Memory::default());
        forged.restart(4);
        group(&mut forged, 66);
        let inside = forged.read(4).unwrap().files[0].clone();
        journal.begin();
        journal.note(Statement::InsertMessage, &[ValueRef::Integer(1), ValueRef::Blob(&inside)]);
        journal.append().unwrap();
        assert_eq!(numbers(&journal.read(5).unwrap()), [1]);
    }
}
