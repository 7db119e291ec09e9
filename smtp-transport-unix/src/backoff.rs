//! How an accept loop behaves when accepting fails.

use std::io;
use std::time::Duration;

/// The first wait, and what it grows to.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

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
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, PermissionDenied};
        /// EBADF, on every Unix; it has no `ErrorKind`.
        const BAD_DESCRIPTOR: i32 = 9;
        match error.kind() {
            ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied => Self::Next,
            InvalidInput => Self::GiveUp,
            _ if error.raw_os_error() == Some(BAD_DESCRIPTOR) => Self::GiveUp,
            _ => Self::Wait,
        }
    }
}

/// Waits between attempts: 5 ms, doubling to 1 s.
pub(crate) fn waits() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST), |wait| Some((*wait * 2).min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second() {
        let waits: Vec<_> = waits().take(10).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn running_out_of_descriptors_waits_and_a_dead_socket_gives_up() {
        // The numbers are those of Linux on most machines.
        for (errno, remedy) in [
            (4, Remedy::Next),
            (103, Remedy::Next),
            (24, Remedy::Wait),
            (23, Remedy::Wait),
            (12, Remedy::Wait),
            (9, Remedy::GiveUp),
            (22, Remedy::GiveUp),
        ] {
            assert_eq!(Remedy::of(&io::Error::from_raw_os_error(errno)), remedy, "{errno}");
        }
    }
}
