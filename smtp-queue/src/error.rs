//! What goes wrong with a spool, and what a sender is told of it.

use std::io;
use std::path::PathBuf;

use smtp_core::types::Refusal;

/// Why a spool did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lease is not the job's newest: somebody else has the job, or it is gone. Nothing changed.
    #[error("the lease is lost: somebody else has the job, or it is gone")]
    LeaseLost,
    /// There is no such message.
    #[error("no such message")]
    NotFound,
    /// The disk is full, or nearly.
    #[error("the queue takes no mail now: {0}")]
    Full(String),
    /// So many messages are queued that no more are taken.
    #[error("the queue takes no mail now: {limit} messages are queued")]
    TooMany {
        /// [`Limits::messages`](crate::Limits::messages).
        limit: u64,
    },
    /// Larger than the spool takes.
    #[error("the message is larger than {limit} octets")]
    TooLarge {
        /// [`Limits::body`](crate::Limits::body).
        limit: u64,
    },
    /// It was asked to store what makes no sense.
    #[error("not a message that can be queued: {0}")]
    Invalid(&'static str),
    /// What was read is not what was written.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// A write failed earlier; nothing is written until a probe succeeds.
    #[error("the queue is out of order until its store works again: {0}")]
    Unhealthy(String),
    /// The store failed now; it is not known whether the write happened.
    #[error("the queue's store failed: {0}")]
    Storage(String),
    /// It was closed.
    #[error("the queue is closed")]
    Closed,
}

impl Error {
    /// What a sender is told: nothing of paths.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Full(_) | Self::TooMany { .. } => Refusal::fixed(452, (4, 3, 1), "insufficient system storage"),
            Self::TooLarge { .. } => Refusal::fixed(552, (5, 3, 4), "the message is larger than the queue takes"),
            Self::Closed => Refusal::fixed(421, (4, 3, 2), "shutting down; try again later"),
            Self::LeaseLost
            | Self::NotFound
            | Self::Invalid(_)
            | Self::Corrupt(_)
            | Self::Unhealthy(_)
            | Self::Storage(_) => Refusal::fixed(451, (4, 3, 0), "the message cannot be queued now; try again later"),
        }
    }

    /// True if the store, and not the request, is at fault.
    pub(crate) const fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Unhealthy(_) | Self::Storage(_))
    }

    pub(crate) fn io(doing: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(format!("cannot {doing}: {error}")),
            _ => Self::Storage(format!("cannot {doing}: {error}")),
        }
    }
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder cannot be used.
    #[error("the queue {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("the queue {} is in use by another process; stop that one first", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// It was written by a newer version of this program.
    #[error(
        "the queue {} has schema {found}, and this program knows schemas up to {known}; run the newer program again",
        path.display()
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The file is no spool.
    #[error("{} is a database of something else; name another folder", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A URL of a database server cannot be used. It is not repeated: there may be a password in it.
    #[error("the URL of the queue's database: {what}")]
    Url {
        /// Why.
        what: String,
    },
    /// The database server cannot be used, or the store of bodies that goes with it.
    #[error("the queue at {server}: {reason}")]
    Server {
        /// Which, without a password.
        server: String,
        /// Why.
        reason: String,
    },
    /// The database cannot be read at all.
    #[error("the queue's database {} cannot be read: {reason}; move it away or restore it", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
}
