//! Messages whose content is just coming in, for which a group that is about to be synced may wait a moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Instant;

/// How many there are. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Coming(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    count: AtomicUsize,
    /// How many are to be left for the wait to end. `NOBODY` waits most of the time.
    left: AtomicUsize,
    waiter: OnceLock<Thread>,
}

const NOBODY: usize = usize::MAX;

impl Default for Shared {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), left: AtomicUsize::new(NOBODY), waiter: OnceLock::new() }
    }
}

/// One of them, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Arrival(Coming);

impl Coming {
    pub(super) fn one(&self) -> Arrival {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Arrival(self.clone())
    }

    #[cfg(test)]
    pub(super) fn any(&self) -> bool {
        self.count() > 0
    }

    fn count(&self) -> usize {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Waits until no more than `left` are left, but not beyond `until`. Always for the same thread.
    fn wait(&self, left: usize, until: Instant) {
        self.0.waiter.get_or_init(thread::current);
        // Before the first look, or the one that ends the wait might find nobody to wake.
        self.0.left.store(left, Ordering::SeqCst);
        while self.count() > left {
            let time = until.saturating_duration_since(Instant::now());
            if time.is_zero() {
                break;
            }
            thread::park_timeout(time);
        }
        self.0.left.store(NOBODY, Ordering::SeqCst);
    }
}

/// Who waits for them. When nobody came in a whole wait, none of these is waited for again: a peer that dawdles holds up the
/// others once.
#[derive(Debug, Default)]
pub(super) struct Patience {
    late: usize,
}

impl Patience {
    /// Waits until all have come that are not late, but not beyond `until`. `arrived` counts what has come; `work` does a
    /// part of what there is to do meanwhile, and is false if there is nothing.
    pub(super) fn wait(
        &mut self,
        coming: &Coming,
        until: Instant,
        arrived: impl Fn() -> usize,
        mut work: impl FnMut() -> bool,
    ) {
        let before = arrived();
        self.late = self.late.min(coming.count());
        while coming.count() > self.late {
            if Instant::now() >= until {
                if arrived() == before {
                    self.late = coming.count();
                }
                return;
            }
            if !work() {
                coming.wait(self.late, until);
            }
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let Shared { count, left, waiter } = &*self.0.0;
        let now = count.fetch_sub(1, Ordering::SeqCst) - 1;
        if now == left.load(Ordering::SeqCst)
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
        coming.wait(0, begun + LONG);
        assert!(coming.count() == 0 && begun.elapsed() < LONG / 2);
    }

    #[test]
    fn the_last_that_comes_ends_the_wait() {
        let (coming, begun) = (Coming::default(), Instant::now());
        let (first, last, _late) = (coming.one(), coming.one(), coming.one());
        thread::scope(|scope| {
            scope.spawn(move || {
                drop(first);
                thread::sleep(Duration::from_millis(20));
                drop(last);
            });
            coming.wait(1, begun + LONG);
        });
        assert!(coming.count() == 1 && begun.elapsed() < LONG / 2);
    }

    #[test]
    fn who_never_comes_is_not_waited_for_long() {
        let coming = Coming::default();
        let until = Instant::now() + Duration::from_millis(20);
        let _never = coming.one();
        coming.wait(0, until);
        assert!(coming.count() == 1 && Instant::now() >= until);
    }

    #[test]
    fn who_dawdles_is_waited_for_once() {
        let (coming, mut patience) = (Coming::default(), Patience::default());
        let (_slow, mut worked) = (coming.one(), 0);
        let work = || {
            worked += 1;
            worked < 3
        };
        let soon = Instant::now() + Duration::from_millis(20);
        patience.wait(&coming, soon, || 0, work);
        assert!(Instant::now() >= soon && worked >= 3, "{worked}");
        let begun = Instant::now();
        patience.wait(&coming, begun + LONG, || 0, || false);
        // Another is waited for, and comes.
        let fast = coming.one();
        thread::scope(|scope| {
            scope.spawn(move || drop(fast));
            patience.wait(&coming, begun + LONG, || 0, || false);
        });
        assert!(begun.elapsed() < LONG / 2);
    }

    #[test]
    fn where_some_come_the_others_are_waited_for_again() {
        let (coming, mut patience) = (Coming::default(), Patience::default());
        let _slow = coming.one();
        let arrived = AtomicUsize::new(0);
        let arriving = || arrived.fetch_add(1, Ordering::SeqCst);
        for _ in 0..2 {
            let soon = Instant::now() + Duration::from_millis(20);
            patience.wait(&coming, soon, arriving, || false);
            assert!(Instant::now() >= soon);
        }
    }
}
