//! The journal: changes of rows that last before SQLite commits them, and content for as long as it is needed.
//!
//! A group of changes is a frame, written and synced before anybody is answered, with the content of the messages that it
//! stores; SQLite gets the same changes, without the content, in an open transaction, a little later. Now and then the
//! transaction is committed (the journal is *folded in*), and in the same transaction the database is told where the
//! frames that follow begin, and their salt: all before them is void then, but for the content to which rows point.
//!
//! There are as many files as the content needs. While what one has is being folded in, another, whose name the database
//! knows already, is written, with the next salt. After a crash the frames that carry the salt of the database are done
//! again, and then those of the next. Now and then the salt is a new one altogether. It cannot be guessed, so that nothing
//! inside a mail can be taken for a frame. A file out of which no message needs anything is written over from its start.
//!
//! So content is written once; what SQLite writes it writes once for up to a thousand messages, and not at all for those
//! that have left by then; and a file that does not grow is synced faster than one that does.
//!
//! A frame: salt (8 octets), its number (4), which is one more than that of the frame before, length of the rest (4), CRC-32
//! of all but itself (4), content and changes, zeros up to a multiple of 512. Little-endian. No frame shares a sector with
//! another: one that is being written when the power goes damages no other.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::types::ValueRef;

use super::change::{self, Change, Statement};
use super::disk::{Disk, JournalFile};
use super::segments::{Place, Segments};
use crate::error::Error;

const HEADER: usize = 20;
const SECTOR: usize = 512;
/// The buffer for a group is given back if it has become larger.
const KEPT_MAX: usize = 1 << 20;
/// The longest file that is read: another is written long before.
pub(super) const READ_MAX: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    /// That which is written, once something is.
    file: Option<Box<dyn JournalFile>>,
    position: Position,
    /// The number of the next frame.
    frames: u32,
    end: u64,
    /// The frame that is being made: so far its content.
    frame: Vec<u8>,
    /// The changes that belong into it.
    changes: Vec<u8>,
    pub(super) segments: Segments,
    /// Octets after which another file is begun.
    segment_octets: u64,
}

