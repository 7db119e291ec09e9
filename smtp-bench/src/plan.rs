//! What the load is.

use core::time::Duration;

use serde::Serialize;
use smtp_client::sasl::Credentials;
use smtp_client::{Options, Timeouts, Transfer};
use smtp_core::types::{Mailbox, ReversePath};

use crate::Content;

/// When messages are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each session sends its next message when the one before is over.
    Closed,
    /// So many messages a second in all, at even distances, whatever the server does. Latency counts from when a
    /// message was due. At most as many as there are sessions are under way; others are late, and are charged for it.
    Open {
        /// Messages a second, above 0.
        rate: f64,
    },
}

/// What one connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// All messages of one session, as long as the server goes along.
    Session,
    /// One message.
    Message,
    /// All messages, each on a stream of its own: for channels that carry many.
    Stream,
    /// All sessions, each on a stream of its own, which carries all messages of that session: for channels that carry
    /// many.
    Shared,
}

/// A load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many sessions at the same time: 1.
    pub sessions: usize,
    /// When messages are sent: [`Pace::Closed`].
    pub pace: Pace,
    /// End after so many messages, those of the warm-up not counted. Without this and `duration` it is 10 seconds.
    pub messages: Option<u64>,
    /// End after so long, the warm-up not counted. Messages under way are still waited for.
    pub duration: Option<Duration>,
    /// Load for so long before anything is counted: not at all.
    pub warm_up: Duration,
    /// What is sent.
    pub content: Content,
    /// The envelope's sender: `bench@sender.example`.
    pub from: ReversePath,
    /// The recipients of each message.
    pub recipients: Vec<Mailbox>,
    /// What a connection is used for: [`Reuse::Session`].
    pub reuse: Reuse,
    /// DATA or BDAT: BDAT where it is offered.
    pub transfer: Transfer,
    /// Authenticate on each session: no.
    pub credentials: Option<Credentials>,
    /// Greeting, protocol, pipelining, and how long each step may take: 30 seconds. The observer is replaced.
    pub options: Options,
    /// Decides which message comes when, where there are several: 1.
    pub seed: u64,
}

impl Plan {
    /// The defaults, with one recipient.
    #[must_use]
    pub fn new(to: Mailbox, content: Content) -> Self {
        Self {
            sessions: 1,
            pace: Pace::Closed,
            messages: None,
            duration: None,
            warm_up: Duration::ZERO,
            content,
            from: Mailbox::new("bench@sender.example").map_or(ReversePath::Null, ReversePath::from),
            recipients: vec![to],
            reuse: Reuse::Session,
            transfer: Transfer::Auto,
            credentials: None,
            options: Options { timeouts: Timeouts::all(Duration::from_secs(30)), ..Options::default() },
            seed: 1,
        }
    }

    /// How long it runs, if it does not end by count.
    pub(crate) fn lasts(&self) -> Option<Duration> {
        const UNLESS_TOLD: Duration = Duration::from_secs(10);
        self.duration.or(self.messages.is_none().then_some(UNLESS_TOLD))
    }
}
