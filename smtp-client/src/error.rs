//! What goes wrong, at which step, and by whose fault.

use core::fmt;
use core::time::Duration;
use std::io;

use smtp_core::service::Truncated;
use smtp_core::session::client::{ContentError, Fault, NotNow};
use smtp_core::stream::ConnectError;
use smtp_core::types::{Invalid, Refusal, Reply};

use crate::Step;
use crate::sasl::SaslError;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection. Try again later, or another server.
    #[error("no connection: {0}")]
    Connect(#[from] ConnectError),
    /// The server said no, with this reply.
    #[error("{step}: refused: {reply}")]
    Refused {
        /// What it refused.
        step: Step,
        /// Its words.
        reply: Reply,
    },
    /// The channel closed or broke before the reply came.
    #[error("{step}: the channel closed before the reply")]
    Closed {
        /// What the reply would have answered.
        step: Step,
        /// What the channel said, if it was more than an end of file.
        #[source]
        source: Option<io::Error>,
    },
    /// The deadline of the step passed; the connection was closed.
    #[error("{step}: nothing within {after:?}")]
    Timeout {
        /// What took too long.
        step: Step,
        /// How long was waited.
        after: Duration,
    },
    /// The server, or somebody on the way, broke the protocol; the connection was closed.
    #[error("{step}: {fault}")]
    Misbehaved {
        /// When.
        step: Step,
        /// How.
        #[source]
        fault: Fault,
    },
    /// TLS is not there as the policy wants it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// This side is at fault, or does not want to.
    #[error("{step}: {cause}")]
    Local {
        /// When.
        step: Step,
        /// Why.
        #[source]
        cause: Local,
    },
}

/// Why TLS is not there as the policy wants it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The policy wants TLS and the server does not offer STARTTLS, or the channel cannot be upgraded.
    #[error("TLS is required and not to be had: STARTTLS is not offered")]
    NotOffered,
    /// STARTTLS was refused, with this reply.
    #[error("STARTTLS was refused: {0}")]
    Refused(Reply),
    /// The handshake failed, and with it the connection.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The policy wants a verified certificate and the channel does not say that it is.
    #[error("the server's certificate was not verified")]
    Unverified,
}

/// What this side is to blame for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Local {
    /// The command cannot be sent now.
    #[error(transparent)]
    NotNow(#[from] NotNow),
    /// The content cannot be sent as it is.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The content did not arrive whole.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A text is not what it should be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The SASL mechanism gave up.
    #[error(transparent)]
    Sasl(#[from] SaslError),
    /// The server offers no mechanism that is known here and allowed.
    #[error("no SASL mechanism in common; the server offers: {offered}")]
    NoMechanism {
        /// The server's list.
        offered: String,
    },
    /// The server offers mechanisms that are known here, and none is as strong as was asked for.
    #[error("no SASL mechanism is as strong as was asked for; the server offers: {offered}")]
    TooWeak {
        /// The server's list.
        offered: String,
    },
    /// Credentials are not sent over a channel that can be overheard.
    #[error("the channel can be overheard: credentials are not sent")]
    Overheard,
    /// Credentials are not sent to a server whose certificate was not verified.
    #[error("the server's certificate was not verified: credentials are not sent")]
    Unverified,
    /// A call was dropped midway, so that it is not known which replies belong to what.
    #[error("an earlier call was dropped midway; the connection is of no more use")]
    InDoubt,
}

/// Who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The server refused, or broke the protocol.
    Server,
    /// The channel: unreachable, closed, silent.
    Channel,
    /// This side: its content, its policy, its use of the session.
    Local,
}

impl Error {
    pub(crate) fn local(step: Step, cause: impl Into<Local>) -> Self {
        Self::Local { step, cause: cause.into() }
    }

    /// The same when all of the content had been sent: whatever reply was waited for, the one that decides is missing.
    pub(crate) fn after_the_end(mut self) -> Self {
        if let Self::Closed { step, .. } | Self::Timeout { step, .. } | Self::Misbehaved { step, .. } = &mut self {
            *step = Step::EndOfContent;
        }
        self
    }

