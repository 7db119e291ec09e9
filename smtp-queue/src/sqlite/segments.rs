//! What is still needed of the files of the journal: content stays where it was written with its message, until that leaves.

use std::collections::BTreeMap;
use std::io;

use super::FREE_MIN;
use super::disk::{Disk, JournalFile};

/// Octets of a file of the journal, more or less: about a thousand messages. As much is read again after a crash, at most
/// twice.
pub(super) const SEGMENT_OCTETS: u64 = 4 << 20;
/// What a message takes beside its content where it is moved to.
const AROUND: u64 = 64;
/// Files that are kept although nothing in them is needed: to write to one that is there takes half as long.
const SPARE: usize = 4;

/// Where content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The file of the journal.
    pub(super) segment: u32,
    pub(super) offset: u64,
}

/// The files of the journal that there are, and what is needed in each.
#[derive(Debug, Default)]
pub(super) struct Segments(BTreeMap<u32, Needed>);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needed {
    pub(super) messages: u64,
    pub(super) octets: u64,
}

impl Needed {
    const fn size(self) -> u64 {
        self.octets.saturating_add(self.messages.saturating_mul(AROUND))
    }
}

impl Segments {
    /// These are there, and this is needed in some of them.
    pub(super) fn found(there: Vec<u32>, needed: impl IntoIterator<Item = (u32, Needed)>) -> Self {
        let mut all: BTreeMap<_, _> = there.into_iter().map(|n| (n, Needed::default())).collect();
        all.extend(needed);
        Self(all)
    }

    /// Content has come.
    pub(super) fn add(&mut self, segment: u32, octets: u64) {
        let needed = self.0.entry(segment).or_default();
        needed.messages += 1;
        needed.octets += octets;
    }

    /// Content is needed no more.
    pub(super) fn remove(&mut self, segment: u32, octets: u64) {
        let needed = self.0.entry(segment).or_default();
        needed.messages = needed.messages.saturating_sub(1);
        needed.octets = needed.octets.saturating_sub(octets);
    }

    pub(super) fn is_needed(&self, segment: u32) -> bool {
        self.0.get(&segment).is_some_and(|needed| needed.messages > 0)
    }

    /// This is there, or will be.
    pub(super) fn note(&mut self, segment: u32) {
        self.0.entry(segment).or_default();
    }

    /// A file in which nothing is needed, none of `taken`; if there is none a new one.
    pub(super) fn free(&mut self, taken: &[u32]) -> u32 {
        let free = self.0.iter().find(|(n, needed)| needed.messages == 0 && !taken.contains(n)).map(|(n, _)| *n);
        let new = || (0..).find(|n| !self.0.contains_key(n) && !taken.contains(n)).unwrap_or(u32::MAX);
        let n = free.unwrap_or_else(new);
        self.note(n);
        n
    }

    /// Files in which little is needed, the emptiest first; none of `taken`.
    pub(super) fn sparse(&self, taken: &[u32], size: u64) -> Vec<(u32, Needed)> {
        let is_sparse =
            |n: &u32, needed: &Needed| needed.messages > 0 && needed.size() <= size / 4 && !taken.contains(n);
        let mut sparse: Vec<_> =
            self.0.iter().filter(|(n, needed)| is_sparse(n, needed)).map(|(n, x)| (*n, *x)).collect();
        sparse.sort_by_key(|(_, needed)| needed.size());
        sparse
    }

    /// Takes files out of which nothing is needed, all but `taken` and `spare` others.
    fn take_free(&mut self, taken: &[u32], spare: usize) -> Vec<u32> {
        let free = self.0.iter().filter(|(n, needed)| needed.messages == 0 && !taken.contains(n)).map(|(n, _)| *n);
        let gone: Vec<_> = free.skip(spare).collect();
        self.0.retain(|n, _| !gone.contains(n));
        gone
    }

    /// Removes files out of which nothing is needed, all but `taken` and a few others.
    pub(super) fn trim(&mut self, disk: &dyn Disk, taken: &[u32]) -> io::Result<()> {
        remove(disk, self.take_free(taken, SPARE))
    }

    /// Removes all files out of which nothing is needed.
    pub(super) fn clear(&mut self, disk: &dyn Disk) -> io::Result<()> {
        remove(disk, self.take_free(&[], 0))
    }
}

fn remove(disk: &dyn Disk, files: Vec<u32>) -> io::Result<()> {
    files.into_iter().try_for_each(|n| match disk.remove_journal(n) {
        // Nothing was written to it so far.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
}

/// Makes the files that are written from now on, the one and the next: their names last, and they are so long already, so
/// that a sync has less to do.
pub(super) fn prepare(disk: &dyn Disk, files: [u32; 2], length: u64) -> io::Result<()> {
    for n in files {
        let mut file = disk.journal(n)?;
        // Where there is little room the rest needs it more. Then, or if it fails, the file grows as it is written.
        if disk.free().is_ok_and(|free| free > FREE_MIN) {
            let _ = lengthen(&mut *file, length);
        }
    }
    disk.sync_journals()
}

fn lengthen(file: &mut dyn JournalFile, length: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = file.length()?;
    if at >= length {
        return Ok(());
    }
    while at < length {
        let left = usize::try_from(length - at).unwrap_or(usize::MAX);
        let n = file.write_at(at, &ZEROS[..left.min(ZEROS.len())])?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += n as u64;
    }
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_never_free() {
        let needed = Needed { messages: 1, octets: 10 };
        let mut segments = Segments::found(vec![0, 1, 2, 5], [(1, needed), (7, needed)]);
        assert_eq!(segments.free(&[]), 0);
        assert_eq!(segments.free(&[0, 2]), 5);
        // 7 is needed though its file is gone; 3 is new.
        assert_eq!(segments.free(&[0, 2, 5]), 3);
        segments.add(3, 4);
        segments.add(3, 4);
        segments.remove(3, 4);
        assert!(segments.is_needed(3));
        assert_eq!(segments.free(&[0, 2, 5]), 4);
        segments.remove(3, 4);
        assert_eq!(segments.free(&[0, 2, 5]), 3);
        assert_eq!(segments.take_free(&[0], 1), [3, 4, 5]);
        assert_eq!(segments.take_free(&[], 0), [0, 2]);
        assert!(segments.is_needed(1) && segments.is_needed(7));
    }

    #[test]
    fn a_file_is_sparse_when_three_quarters_are_of_no_use() {
        let needed = |messages, octets| Needed { messages, octets };
        let found =
            [(1, needed(1, 200)), (2, needed(1, 180)), (3, needed(0, 0)), (4, needed(3, 60)), (5, needed(1, 0))];
        let segments = Segments::found(Vec::new(), found);
        let numbers = |taken| segments.sparse(taken, 1_000).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(numbers(&[]), [5, 2]);
        assert_eq!(numbers(&[5]), [2]);
    }
}
