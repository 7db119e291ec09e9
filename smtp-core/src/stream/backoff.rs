//! How an accept loop behaves when accepting fails.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The first wait, and what it grows to.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

/// Failures that are further apart than this are two episodes.
const QUIET: Duration = Duration::from_secs(10);

/// What an accept loop does about errors: connections that died in the queue are passed over, a lack of file
/// descriptors or memory is waited out, 5 ms at first and up to 1 s, and only a socket that is of no more use ends the
/// loop. One warning is logged for each episode of waiting.
#[derive(Debug)]
pub struct Backoff(Mutex<Waits>);

impl Backoff {
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Waits { next: FIRST, last_failure: None }))
    }

    /// Accepting has worked: the next failure waits for the shortest time again.
    pub fn succeeded(&self) {
        self.lock().next = FIRST;
    }

    /// Returns when `listener`, which is the name for the log, can try to accept again.
    ///
    /// # Errors
    /// `error` itself, if no other attempt can succeed.
    pub async fn after(&self, listener: &(dyn fmt::Display + Sync), error: io::Error) -> io::Result<()> {
        match Remedy::of(&error) {
            Remedy::Next => tracing::debug!(%listener, %error, "connection died in the queue"),
            Remedy::GiveUp => return Err(error),
            Remedy::Wait => {
                let (wait, is_new) = self.lock().failed(Instant::now());
                if is_new {
                    tracing::warn!(
                        %listener, %error,
                        "cannot accept connections; trying again until it works (too low a limit on open files?)"
                    );
                } else {
                    tracing::trace!(%listener, %error, ?wait, "still cannot accept");
                }
                tokio::time::sleep(wait).await;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits between attempts: 5 ms, doubling to 1 s, from the start again after a success. Also tells a new episode from
/// an old one, which is logged already.
#[derive(Debug)]
struct Waits {
    next: Duration,
    last_failure: Option<Instant>,
}

impl Waits {
    /// How long to wait, and whether this failure begins an episode.
    fn failed(&mut self, now: Instant) -> (Duration, bool) {
        let is_new = self.last_failure.is_none_or(|last| now.duration_since(last) > QUIET);
        self.last_failure = Some(now);
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        (wait, is_new)
    }
}

/// What an error of `accept(2)` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// The connection died in the queue; take the next.
    Next,
    /// Something has run out (EMFILE, ENFILE, ENOBUFS, ENOMEM), or nobody knows: wait, or the loop would spin.
    Wait,
    /// The socket itself is unusable.
    GiveUp,
}

impl Remedy {
    fn of(error: &io::Error) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second_and_start_anew() {
        let backoff = Backoff::new();
        let now = Instant::now();
        let waits: Vec<_> = (0..10).map(|_| backoff.lock().failed(now).0.as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.succeeded();
        assert_eq!(backoff.lock().failed(now).0.as_millis(), 5);
    }

    #[test]
    fn an_episode_is_announced_once_even_if_a_connection_gets_through() {
        let backoff = Backoff::new();
        let start = Instant::now();
        assert!(backoff.lock().failed(start).1);
        assert!(!backoff.lock().failed(start + Duration::from_secs(1)).1);
        backoff.succeeded();
        assert!(!backoff.lock().failed(start + Duration::from_secs(9)).1);
        assert!(backoff.lock().failed(start + Duration::from_secs(60)).1);
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
