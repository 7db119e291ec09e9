//! Messages whose content is just coming in, for which a group that is about to be synced may wait a moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Instant;

/// How many there are. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Coming(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    waiter: OnceLock<Thread>,
}

/// One of them, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Arrival(Coming);

impl Coming {
    pub(super) fn one(&self) -> Arrival {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Arrival(self.clone())
    }

    pub(super) fn any(&self) -> bool {
        self.0.count.load(Ordering::SeqCst) > 0
    }

    /// Waits until there is none, but not beyond `until`. Always for the same thread.
    pub(super) fn wait(&self, until: Instant) {
        // Before the first look, or the last of them might find nobody to wake.
        self.0.waiter.get_or_init(thread::current);
        while self.any() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let Shared { count, waiter } = &*self.0.0;
        if count.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(waiter) = waiter.get()
        {
            waiter.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn nobody_waits_where_none_comes() {
        let (coming, begun) = (Coming::default(), Instant::now());
        drop(coming.one());
        coming.wait(begun + LONG);
        assert!(!coming.any() && begun.elapsed() < LONG / 2);
    }

    #[test]
    fn the_last_that_comes_ends_the_wait() {
        let (coming, begun) = (Coming::default(), Instant::now());
        let (first, last) = (coming.one(), coming.one());
        thread::scope(|scope| {
            scope.spawn(move || {
                drop(first);
                thread::sleep(Duration::from_millis(20));
                drop(last);
            });
            coming.wait(begun + LONG);
        });
        assert!(!coming.any() && begun.elapsed() < LONG / 2);
    }

    #[test]
    fn who_never_comes_is_not_waited_for_long() {
        let coming = Coming::default();
        let until = Instant::now() + Duration::from_millis(20);
        let _never = coming.one();
        coming.wait(until);
        assert!(coming.any() && Instant::now() >= until);
    }
}
