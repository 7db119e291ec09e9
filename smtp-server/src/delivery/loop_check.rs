//! Mail that goes round in circles.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use smtp_core::service::{Outcome, Transaction, Truncated};
use smtp_core::types::Refusal;
use tower_layer::Layer;
use tower_service::Service;

/// Refuses mail with too many `Received` fields: 554 5.4.6 (RFC 5321 §6.3).
///
/// The fields are counted while the content streams by, with memory that does not grow. At the field too many the
/// inner delivery finds its content truncated and drops what it has; the refusal is this layer's. Outside of
/// [`ReceivedLayer`](super::ReceivedLayer), so that it counts what others have written.
#[derive(Debug, Clone, Copy)]
pub struct LoopLayer {
    max: usize,
}

impl LoopLayer {
    /// At most `max` fields. RFC 5321 §6.3 wants at least 100 to be allowed.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max }
    }
}

impl Default for LoopLayer {
    /// At most 100 fields.
    fn default() -> Self {
        Self::new(100)
    }
}

impl<S> Layer<S> for LoopLayer {
    type Service = LoopCheck<S>;

    fn layer(&self, inner: S) -> LoopCheck<S> {
        LoopCheck { inner, max: self.max }
    }
}

/// The service that [`LoopLayer`] makes.
#[derive(Debug, Clone)]
pub struct LoopCheck<S> {
    inner: S,
    max: usize,
}

impl<S: Service<Transaction, Response = Outcome>> Service<Transaction> for LoopCheck<S> {
    type Response = Outcome;
    type Error = S::Error;
    type Future = LoopCheckFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut transaction: Transaction) -> Self::Future {
        let recipients = transaction.envelope.recipients.len();
        let looped = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&looped);
        let (mut hops, max) = (Hops::default(), self.max);
        transaction.body = transaction.body.inspect(move |data| {
            hops.read(data);
            if hops.count > max {
                found.store(true, Ordering::Release);
                return Err(Truncated("too many hops"));
            }
            Ok(())
        });
        LoopCheckFuture { inner: self.inner.call(transaction), looped, recipients }
    }
}

pin_project! {
    /// The future of [`LoopCheck`].
    #[derive(Debug)]
    pub struct LoopCheckFuture<F> {
        #[pin]
        inner: F,
        looped: Arc<AtomicBool>,
        recipients: usize,
    }
}

impl<F: Future<Output = Result<Outcome, E>>, E> Future for LoopCheckFuture<F> {
    type Output = Result<Outcome, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.inner.poll(cx));
        if this.looped.load(Ordering::Acquire) {
            let refusal = Refusal::fixed(554, (5, 4, 6), "too many hops: this message goes round in circles");
            return Poll::Ready(Ok(Outcome::all(Err(refusal), *this.recipients)));
        }
        Poll::Ready(outcome)
    }
}

/// Counts `Received` fields in a header that comes in pieces.
#[derive(Default)]
struct Hops {
    count: usize,
    /// The start of the current line, as far as it can matter.
    line: [u8; NAME.len() + 1],
    filled: usize,
    past_header: bool,
}

const NAME: &[u8] = b"received";

impl Hops {
    fn read(&mut self, mut data: &[u8]) {
        while !self.past_header && !data.is_empty() {
            let end = memchr::memchr(b'\n', data);
            let (line, rest) = data.split_at(end.map_or(data.len(), |i| i + 1));
            for (place, byte) in self.line.iter_mut().skip(self.filled).zip(line) {
                *place = *byte;
                self.filled += 1;
            }
            if end.is_some() {
                self.end_line();
            }
            data = rest;
        }
    }

    fn end_line(&mut self) {
        let line = self.line.get(..self.filled).unwrap_or_default();
        match line.split_at_checked(NAME.len()) {
            // "Received" *WSP ":" in the obsolete syntax (RFC 5322 §4.5.7).
            Some((name, [b':' | b' ' | b'\t'])) if name.eq_ignore_ascii_case(NAME) => self.count += 1,
            _ => self.past_header = matches!(line, b"\r\n" | b"\n"),
        }
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Recorder, Sink};
    use crate::testing::{deliver, pieces};
    use smtp_core::service::Body;

    fn count(header: &str, piece: usize) -> usize {
        let mut hops = Hops::default();
        header.as_bytes().chunks(piece).for_each(|data| hops.read(data));
        hops.count
    }

    #[test]
    fn received_fields_are_counted_at_every_split() {
        let header = "Received: a\r\n\tb\r\nRECEIVED : c\r\nX-Received: no\r\nReceived-SPF: no\r\n received: folded\r\n\
                      Subject: Received: no\r\nreceived:\r\n\r\nReceived: body\r\n";
        for piece in 1..header.len() {
            assert_eq!(count(header, piece), 3, "pieces of {piece}");
        }
        assert_eq!(count("Re\r\n\r\nReceived: body\r\n", 3), 0);
    }

    fn message(hops: usize) -> Vec<u8> {
        format!("{}Subject: x\r\n\r\nReceived: body\r\n", "Received: from a by b\r\n\tfolded\r\n".repeat(hops)).into()
    }

    #[tokio::test]
    async fn a_hundred_hops_pass_and_one_more_does_not() {
        for piece in [1, 7, 1 << 20] {
            let recorder = Recorder::new();
            let mut delivery = LoopLayer::default().layer(recorder.clone());
            let outcome = deliver(&mut delivery, &["<x@y.example>"], pieces(&message(100), piece)).await;
            assert!(outcome.single().is_ok());
            assert_eq!(recorder.messages().len(), 1);
            assert_eq!(recorder.messages()[0].content[..], message(100)[..]);

            let outcome =
                deliver(&mut delivery, &["<x@y.example>", "<z@y.example>"], pieces(&message(101), piece)).await;
            assert_eq!(outcome.len(), 2);
            let refusal = outcome.single().unwrap_err();
            assert_eq!(refusal.to_string().get(..9), Some("554 5.4.6"));
            assert_eq!(recorder.messages().len(), 1, "nothing was delivered");
        }
    }

    #[tokio::test]
    async fn the_size_is_passed_on() {
        let body = Body::from_bytes(&b"abc"[..]).inspect(|_| Ok(()));
        assert_eq!(body.size(), Some(3));
        let sink = Sink::new();
        deliver(&mut LoopLayer::new(0).layer(sink.clone()), &["<x@y.example>"], Body::from_bytes(&b"a: b\r\n"[..]))
            .await;
        assert_eq!((sink.messages(), sink.octets()), (1, 6));
    }
}
