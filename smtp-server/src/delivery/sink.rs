//! Throws mail away, and counts it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use smtp_core::service::{Body, Chunk, Outcome, Promises, Receipt, Transaction};
use tower_service::Service;

use super::truncated;

/// Reads every message to its end and discards it: for load tests, and for addresses that exist to be ignored.
///
/// Clones share the counters. Its receipts say `discarded`, never `stored`.
#[derive(Debug, Clone, Default)]
pub struct Sink(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    messages: AtomicU64,
    recipients: AtomicU64,
    octets: AtomicU64,
}

impl Sink {
    /// It takes whatever can be asked of content, and nothing goes further from here.
    pub const PROMISES: Promises =
        Promises::of(&["8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "REQUIRETLS", "DELIVERBY", "MT-PRIORITY"]);

    /// A sink with its counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages that came whole.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.0.messages.load(Ordering::Relaxed)
    }

    /// Recipients of those messages.
    #[must_use]
    pub fn recipients(&self) -> u64 {
        self.0.recipients.load(Ordering::Relaxed)
    }

    /// Octets of content in those messages.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.0.octets.load(Ordering::Relaxed)
    }
}

impl Service<Transaction> for Sink {
    type Response = Outcome;
    type Error = Infallible;
    type Future = SinkFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> SinkFuture {
        SinkFuture {
            counters: Arc::clone(&self.0),
            recipients: transaction.envelope.recipients.len(),
            body: transaction.body,
            octets: 0,
        }
    }
}

/// The future of [`Sink`].
#[derive(Debug)]
pub struct SinkFuture {
    counters: Arc<Counters>,
    body: Body,
    recipients: usize,
    octets: u64,
}

impl Future for SinkFuture {
    type Output = Result<Outcome, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match ready!(this.body.poll_next(cx)) {
                Ok(Chunk::Data(data)) => this.octets += data.len() as u64,
                Ok(Chunk::End(complete)) => {
                    this.counters.messages.fetch_add(1, Ordering::Relaxed);
                    this.counters.recipients.fetch_add(this.recipients as u64, Ordering::Relaxed);
                    this.counters.octets.fetch_add(this.octets, Ordering::Relaxed);
                    return Poll::Ready(Ok(Outcome::all(Ok(Receipt::discarded(complete)), this.recipients)));
                }
                Err(_) => return Poll::Ready(Ok(truncated(this.recipients))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{broken, deliver, pieces};
    use smtp_core::service::Claim;

    #[tokio::test]
    async fn it_counts_what_came_whole() {
        let sink = Sink::new();
        let outcome = deliver(&mut sink.clone(), &["<a@b.example>", "<c@d.example>"], pieces(b"abc\r\n", 2)).await;
        assert_eq!(outcome.len(), 2);
        assert_eq!(*outcome.single().unwrap().claim(), Claim::Discarded);
        assert!(deliver(&mut sink.clone(), &["<a@b.example>"], broken(b"abc\r\n", 2)).await.single().is_err());
        assert_eq!((sink.messages(), sink.recipients(), sink.octets()), (1, 2, 5));
    }
}