    /// The server ends the session before it has begun (RFC 5321 §3.8): nothing behind that was run.
    pub(crate) fn is_turned_away(&self) -> bool {
        matches!(self, Self::Refused { step: Step::Greeting | Step::Hello, reply } if reply.code().get() == 421)
    }

    /// The step that failed.
    #[must_use]
    pub const fn step(&self) -> Step {
        match self {
            Self::Connect(_) => Step::Connect,
            Self::Refused { step, .. }
            | Self::Closed { step, .. }
            | Self::Timeout { step, .. }
            | Self::Misbehaved { step, .. }
            | Self::Local { step, .. } => *step,
            Self::Tls(TlsError::Handshake(_)) => Step::Tls,
            Self::Tls(_) => Step::StartTls,
        }
    }

    /// Who is at fault.
    #[must_use]
    pub const fn side(&self) -> Side {
        match self {
            Self::Connect(_) | Self::Closed { .. } | Self::Timeout { .. } => Side::Channel,
            Self::Refused { .. } | Self::Misbehaved { .. } | Self::Tls(_) => Side::Server,
            Self::Local { .. } => Side::Local,
        }
    }

    /// The server's reply, if it gave one.
    #[must_use]
    pub const fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Refused { reply, .. } | Self::Tls(TlsError::Refused(reply)) => Some(reply),
            Self::Connect(_)
            | Self::Closed { .. }
            | Self::Timeout { .. }
            | Self::Misbehaved { .. }
            | Self::Tls(_)
            | Self::Local { .. } => None,
        }
    }

    /// True if the message may have been delivered: its content was sent to the end, and only the reply is missing.
    /// Sending it again may make a duplicate (RFC 1047).
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        matches!(
            self,
            Self::Closed { step: Step::EndOfContent, .. }
                | Self::Timeout { step: Step::EndOfContent, .. }
                | Self::Misbehaved { step: Step::EndOfContent, .. }
        )
    }

    /// What the sender of a message is told when this left it without an answer.
    ///
    /// Transient, whatever the server's own class: nothing that happens outside MAIL, RCPT and the content says
    /// anything of the message or its recipients. A next hop that is misconfigured, or a password that has expired,
    /// must delay mail and not bounce it. Only content that can never be sent is refused for good.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let (subject, detail) = match self {
            Self::Connect(_) => (4, 1),
            Self::Refused { reply, .. } | Self::Tls(TlsError::Refused(reply)) => {
                reply.enhanced().map_or((4, 2), |code| (code.subject(), code.detail()))
            }
            Self::Closed { .. } | Self::Timeout { .. } => (4, 2),
            Self::Misbehaved { .. } => (5, 0),
            Self::Tls(TlsError::Handshake(_)) => (7, 5),
            Self::Tls(_) => (7, 4),
            Self::Local {
                cause: Local::Content(ContentError::BadLine(bad)) | Local::NotNow(NotNow::BadLine(bad)),
                ..
            } => {
                return Refusal::new(554, (5, 6, 0), bad.to_string());
            }
            Self::Local {
                cause: Local::Overheard | Local::Unverified | Local::NoMechanism { .. } | Local::TooWeak { .. },
                ..
            } => (7, 0),
            Self::Local { .. } => (3, 0),
        };
        let doubt = if self.is_in_doubt() { "; the message may have been delivered" } else { "" };
        match self {
            // Its own text names hosts and addresses, which are no stranger's business.
            Self::Connect(_) => Refusal::fixed(451, (4, subject, detail), "next hop: no connection; try again later"),
            _ => Refusal::new(451, (4, subject, detail), format!("next hop: {self}{doubt}")),
        }
    }
}

/// What [`Client`](crate::Client) fails with: there is no answer, and this is why.
///
/// Its source is the [`Refusal`] that the sender is to be told, so that `smtp_core::service::reply_for` finds it.
#[derive(Debug)]
pub struct Unanswered {
    error: Error,
    refusal: Refusal,
}

impl Unanswered {
    /// What went wrong.
    #[must_use]
    pub const fn error(&self) -> &Error {
        &self.error
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self { refusal: error.refusal(), error }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.refusal)
    }
}
