//! Commands and replies.

use alloc::sync::Arc;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Settings;
use super::timer::Timer;
use super::transaction::{Delivering, Place};
use super::wire::{self, Wire};
use crate::channel::{Peer, SessionInfo};
use crate::service::{BoxError, Delivery, Policy, Request, Verdict, reply_for};
use crate::session::server::{Session, Step, Ticket};
use crate::stream::{ByteStream, CloseCode};
use crate::types::{Command, Envelope, Refusal};

/// How much of what a client still sends after the last reply is read and thrown away, in octets, so that the reply
/// is not destroyed by a reset.
const LINGER_MAX: usize = 1 << 20;

/// How long a client has to close after the last reply of a server that is going down.
const DRAIN_LINGER: Duration = Duration::from_secs(1);

/// One session with everything it needs.
pub(super) struct Dialogue<P: Policy, D: Delivery> {
    pub(super) wire: Wire,
    pub(super) session: Session,
    policy: P,
    pub(super) delivery: D,
    pub(super) settings: Arc<Settings>,
    pub(super) timer: Timer,
    calls: Vec<Call<P::Future>>,
    pub(super) begun: Option<Envelope>,
    pub(super) delivering: Option<Delivering<D::Future>>,
    /// Where the last delivery was called, for the next one.
    pub(super) spare: Option<Place<D::Future>>,
    /// The reply to a message may not have left yet.
    pub(super) owing: bool,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    draining: bool,
    confirmed: bool,
    /// Where a peer that has moved may send from.
    admitted: Option<Peer>,
    pub(super) rate: Rate,
}

/// A call to the policy.
struct Call<F> {
    ticket: Option<Ticket>,
    future: Place<F>,
}

/// What ended a wait for input.
enum Waited {
    /// Something changed: ask the session again.
    Changed,
    Eof,
    Late,
    TooSlow,
}

/// How fast content came, counting only the time spent waiting for it.
#[derive(Default)]
pub(super) struct Rate {
    waited: Duration,
    octets: u64,
}

impl<P: Policy, D: Delivery> Dialogue<P, D> {
    pub(super) fn new(
        io: Box<dyn ByteStream>,
        info: Arc<SessionInfo>,
        policy: P,
        delivery: D,
        settings: Arc<Settings>,
        drain: CancellationToken,
    ) -> Self {
        Self {
            wire: Wire::new(io),
            session: Session::new(Arc::clone(&settings.session), info),
            policy,
            delivery,
            settings,
            timer: Timer::default(),
            calls: Vec::new(),
            begun: None,
            delivering: None,
            spare: None,
            owing: false,
            // A child of its own: sessions share no lock until the drain begins.
            drain: Box::pin(drain.child_token().cancelled_owned()),
            draining: false,
            confirmed: false,
            admitted: None,
            rate: Rate::default(),
        }
    }

    pub(super) async fn run(&mut self) -> io::Result<()> {
        loop {
            wire::lend_output(self.session.output());
            if self.begun.is_some() {
                self.begin().await;
                continue;
            }
            // The session judges some commands by itself: it has to know what the handshake has proved before it
            // looks at them.
            if !self.confirmed && self.session.info().hello.is_some() && !self.wire.input.is_empty() {
                self.confirm().await?;
            }
            let step = self.session.next(&mut self.wire.input);
            self.log_refused();
            match step {
                Step::Ask(ticket, command) => self.ask(ticket, command).await?,
                Step::Read => match self.read().await? {
                    Waited::Changed => {}
                    Waited::Eof => return self.hang_up().await,
                    Waited::Late => self.session.time_out("waited too long for you"),
                    Waited::TooSlow => self.session.time_out("content comes too slowly"),
                },
                Step::Wait => self.wait().await?,
                Step::Begin(envelope) => self.begun = Some(envelope),
                Step::Content(data) => self.feed(data).await?,
                Step::End => self.conclude().await?,
                Step::Spoiled(why) => self.abandon(why),
                Step::Upgrade => {
                    if !self.upgrade().await? {
                        return Ok(());
                    }
                }
                Step::Pause(pause) => {
                    self.send().await?;
                    tokio::time::sleep(pause).await;
                }
                Step::Close => {
                    self.abandon("the session ended");
                    return self.close().await;
                }
            }
        }
    }

