//! What tower services speak: the two seams of a session.
//!
//! The **policy** seam sees every command of a session and answers with a [`Verdict`]; a recipient is refused there,
//! before the content exists. The **delivery** seam takes the [`Transaction`], content included, and answers with an
//! [`Outcome`]. Both are plain [`tower_service::Service`]s, so tower's own layers go round them. A client is a
//! delivery too: a relay is a server whose delivery is a client.
//!
//! A refusal is a value. `Err` means that no answer exists; [`reply_for`] says what the peer is told then.

mod body;
mod error;

pub use crate::acceptance::{Claim, Complete, Outcome, Receipt};
pub use body::{Body, Chunk, CollectError, Source, Truncated};
pub(crate) use body::{Feed, Want};
pub use error::{BoxError, reply_for};

use alloc::sync::Arc;

use bytes::Bytes;
use tower_service::Service;

use crate::channel::{Identity, SessionInfo};
use crate::types::{Command, Envelope, Refusal, Reply};

/// One command, for the policy seam.
#[derive(Debug, Clone)]
pub struct Request {
    /// The session it belongs to.
    pub session: Arc<SessionInfo>,
    /// What the client asks for.
    pub command: Command,
}

/// What a policy says to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on as the protocol has it: the greeting, 250 to MAIL and RCPT, 354 when the delivery asks for content.
    Proceed,
    /// No, with this reply. A 421 ends the session.
    Refuse(Refusal),
    /// To AUTH and a SASL response: 334 with these octets in base64, and the client's next line comes as
    /// [`Command::Response`].
    Challenge(Bytes),
    /// To AUTH and a SASL response: 235, and the session goes on under this identity.
    Authenticated(Identity),
    /// The reply to VRFY, EXPN, HELP or a verb of an extension. To anything else it counts as a refusal if it is 4yz
    /// or 5yz, and as [`Verdict::Proceed`] with another text if it is 2yz; content is never accepted by it.
    Answer(Reply),
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// One mail transaction, for the delivery seam.
#[derive(Debug)]
pub struct Transaction {
    /// The session it came by.
    pub session: Arc<SessionInfo>,
    /// The sender and the accepted recipients.
    pub envelope: Envelope,
    /// The content.
    pub body: Body,
}

/// A service on the policy seam. An alias: every tower service of the right shape is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy",
    note = "a policy is a `tower::Service<Request, Response = Verdict>` with an error that turns into `BoxError`, a `Send + 'static` future, and itself `Send + 'static`"
)]
pub trait Policy:
    Service<Request, Response = Verdict, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
}

impl<S> Policy for S where
    S: Service<Request, Response = Verdict, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
}

/// A service on the delivery seam. An alias: every tower service of the right shape is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a delivery",
    note = "a delivery is a `tower::Service<Transaction, Response = Outcome>` with an error that turns into `BoxError`, a `Send + 'static` future, and itself `Send + 'static`"
)]
pub trait Delivery:
    Service<Transaction, Response = Outcome, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
}

impl<S> Delivery for S where
    S: Service<Transaction, Response = Outcome, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static
{
}

/// What a delivery can keep, by EHLO keyword, beyond the minimum: `BINARYMIME`, `SMTPUTF8`, `DSN`, `REQUIRETLS` …
///
/// Travels beside the stack, because stock layers could not forward it, and decides what EHLO offers: an extension
/// whose promise nobody can keep is not offered. [`Promises::MINIMUM`] is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises(&'static [&'static str]);

impl Promises {
    /// Nothing beyond plain SMTP: 8-bit content is taken, since every delivery here passes octets through.
    pub const MINIMUM: Self = Self(&[]);

    /// The promises of these keywords.
    #[must_use]
    pub const fn of(keywords: &'static [&'static str]) -> Self {
        Self(keywords)
    }

    /// The keywords.
    #[must_use]
    pub const fn keywords(&self) -> &'static [&'static str] {
        self.0
    }
}
