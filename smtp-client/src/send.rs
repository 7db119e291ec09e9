//! One transaction on an open session, in as few flights as the server allows.

mod attempt;
mod envelope;
mod flight;
mod outgoing;
mod plan;
mod split;
mod stream;

pub(crate) use outgoing::Outgoing;

use core::time::Duration;

use smtp_core::service::{Body, Outcome, Truncated};
use smtp_core::session::client::NotNow;
use smtp_core::types::{Envelope, Refusal};

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
    /// A message of known size up to this, in octets, is held in memory when the server's LIMITS make several
    /// transactions of it: 1 MiB. Of a larger one the first transaction is sent, and the other recipients get a 452.
    pub split_max: usize,
    /// This is the session's only message: QUIT goes along where EHLO does. The connection is closed by
    /// [`Connection::quit`] all the same, which reads the reply. Off.
    pub quit: bool,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            transfer: Transfer::default(),
            chunk_size: 256 * 1024,
            single_flight_max: 64 * 1024,
            split_max: 1 << 20,
            quit: false,
        }
    }
}

/// A transaction that came to its end.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) outcome: Outcome,
    /// The server closed with a 421 before it took note of anything.
    pub(crate) turned_away: bool,
    /// Recipients that were not asked about, or were too many, by their place in the envelope, because the session's
    /// limits are reached. The outcome has a 452 for them.
    pub(crate) left: Vec<usize>,
}

impl Delivered {
    /// An outcome in which so many recipients have this refusal.
    pub(crate) fn nobody(recipients: usize, refusal: &Refusal) -> Self {
        let outcome = Outcome::all(Err(refusal.clone()), recipients);
        Self { outcome, turned_away: false, left: Vec::new() }
    }

    /// Takes over what became of the recipients at these places.
    pub(crate) fn take(&mut self, places: &[usize], part: Self) {
        let nobody = Outcome::each(Vec::new());
        let mut results = core::mem::replace(&mut self.outcome, nobody).into_results();
        for (place, result) in places.iter().zip(part.outcome.into_results()) {
            if let Some(known) = results.get_mut(*place) {
                *known = result;
            }
        }
        self.outcome = Outcome::each(results);
        self.left.extend(part.left.iter().filter_map(|n| places.get(*n)));
    }
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
    /// (553 5.6.7), REQUIRETLS (550 5.7.30, also if the channel's TLS is not verified), DELIVERBY with mode R (550
    /// 5.4.7) or another extension (555 5.5.4) that is not offered. What a message can do without is left out where the
    /// server does not know it, as each extension has it; if the sender should hear of that, the receipt says so
    /// ([`Receipt::omitted`](smtp_core::service::Receipt::omitted)). SIZE is added where the size is known, and PRDR
    /// where there is more than one recipient.
    ///
    /// The server's LIMITS are obeyed (RFC 9422): more recipients, or domains, than it takes at once go in several
    /// transactions. If the content is too large to be held for that
    /// ([`SendOptions::split_max`]), or the server wants no more messages in this session, the rest gets a 452
    /// 4.5.3.
    ///
    /// EHLO must have been said, except on a channel on which the client speaks first. There
    /// [`hello`](Connection::hello) is done here if it has not been, and a message goes in the same flight as EHLO if
    /// it can: it is in memory, goes as chunks, has 100 recipients at most, and needs no parameter but BODY=8BITMIME.
    /// Whatever else it needs has to be known from the reply to EHLO, which is waited for then, unless another session
    /// on the same connection has it. What an earlier transaction left behind is cleared with RSET, in the same group.
    ///
    /// # Errors
    /// Those of [`hello`](Connection::hello), if it is done here.
    ///
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
        let begun = self.begin(envelope, content, options, eager).await;
        if begun.map_err(|error| Failure { error, answered: false, ended: false })? {
            let done = self.deliver_one(envelope, content, options, eager).await?;
            return self.deliver_excess(envelope, content, options, done).await;
        }
        match split::groups(self.capabilities().limits(), &envelope.recipients) {
            None => self.deliver_one(envelope, content, options, eager).await,
            Some(groups) => self.deliver_in_groups(envelope, groups, content, options, eager).await,
        }
    }

    async fn deliver_one(
        &mut self,
        envelope: &Envelope,
        content: &mut Outgoing,
        options: &SendOptions,
        eager: bool,
    ) -> Result<Delivered, Failure> {
        let flies = self.wire.session.is_unspoken();
        let mut attempt = Attempt::new(envelope.recipients.len(), self.options.lmtp);
        let mut result = self.attempt(envelope, content, options, eager, &mut attempt).await;
        // The whole flight was early data, and nothing of it was acted on.
        if flies && result.is_err() && self.wire.is_unseen() && content.rewind() && self.renew().await {
            attempt = Attempt::new(envelope.recipients.len(), self.options.lmtp);
            result = self.attempt(envelope, content, options, eager, &mut attempt).await;
        }
        match result {
            Ok(()) => {}
            Err(error) => {
                // What the server has not seen, or what has not left, cannot have been delivered.
                let ended = attempt.ended && !self.wire.is_unseen() && !self.wire.session.holds_content();
                let error = if ended { error.after_the_end() } else { error };
                if attempt.some_refused() && !matches!(error, Error::Local { .. }) {
                    attempt.broke(&error);
                } else {
                    return Err(Failure { error, answered: attempt.answered(), ended });
                }
            }
        }
        let turned_away = attempt.turned_away();
        Ok(Delivered { outcome: attempt.outcome(|reply| content.accepted(reply)), turned_away, left: Vec::new() })
    }

    async fn attempt(
        &mut self,
        envelope: &Envelope,
        content: &mut Outgoing,
        options: &SendOptions,
        eager: bool,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        let flies = self.wire.session.is_unspoken();
        if !flies {
            self.ready(Step::Mail).await?;
            if !self.has_said_hello() {
                return Err(Error::local(Step::Mail, NotNow::BadSequence("send EHLO first")));
            }
        }
        hold(content, options.single_flight_max, self.options.timeouts.source).await?;
        let plan = match self.next_hop().plan(envelope, content, options) {
            Ok(plan) => plan,
            Err(refusal) => {
                attempt.refuse_all(&refusal);
                return Ok(());
            }
        };
        for (n, refusal) in &plan.refused {
            attempt.refuse(*n, refusal);
        }
        attempt.omit(plan.omitted, plan.omitted_of.clone());
        if attempt.is_settled() {
            return Ok(());
        }
        if needs_secrecy(&envelope.mail) {
            self.confirmed(Step::Mail).await?;
        }
        if flies {
            self.fly(envelope, &plan, content, options.quit, attempt).await?;
        } else {
            self.send_envelope(envelope, &plan, content, eager, attempt).await?;
        }
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

/// Reads the content into memory if it is not larger than `limit`, `within` this time.
async fn hold(content: &mut Outgoing, limit: usize, within: Duration) -> Result<(), Error> {
    let held = tokio::time::timeout(within, content.hold(limit)).await;
    let held = held.unwrap_or(Err(Truncated("it did not come in time")));
    held.map_err(|why| Error::local(Step::Mail, why))
}
