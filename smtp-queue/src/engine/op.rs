//! What a store is asked to do, and what it answers.

use std::time::SystemTime;

use super::StoredBody;
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Action, NewMessage, Settlement};
use crate::spool::{Claim, Filter, Lease, Leased, Page};

/// One thing to do. What is done in one batch is committed together.
#[derive(Debug)]
pub(crate) enum Op {
    Insert {
        id: MessageId,
        now: SystemTime,
        size: u64,
        body: StoredBody,
        message: NewMessage,
    },
    Claim(Claim),
    Renew {
        leases: Vec<Lease>,
        now: SystemTime,
        until: SystemTime,
    },
    Settle {
        lease: Lease,
        now: SystemTime,
        settlement: Box<Settlement>,
    },
    Release(Vec<Lease>),
    NextDue(Claim),
    Scan {
        filter: Box<Filter>,
        after: Option<JobId>,
        max: usize,
    },
    Control {
        filter: Box<Filter>,
        after: Option<JobId>,
        action: Action,
        now: SystemTime,
    },
    Expire(SystemTime),
    /// Removes those of these jobs that were told to end and that nobody works on.
    #[cfg(feature = "postgres")]
    Bury(Vec<JobId>),
}

#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Claimed(Vec<Leased>),
    Lost(Vec<Lease>),
    Settled(Vec<MessageId>),
    Due(Option<SystemTime>),
    Page(Page),
    Controlled { changed: u64, next: Option<JobId> },
}

/// What an operation of another kind would have given cannot come: the two sides disagree.
const OTHER: Error = Error::Invalid("an answer to something else");

impl Op {
    /// It changes nothing.
    pub(crate) const fn only_looks(&self) -> bool {
        matches!(self, Self::Scan { .. } | Self::NextDue(_))
    }

    /// Something may be due earlier after it.
    pub(crate) const fn is_news(&self) -> bool {
        match self {
            Self::Insert { .. } | Self::Settle { .. } | Self::Release(_) | Self::Control { .. } => true,
            Self::Claim(_) | Self::Renew { .. } | Self::NextDue(_) | Self::Scan { .. } | Self::Expire(_) => false,
            #[cfg(feature = "postgres")]
            Self::Bury(_) => false,
        }
    }

    /// Octets of content that it writes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Insert { body: StoredBody::Row { content, .. }, .. } => content.len(),
            Self::Settle { settlement, .. } => settlement.notices.iter().map(|notice| notice.body.len()).sum(),
            _ => 0,
        }
    }

    /// The time by which it goes, if leases may end by it.
    pub(crate) const fn time(&self) -> Option<SystemTime> {
        match self {
            Self::Claim(Claim { now, .. })
            | Self::Renew { now, .. }
            | Self::Settle { now, .. }
            | Self::Control { now, .. }
            | Self::Expire(now) => Some(*now),
            _ => None,
        }
    }
}

impl Answer {
    pub(crate) fn claimed(self) -> Result<Vec<Leased>, Error> {
        if let Self::Claimed(leased) = self { Ok(leased) } else { Err(OTHER) }
    }

    pub(crate) fn lost(self) -> Result<Vec<Lease>, Error> {
        if let Self::Lost(leases) = self { Ok(leases) } else { Err(OTHER) }
    }

    pub(crate) fn settled(self) -> Result<Vec<MessageId>, Error> {
        if let Self::Settled(ids) = self { Ok(ids) } else { Err(OTHER) }
    }

    pub(crate) fn due(self) -> Result<Option<SystemTime>, Error> {
        if let Self::Due(due) = self { Ok(due) } else { Err(OTHER) }
    }

    pub(crate) fn page(self) -> Result<Page, Error> {
        if let Self::Page(page) = self { Ok(page) } else { Err(OTHER) }
    }

    pub(crate) fn controlled(self) -> Result<(u64, Option<JobId>), Error> {
        if let Self::Controlled { changed, next } = self { Ok((changed, next)) } else { Err(OTHER) }
    }
}