/// Where the frames are that are not folded in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) salt: u64,
    /// The file in which they begin.
    pub(super) segment: u32,
    /// Where they begin in it.
    pub(super) place: u64,
    /// The file that is written after it.
    pub(super) next: u32,
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// The file that was written, and the next, each from where it was written.
    files: [Vec<u8>; 2],
    starts: [(u32, u64); 2],
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
    /// Which begins another file after so many octets.
    pub(super) fn new(disk: Arc<dyn Disk>, segment_octets: u64) -> Self {
        Self {
            disk,
            file: None,
            position: Position::default(),
            frames: 0,
            end: 0,
            frame: Vec::new(),
            changes: Vec::new(),
            segments: Segments::default(),
            segment_octets,
        }
    }

    pub(super) const fn segment_octets(&self) -> u64 {
        self.segment_octets
    }

    /// The salt of what is written now.
    pub(super) const fn salt(&self) -> u64 {
        self.position.salt
    }

    /// Octets that carry the salt of now.
    pub(super) const fn len(&self) -> u64 {
        self.end - self.position.place
    }

    /// Whether another file is due.
    pub(super) const fn is_full(&self) -> bool {
        self.end >= self.segment_octets
    }

    /// Files that are written to, or will be next.
    pub(super) const fn in_use(&self) -> [u32; 2] {
        [self.position.segment, self.position.next]
    }

    /// A group begins; what was noted of another is forgotten.
    pub(super) fn begin(&mut self) {
        self.frame.clear();
        self.frame.shrink_to(KEPT_MAX);
        self.frame.resize(HEADER, 0);
        self.changes.clear();
        self.changes.shrink_to(KEPT_MAX);
    }

    /// Puts content into the group, and tells where it will be.
    pub(super) fn content(&mut self, content: &[u8]) -> Place {
        change::write_content(content, &mut self.frame);
        let offset = self.end + (self.frame.len() - content.len()) as u64;
        Place { segment: self.position.segment, offset }
    }

    /// Notes a change.
    pub(super) fn note(&mut self, statement: Statement, values: &[ValueRef<'_>]) {
        statement.write(values, &mut self.changes);
    }

    /// The changes that were noted.
    pub(super) fn group(&self) -> &[u8] {
        &self.changes
    }

    /// Makes the group last.
    ///
    /// # Errors
    /// [`Error::Full`] if it could not be written, [`Error::Storage`] if it is not known whether it lasts.
    pub(super) fn append(&mut self) -> Result<(), Error> {
        let too_large = Error::Invalid("a group of changes of more than 4 GiB");
        self.frame.extend_from_slice(&self.changes);
        let length = u32::try_from(self.frame.len().saturating_sub(HEADER)).map_err(|_| too_large)?;
        seal(&mut self.frame, self.position.salt, self.frames, length);
        self.frame.resize(self.frame.len().next_multiple_of(SECTOR), 0);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&*self.disk, self.position.segment)?),
        };
        // A sync that failed for want of space leaves as much open as any other.
        let written = write(&mut **file, self.end, &self.frame)
            .map_err(|e| Error::io("write the journal", &e))
            .and_then(|()| file.sync().map_err(|e| Error::Storage(format!("cannot sync the journal: {e}"))));
        if written.is_err() {
            // Whoever is told so tries again: better not to find it here after all. It may be found after a crash.
            let _ = file.write_at(self.end, &[0; HEADER]);
        }
        written?;
        self.end += self.frame.len() as u64;
        self.frames = self.frames.wrapping_add(1);
        Ok(())
    }

    /// What is before this is void: the database has it, and names this position.
    pub(super) fn restart(&mut self, position: Position) {
        if position.segment != self.position.segment {
            self.file = None;
        }
        (self.position, self.frames, self.end) = (position, 0, position.place);
        self.begin();
    }

    /// Where it is to go on when all it has is folded in: with a new salt, and without touching what is needed.
    pub(super) fn anew(&mut self) -> Position {
        let Position { segment, next, .. } = self.position;
        let salt = new_salt();
        if !self.segments.is_needed(segment) {
            Position { salt, segment, place: 0, next }
        } else if self.is_full() {
            Position { salt, segment: next, place: 0, next: self.segments.free(&[segment, next]) }
        } else {
            Position { salt, segment, place: self.end, next }
        }
    }

    /// Goes on in the next file, with the next salt. Gives where that is, for when all before it is folded in.
    pub(super) fn switch(&mut self) -> Result<Position, Error> {
        let segment = self.position.next;
        self.file = Some(open(&*self.disk, segment)?);
        // It may be the one that was written until now: it is not written again before that is folded in.
        let next = self.segments.free(&[segment]);
        self.position = Position { salt: self.next_salt(), segment, place: 0, next };
        self.end = 0;
        self.begin();
        Ok(self.position)
    }

    const fn next_salt(&self) -> u64 {
        self.position.salt.wrapping_add(1)
    }

    /// Reads the frames that carry the salt of this position, and those of the next, and goes on behind them.
    pub(super) fn read(&mut self, position: Position) -> io::Result<Contents> {
        self.restart(position);
        self.file = None;
        let starts = [(position.segment, position.place), (position.next, 0)];
        let read = |(segment, place)| self.disk.read_journal(segment, place, READ_MAX);
        let mut contents =
            Contents { files: [read(starts[0])?, read(starts[1])?], starts, groups: Vec::new(), damaged: false };
        let holds = |contents: &Contents, salt| (0..2).find(|n| contents.next(*n, salt, 0, 0).is_some());
        if let Some(file) = holds(&contents, position.salt) {
            self.read_file(&mut contents, file);
        }
        if let Some(file) = holds(&contents, self.next_salt()) {
            contents.damaged |= contents.groups.is_empty();
            self.position.salt = self.next_salt();
            self.read_file(&mut contents, file);
        }
        Ok(contents)
    }

    fn read_file(&mut self, contents: &mut Contents, file: usize) {
        // Whatever the first says of its number, it is read: nothing that was answered is to be passed over.
        let (mut at, mut lowest) = (0, 0);
        while let Some((start, frame)) = contents.next(file, self.position.salt, lowest, at) {
            let follows = contents.groups.is_empty() || frame.number == self.frames;
            contents.damaged |= start != at || !follows;
            at = frame.changes.end.next_multiple_of(SECTOR);
            self.frames = frame.number.wrapping_add(1);
            lowest = self.frames;
            contents.groups.push((file, frame.changes));
        }
        let (segment, place) = contents.starts[file];
        (self.position.segment, self.position.place, self.end) = (segment, place, place + at as u64);
    }

    /// Writes again what was read, and syncs it. It may not be on disk: one that was ended before its sync has left it to
    /// the kernel, and after a sync that failed the kernel takes for written what is not. Rows would point to nothing.
    pub(super) fn write_again(&mut self, contents: &Contents) -> Result<(), Error> {
        for (n, (segment, place)) in contents.starts.into_iter().enumerate() {
            let end = contents.groups.iter().filter(|(file, _)| *file == n).map(|(_, changes)| changes.end).max();
            let Some(frames) = end.and_then(|end| contents.files[n].get(..end)) else { continue };
            let mut file = open(&*self.disk, segment)?;
            write(&mut *file, place, frames)
                .and_then(|()| file.sync())
                .map_err(|e| Error::io("write the journal again", &e))?;
        }
        Ok(())
    }

    /// After reading: this is there, and needed.
    pub(super) fn found(&mut self, segments: Segments) {
        self.segments = segments;
        let Position { segment, next, .. } = self.position;
        if segment == next || self.segments.is_needed(next) {
            self.position.next = self.segments.free(&[segment]);
        }
        self.in_use().into_iter().for_each(|n| self.segments.note(n));
    }

    /// Leaves no mail behind that nobody needs. Only when nothing is there that is to be folded in.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.segments.clear(&*self.disk)
    }
}

