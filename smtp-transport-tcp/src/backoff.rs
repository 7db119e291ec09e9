//! How an accept loop behaves when accepting fails.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// The first wait, and what it grows to.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

/// Failures that are further apart than this are two episodes.
const QUIET: Duration = Duration::from_secs(10);

/// What an error of `accept(2)` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The connection died in the queue; take the next.
    Next,
    /// Something has run out (EMFILE, ENFILE, ENOBUFS, ENOMEM), or nobody knows: wait, or the loop would spin.
    Wait,
    /// The socket itself is unusable.
    GiveUp,
}

impl Remedy {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, InvalidInput, NetworkDown,
            NetworkUnreachable, PermissionDenied, TimedOut,
        };
        /// EBADF, on every Unix; it has no `ErrorKind`.
        const BAD_DESCRIPTOR: i32 = 9;
        match error.kind() {
            // Linux passes pending network errors of the new connection on, and a firewall's EPERM (accept(2)).
            ConnectionAborted | ConnectionReset | Interrupted | TimedOut | PermissionDenied | HostUnreachable
            | NetworkUnreachable | NetworkDown => Self::Next,
            InvalidInput => Self::GiveUp,
            _ if error.raw_os_error() == Some(BAD_DESCRIPTOR) => Self::GiveUp,
            _ => Self::Wait,
        }
    }
}

/// Waits between attempts: 5 ms, doubling to 1 s, from the start again after a success. Also tells a new episode from
/// an old one, which is logged already.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    last_failure: Option<Instant>,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { next: FIRST, last_failure: None }
    }

    /// How long to wait, and whether this failure begins an episode.
    pub(crate) fn failed(&mut self, now: Instant) -> (Duration, bool) {
        let is_new = self.last_failure.is_none_or(|last| now.duration_since(last) > QUIET);
        self.last_failure = Some(now);
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        (wait, is_new)
    }

    pub(crate) const fn succeeded(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second_and_start_anew() {
        let mut backoff = Backoff::new();
        let now = Instant::now();
        let waits: Vec<_> = (0..10).map(|_| backoff.failed(now).0.as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.succeeded();
        assert_eq!(backoff.failed(now).0.as_millis(), 5);
    }

    #[test]
    fn an_episode_is_announced_once_even_if_a_connection_gets_through() {
        let mut backoff = Backoff::new();
        let start = Instant::now();
        assert!(backoff.failed(start).1);
        assert!(!backoff.failed(start + Duration::from_secs(1)).1);
        backoff.succeeded();
        assert!(!backoff.failed(start + Duration::from_secs(9)).1);
        assert!(backoff.failed(start + Duration::from_secs(60)).1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_errno_of_accept_has_its_remedy() {
        // Named as in accept(2); the numbers are those of Linux on most machines.
        let table = [
            ("EINTR", 4, Remedy::Next),
            ("ECONNABORTED", 103, Remedy::Next),
            ("ECONNRESET", 104, Remedy::Next),
            ("EPERM", 1, Remedy::Next),
            ("ENETDOWN", 100, Remedy::Next),
            ("EHOSTUNREACH", 113, Remedy::Next),
            ("ENETUNREACH", 101, Remedy::Next),
            ("ETIMEDOUT", 110, Remedy::Next),
            ("EMFILE", 24, Remedy::Wait),
            ("ENFILE", 23, Remedy::Wait),
            ("ENOBUFS", 105, Remedy::Wait),
            ("ENOMEM", 12, Remedy::Wait),
            ("EPROTO", 71, Remedy::Wait),
            ("EBADF", 9, Remedy::GiveUp),
            ("EINVAL", 22, Remedy::GiveUp),
        ];
        for (name, errno, remedy) in table {
            assert_eq!(Remedy::of(&io::Error::from_raw_os_error(errno)), remedy, "{name}");
        }
    }
}
