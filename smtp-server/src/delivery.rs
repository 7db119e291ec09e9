//! The delivery seam: layers that see a transaction with its content, and deliveries that end it.
//!
//! Layers: [`ReceivedLayer`] writes the trace field, [`LoopLayer`] breaks mail loops,
//! [`SubmissionLayer`] completes what a user submits, [`AliasLayer`] puts the addresses in the place of an alias,
//! [`TraceDeliveryLayer`] logs.
//! Deliveries: [`Sink`] throws away, [`Recorder`] keeps for a test to look at, [`Program`] starts a program, and
//! [`Maildir`](crate::maildir::Maildir) stores.

mod delivered_to;
mod expand;
mod invocation;
mod loop_check;
#[cfg(unix)]
mod program;
mod received;
mod recorder;
mod sink;
mod submission;
mod trace;

pub(crate) use delivered_to::DeliveredTo;
pub use expand::{Alias, AliasFuture, AliasLayer};
pub use invocation::{Invocation, InvocationError};
pub use loop_check::{LoopCheck, LoopCheckFuture, LoopLayer};
#[cfg(unix)]
pub use program::{Program, ProgramError, RunAs};
pub use received::{Received, ReceivedLayer};
pub use recorder::{Recorded, Recorder, RecorderFuture};
pub use sink::{Sink, SinkFuture};
pub use submission::{Submission, SubmissionFuture, SubmissionLayer};
pub use trace::{TraceDelivery, TraceDeliveryFuture, TraceDeliveryLayer};

use smtp_core::service::Outcome;
use smtp_core::types::Refusal;

/// What a delivery answers when the content did not arrive whole. Nobody waits for it: the session is over, or a layer
/// that cut the content off answers in its own words.
pub(crate) fn truncated(recipients: usize) -> Outcome {
    Outcome::all(Err(Refusal::fixed(451, (4, 3, 0), "the content did not arrive whole")), recipients)
}