    /// What the session refused by itself no layer of the policy has seen.
    fn log_refused(&mut self) {
        for refusal in self.session.take_refused() {
            let session = self.session.info().id;
            if refusal.reply().code().get() == 421 {
                tracing::info!(session, reply = %refusal, "ended");
            } else {
                tracing::debug!(session, reply = %refusal, "refused unasked");
            }
        }
    }

    /// Puts a question to the policy. Other calls go on meanwhile: one of them may hold what the policy waits for.
    async fn ask(&mut self, ticket: Ticket, command: Command) -> io::Result<()> {
        let harmless = match command {
            Command::Connect => true,
            Command::Hello(_) => self.session.info().hello.is_none(),
            _ => false,
        };
        if !self.confirmed && !harmless {
            self.confirm().await?;
        }
        if matches!(command, Command::Mail(_))
            && let Some(peer) = self.wire.moved()
            && self.admitted.as_ref() != Some(&peer)
            // Boxed, so that every session does not have the room for what hardly one does.
            && let Some(verdict) = Box::pin(self.readmit(peer)).await
        {
            self.settle(ticket, verdict);
            return Ok(());
        }
        let mut request = Some(Request { session: Arc::clone(self.session.info()), command });
        self.timer.arm(self.settings.timeouts.policy);
        poll_fn(|cx| {
            loop {
                match self.policy.poll_ready(cx) {
                    Poll::Ready(Ok(())) => break,
                    Poll::Ready(Err(error)) => {
                        self.settle(ticket, refuse(error));
                        return Poll::Ready(());
                    }
                    Poll::Pending => {}
                }
                if self.poll_calls(cx) {
                    continue;
                }
                if self.timer.poll(cx).is_ready() {
                    self.settle(ticket, late());
                    return Poll::Ready(());
                }
                return Poll::Pending;
            }
            if let Some(request) = request.take() {
                let future = self.policy.call(request);
                let place = self.place(ticket);
                if let Some(call) = self.calls.get_mut(place) {
                    call.future.set(Some(future));
                }
                self.poll_call(place, cx);
            }
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    /// A peer that has moved is asked about once more as if it had just come, from where it is now; what it is told if
    /// it may not send from there. Nothing else is with the policy: MAIL has waited for all other answers.
    async fn readmit(&mut self, peer: Peer) -> Option<Verdict> {
        let mut session = SessionInfo::clone(self.session.info());
        session.channel.peer = peer.clone();
        let request = Request { session: Arc::new(session), command: Command::Connect };
        let asked = async {
            poll_fn(|cx| self.policy.poll_ready(cx)).await?;
            self.policy.call(request).await
        };
        match tokio::time::timeout(self.settings.timeouts.policy, asked).await {
            Ok(Ok(Verdict::Refuse(refusal))) => Some(Verdict::Refuse(refusal)),
            Ok(Ok(_)) => {
                self.admitted = Some(peer);
                None
            }
            Ok(Err(error)) => Some(refuse(error)),
            Err(_) => Some(late()),
        }
    }

    /// Early data could be a replay: nothing past the first EHLO counts before the handshake is complete. Then more is
    /// known of the channel, too, which the session has from its beginning.
    async fn confirm(&mut self) -> io::Result<()> {
        if !self.wire.is_confirmed().await {
            self.send().await?;
            self.timer.arm(self.settings.timeouts.upgrade);
            self.with_deadline(|this, cx| this.wire.poll_confirmed(cx)).await?;
        }
        // It may have been completed at any time since the session began. Services hold the facts: they are replaced
        // only if they are others.
        if let Some(channel) = self.wire.info().filter(|channel| *channel != self.session.info().channel) {
            self.session.confirmed(channel);
        }
        self.confirmed = true;
        Ok(())
    }

    /// A free place for a call.
    fn place(&mut self, ticket: Ticket) -> usize {
        let free = self.calls.iter().position(|call| call.ticket.is_none());
        let place = free.unwrap_or_else(|| {
            // Without pipelining there is one, and an idle session keeps the room.
            if self.calls.capacity() == 0 {
                self.calls.reserve_exact(1);
            }
            self.calls.push(Call { ticket: None, future: Box::pin(None) });
            self.calls.len() - 1
        });
        if let Some(call) = self.calls.get_mut(place) {
            call.ticket = Some(ticket);
        }
        place
    }

    /// Polls the call at `place`; true if it has answered.
    fn poll_call(&mut self, place: usize, cx: &mut Context<'_>) -> bool {
        let Some(call) = self.calls.get_mut(place) else { return false };
        let (Some(ticket), Some(future)) = (call.ticket, call.future.as_mut().as_pin_mut()) else { return false };
        let Poll::Ready(result) = future.poll(cx) else { return false };
        call.future.set(None);
        call.ticket = None;
        self.settle(ticket, result.unwrap_or_else(refuse));
        true
    }

    fn settle(&mut self, ticket: Ticket, verdict: Verdict) {
        if let Some(Step::Begin(envelope)) = self.session.answer(ticket, verdict) {
            self.begun = Some(envelope);
        }
    }

    /// Polls all calls; true if one has answered.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        let mut answered = false;
        for place in 0..self.calls.len() {
            answered |= self.poll_call(place, cx);
        }
        answered
    }

    fn is_calling(&self) -> bool {
        self.calls.iter().any(|call| call.ticket.is_some())
    }

    /// Waits until a call has answered. What there is to say is said meanwhile.
    async fn wait(&mut self) -> io::Result<()> {
        self.timer.arm(self.settings.timeouts.policy);
        poll_fn(|cx| {
            if self.poll_calls(cx) || !self.is_calling() {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(Err(error)) = self.wire.poll_send(self.session.output(), cx) {
                return Poll::Ready(Err(error));
            }
            ready!(self.timer.poll(cx));
            self.expire_calls();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The answers that are still out would come too late for anybody.
    fn expire_calls(&mut self) {
        for place in 0..self.calls.len() {
            let Some(call) = self.calls.get_mut(place) else { continue };
            call.future.set(None);
            if let Some(ticket) = call.ticket.take() {
                self.settle(ticket, late());
            }
        }
    }

    /// Sends the output, then reads, while all calls go on.
    async fn read(&mut self) -> io::Result<Waited> {
        if self.wire.unflushed || !self.session.output().is_empty() {
            self.timer.arm(self.settings.timeouts.send);
            self.with_deadline(|this, cx| {
                let answered = this.poll_calls(cx);
                if answered { Poll::Ready(Ok(())) } else { this.wire.poll_send(this.session.output(), cx) }
            })
            .await?;
        }
        if self.session.output().is_empty() {
            self.owing = false;
        }
        wire::take_output(self.session.output());
        let calling = self.is_calling();
        if calling && self.wire.eof {
            self.wait().await?;
            return Ok(Waited::Changed);
        }
        let content = self.session.in_content();
        let timeouts = &self.settings.timeouts;
        let limit = match (calling, content) {
            (true, _) => timeouts.policy,
            (false, true) => timeouts.content.saturating_sub(self.rate.waited),
            (false, false) => timeouts.command,
        };
        let mut started = None;
        let waited = poll_fn(|cx| {
            if self.poll_calls(cx) || self.poll_delivery(cx) || !self.session.output().is_empty() {
                return Poll::Ready(Ok(Waited::Changed));
            }
            // The session comes to read only when all that is there was run and answered.
            if self.wire.eof {
                return Poll::Ready(Ok(Waited::Eof));
            }
            // Before reading: a client that always has something to say has to hear it too.
            if !self.draining && self.drain.as_mut().poll(cx).is_ready() {
                self.draining = true;
                self.session.drain();
                return Poll::Ready(Ok(Waited::Changed));
            }
            if let Poll::Ready(result) = self.wire.poll_read(content, cx) {
                return Poll::Ready(result.map(|n| {
                    self.rate.octets += n as u64;
                    Waited::Changed
                }));
            }
            // The rest of the content may wait for a sign that the first of it was read.
            if content && self.rate.octets > 0 {
                self.wire.waits();
            }
            if started.is_none() {
                started = Some(Instant::now());
                // Only octets of the session end this wait.
                self.timer.arm(limit);
            }
            ready!(self.timer.poll(cx));
            if calling {
                self.expire_calls();
                return Poll::Ready(Ok(Waited::Changed));
            }
            Poll::Ready(Ok(Waited::Late))
        })
        .await?;
        Ok(if content { self.judge(waited, started) } else { waited })
    }

    /// Content that comes in drops would hold a session for ever without ever being late: in each span of the content
    /// timeout that was spent waiting, the least rate must have been kept.
    fn judge(&mut self, waited: Waited, started: Option<Instant>) -> Waited {
        self.rate.waited += started.map(|s| s.elapsed()).unwrap_or_default();
        let span = self.settings.timeouts.content;
        if self.rate.waited < span || matches!(waited, Waited::Eof) {
            return waited;
        }
        let rate = core::mem::take(&mut self.rate);
        let least = self.settings.timeouts.min_data_rate.saturating_mul(span.as_secs());
        match rate.octets {
            0 => Waited::Late,
            octets if octets < least => Waited::TooSlow,
            _ => Waited::Changed,
        }
    }

    /// Sends the output.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        self.timer.arm(self.settings.timeouts.send);
        self.with_deadline(|this, cx| this.wire.poll_send(this.session.output(), cx)).await
    }

    /// Runs `poll` until it is ready or the timer, which the caller has armed, fires.
    async fn with_deadline<T>(
        &mut self,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        poll_fn(|cx| {
            if let Poll::Ready(result) = poll(self, cx) {
                return Poll::Ready(result);
            }
            ready!(self.timer.poll(cx));
            Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer let a deadline of the channel pass")))
        })
        .await
    }

    /// Turns the stream into a TLS one; false if the session is over instead.
    async fn upgrade(&mut self) -> io::Result<bool> {
        self.send().await?;
        let io = self.wire.take()?;
        if !self.wire.input.is_empty() {
            // Clear text behind STARTTLS would be run as if it had come under TLS.
            tracing::warn!(session = self.session.info().id, "octets behind STARTTLS in clear: closed");
            io.abort(CloseCode::Protocol);
            return Ok(false);
        }
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time");
        let io = tokio::time::timeout(self.settings.timeouts.upgrade, io.upgrade()).await.map_err(|_| late())??;
        self.session.upgraded(io.info());
        self.wire.put(io);
        Ok(true)
    }

    /// The client sends no more. What it still waits for has been said.
    async fn hang_up(&mut self) -> io::Result<()> {
        let midway = self.session.in_content() || !self.wire.input.is_empty();
        //
        self.abandon("the client closed the channel within the message");
        self.timer.arm(self.settings.timeouts.close);
        // The peer is on its way out; whether it hears ours no longer matters.
        let _ = self.with_deadline(|this, cx| this.wire.poll_shutdown(cx)).await;
        if midway {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed the channel midway"));
        }
        Ok(())
    }

    /// Sends the last words and closes. A client that is still sending is read from for a while: data that arrives at
    /// a closed TCP socket resets it, and the last reply would be lost with it.
    async fn close(&mut self) -> io::Result<()> {
        self.send().await?;
        self.timer.arm(self.settings.timeouts.close);
        let quit = self.wire.input.is_empty() && self.session.has_quit();
        self.with_deadline(|this, cx| this.wire.poll_shutdown(cx)).await?;
        if self.draining {
            // An idle client that was told 421 may not look at its socket for hours: a drain does not wait for it.
            self.timer.arm(self.settings.timeouts.close.min(DRAIN_LINGER));
        }
        let mut read = self.wire.input.len();
        while !quit && !self.wire.eof && read < LINGER_MAX {
            self.wire.input.clear();
            match self.with_deadline(|this, cx| this.wire.poll_read(true, cx)).await {
                Ok(n) => read += n,
                Err(_) => break,
            }
        }
        Ok(())
    }
}

fn refuse(error: impl Into<BoxError>) -> Verdict {
    let error = error.into();
    let refusal = reply_for(&error);
    tracing::debug!(%error, reply = %refusal, "policy gave no verdict");
    Verdict::Refuse(refusal)
}

fn late() -> Verdict {
    Verdict::Refuse(Refusal::fixed(451, (4, 4, 2), "timed out here; try again later"))
}
