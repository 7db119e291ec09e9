//! RRVS: has the mailbox had one owner since then?

use std::fmt;
use std::sync::Arc;

use smtp_core::extension::ValidSince;
use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Mailbox, Refusal};
use tower_layer::Layer;

use super::{Decide, Deciding};

/// Since when a mailbox has had the owner that it has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Since then, in seconds since 1970 (UTC).
    Since(i64),
    /// Nobody knows.
    Unknown,
}

/// Refuses a RCPT with RRVS whose mailbox has changed hands since: 550 5.7.17; 550 5.7.19 if nobody knows (RFC 7293
/// §5.2). A RCPT without RRVS passes.
///
/// EHLO shows RRVS if [`Promises`](smtp_core::extension::Promises) has the keyword.
#[derive(Clone)]
pub struct RrvsLayer(Arc<dyn Fn(&Mailbox) -> Owner + Send + Sync>);

impl RrvsLayer {
    /// With whoever knows the owners. The answer must be at hand: a look-up that waits is for a layer of its own.
    #[must_use]
    pub fn new(owner: impl Fn(&Mailbox) -> Owner + Send + Sync + 'static) -> Self {
        Self(Arc::new(owner))
    }
}

impl fmt::Debug for RrvsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RrvsLayer").finish_non_exhaustive()
    }
}

impl Decide for RrvsLayer {
    fn decide(&self, request: &Request) -> Option<Verdict> {
        let Command::Rcpt(rcpt) = &request.command else { return None };
        let since: ValidSince = rcpt.parameters.get()?;
        let refusal = match self.0(rcpt.to.mailbox()?) {
            Owner::Since(owned) if owned <= since.unix() => return None,
            Owner::Since(_) => Refusal::fixed(550, (5, 7, 17), "the mailbox has another owner now"),
            Owner::Unknown => Refusal::fixed(550, (5, 7, 19), "since when the mailbox has its owner is not known"),
        };
        Some(refusal.into())
    }
}

impl<S> Layer<S> for RrvsLayer {
    type Service = Deciding<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Deciding::new(inner, self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{ask, rcpt, remote_session};
    use smtp_core::types::{Parameters, Rcpt};

    #[tokio::test]
    async fn a_new_owner_does_not_get_old_mail() {
        let layer = RrvsLayer::new(|mailbox| match mailbox.host() {
            "example.org" => Owner::Since(1_396_566_060),
            _ => Owner::Unknown,
        });
        let mut policy = layer.layer(AnyRecipient::exposed());
        let session = remote_session("192.0.2.1:4000");
        let ask_about = |to: &str, rrvs: &str| {
            let Command::Rcpt(Rcpt { to, .. }) = rcpt(to) else { panic!() };
            Command::Rcpt(Rcpt { to, parameters: Parameters::new(rrvs).unwrap() })
        };
        for (to, rrvs, enhanced) in [
            ("<a@example.org>", "RRVS=2014-04-03T23:01:00Z", None),
            ("<a@example.org>", "RRVS=2014-04-03T23:00:59Z", Some("5.7.17")),
            ("<a@example.com>", "RRVS=2014-04-03T23:01:00Z", Some("5.7.19")),
            ("<a@example.com>", "", None),
        ] {
            let verdict = ask(&mut policy, &session, ask_about(to, rrvs)).await;
            match enhanced {
                Some(enhanced) => assert_code!(verdict, 550, enhanced),
                None => assert_eq!(verdict, Verdict::Proceed),
            }
        }
    }
}
