//! Bodies that are too large for a row: files, on disk for good before the row that names them.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;

use crate::error::Error;
use crate::id::MessageId;
use crate::sqlite::disk::{Disk, DiskFile};

/// The name of a file that is whole.
fn whole(id: MessageId) -> String {
    id.to_string()
}

/// The name of a file that is not, or not surely.
fn unfinished(id: MessageId) -> String {
    format!("{id}.tmp")
}

/// A body file that is being written. Dropped, it is removed.
pub(crate) struct Writing {
    disk: Arc<dyn Disk>,
    id: MessageId,
    file: Option<Box<dyn DiskFile>>,
    sum: crc32fast::Hasher,
}

/// Proof that a body file is on disk for good, under its name.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    sum: u32,
}

impl Sealed {
    /// The same of a body that is whole and for good in a store of objects.
    #[cfg(feature = "postgres")]
    pub(crate) const fn object(sum: u32) -> Self {
        Self { sum }
    }

    pub(crate) const fn sum(&self) -> u32 {
        self.sum
    }
}

impl Writing {
    pub(crate) fn create(disk: Arc<dyn Disk>, id: MessageId) -> Result<Self, Error> {
        let file = disk.create(&unfinished(id)).map_err(|e| Error::io("create a body file", &e))?;
        Ok(Self { disk, id, file: Some(file), sum: crc32fast::Hasher::new() })
    }

    pub(crate) fn write(&mut self, mut data: &[u8]) -> Result<(), Error> {
        self.sum.update(data);
        let Some(file) = &mut self.file else { return Err(Error::Closed) };
        while !data.is_empty() {
            match file.write(data) {
                Ok(0) => return Err(Error::io("write a body file", &io::ErrorKind::WriteZero.into())),
                Ok(n) => data = data.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("write a body file", &error)),
            }
        }
        Ok(())
    }

    /// Content to disk, name to disk. Only afterwards may a row name it.
    pub(crate) fn seal(mut self) -> Result<Sealed, Error> {
        let Some(mut file) = self.file.take() else { return Err(Error::Closed) };
        let result = file.sync().and_then(|()| self.disk.rename(&unfinished(self.id), &whole(self.id)));
        if let Err(error) = result {
            let _ = self.disk.remove(&unfinished(self.id));
            return Err(Error::io("sync a body file", &error));
        }
        self.disk.sync_folder().map_err(|e| Error::io("sync the folder of body files", &e))?;
        Ok(Sealed { sum: self.sum.clone().finalize() })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = self.disk.remove(&unfinished(self.id));
        }
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Removes the file of a message that no row names any more. What is left behind by a failure, the sweep finds.
pub(crate) fn remove(disk: &dyn Disk, id: MessageId) {
    if let Err(error) = disk.remove(&whole(id)) {
        tracing::warn!(message = %id, %error, "a body file that is of no more use was not removed");
    }
}

/// Removes what no row names: files of messages that were not committed, or whose removal was. Gives their number. For
/// the opening of a spool, when nothing is under way.
pub(crate) fn sweep(disk: &dyn Disk, named: &HashSet<MessageId>) -> io::Result<usize> {
    let mut removed = 0;
    for name in disk.list()? {
        let (stem, whole) = name.strip_suffix(".tmp").map_or((&*name, true), |stem| (stem, false));
        // What is not ours by its name is left alone.
        let Ok(id) = stem.parse::<MessageId>() else { continue };
        if !whole || !named.contains(&id) {
            disk.remove(&name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A body file that is read and checked on the way: its last piece comes only if all of it is as it was written.
pub(crate) struct Reading {
    file: Box<dyn Read + Send>,
    left: u64,
    sum: crc32fast::Hasher,
    expected: u32,
}

/// Octets in a piece.
const PIECE: u64 = 256 << 10;

impl Reading {
    pub(crate) fn open(disk: &dyn Disk, id: MessageId, size: u64, expected: u32) -> io::Result<Self> {
        let file = disk.read(&whole(id))?;
        Ok(Self { file, left: size, sum: crc32fast::Hasher::new(), expected })
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let n = usize::try_from(self.left.min(PIECE)).unwrap_or(usize::MAX);
        let mut piece = vec![0; n];
        self.file.read_exact(&mut piece)?;
        self.sum.update(&piece);
        self.left -= n as u64;
        if self.left == 0 && (self.file.read(&mut [0])? != 0 || self.sum.clone().finalize() != self.expected) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a body file is not what was written"));
        }
        Ok(Some(piece))
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("left", &self.left).finish_non_exhaustive()
    }
}
