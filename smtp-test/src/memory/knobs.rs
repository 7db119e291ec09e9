//! What can be set on an in-memory channel.

use std::time::Duration;

use smtp_core::channel::Peer;

/// How an in-memory channel behaves, and what it says of itself.
///
/// The default is a friendly channel: 64 KiB each way, no delay, secure, without TLS, the server speaks first. Every
/// field is there to make it less friendly; none of them changes which octets arrive, in which order, so whoever
/// obeys the rules of a byte stream cannot tell the difference, but for [`Knobs::from_client`] and
/// [`Knobs::from_server`], which cut the channel.
///
/// ```
/// use smtp_test::memory::{Knobs, Pace};
/// let knobs = Knobs { capacity: 7, server: Pace::OCTET_BY_OCTET, ..Knobs::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knobs {
    /// How many octets may be on their way in one direction before writing has to wait. Default 65,536; at least 1.
    pub capacity: usize,
    /// How the client's end is read and written.
    pub client: Pace,
    /// How the server's end is read and written.
    pub server: Pace,
    /// How long each octet, and the end, takes to arrive, in tokio's time. Default: none, and then no clock is used.
    pub latency: Duration,
    /// Cuts what the client sends. Default: never.
    pub from_client: Option<Cut>,
    /// Cuts what the server sends. Default: never.
    pub from_server: Option<Cut>,
    /// Dropping an end that has unread input breaks the channel and destroys what the other end has not read yet, as
    /// closing a TCP socket may. Default: false, the other end can read what was sent.
    pub harsh_close: bool,
    /// Whom the server sees. Default: `client`, by name.
    pub peer: Peer,
    /// The server waits for the client's first octets, as on QUIC. A stream of a
    /// [`MemoryListener`](super::MemoryListener) is not even visible to the server before them. Default: false.
    pub client_speaks_first: bool,
    /// Nobody can listen to the channel, even without TLS. Default: true.
    pub secure: bool,
    /// What there is of TLS. Default: none.
    pub tls: Tls,
    /// How many streams a connection carries at a time. Default 1: the connection is the stream.
    pub max_parallel: usize,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            capacity: 65_536,
            client: Pace::default(),
            server: Pace::default(),
            latency: Duration::ZERO,
            from_client: None,
            from_server: None,
            harsh_close: false,
            peer: Peer::Named("client".into()),
            client_speaks_first: false,
            secure: true,
            tls: Tls::None,
            max_parallel: 1,
        }
    }
}

impl Knobs {
    /// A channel in clear that can be upgraded by STARTTLS.
    #[must_use]
    pub fn starttls() -> Self {
        Self { secure: false, tls: Tls::StartTls, ..Self::default() }
    }

    /// A channel in clear that anybody may listen to, without any TLS.
    #[must_use]
    pub fn clear() -> Self {
        Self { secure: false, ..Self::default() }
    }

    /// A channel where the client speaks first, with 32 streams on a connection, as over QUIC.
    #[must_use]
    pub fn streams() -> Self {
        Self { client_speaks_first: true, max_parallel: 32, tls: Tls::Implicit, ..Self::default() }
    }

    /// The same with both ends at this pace.
    #[must_use]
    pub fn paced(self, pace: Pace) -> Self {
        Self { client: pace, server: pace, ..self }
    }
}

/// How one end of a channel is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The most octets that one read gives. Default: no bound.
    pub read: usize,
    /// The most octets that one write takes. Default: no bound.
    pub write: usize,
    /// Each so-manyth read, write and flush says `Pending` for no reason and wakes at once. 0 and 1: never, the default.
    pub pending: u32,
    /// What is written leaves when it is flushed, or when 4 KiB have come together. Default: it leaves at once. Finds
    /// who forgets to flush.
    pub lazy: bool,
}

impl Pace {
    /// One octet per read and per write.
    pub const OCTET_BY_OCTET: Self = Self { read: 1, write: 1, pending: 0, lazy: false };
    /// Every other poll is in vain.
    pub const STORMY: Self = Self { read: usize::MAX, write: usize::MAX, pending: 2, lazy: false };
    /// Writes wait for a flush.
    pub const LAZY: Self = Self { read: usize::MAX, write: usize::MAX, pending: 0, lazy: true };
}

impl Default for Pace {
    fn default() -> Self {
        Self { read: usize::MAX, write: usize::MAX, pending: 0, lazy: false }
    }
}

/// Where and how a channel breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// So many octets of the direction arrive, those of a handshake included.
    pub after: u64,
    /// What comes behind them.
    pub how: CutHow,
}

impl Cut {
    /// The end of the stream after so many octets.
    #[must_use]
    pub const fn eof(after: u64) -> Self {
        Self { after, how: CutHow::Eof }
    }

    /// A broken connection after so many octets.
    #[must_use]
    pub const fn reset(after: u64) -> Self {
        Self { after, how: CutHow::Reset }
    }
}

/// What comes behind the last octet before a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutHow {
    /// The end of this direction. Who writes notices nothing: the rest is swallowed. Under TLS the reader gets an
    /// error, since the end was not the peer's own.
    Eof,
    /// A reset: both directions are broken, for both ends.
    Reset,
}

/// What there is of TLS on a channel. There is no cryptography: see [`memory`](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// None.
    #[default]
    None,
    /// The channel is in clear and can be upgraded.
    StartTls,
    /// The channel is in clear and says that it can be upgraded, but the handshake fails, as with a certificate that
    /// nobody trusts.
    Broken,
    /// From the first octet.
    Implicit,
}
