//! One message on its way to disk: staged for every recipient, then published for every recipient.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;

use smtp_core::service::{Complete, Receipt};
use smtp_core::types::ReversePath;

use super::Shared;
use super::failure::Failure;
use super::folder::{Folder, set_mode};
use super::plan::Target;
use super::tree::Place;
use super::usage::Reserved;
use crate::delivery::DeliveredTo;

/// Whose message goes where.
#[derive(Debug)]
pub(super) struct Message {
    return_path: String,
    targets: Vec<Target>,
}

impl Message {
    pub(super) fn new(from: &ReversePath, targets: Vec<Target>) -> Self {
        Self { return_path: from.to_string(), targets }
    }

    /// The fields that final delivery adds (RFC 5321 §4.4). Addresses hold no control characters, by type.
    fn head(&self, target: &Target) -> String {
        format!("Return-Path: {}\nDelivered-To: {}\n", self.return_path, target.address)
    }
}

/// What has been staged. Dropped, it removes every file that was not published.
///
/// The content is written once, into the first recipient's file, and copied from there at the end: however many
/// recipients there are, no more than a handful of files is open.
#[derive(Debug)]
pub(super) struct Staging {
    shared: Arc<Shared>,
    message: Message,
    /// A mailbox that fails fails alone: each recipient has an answer of its own.
    each: bool,
    first: Option<First>,
    staged: Vec<Staged>,
    /// What became of the targets that failed alone, by their number.
    failed: Vec<(usize, Failure)>,
}

/// What was stored, and the targets for which it could not be, by their number.
pub(super) type Stored = (Receipt, Vec<(usize, Failure)>);

/// The file that the content is written to, and where the content begins in it.
#[derive(Debug)]
struct First {
    target: usize,
    /// Its place in [`Staging::staged`].
    staged: usize,
    file: File,
    head: u64,
    content: u64,
}

/// A file in a `tmp` folder.
#[derive(Debug)]
struct Staged {
    target: usize,
    place: Place,
    name: String,
    size: u64,
    published: bool,
    /// Room in a mailbox that has a quota.
    room: Option<Reserved>,
}

impl Staging {
    /// Nothing yet: no file is touched before the first write. With `each` one target's failure is its own, else it is
    /// everybody's.
    pub(super) const fn new(shared: Arc<Shared>, message: Message, each: bool) -> Self {
        Self { shared, message, each, first: None, staged: Vec::new(), failed: Vec::new() }
    }

