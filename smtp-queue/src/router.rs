//! From the name of a next hop to the delivery that goes there.

use std::fmt;

use smtp_core::service::{BoxError, Delivery, Outcome, Transaction};
use smtp_core::types::Refusal;
use tower::ServiceExt;
use tower::util::BoxService;

use crate::job::NextHop;

/// A delivery of any kind, for one job.
pub struct BoxDelivery(BoxService<Transaction, Outcome, BoxError>);

impl BoxDelivery {
    /// Boxes a delivery, such as a clone of a pooled client.
    #[must_use]
    pub fn new<D: Delivery<Error: Into<BoxError>>>(delivery: D) -> Self {
        Self(BoxService::new(delivery.map_err(Into::into)))
    }

    /// Waits until it is ready and hands the message over.
    pub(crate) async fn deliver(self, transaction: Transaction) -> Result<Outcome, BoxError> {
        self.0.oneshot(transaction).await
    }
}

impl fmt::Debug for BoxDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxDelivery")
    }
}

/// Finds the delivery for a next hop.
///
/// It is asked for every job, so it should keep what is dear, such as pooled clients. What takes time, such as the DNS,
/// belongs into the delivery that it gives: there a failure before the content is read is taken for a dead next hop.
pub trait Router: Send + Sync + 'static {
    /// The delivery.
    ///
    /// # Errors
    /// If there is none: a transient refusal makes the next hop wait, a permanent one fails the job's recipients.
    fn route(&self, next_hop: &NextHop) -> Result<BoxDelivery, Refusal>;
}

impl<F> Router for F
where
    F: Fn(&NextHop) -> Result<BoxDelivery, Refusal> + Send + Sync + 'static,
{
    fn route(&self, next_hop: &NextHop) -> Result<BoxDelivery, Refusal> {
        self(next_hop)
    }
}
