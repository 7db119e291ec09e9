//! Names of messages and jobs: 128 bits that sort by time.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use smtp_core::types::Invalid;

use crate::clock::millis;

/// The name of a message in a spool: 64 bits of time and order, 64 of chance. Later messages sort after earlier ones of
/// the same store. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    order: u64,
    random: u64,
}

impl MessageId {
    /// The half that sorts: 48 bits of milliseconds since 1970 and a counter. Unique within one store.
    #[must_use]
    pub const fn order(self) -> u64 {
        self.order
    }

    /// The half that nobody can guess.
    #[must_use]
    pub const fn random(self) -> u64 {
        self.random
    }

    pub(crate) const fn from_parts(order: u64, random: u64) -> Self {
        Self { order, random }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one go: half the instructions of half by half.
        write!(f, "{:032x}", u128::from(self.order) << 64 | u128::from(self.random))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid::new("message id", "32 hexadecimal digits");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BAD);
        }
        let all = u128::from_str_radix(text, 16).map_err(|_| BAD)?;
        let half = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or_default();
        Ok(Self { order: half(all >> 64), random: half(all) })
    }
}

/// The name of a job: its message and a number within it. Shown as `<message>.<n>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The message that the job delivers.
    pub message: MessageId,
    /// Which of the message's jobs.
    pub n: u32,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.n)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes ids that grow, whatever the clock does. Clones share the last one: no two of a store are alike.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    last: Arc<AtomicU64>,
    random: RandomState,
}

impl Ids {
    /// Ids that come after `last`.
    pub(crate) fn after(last: u64) -> Self {
        Self { last: Arc::new(AtomicU64::new(last)), random: RandomState::new() }
    }

    pub(crate) fn next(&self, now: SystemTime) -> MessageId {
        let time = u64::try_from(millis(now)).unwrap_or_default() & ((1 << 47) - 1);
        let following = |last: u64| (time << 16).max(last + 1);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(following(last)));
        let order = following(last.unwrap_or_else(|last| last));
        MessageId { order, random: self.random.hash_one(order) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn ids_grow_though_the_clock_goes_back() {
        let ids = Ids::after(0);
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let first = ids.next(now);
        let second = ids.next(now - Duration::from_secs(3600));
        assert!(second > first);
        assert!(ids.next(now + Duration::from_secs(1)) > second);
        assert_eq!(first.order() >> 16, 1_800_000_000_000);
    }

    #[test]
    fn clones_never_give_the_same() {
        let ids = Ids::after(0);
        let (other, now) = (ids.clone(), SystemTime::now());
        let all: std::collections::HashSet<_> =
            (0..100).flat_map(|_| [ids.next(now), other.next(now)]).map(MessageId::order).collect();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn the_text_reads_back_and_nothing_else_does() {
        let id = Ids::after(7).next(SystemTime::now());
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        for bad in ["", "0", "+0000000000000000000000000000000", "000000000000000000000000000000000", "zz"] {
            assert!(bad.parse::<MessageId>().is_err(), "{bad}");
        }
    }
}
