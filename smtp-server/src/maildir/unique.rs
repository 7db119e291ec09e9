//! File names that occur once.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes file names in Maildir's convention: seconds, then microseconds, process, counter and some randomness, then
/// the host. Unique without looking, among processes and hosts that share the folder.
#[derive(Debug)]
pub(super) struct Names {
    host: String,
    next: AtomicU64,
    random: RandomState,
    clock: fn() -> SystemTime,
}

impl Names {
    pub(super) fn new(hostname: &str, clock: fn() -> SystemTime) -> Self {
        Self { host: in_name(hostname), next: AtomicU64::new(0), random: RandomState::new(), clock }
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    pub(super) fn make(&self) -> String {
        let now = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        let (pid, count) = (std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let random = self.random.hash_one((now, pid, count));
        format!("{seconds}.M{micros:06}P{pid}Q{count}R{random:016x}.{}", self.host)
    }
}

/// The convention's escapes for `/` and `:`; anything else out of the ordinary goes, and so does length.
fn in_name(hostname: &str) -> String {
    let mut name = String::new();
    for c in hostname.chars().take(64) {
        match c {
            '/' => name.push_str("\\057"),
            ':' => name.push_str("\\072"),
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') => name.push(c),
            _ => name.push('_'),
        }
    }
    if name.is_empty() { "localhost".into() } else { name }
}

pub(super) fn system_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    fn stopped() -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042)
    }

    #[test]
    fn names_follow_the_convention() {
        let name = Names::new("mx/1:2 ,x", stopped).make();
        assert!(name.starts_with(&format!("1700000000.M000042P{}Q0R", std::process::id())), "{name}");
        assert!(name.ends_with(".mx\\0571\\0722__x") && !name.contains(['/', ':', ',']), "{name}");
    }

    #[test]
    fn a_clock_that_stands_still_makes_no_name_twice() {
        let (a, b) = (Names::new("x", stopped), Names::new("x", stopped));
        let names: HashSet<_> = (0..1_000).flat_map(|_| [a.make(), b.make()]).collect();
        assert_eq!(names.len(), 2_000);
    }
}
