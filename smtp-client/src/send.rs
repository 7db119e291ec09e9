//! One transaction on an open session, in as few flights as the server allows.

mod attempt;
mod envelope;
mod outgoing;
mod stream;

pub(crate) use outgoing::Outgoing;

use smtp_core::service::{Body, Outcome, Truncated};
use smtp_core::session::State;
use smtp_core::session::client::NotNow;
use smtp_core::types::Envelope;

use self::attempt::Attempt;
use crate::connection::needs_secrecy;
use crate::{Connection, Error, Step};

/// How content travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transfer {
    /// BDAT where CHUNKING is offered, else DATA.
    #[default]
    Auto,
    /// DATA, whatever is offered.
    Data,
    /// BDAT, or a refusal where CHUNKING is not offered.
    Chunks,
}

/// How a transaction is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendOptions {
    /// DATA or BDAT.
    pub transfer: Transfer,
    /// Octets in a chunk of BDAT: 256 KiB. So much of a message is held in memory while it is gathered; a smaller one
    /// costs a reply per chunk.
    pub chunk_size: usize,
    /// A message of known size up to this, in octets, is read into memory before MAIL: 64 KiB. It can then be looked
    /// at for 8-bit content, and goes in the same write as the envelope under PIPELINING and CHUNKING. 0 turns it off.
    ///
    /// A server that refuses BDAT without swallowing its octets (RFC 3030 §2 wants that; released software got it
    /// wrong) reads a message that was sent so as commands if every recipient is refused. Turn it off, or set
    /// [`Transfer::Data`], for servers that cannot be trusted with it.
    pub single_flight_max: usize,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { transfer: Transfer::default(), chunk_size: 256 * 1024, single_flight_max: 64 * 1024 }
    }
}

/// A transaction that came to its end.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) outcome: Outcome,
    /// The server closed with a 421 before it took note of anything.
    pub(crate) turned_away: bool,
}

/// A transaction that did not.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// A reply of any kind came.
    pub(crate) answered: bool,
    /// The last octet of the content was queued.
    pub(crate) ended: bool,
}

impl Connection {
    /// Sends one message: MAIL, RCPT and DATA in one group where PIPELINING is offered, a small message of known size
    /// even in the same write (with CHUNKING), in lock step otherwise.
    ///
    /// The result of each recipient stands in the outcome, in the envelope's order; that some are refused is normal,
    /// and all replies are read whatever happens. Refusals that need no server come before anything is sent: a message
    /// over the server's SIZE (552 5.3.4), or one that needs 8BITMIME (554 5.6.3), BINARYMIME (554 5.6.1), SMTPUTF8
    /// (553 5.6.7) or another extension (555 5.5.4) that is not offered. SIZE, BODY=7BIT and AUTH are left out
    /// silently where the server does not know them, and SIZE is added where the size is known.
    ///
    /// EHLO must have been said. What an earlier transaction left behind is cleared with RSET, in the same group.
    ///
    /// # Errors
    /// Only if there is no answer: the channel broke, the server misbehaved, or the content did not come whole, in
    /// which case nothing was accepted. If some recipients had their refusal by then, the outcome has it, and 4.4.2
    /// for the others. [`Error::is_in_doubt`] tells whether the message may have been delivered all the same.
    pub async fn send(&mut self, envelope: &Envelope, body: Body, options: &SendOptions) -> Result<Outcome, Error> {
        let mut content = Outgoing::new(body);
        let delivered = self.deliver(envelope, &mut content, options, true).await;
        delivered.map(|delivered| delivered.outcome).map_err(|failure| failure.error)
    }

    /// As [`Connection::send`]; `eager` allows the content in the envelope's flight.
    pub(crate) async fn deliver(
        &mut self,
        envelope: &Envelope,
        content: &mut Outgoing,
        options: &SendOptions,
        eager: bool,
    ) -> Result<Delivered, Failure> {
        let mut attempt = Attempt::new(envelope.recipients.len(), self.options.lmtp);
        match self.attempt(envelope, content, options, eager, &mut attempt).await {
            Ok(()) => {}
            Err(error) => {
                let error = if attempt.ended { error.after_the_end() } else { error };
                if attempt.some_refused() && !matches!(error, Error::Local { .. }) {
                    attempt.broke(&error);
                } else {
                    return Err(Failure { error, answered: attempt.answered(), ended: attempt.ended });
                }
            }
        }
        let turned_away = attempt.turned_away();
        Ok(Delivered { outcome: attempt.outcome(|| content.take_complete()), turned_away })
    }

    async fn attempt(
        &mut self,
        envelope: &Envelope,
        content: &mut Outgoing,
        options: &SendOptions,
        eager: bool,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        self.ready(Step::Mail).await?;
        if matches!(self.wire.session.state(), State::Greeted | State::TurnedAway) {
            return Err(Error::local(Step::Mail, NotNow::BadSequence("send EHLO first")));
        }
        let held = tokio::time::timeout(self.options.timeouts.source, content.hold(options.single_flight_max));
        let held = held.await.unwrap_or(Err(Truncated("it did not come in time")));
        held.map_err(|why| Error::local(Step::Mail, why))?;
        let plan = match envelope::plan(&self.wire.session, envelope, content, options) {
            Ok(plan) => plan,
            Err(refusal) => {
                attempt.refuse_all(&refusal);
                return Ok(());
            }
        };
        for (n, refusal) in &plan.refused {
            attempt.refuse(*n, refusal);
        }
        if attempt.is_settled() {
            return Ok(());
        }
        if needs_secrecy(&envelope.mail) {
            self.confirmed(Step::Mail).await?;
        }
        self.send_envelope(envelope, &plan, content, eager, attempt).await?;
        if attempt.wants_content() {
            if plan.chunks {
                self.send_chunks(content, options.chunk_size, attempt).await?;
            } else {
                self.stream_data(content, attempt).await?;
            }
        }
        // RFC 2920 §3.1: all replies are read, whatever they are worth.
        while self.awaits_something() {
            let event = self.next().await?;
            attempt.record(event);
        }
        Ok(())
    }
}
