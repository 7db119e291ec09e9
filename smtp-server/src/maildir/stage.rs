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
    first: Option<First>,
    staged: Vec<Staged>,
}

/// The file that the content is written to, and where the content begins in it.
#[derive(Debug)]
struct First {
    file: File,
    head: u64,
    content: u64,
}

/// A file in a `tmp` folder.
#[derive(Debug)]
struct Staged {
    place: Place,
    name: String,
    size: u64,
    published: bool,
}

impl Staging {
    /// Nothing yet: no file is touched before the first write.
    pub(super) const fn new(shared: Arc<Shared>, message: Message) -> Self {
        Self { shared, message, first: None, staged: Vec::new() }
    }

    /// Writes a piece of content. The first time, it makes sure of every mailbox first: what cannot be stored is
    /// refused before most of it has arrived.
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), Failure> {
        if self.first.is_none() {
            let mut tmp = None;
            for target in &self.message.targets {
                let prepared = self.shared.tree.prepare(&target.place)?;
                tmp.get_or_insert(prepared);
            }
            let (file, head) = self.create(0, tmp)?;
            self.first = Some(First { file, head, content: 0 });
        }
        let (Some(first), Some(staged)) = (&mut self.first, self.staged.first()) else { return Ok(()) };
        first.file.write_all(content).map_err(|e| self.shared.failed("write", staged, e))?;
        first.content += content.len() as u64;
        Ok(())
    }

    /// Stages the rest, publishes all, and says so.
    pub(super) fn commit(mut self, complete: Complete) -> Result<Receipt, Failure> {
        self.stage_all()?;
        self.publish_all()?;
        Ok(Receipt::stored(complete))
    }

    /// When it is done, every recipient's copy is whole and on stable storage, in a place where no reader looks.
    pub(super) fn stage_all(&mut self) -> Result<(), Failure> {
        let Some(mut first) = self.first.take() else { return Ok(()) };
        if let Some(staged) = self.staged.first_mut() {
            staged.size = first.head + first.content;
            sync(&first.file, &self.shared, staged)?;
        }
        for target in 1..self.message.targets.len() {
            let (mut file, head) = self.create(target, None)?;
            let Some(staged) = self.staged.last_mut() else { continue };
            staged.size = head + first.content;
            let failed = |e| self.shared.failed("copy to", staged, e);
            first.file.seek(SeekFrom::Start(first.head)).map_err(failed)?;
            let copied = io::copy(&mut first.file, &mut file).map_err(failed)?;
            if copied != first.content {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            sync(&file, &self.shared, staged)?;
        }
        Ok(())
    }

    /// Moves every copy to where readers look. It stops at the first failure; what is out then stays out.
    pub(super) fn publish_all(&mut self) -> Result<(), Failure> {
        for staged in &mut self.staged {
            let mailbox = self.shared.tree.enter(&staged.place)?;
            let (tmp, new) = (mailbox.enter("tmp")?, mailbox.enter("new")?);
            tmp.rename(&staged.name, &new, &format!("{},S={}", staged.name, staged.size))?;
            staged.published = true;
            new.sync()?;
        }
        Ok(())
    }

    /// A new file for this target, in its `tmp` folder, with its head written.
    fn create(&mut self, target: usize, tmp: Option<Folder>) -> Result<(File, u64), Failure> {
        let Some(target) = self.message.targets.get(target) else {
            return Err(Failure::new("find a recipient in", self.shared.tree.root(), io::ErrorKind::NotFound));
        };
        let tmp = match tmp {
            Some(tmp) => tmp,
            None => self.shared.tree.enter(&target.place)?.enter("tmp")?,
        };
        let name = self.shared.names.make();
        let mut file = tmp.create(&name)?;
        // Noted at once: from here on there is something to remove.
        self.staged.push(Staged { place: target.place.clone(), name: name.clone(), size: 0, published: false });
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
