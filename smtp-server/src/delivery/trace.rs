//! What became of each transaction, for the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::service::{BoxError, Outcome, Transaction, reply_for};
use smtp_core::types::Rcpt;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span, debug, info};

use crate::policy::safe;

/// Logs one line for each transaction at level `info`: session, id, sender, number of recipients, octets of content,
/// the reply, and milliseconds from the call to the answer (the upload included). What each recipient was told
/// follows at level `debug`.
///
/// The id is `session-number`; the `id` in [`ReceivedLayer`](super::ReceivedLayer)'s field begins with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceDeliveryLayer;

impl<S> Layer<S> for TraceDeliveryLayer {
    type Service = TraceDelivery<S>;

    fn layer(&self, inner: S) -> TraceDelivery<S> {
        TraceDelivery { inner, transactions: Arc::default() }
    }
}

/// The service that [`TraceDeliveryLayer`] makes.
#[derive(Debug, Clone)]
pub struct TraceDelivery<S> {
    inner: S,
    transactions: Arc<AtomicU64>,
}

impl<S> Service<Transaction> for TraceDelivery<S>
where
    S: Service<Transaction, Response = Outcome, Error: Into<BoxError>>,
{
    type Response = Outcome;
    type Error = BoxError;
    type Future = TraceDeliveryFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut transaction: Transaction) -> Self::Future {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed) + 1;
        let span = tracing::debug_span!("transaction", session = transaction.session.id, number);
        let octets = Arc::new(AtomicU64::new(0));
        let line = Line {
            session: transaction.session.id,
            number,
            from: tracing::enabled!(Level::INFO).then(|| safe(&transaction.envelope.mail.from)).unwrap_or_default(),
            recipients: transaction.envelope.recipients.len(),
            // Needed for the details only.
            each: tracing::enabled!(Level::DEBUG).then(|| transaction.envelope.recipients.clone()).unwrap_or_default(),
            octets: Arc::clone(&octets),
            since: Instant::now(),
            written: false,
        };
        transaction.body = transaction.body.inspect(move |data| {
            octets.fetch_add(data.len() as u64, Ordering::Relaxed);
            Ok(())
        });
        let inner = span.in_scope(|| self.inner.call(transaction));
        TraceDeliveryFuture { inner, span, line }
    }
}

#[derive(Debug)]
struct Line {
    session: u64,
    number: u64,
    from: String,
    recipients: usize,
    each: Vec<Rcpt>,
    octets: Arc<AtomicU64>,
    since: Instant,
    written: bool,
}

impl Line {
    fn write(&mut self, reply: impl FnOnce() -> String, what: &str) {
        self.written = true;
        if !tracing::enabled!(Level::INFO) {
            return;
        }
        let id = format!("{}-{}", self.session, self.number);
        let size = self.octets.load(Ordering::Relaxed);
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (session, from, recipients) = (self.session, &*self.from, self.recipients);
        info!(session, id = id.as_str(), from, recipients, size, reply = reply(), ms, "{what}");
    }

    fn outcome(&mut self, outcome: &Outcome) {
        match outcome.single() {
            Ok(receipt) => self.write(|| safe(&receipt.reply()), "accepted"),
            Err(refusal) => self.write(|| safe(&refusal), "not accepted"),
        }
        for (rcpt, result) in self.each.iter().zip(outcome.iter()) {
            let reply = result.as_ref().map_or_else(safe, |receipt| safe(&receipt.reply()));
            debug!(session = self.session, number = self.number, to = safe(&rcpt.to).as_str(), reply, "recipient");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            self.write(String::new, "aborted");
        }
    }
}

pin_project! {
    /// The future of [`TraceDelivery`].
    #[derive(Debug)]
    pub struct TraceDeliveryFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        line: Line,
    }
}

impl<F: Future<Output = Result<Outcome, E>>, E: Into<BoxError>> Future for TraceDeliveryFuture<F> {
    type Output = Result<Outcome, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        match &result {
            Ok(outcome) => this.line.outcome(outcome),
            Err(error) => {
                // The peer is told less than the log.
                tracing::error!(session = this.line.session, error = safe(error).as_str(), "the delivery failed");
                this.line.write(|| safe(&reply_for(error)), "not accepted");
            }
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Sink;
    use crate::testing::{Log, broken, deliver, pieces, transaction};
    use smtp_core::service::Body;

    #[test]
    fn one_line_each_and_recipients_at_debug() {
        for (level, lines) in [(Level::INFO, 1), (Level::DEBUG, 3)] {
            let log = Log::new(level);
            log.run(async {
                let mut delivery = TraceDeliveryLayer.layer(Sink::new());
                deliver(&mut delivery, &["<x@y.example>", "<z@y.example>"], pieces(b"abc\r\n", 2)).await;
            });
            let text = log.text();
            assert_eq!(text.lines().count(), lines, "{text}");
            for part in ["id=\"0-1\"", "from=\"<a@sender.example>\"", "recipients=2", "size=5", "250 2.0.0", "accepted"]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn the_end_of_every_transaction_is_told() {
        let log = Log::new(Level::INFO);
        log.run(async {
            let mut delivery = TraceDeliveryLayer.layer(Sink::new());
            deliver(&mut delivery, &["<x@y.example>"], broken(b"abc", 1)).await;
            drop(delivery.call(transaction(&["<x@y.example>"], Body::from_bytes(&b"x"[..]))));
            let mut failing = TraceDeliveryLayer.layer(tower::service_fn(|_: Transaction| async {
                Err::<Outcome, BoxError>("disk\u{1b}[2J\r\non fire".into())
            }));
            let result = failing.call(transaction(&["<x@y.example>"], Body::from_bytes(&b"x"[..]))).await;
            assert!(result.is_err());
        });
        let text = log.text();
        assert!(text.contains("not accepted") && text.contains("aborted") && text.contains("451 4.3.0"), "{text}");
        assert!(text.contains("disk?[2J??on fire") && !text.contains('\u{1b}'), "{text}");
    }
}
