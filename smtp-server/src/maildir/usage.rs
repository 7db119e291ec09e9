//! How full mailboxes are.
//!
//! A mailbox is counted by looking into its folders, and the sum is kept: what is delivered here is added, and what its
//! owner removes is found out by counting again. That is done when the sum says that it is full and a folder has changed
//! since, and for a sum that is 15 minutes old. So the sum errs on the side of too much at most, nothing has to be written
//! down, and a crash or another program in the mailbox leaves nothing wrong behind.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::failure::Failure;
use super::folder::Folder;
use super::tree::{Place, Tree};
use crate::recipients::Quota;

/// After which time a mailbox is counted again, whatever the sum says.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// How many sums are kept; forgetting them costs a count each.
const REMEMBERED_MAX: usize = 10_000;

/// The sums that are known.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<HashMap<Place, Shared>>);

type Shared = Arc<Mutex<Option<Sum>>>;

#[derive(Debug)]
struct Sum {
    octets: u64,
    messages: u64,
    /// Which have been let in and are not in `new` yet.
    under_way: (u64, u64),
    /// What the folders looked like when they were counted.
    looks: u64,
    counted: SystemTime,
}

impl Sum {
    fn has_room(&self, quota: Quota, octets: u64) -> bool {
        let (more, messages) = self.under_way;
        quota.holds(
            self.octets.saturating_add(more).saturating_add(octets),
            self.messages.saturating_add(messages).saturating_add(1),
        )
    }
}

/// Room for a message. Dropped, it is given back, unless the message was published.
#[derive(Debug)]
pub(super) struct Reserved {
    sum: Shared,
    octets: u64,
    published: bool,
}

impl Reserved {
    pub(super) fn published(mut self) {
        self.published = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(sum) = &mut *lock(&self.sum) {
            let (octets, messages) = sum.under_way;
            sum.under_way = (octets.saturating_sub(self.octets), messages.saturating_sub(1));
            if self.published {
                sum.octets = sum.octets.saturating_add(self.octets);
                sum.messages = sum.messages.saturating_add(1);
            }
        }
    }
}

impl Usage {
    /// Room for a message of so many octets in this mailbox. Blocks while it counts.
    pub(super) fn reserve(
        &self,
        tree: &Tree,
        place: &Place,
        quota: Quota,
        octets: u64,
        now: SystemTime,
    ) -> Result<Reserved, Failure> {
        let path = || tree.root().join(&*place.domain).join(&*place.user);
        if !quota.holds(octets, 1) {
            return Err(Failure::NeverFits { path: path() });
        }
        let shared = self.of(place);
        {
            // Held while it counts: who comes for the same mailbox waits for the one count.
            let mut sum = lock(&shared);
            let fresh = |sum: &Sum| now.duration_since(sum.counted).is_ok_and(|age| age < FRESH);
            let known = match &*sum {
                Some(sum) if fresh(sum) => sum.has_room(quota, octets) || looks(tree, place)? == sum.looks,
                _ => false,
            };
            if !known {
                let under_way = sum.as_ref().map_or((0, 0), |sum| sum.under_way);
                // Taken first: what comes in between is counted again next time.
                let looks = looks(tree, place)?;
                let (octets, messages) = count(tree, place)?;
                *sum = Some(Sum { octets, messages, under_way, looks, counted: now });
            }
            match &mut *sum {
                Some(sum) if sum.has_room(quota, octets) => {
                    sum.under_way = (sum.under_way.0 + octets, sum.under_way.1 + 1);
                }
                _ => return Err(Failure::OverQuota { path: path() }),
            }
        }
        Ok(Reserved { sum: shared, octets, published: false })
    }

    fn of(&self, place: &Place) -> Shared {
        let mut all = lock(&self.0);
        if all.len() >= REMEMBERED_MAX && !all.contains_key(place) {
            // Those with a delivery under way are in other hands too, and stay.
            all.retain(|_, sum| Arc::strong_count(sum) > 1);
        }
        Arc::clone(all.entry(place.clone()).or_default())
    }
}

/// The octets and the number of all messages of a mailbox, those in its subfolders (Maildir++) included.
fn count(tree: &Tree, place: &Place) -> Result<(u64, u64), Failure> {
    let (mut octets, mut messages) = (0u64, 0u64);
    each_folder(tree, place, |folder| {
        folder.each_name(|name| {
            if !name.starts_with('.') {
                octets = octets.saturating_add(size_in(name).unwrap_or_else(|| folder.size(name)));
                messages += 1;
            }
        })
    })?;
    Ok((octets, messages))
}

/// What changes when an entry of one of the folders comes, goes or is renamed.
fn looks(tree: &Tree, place: &Place) -> Result<u64, Failure> {
    let mut hash = DefaultHasher::new();
    each_folder(tree, place, |folder| {
        (folder.path(), folder.changed()?).hash(&mut hash);
        Ok(())
    })?;
    Ok(hash.finish())
}

/// Shows `new` and `cur` of a mailbox and of each of its subfolders. Links are not followed.
fn each_folder(
    tree: &Tree,
    place: &Place,
    mut look: impl FnMut(&Folder) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(mailbox) = there(tree.enter(place))? else { return Ok(()) };
    let mut subfolders = Vec::new();
    mailbox.each_name(|name| {
        if name.starts_with('.') {
            subfolders.push(name.to_owned());
        }
    })?;
    // In the same order each time.
    subfolders.sort_unstable();
    let mut both = |folder: &Folder| {
        for part in ["new", "cur"] {
            if let Some(part) = there(folder.enter(part))? {
                look(&part)?;
            }
        }
        Ok(())
    };
    both(&mailbox)?;
    for name in subfolders {
        if let Some(folder) = there(mailbox.enter(&name))? {
            both(&folder)?;
        }
    }
    Ok(())
}

/// What is not there, or is no folder, holds nothing.
fn there(folder: Result<Folder, Failure>) -> Result<Option<Folder>, Failure> {
    match folder {
        Ok(folder) => Ok(Some(folder)),
        Err(e) if e.is_no_folder() || e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The octets that a file's name tells: `…,S=1234` or `…,S=1234:2,S`.
fn size_in(name: &str) -> Option<u64> {
    let (base, _) = name.split_once(':').unwrap_or((name, ""));
    base.split(',').skip(1).find_map(|field| field.strip_prefix("S="))?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_tell_the_size() {
        assert_eq!(size_in("1.M2P3.host,S=1234"), Some(1_234));
        assert_eq!(size_in("1.M2P3.host,S=1234,W=1300:2,RS"), Some(1_234));
        for without in ["1.M2P3.host", "1.host:2,S=7", "S=7", "1.host,S=x", "1.host,S="] {
            assert_eq!(size_in(without), None, "{without}");
        }
    }
}