fn open(disk: &dyn Disk, segment: u32) -> Result<Box<dyn JournalFile>, Error> {
    disk.journal(segment).map_err(|e| Error::io("open the journal", &e))
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
    use super::*;
    use crate::sqlite::crash::sim::Sim;

    fn journal_in(disk: &Sim) -> Journal {
        Journal::new(Arc::new(disk.clone()), 1_024)
    }

    const fn salted(salt: u64) -> Position {
        Position { salt, segment: 0, place: 0, next: 1 }
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

    fn octets(disk: &Sim, n: u32) -> Vec<u8> {
        disk.read_journal(n, 0, READ_MAX).unwrap()
    }

    fn written() -> (Sim, Journal) {
        let disk = Sim::new(1);
        let mut journal = journal_in(&disk);
        journal.restart(salted(5));
        (1..=4).for_each(|n| group(&mut journal, n));
        (disk, journal)
    }

    #[test]
    fn what_was_appended_is_read_and_appended_to() {
        let (disk, _) = written();
        let mut again = journal_in(&disk);
        let contents = again.read(salted(5)).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![1, 2, 3, 4], false));
        group(&mut again, 5);
        assert_eq!(numbers(&again.read(salted(5)).unwrap()), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_new_salt_makes_all_before_it_void() {
        let (_, mut journal) = written();
        journal.restart(salted(6));
        assert_eq!(journal.len(), 0);
        group(&mut journal, 9);
        assert_eq!(numbers(&journal.read(salted(6)).unwrap()), [9]);
        // The frames behind it are still there, and nothing to the database that names the new salt.
        assert!(!journal.read(salted(6)).unwrap().damaged);
    }

    #[test]
    fn content_that_is_needed_is_not_written_over() {
        let disk = Sim::new(1);
        let mut journal = journal_in(&disk);
        journal.restart(salted(5));
        journal.begin();
        let place = journal.content(b"needed");
        journal.segments.add(place.segment, 6);
        journal.note(Statement::DeleteMessage, &[ValueRef::Integer(1)]);
        journal.append().unwrap();
        let needed = || disk.read_journal(place.segment, place.offset, 6).unwrap();
        assert_eq!(needed(), b"needed");
        // All of it is folded in.
        let position = journal.anew();
        assert_eq!((position.segment, position.place, position.next), (0, 512, 1));
        journal.restart(position);
        group(&mut journal, 2);
        assert_eq!(numbers(&journal.read(position).unwrap()), [2]);
        let position = journal.anew();
        assert_eq!((position.segment, position.place, position.next), (1, 0, 2));
        journal.restart(position);
        group(&mut journal, 3);
        assert_eq!(numbers(&journal.read(position).unwrap()), [3]);
        assert_eq!(needed(), b"needed");
        // Once it is not needed its file comes next.
        journal.segments.remove(place.segment, 6);
        assert_eq!(journal.switch().unwrap().next, 0);
    }

    #[test]
    fn what_follows_while_it_is_folded_in_is_in_the_next_file() {
        let disk = Sim::new(1);
        let mut writing = journal_in(&disk);
        writing.restart(salted(5));
        (1..=3).for_each(|n| group(&mut writing, n));
        let next = writing.switch().unwrap();
        assert_eq!((next.salt, next.segment, next.place, next.next), (6, 1, 0, 0));
        (4..=5).for_each(|n| group(&mut writing, n));
        // Before the database names the next salt, and after.
        let mut again = journal_in(&disk);
        let contents = again.read(salted(5)).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(numbers(&journal_in(&disk).read(next).unwrap()), [4, 5]);
        // As it was before there were more than two, when the database named the salt alone.
        let contents = journal_in(&disk).read(salted(6)).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![4, 5], false));
        group(&mut again, 6);
        assert_eq!(numbers(&journal_in(&disk).read(salted(5)).unwrap()), [1, 2, 3, 4, 5, 6]);
        again.found(Segments::default());
        let after = again.switch().unwrap();
        assert_eq!((after.salt, after.segment), (7, 0));
        group(&mut again, 7);
        assert_eq!(numbers(&journal_in(&disk).read(next).unwrap()), [4, 5, 6, 7]);
        assert_eq!(numbers(&journal_in(&disk).read(after).unwrap()), [7]);
        // What is missing at the end of the first is missed.
        let whole = octets(&disk, 1);
        let mut cut = whole.clone();
        cut[whole.len() - 512..].fill(0);
        disk.put_journal(1, cut);
        let contents = journal_in(&disk).read(next).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![4, 5, 7], true));
        disk.put_journal(1, Vec::new());
        let contents = journal_in(&disk).read(next).unwrap();
        assert_eq!((numbers(&contents), contents.damaged), (vec![7], true));
    }

    #[test]
    fn a_frame_cut_short_anywhere_is_none() {
        let (disk, _) = written();
        let whole = octets(&disk, 0);
        let frame = whole.len() / 4;
        // What is behind the changes is of no use.
        for cut in 0..HEADER + 66 {
            disk.put_journal(0, whole[..3 * frame + cut].to_vec());
            let contents = journal_in(&disk).read(salted(5)).unwrap();
            assert_eq!((numbers(&contents), contents.damaged), (vec![1, 2, 3], false), "{cut}");
        }
    }

    #[test]
    fn an_octet_that_changed_costs_its_frame_and_is_noticed() {
        let (disk, _) = written();
        let whole = octets(&disk, 0);
        let frame = whole.len() / 4;
        for at in (0..3 * frame).filter(|at| at % frame < HEADER + 66) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            disk.put_journal(0, damaged);
            let contents = journal_in(&disk).read(salted(5)).unwrap();
            let lost = i64::try_from(at / frame + 1).unwrap();
            let expected: Vec<_> = (1..=4).filter(|n| *n != lost).collect();
            assert_eq!((numbers(&contents), contents.damaged), (expected, true), "{at}");
        }
    }

    #[test]
    fn a_forged_frame_needs_the_salt() {
        let forgery = Sim::new(1);
        let mut forged = journal_in(&forgery);
        forged.restart(salted(4));
        group(&mut forged, 66);
        let inside = octets(&forgery, 0);
        let mut journal = journal_in(&Sim::new(1));
        journal.restart(salted(5));
        journal.begin();
        // It begins where a sector does.
        journal.content(&[0; SECTOR - HEADER - 5 - 5]);
        journal.content(&inside);
        journal.note(Statement::DeleteMessage, &[ValueRef::Integer(1)]);
        journal.append().unwrap();
        assert_eq!(numbers(&journal.read(salted(5)).unwrap()), [1]);
    }
}
