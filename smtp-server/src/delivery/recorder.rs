//! Keeps mail in memory for a test to look at.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Chunk, Outcome, Promises, Receipt, Transaction};
use smtp_core::types::{Envelope, Refusal};
use tokio::sync::Notify;
use tower_service::Service;

use super::truncated;

/// Keeps envelopes and contents in memory, within bounds: 452 4.3.1 beyond them.
///
/// Clones share what was recorded. Its receipts say `discarded`, never `stored`: memory is no stable storage.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    messages_max: usize,
    octets_max: usize,
    kept: Mutex<Kept>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    messages: Vec<Recorded>,
    /// Of recorded messages and of those that are being read.
    octets: usize,
}

/// A recorded message.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The session it came by.
    pub session: Arc<SessionInfo>,
    /// The sender and the recipients.
    pub envelope: Envelope,
    /// The content: lines ended by CRLF, no dot-stuffing.
    pub content: Bytes,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::bounded(1_000, 64 << 20)
    }
}

impl Recorder {
    /// It takes whatever can be asked of content.
    pub const PROMISES: Promises = super::Sink::PROMISES;

    /// Keeps up to 1,000 messages of together 64 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps up to so many messages of together so many octets.
    #[must_use]
    pub fn bounded(messages: usize, octets: usize) -> Self {
        let shared =
            Shared { messages_max: messages, octets_max: octets, kept: Mutex::default(), arrived: Notify::new() };
        Self(Arc::new(shared))
    }

    /// What was recorded so far, in the order in which it was accepted.
    #[must_use]
    pub fn messages(&self) -> Vec<Recorded> {
        self.0.lock().messages.clone()
    }

    /// Waits until there are at least `count` messages and gives all that were recorded.
    ///
    /// # Errors
    /// When `patience` ends before; what there is by then is given all the same.
    pub async fn wait_for(&self, count: usize, patience: Duration) -> Result<Vec<Recorded>, Vec<Recorded>> {
        let enough = async {
            loop {
                let arrived = self.0.arrived.notified();
                tokio::pin!(arrived);
                // Listening begins before looking, so that nothing arrives unnoticed in between.
                arrived.as_mut().enable();
                if self.0.lock().messages.len() >= count {
                    return;
                }
                arrived.await;
            }
        };
        let in_time = tokio::time::timeout(patience, enough).await.is_ok();
        if in_time { Ok(self.messages()) } else { Err(self.messages()) }
    }

    /// Forgets everything and gives it away.
    #[must_use]
    pub fn take(&self) -> Vec<Recorded> {
        let mut kept = self.0.lock();
        let messages = std::mem::take(&mut kept.messages);
        let octets: usize = messages.iter().map(|message| message.content.len()).sum();
        kept.octets = kept.octets.saturating_sub(octets);
        messages
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, octets: usize) -> bool {
        let mut kept = self.lock();
        let fits = kept.octets + octets <= self.octets_max && kept.messages.len() < self.messages_max;
        if fits {
            kept.octets += octets;
        }
        fits
    }
}

impl Service<Transaction> for Recorder {
    type Response = Outcome;
    type Error = Infallible;
    type Future = RecorderFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> RecorderFuture {
        let Transaction { session, envelope, body } = transaction;
        RecorderFuture {
            shared: Arc::clone(&self.0),
            body,
            content: BytesMut::new(),
            message: Some((session, envelope)),
        }
    }
}

/// The future of [`Recorder`].
#[derive(Debug)]
pub struct RecorderFuture {
    shared: Arc<Shared>,
    body: Body,
    content: BytesMut,
    message: Option<(Arc<SessionInfo>, Envelope)>,
}

impl RecorderFuture {
    fn record(&mut self) -> Result<(), Refusal> {
        let Some((session, envelope)) = self.message.take() else { return Err(full()) };
        let mut kept = self.shared.lock();
        if kept.messages.len() >= self.shared.messages_max {
            return Err(full());
        }
        // From here on the octets belong to the record, and Drop gives back none.
        kept.messages.push(Recorded { session, envelope, content: self.content.split().freeze() });
        drop(kept);
        self.shared.arrived.notify_waiters();
        Ok(())
    }
}

fn full() -> Refusal {
    Refusal::fixed(452, (4, 3, 1), "the recorder is full")
}

impl Future for RecorderFuture {
    type Output = Result<Outcome, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let recipients = this.message.as_ref().map_or(0, |(_, envelope)| envelope.recipients.len());
        loop {
            match ready!(this.body.poll_next(cx)) {
                Ok(Chunk::Data(data)) if this.shared.reserve(data.len()) => this.content.extend_from_slice(&data),
                Ok(Chunk::Data(_)) => return Poll::Ready(Ok(Outcome::all(Err(full()), recipients))),
                Ok(Chunk::End(complete)) => {
                    let result = this.record().map(|()| Receipt::discarded(complete).with_text("message recorded"));
                    return Poll::Ready(Ok(Outcome::all(result, recipients)));
                }
                Err(_) => return Poll::Ready(Ok(truncated(recipients))),
            }
        }
    }
}

impl Drop for RecorderFuture {
    fn drop(&mut self) {
        let mut kept = self.shared.lock();
        kept.octets = kept.octets.saturating_sub(self.content.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{broken, deliver, pieces};
    use smtp_core::service::Claim;

    #[tokio::test]
    async fn it_keeps_envelope_and_content() {
        let recorder = Recorder::new();
        let outcome = deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"abc\r\n", 2)).await;
        assert_eq!(*outcome.single().unwrap().claim(), Claim::Discarded);
        let [message] = &recorder.take()[..] else { panic!("one message") };
        assert_eq!(&message.content[..], b"abc\r\n");
        assert_eq!(message.envelope.recipients[0].to.to_string(), "<a@b.example>");
        assert!(recorder.messages().is_empty());
        assert_eq!(recorder.0.lock().octets, 0);
    }

    #[tokio::test]
    async fn half_a_message_is_not_recorded_and_holds_no_memory() {
        let recorder = Recorder::bounded(10, 5);
        assert!(deliver(&mut recorder.clone(), &["<a@b.example>"], broken(b"abc\r\n", 2)).await.single().is_err());
        assert!(recorder.messages().is_empty());
        assert!(deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"abc\r\n", 2)).await.single().is_ok());
    }

    #[tokio::test]
    async fn both_bounds_hold() {
        let code = |outcome: Outcome| outcome.single().unwrap_err().reply().code().get();
        let recorder = Recorder::bounded(10, 7);
        assert_eq!(code(deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"12345678", 3)).await), 452);
        assert!(deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"1234567", 3)).await.single().is_ok());
        assert_eq!(code(deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"1", 3)).await), 452);
        let recorder = Recorder::bounded(1, 100);
        assert!(deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"1", 3)).await.single().is_ok());
        assert_eq!(code(deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"1", 3)).await), 452);
        assert_eq!(recorder.messages().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_message_or_with_patience() {
        let recorder = Recorder::new();
        assert_eq!(recorder.wait_for(1, Duration::from_secs(5)).await.unwrap_err().len(), 0);
        let waiting = tokio::spawn({
            let recorder = recorder.clone();
            async move { recorder.wait_for(2, Duration::from_secs(5)).await }
        });
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            deliver(&mut recorder.clone(), &["<a@b.example>"], pieces(b"x", 1)).await;
        }
        assert_eq!(waiting.await.unwrap().unwrap().len(), 2);
    }
}
