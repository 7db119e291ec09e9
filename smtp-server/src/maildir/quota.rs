//! Quotas at RCPT.

use std::task::{Context, Poll};

use smtp_core::service::{Request, Verdict};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Command, ForwardPath, Refusal};
use tower_layer::Layer;
use tower_service::Service;

use super::Maildir;

/// Refuses a recipient whose mailbox is full: 452 4.2.2, and 552 5.2.2 where MAIL's SIZE is more than it may ever hold
/// (RFC 1870 §6.1).
///
/// The quotas are those of the Maildir's mailboxes ([`Maildir::for_mailboxes`]). An alias that stands for more than one
/// address is let pass: the delivery looks again. It belongs right above the recipients.
#[derive(Debug, Clone)]
pub struct QuotaLayer(Maildir);

impl QuotaLayer {
    /// With the mailboxes of this store.
    #[must_use]
    pub fn new(maildir: &Maildir) -> Self {
        Self(maildir.clone())
    }
}

impl<S> Layer<S> for QuotaLayer {
    type Service = QuotaCheck<S>;

    fn layer(&self, inner: S) -> QuotaCheck<S> {
        QuotaCheck { inner, maildir: self.0.clone(), declared: 0 }
    }
}

/// The service that [`QuotaLayer`] makes.
#[derive(Debug, Clone)]
pub struct QuotaCheck<S> {
    inner: S,
    maildir: Maildir,
    /// What the last MAIL said of the size.
    declared: u64,
}

impl<S> Service<Request> for QuotaCheck<S>
where
    S: Service<Request, Response = Verdict, Future: Send + 'static, Error: Send + 'static>,
{
    type Response = Verdict;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Verdict, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if let Command::Mail(mail) = &request.command {
            let size = mail.parameters.value("SIZE").flatten();
            self.declared = size.and_then(|size| size.parse().ok()).unwrap_or(0);
        }
        let Command::Rcpt(rcpt) = &request.command else { return Box::pin(self.inner.call(request)) };
        let (to, maildir, declared) = (rcpt.to.clone(), self.maildir.clone(), self.declared);
        let asked = self.inner.call(request);
        Box::pin(async move {
            Ok(match asked.await? {
                Verdict::Proceed => match maildir.room_for(&to, declared).await {
                    Ok(()) => Verdict::Proceed,
                    Err(refusal) => refusal.into(),
                },
                verdict => verdict,
            })
        })
    }
}

impl Maildir {
    /// Whether a message of so many octets would be let into the mailbox of this address now. What is no mailbox here, or
    /// has no quota, is let pass.
    ///
    /// # Errors
    /// 452 4.2.2 if it is full, 552 5.2.2 if it may never hold so much, 451 4.3.0 if that cannot be found out.
    pub async fn room_for(&self, to: &ForwardPath, octets: u64) -> Result<(), Refusal> {
        let Some(mailboxes) = &self.mailboxes else { return Ok(()) };
        let Ok([to]) = <[ForwardPath; 1]>::try_from(mailboxes.expand(to).unwrap_or_default()) else { return Ok(()) };
        let Some(place) = self.place_of(&to) else { return Ok(()) };
        let quota = mailboxes.quota_of(&place.domain, &place.user);
        if quota.is_unlimited() {
            return Ok(());
        }
        let shared = std::sync::Arc::clone(&self.shared);
        let looked = tokio::task::spawn_blocking(move || {
            // Given back at once: what counts is what is delivered.
            shared.usage.reserve(&shared.tree, &place, quota, octets, shared.names.now()).map(drop)
        });
        match looked.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(failure.refusal()),
            Err(_) => Err(Refusal::fixed(451, (4, 3, 0), "local error; try again later")),
        }
    }
}