    /// Writes a piece of content. The first time, it makes sure of every mailbox first: what cannot be stored is
    /// refused before most of it has arrived.
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), Failure> {
        if self.first.is_none() {
            self.begin()?;
        }
        let Some(first) = &mut self.first else { return Ok(()) };
        let Some(staged) = self.staged.get(first.staged) else { return Ok(()) };
        first.file.write_all(content).map_err(|e| self.shared.failed("write", staged, e))?;
        first.content += content.len() as u64;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Failure> {
        let mut first = None;
        for (n, target) in self.message.targets.iter().enumerate() {
            match self.shared.tree.prepare(&target.place) {
                Ok(tmp) => first = first.or(Some((n, tmp))),
                Err(failure) if self.each => self.failed.push((n, failure)),
                Err(failure) => return Err(failure),
            }
        }
        let Some((target, tmp)) = first else {
            // Everybody failed: the message is, as a whole.
            return self.failed.pop().map_or(Ok(()), |(_, failure)| Err(failure));
        };
        let (file, head) = self.create(target, Some(tmp))?;
        self.first = Some(First { target, staged: self.staged.len() - 1, file, head, content: 0 });
        Ok(())
    }

    /// Refuses targets that the message was delivered to before.
    pub(super) fn refuse_circles(&mut self, before: &DeliveredTo) -> Result<(), Failure> {
        for n in 0..self.message.targets.len() {
            let Some(target) = self.message.targets.get(n) else { continue };
            if before.has(&target.address) && !self.has_failed(n) {
                let address = target.address.clone();
                self.settle(n, Err(Failure::Circle { address }))?;
            }
        }
        Ok(())
    }

    /// Stages the rest, publishes all, and says so.
    pub(super) fn commit(mut self, complete: Complete) -> Result<Stored, Failure> {
        self.stage_all()?;
        self.reserve_all()?;
        self.publish_all()?;
        Ok((Receipt::stored(complete), core::mem::take(&mut self.failed)))
    }

    /// When it is done, every recipient's copy is whole and on stable storage, in a place where no reader looks.
    pub(super) fn stage_all(&mut self) -> Result<(), Failure> {
        let Some(mut first) = self.first.take() else { return Ok(()) };
        if let Some(staged) = self.staged.get_mut(first.staged) {
            staged.size = first.head + first.content;
            sync(&first.file, &self.shared, staged)?;
        }
        for target in 0..self.message.targets.len() {
            if target == first.target || self.has_failed(target) {
                continue;
            }
            let staged = self.stage(target, &mut first);
            self.settle(target, staged)?;
        }
        Ok(())
    }

    /// Makes another target's copy.
    fn stage(&mut self, target: usize, first: &mut First) -> Result<(), Failure> {
        let (mut file, head) = self.create(target, None)?;
        let Some(staged) = self.staged.last_mut() else { return Ok(()) };
        staged.size = head + first.content;
        let failed = |e| self.shared.failed("copy to", staged, e);
        first.file.seek(SeekFrom::Start(first.head)).map_err(failed)?;
        let copied = io::copy(&mut first.file, &mut file).map_err(failed)?;
        if copied != first.content {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        sync(&file, &self.shared, staged)
    }

    /// Makes sure that every copy has room in its mailbox.
    fn reserve_all(&mut self) -> Result<(), Failure> {
        for n in 0..self.staged.len() {
            let Some(staged) = self.staged.get_mut(n) else { continue };
            let (target, shared) = (staged.target, &self.shared);
            let quota = self.message.targets.get(target).map(|target| target.quota).unwrap_or_default();
            if quota.is_unlimited() || self.failed.iter().any(|(failed, _)| *failed == target) {
                continue;
            }
            let room = shared.usage.reserve(&shared.tree, &staged.place, quota, staged.size, shared.names.now());
            let room = room.map(|room| staged.room = Some(room));
            self.settle(target, room)?;
        }
        Ok(())
    }

    /// Moves every copy to where readers look. It stops at the first failure that is everybody's; what is out then
    /// stays out.
    pub(super) fn publish_all(&mut self) -> Result<(), Failure> {
        for n in 0..self.staged.len() {
            let Some(staged) = self.staged.get_mut(n) else { continue };
            let target = staged.target;
            if self.failed.iter().any(|(failed, _)| *failed == target) {
                continue;
            }
            let published = self.shared.publish(staged);
            self.settle(target, published)?;
        }
        if self.failed.len() == self.message.targets.len() {
            return self.failed.pop().map_or(Ok(()), |(_, failure)| Err(failure));
        }
        Ok(())
    }

    /// Keeps a failure for its target, where it is that target's alone.
    fn settle(&mut self, target: usize, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(failure) if self.each => self.failed.push((target, failure)),
            result => return result,
        }
        Ok(())
    }

    fn has_failed(&self, target: usize) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == target)
    }

    /// A new file for this target, in its `tmp` folder, with its head written.
    fn create(&mut self, target: usize, tmp: Option<Folder>) -> Result<(File, u64), Failure> {
        let number = target;
        let Some(target) = self.message.targets.get(number) else {
            return Err(Failure::new("find a recipient in", self.shared.tree.root(), io::ErrorKind::NotFound));
        };
        let tmp = match tmp {
            Some(tmp) => tmp,
            None => self.shared.tree.enter(&target.place)?.enter("tmp")?,
        };
        let name = self.shared.names.make();
        let mut file = tmp.create(&name)?;
        // Noted at once: from here on there is something to remove.
        let place = target.place.clone();
        self.staged.push(Staged { target: number, place, name: name.clone(), size: 0, published: false, room: None });
        let path = tmp.path().join(name);
        set_mode(&file, &path)?;
        let head = self.message.head(target);
        file.write_all(head.as_bytes()).map_err(|e| Failure::new("write", &path, e))?;
        Ok((file, head.len() as u64))
    }
}

/// After a sync that failed the file is given up, never synced again: the kernel may have marked its pages clean.
fn sync(file: &File, shared: &Shared, staged: &Staged) -> Result<(), Failure> {
    file.sync_all().map_err(|e| shared.failed("sync", staged, e))
}

impl Shared {
    fn publish(&self, staged: &mut Staged) -> Result<(), Failure> {
        let mailbox = self.tree.enter(&staged.place)?;
        let (tmp, new) = (mailbox.enter("tmp")?, mailbox.enter("new")?);
        tmp.rename(&staged.name, &new, &format!("{},S={}", staged.name, staged.size))?;
        staged.published = true;
        if let Some(room) = staged.room.take() {
            room.published();
        }
        new.sync()
    }

    fn failed(&self, doing: &'static str, staged: &Staged, source: io::Error) -> Failure {
        let Place { domain, user } = &staged.place;
        Failure::new(doing, &self.tree.root().join(&**domain).join(&**user).join("tmp").join(&staged.name), source)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for staged in self.staged.iter().filter(|staged| !staged.published) {
            let tmp = self.shared.tree.enter(&staged.place).and_then(|mailbox| mailbox.enter("tmp"));
            let removed = tmp.and_then(|tmp| tmp.remove(&staged.name));
            if let Err(failure) = removed.or_else(Failure::unless_not_found) {
                tracing::warn!("left behind until it is swept: {failure}");
            }
        }
    }
}
