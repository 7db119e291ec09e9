//! What deliveries that were killed left behind.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::failure::Failure;
use super::folder::Folder;
use super::tree::Tree;

/// Maildir's rule: what has not been touched for 36 hours in `tmp` belongs to nobody.
const STALE: Duration = Duration::from_secs(36 * 3_600);

/// Removes stale files from every `tmp` and gives their number.
pub(super) fn sweep(tree: &Tree, now: SystemTime) -> Result<usize, Failure> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = i64::try_from(now.saturating_sub(STALE).as_secs()).unwrap_or(i64::MAX);
    let mut removed = 0;
    each_mailbox(tree.root_folder(), |mailbox| {
        let Some(tmp) = folder(mailbox, "tmp")? else { return Ok(()) };
        for name in tmp.names()? {
            if tmp.written(&name).is_some_and(|written| written < oldest) {
                tmp.remove(&name)?;
                removed += 1;
            }
        }
        Ok(())
    })?;
    Ok(removed)
}

/// Shows every mailbox below `root` to `look`. What is no folder is passed over, links included.
pub(super) fn each_mailbox(root: &Folder, mut look: impl FnMut(&Folder) -> Result<(), Failure>) -> Result<(), Failure> {
    for domain in root.names()? {
        let Some(domain) = folder(root, &domain)? else { continue };
        for mailbox in domain.names()? {
            if let Some(mailbox) = folder(&domain, &mailbox)? {
                look(&mailbox)?;
            }
        }
    }
    Ok(())
}

fn folder(parent: &Folder, name: &str) -> Result<Option<Folder>, Failure> {
    match parent.enter(name) {
        Ok(folder) => Ok(Some(folder)),
        Err(e) if e.is_no_folder() || e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}
