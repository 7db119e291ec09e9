//! The folders of all mailboxes.

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::failure::Failure;
use super::folder::Folder;
use super::parent;
use crate::name::POSTMASTER;

/// How many mailboxes are remembered as durable; forgetting them costs a few syncs.
const REMEMBERED_MAX: usize = 10_000;

/// A mailbox, by the names of its folders.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) domain: Box<str>,
    pub(super) user: Box<str>,
}

#[derive(Debug)]
pub(super) struct Tree {
    root: Folder,
    max: usize,
    /// How many mailboxes there are; held while one is made.
    count: Mutex<usize>,
    /// Mailboxes whose folders are known to survive a power cut. Seeing a folder does not say so: whoever made it, this
    /// process in another session or one that was killed, may not have synced its parent yet.
    durable: Mutex<HashSet<Place>>,
}

impl Tree {
    pub(super) fn open(path: PathBuf, max: usize) -> Result<Self, Failure> {
        make_root(&path)?;
        let root = Folder::at(&path)?;
        root.check_private()?;
        let count = count(&root)?;
        Ok(Self { root, max, count: Mutex::new(count), durable: Mutex::default() })
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn root_folder(&self) -> &Folder {
        &self.root
    }

    /// The mailbox as it is.
    pub(super) fn enter(&self, place: &Place) -> Result<Folder, Failure> {
        self.root.enter(&place.domain)?.enter(&place.user)
    }

    /// Makes sure of the mailbox: its folders are there, private and durable. Gives its `tmp`.
    pub(super) fn prepare(&self, place: &Place) -> Result<Folder, Failure> {
        let (domain, mailbox, made) = self.mailbox(place)?;
        domain.check_private()?;
        mailbox.check_private()?;
        let mut fresh = made || !lock(&self.durable).contains(place);
        let mut part = |name| {
            let (folder, made) = mailbox.enter_or_make(name)?;
            folder.check_private()?;
            fresh |= made;
            Ok(folder)
        };
        let tmp = part("tmp")?;
        part("new")?;
        part("cur")?;
        if fresh {
            mailbox.sync()?;
            domain.sync()?;
            self.root.sync()?;
            let mut durable = lock(&self.durable);
            if durable.len() >= REMEMBERED_MAX {
                durable.clear();
            }
            durable.insert(place.clone());
        }
        Ok(tmp)
    }

    /// The folders of the domain and of the mailbox, and whether the latter was made.
    fn mailbox(&self, place: &Place) -> Result<(Folder, Folder, bool), Failure> {
        let found = self.root.enter(&place.domain).and_then(|domain| {
            let mailbox = domain.enter(&place.user)?;
            Ok((domain, mailbox, false))
        });
        match found {
            Err(e) if e.is_not_found() => {}
            found => return found,
        }
        let mut count = lock(&self.count);
        if *count >= self.max {
            // Some may have been removed since.
            *count = self::count(&self.root)?;
        }
        // Every domain has a postmaster (RFC 5321 §4.5.1).
        if *count >= self.max && &*place.user != POSTMASTER {
            let path = self.root().join(&*place.domain).join(&*place.user);
            return Err(Failure::Full { path, max: self.max });
        }
        let (domain, _) = self.root.enter_or_make(&place.domain)?;
        let (mailbox, made) = domain.enter_or_make(&place.user)?;
        *count += usize::from(made);
        Ok((domain, mailbox, true))
    }
}

/// How many mailboxes there are, by their names alone: cheap enough to be done again for each that is refused.
fn count(root: &Folder) -> Result<usize, Failure> {
    let mut count = 0;
    for domain in root.names()? {
        match root.enter(&domain) {
            Ok(domain) => count += domain.names()?.len(),
            Err(e) if e.is_no_folder() || e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

/// Makes the root and the folders above it where they are missing, durably.
fn make_root(path: &Path) -> Result<(), Failure> {
    let missing: Vec<_> =
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_owned).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Failure::new("make the folder", path, e))?;
    for made in &missing {
        Folder::at(parent(made))?.sync()?;
    }
    if missing.is_empty() {
        // Whoever made it may have been killed before this. Where we may not look, an administrator made it.
        let _ = Folder::at(parent(path)).and_then(|above| above.sync());
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
