//! Content on its way to the delivery.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;

use alloc::sync::Arc;
use bytes::Bytes;

use super::dialogue::{Dialogue, Rate};
use crate::acceptance::Outcome;
use crate::service::{Body, BoxError, Delivery, Feed, Policy, Transaction, Truncated, Want, reply_for};
use crate::types::Refusal;

/// How long replies wait for that to the message that came with their commands, to leave together: the client gets one
/// segment and wakes up once. RFC 2920 §3.2 has replies leave at once when all input is read; this is as long as its last
/// command takes, but no longer, since the client may have a deadline for each. The reply to a message waits for no other.
const HOLD: Duration = Duration::from_millis(20);

/// A place for a call. The memory is used again and again.
pub(super) type Place<F> = Pin<Box<Option<F>>>;

/// A call to the delivery, and the way its body is fed.
pub(super) struct Delivering<F> {
    call: Place<F>,
    feed: Feed,
    recipients: usize,
}

impl<P: Policy, D: Delivery> Dialogue<P, D> {
    /// Calls the delivery and waits until it reads the content, or answers without.
    ///
    /// Its readiness is awaited here, before the 354: a delivery that sheds load refuses before the content is sent.
    pub(super) async fn begin(&mut self) {
        self.rate = Rate::default();
        self.timer.arm(self.settings.timeouts.commit);
        let ready = poll_fn(|cx| {
            if let Poll::Ready(result) = self.delivery.poll_ready(cx) {
                return Poll::Ready(result.map_err(Into::into));
            }
            self.poll_say(cx);
            ready!(self.timer.poll(cx));
            Poll::Ready(Err(late().into()))
        })
        .await;
        let Some(envelope) = self.begun.take() else { return };
        let recipients = envelope.recipients.len();
        if let Err(error) = ready {
            self.session.finish(refuse(&error, recipients));
            return;
        }
        let (feed, body) = Body::channel(self.session.content_size());
        let transaction = Transaction { session: Arc::clone(self.session.info()), envelope, body };
        let mut call = self.spare.take().unwrap_or_else(|| Box::pin(None));
        call.set(Some(self.delivery.call(transaction)));
        self.delivering = Some(Delivering { call, feed, recipients });
        self.timer.arm(self.settings.timeouts.commit);
        poll_fn(|cx| {
            if self.poll_delivery(cx) {
                return Poll::Ready(());
            }
            match self.delivering.as_ref().map(|d| d.feed.poll_want(cx)) {
                Some(Poll::Ready(Want::More)) => {
                    self.session.go_ahead();
                    return Poll::Ready(());
                }
                // It dropped the body unread: its answer is all there is to wait for.
                Some(Poll::Ready(Want::Nothing) | Poll::Pending) | None => {}
            }
            self.poll_say(cx);
            ready!(self.timer.poll(cx));
            self.give_up_on_delivery();
            Poll::Ready(())
        })
        .await;
    }

    /// Polls the delivery; true if it has answered, and the session knows.
    pub(super) fn poll_delivery(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(delivering) = &mut self.delivering else { return false };
        let Some(call) = delivering.call.as_mut().as_pin_mut() else { return false };
        let Poll::Ready(result) = call.poll(cx) else { return false };
        let recipients = delivering.recipients;
        self.end_call();
        self.session.finish(result.unwrap_or_else(|error| refuse(&error.into(), recipients)));
        true
    }

    /// Gives the delivery the next octets when it asks for them. Until then nothing more is read: a slow delivery
    /// slows the sender.
    pub(super) async fn feed(&mut self, data: Bytes) -> io::Result<()> {
        let mut data = Some(data);
        self.timer.arm(self.settings.timeouts.commit);
        poll_fn(|cx| {
            if self.poll_delivery(cx) {
                return Poll::Ready(());
            }
            let Some(delivering) = &self.delivering else { return Poll::Ready(()) };
            match delivering.feed.poll_want(cx) {
                Poll::Ready(Want::More) => {
                    if let Some(data) = data.take() {
                        delivering.feed.put(data, cx);
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(Want::Nothing) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            self.poll_say(cx);
            ready!(self.timer.poll(cx));
            self.give_up_on_delivery();
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    /// Tells the delivery that it has all, and waits for its answer. The client may be gone meanwhile; the answer is
    /// waited for all the same (RFC 1047).
    pub(super) async fn conclude(&mut self) -> io::Result<()> {
        let commit = self.settings.timeouts.commit;
        let (mut told, mut held) = (false, commit > HOLD && !self.owing && !self.session.output().is_empty());
        self.timer.arm(if held { HOLD } else { commit });
        poll_fn(|cx| {
            loop {
                if self.delivering.is_none() || self.poll_delivery(cx) {
                    return Poll::Ready(());
                }
                let Some(delivering) = &self.delivering else { return Poll::Ready(()) };
                if told || delivering.feed.poll_want(cx) != Poll::Ready(Want::More) {
                    break;
                }
                delivering.feed.end(cx);
                told = true;
            }
            if held {
                ready!(self.timer.poll(cx));
                held = false;
                self.timer.arm(commit - HOLD);
            }
            self.poll_say(cx);
            ready!(self.timer.poll(cx));
            // It has all the content: it may still finish, and the sender's second try be a duplicate, which is
            // better than a loss.
            if let Some(Delivering { mut call, feed, recipients }) = self.delivering.take() {
                self.session.finish(Outcome::all(Err(late()), recipients));
                if told {
                    tokio::spawn(async move {
                        let _feed = feed;
                        if let Some(call) = call.as_mut().as_pin_mut() {
                            let _ = call.await;
                        }
                    });
                }
            }
            Poll::Ready(())
        })
        .await;
        self.owing = true;
        Ok(())
    }

    /// Sends what there is to say while the delivery takes its time: replies are not held back for it for long.
    /// A channel that breaks is found out by whoever uses it next.
    fn poll_say(&mut self, cx: &mut Context<'_>) {
        let _ = self.wire.poll_send(self.session.output(), cx);
    }

    /// The delivery has not moved for too long.
    fn give_up_on_delivery(&mut self) {
        if let Some(delivering) = &self.delivering {
            delivering.feed.truncate(Truncated("the delivery took too long"));
            let recipients = delivering.recipients;
            self.end_call();
            self.session.finish(Outcome::all(Err(late()), recipients));
        }
    }

    /// Ends the call without an answer: its content will not come whole.
    pub(super) fn abandon(&mut self, why: &'static str) {
        if let Some(delivering) = &self.delivering {
            delivering.feed.truncate(Truncated(why));
            self.end_call();
        }
    }

    /// Lets go of the call, and keeps the place for the next one.
    fn end_call(&mut self) {
        if let Some(Delivering { mut call, .. }) = self.delivering.take() {
            call.set(None);
            self.spare = Some(call);
        }
    }
}

fn refuse(error: &BoxError, recipients: usize) -> Outcome {
    let refusal = reply_for(error);
    tracing::warn!(%error, reply = %refusal, "delivery gave no answer");
    Outcome::all(Err(refusal), recipients)
}

fn late() -> Refusal {
    Refusal::fixed(451, (4, 4, 2), "timed out here; try again later")
}
