//! Two ways to the server, by the connector that a relay has.

use std::io;

use async_trait::async_trait;
use smtp_client::{RacingConnector, RacingOptions};
use smtp_core::stream::{Connector, Discover, Target, TlsPolicy};

/// Races `other`, to `elsewhere`, against `usual`, as a relay does by default. A new one remembers nothing.
pub(crate) fn racing(other: Box<dyn Connector>, usual: Box<dyn Connector>, elsewhere: Target) -> Box<dyn Connector> {
    Box::new(RacingConnector::new(other, usual, Known(elsewhere), RacingOptions::default()))
}

/// Where the other way leads is known: there is no DNS, and so no time for it, in an experiment.
struct Known(Target);

#[async_trait]
impl Discover for Known {
    async fn discover(&self, _: &Target, policy: &TlsPolicy) -> io::Result<Option<(Target, TlsPolicy)>> {
        Ok(Some((self.0.clone(), policy.clone())))
    }
}
