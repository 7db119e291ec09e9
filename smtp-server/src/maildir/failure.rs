//! What can go wrong with a file system, and what the sender and the log are told.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use smtp_core::types::Refusal;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} can be written to by everybody", path.display())]
    Exposed { path: PathBuf },
    #[error("{} is not there, and there are {max} mailboxes already", path.display())]
    Full { path: PathBuf, max: usize },
    #[error("{} has reached its quota", path.display())]
    OverQuota { path: PathBuf },
    #[error("a message is larger than {} may be", path.display())]
    NeverFits { path: PathBuf },
    #[error("a message was delivered to {address} before: it goes round in circles")]
    Circle { address: String },
}

impl Failure {
    pub(super) fn new(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: path.to_owned(), source: source.into() }
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.errno() == Some(Errno::NOENT)
    }

    /// No failure at all, for those to whom absence is as good.
    pub(super) fn unless_not_found(self) -> Result<(), Self> {
        if self.is_not_found() { Ok(()) } else { Err(self) }
    }

    /// True for what is no folder of ours: a file, a symbolic link, somebody else's `lost+found`.
    pub(super) fn is_no_folder(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS))
    }

    /// What the sender is told: nothing of paths.
    pub(super) fn refusal(&self) -> Refusal {
        match (self, self.errno()) {
            (Self::Full { .. }, _) => Refusal::fixed(452, (4, 2, 1), "no new mailboxes are made here now"),
            (Self::OverQuota { .. }, _) => Refusal::fixed(452, (4, 2, 2), "the mailbox is full; try again later"),
            (Self::NeverFits { .. }, _) => {
                Refusal::fixed(552, (5, 2, 2), "the message is larger than all that the mailbox may hold")
            }
            (Self::Circle { .. }, _) => {
                Refusal::fixed(554, (5, 4, 6), "mail loop: the message was delivered to this address before")
            }
            (_, Some(Errno::NOSPC | Errno::DQUOT)) => Refusal::fixed(452, (4, 3, 1), "insufficient system storage"),
            _ => Refusal::fixed(451, (4, 3, 0), "the message cannot be stored now; try again later"),
        }
    }

    /// Tells the log what happened and what to do about it.
    pub(super) fn log(&self, session: u64) {
        if matches!(self, Self::OverQuota { .. } | Self::NeverFits { .. } | Self::Circle { .. }) {
            // Nothing is wrong with the disk.
            tracing::info!(session, "{self}");
            return;
        }
        let errno = self.errno().map(Errno::raw_os_error);
        tracing::error!(session, errno, advice = self.advice(), "{self}");
    }

    fn advice(&self) -> &'static str {
        match (self, self.errno()) {
            (Self::Full { .. }, _) => "make the mailbox by hand, or list those that there are: a list has no limit",
            (Self::Exposed { .. }, _) => "chmod o-w it, and look at who has been there",
            (_, Some(Errno::NOSPC | Errno::DQUOT)) => "free space or inodes, or raise the quota",
            (_, Some(Errno::ACCESS | Errno::PERM)) => "give the folder to the user that this server runs as",
            (_, Some(Errno::ROFS)) => "remount the file system read-write; look for disk errors in the kernel log",
            (_, Some(Errno::LOOP | Errno::NOTDIR)) => {
                "a symbolic link or file stands in the place of a folder; remove it"
            }
            (_, Some(Errno::MFILE | Errno::NFILE)) => "raise the limit on open files",
            (_, Some(Errno::IO)) => "look for disk errors in the kernel log",
            _ => "the sender will try again",
        }
    }

    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } => source.kind(),
            Self::Exposed { .. } => io::ErrorKind::PermissionDenied,
            Self::Full { .. } | Self::OverQuota { .. } | Self::NeverFits { .. } => io::ErrorKind::QuotaExceeded,
            Self::Circle { .. } => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errno: Errno) -> String {
        Failure::new("write", Path::new("/secret/path"), errno).refusal().to_string()
    }

    #[test]
    fn full_is_452_and_the_rest_451_and_paths_stay_here() {
        for full in [Errno::NOSPC, Errno::DQUOT] {
            assert!(told(full).starts_with("452 4.3.1"));
        }
        for other in [Errno::IO, Errno::ACCESS, Errno::ROFS, Errno::LOOP, Errno::MFILE, Errno::INTR] {
            assert!(told(other).starts_with("451 4.3.0"));
        }
        assert!(!told(Errno::IO).contains("secret"));
    }
}
