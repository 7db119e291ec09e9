//! What tower services speak: the two seams of a session.
//!
//! The **policy** seam is asked about each command that is legal when it comes, and answers with a [`Verdict`]; a
//! recipient is refused there, before the content exists. (It never sees bad syntax, bad sequences, QUIT, and chunks after
//! a message's first: the session answers those by itself.) The **delivery** seam takes the [`Transaction`], content included, and answers with an
//! [`Outcome`]. Both are plain [`tower_service::Service`]s, so tower's own layers go round them. A client is a
//! delivery too: a relay is a server whose delivery is a client.
//!
//! A refusal is a value. `Err` means that no answer exists; [`reply_for`] says what the peer is told then.

mod body;
mod error;

pub use crate::acceptance::{Claim, Complete, Omitted, Outcome, Receipt};
pub use crate::extension::Promises;
pub use crate::session::server::Verdict;
pub use body::{Body, Chunk, CollectError, Source, Truncated};
pub(crate) use body::{Feed, Want};
pub use error::{BoxError, reply_for};

use alloc::sync::Arc;

use tower_service::Service;

use crate::channel::SessionInfo;
use crate::types::{Command, Envelope};

/// One command, for the policy seam.
#[derive(Debug, Clone)]
pub struct Request {
    /// The session it belongs to.
    pub session: Arc<SessionInfo>,
    /// What the client asks for.
    pub command: Command,
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
///
/// A session makes all of its calls in one place of memory, which has the size of the future and stays with the session. One
/// that is large is better boxed, or it takes its room in sessions that are idle, too.
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
