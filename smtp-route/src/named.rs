//! Errors that say which server they are about.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smtp_core::service::{BoxError, Outcome, Transaction, reply_for};
use smtp_core::types::Refusal;
use tower_service::Service;

/// A delivery whose errors name the server and tell what happened, for queues that show administrators and senders why
/// mail waits. A client alone tells strangers neither.
#[derive(Debug, Clone)]
pub struct Named<D> {
    inner: D,
    name: Arc<str>,
}

impl<D> Named<D> {
    /// `inner`, which goes to the server called `name`.
    pub fn new(inner: D, name: &str) -> Self {
        Self { inner, name: name.into() }
    }
}

impl<D> Service<Transaction> for Named<D>
where
    D: Service<Transaction, Response = Outcome, Error: Into<BoxError>>,
    D::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let name = &self.name;
        self.inner.poll_ready(cx).map_err(|error| about(name, error.into()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let name = Arc::clone(&self.name);
        let delivered = self.inner.call(transaction);
        Box::pin(async move { delivered.await.map_err(|error| about(&name, error.into())) })
    }
}

/// The same error, with the server's name in what a sender is told.
pub(crate) fn about(name: &str, error: BoxError) -> BoxError {
    let refusal = reply_for(&error);
    let (code, enhanced) = (refusal.reply().code().get(), refusal.reply().enhanced());
    let enhanced = enhanced.map_or((4, 0, 0), |code| (code.class(), code.subject(), code.detail()));
    let refusal = Refusal::new(code, enhanced, format!("{name}: {error}"));
    Box::new(About { refusal })
}

#[derive(Debug)]
struct About {
    refusal: Refusal,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refusal.reply().text())
    }
}

impl std::error::Error for About {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.refusal)
    }
}
