//! A message in the session's first flight: EHLO, the envelope and the content, behind which nothing is waited for.

use smtp_core::extension::{BodyType, Size};
use smtp_core::service::Outcome;
use smtp_core::session::client::{Awaited, Event};
use smtp_core::types::{Command, Envelope, Mail, Parameter, Refusal, Verb};

use super::plan::Plan;
use super::{Attempt, Delivered, Failure, Outgoing, SendOptions, Transfer, hold, split};
use crate::{Connection, Error, Step};

/// How many recipients go to a server that has not told its limits: what every server takes (RFC 5321 §4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;

impl Connection {
    /// Says EHLO if that has not been done on a channel on which the client speaks first; true if it has been left to
    /// the message's own flight.
    pub(super) async fn begin(
        &mut self,
        envelope: &Envelope,
        content: &mut Outgoing,
        options: &SendOptions,
        eager: bool,
    ) -> Result<bool, Error> {
        if !self.wire.session.is_unspoken() {
            return Ok(false);
        }
        hold(content, options.single_flight_max, self.options.timeouts.source).await?;
        if eager && self.may_fly(envelope, content, options) {
            return Ok(true);
        }
        self.hello().await?;
        Ok(false)
    }

    /// True if nothing has to be known of the server that is not known already: by what the channel implies, or by what
    /// the server said to another session on the same connection.
    //
    fn may_fly(&self, envelope: &Envelope, content: &Outgoing, options: &SendOptions) -> bool {
        let session = &self.wire.session;
        let known = session.capabilities();
        let enough_known = if known.iter().next().is_none() {
            asks_nothing(envelope) && envelope.recipients.len() <= RECIPIENTS_MAX
        } else {
            split::groups(known.limits(), &envelope.recipients).is_none()
        };
        self.hello_may_wait()
            && session.pipelining()
            && session.offers("CHUNKING")
            && options.transfer != Transfer::Data
            && content.whole().is_some()
            && enough_known
    }

    /// Sends EHLO, the envelope and the content as one chunk, with `quit` QUIT too, and reads the replies to EHLO. What
    /// follows them is left to be read, except after a refusal.
    ///
    /// # Errors
    /// A refusal of the greeting or of EHLO, to which 503 for all the rest is but the echo; and as for every step.
    pub(super) async fn fly(
        &mut self,
        envelope: &Envelope,
        plan: &Plan,
        content: &mut Outgoing,
        quit: bool,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        self.check_tls()?;
        let hello = self.hello_command(self.hello_kind());
        self.queue(&hello).map_err(|why| Error::local(Step::Hello, why))?;
        for command in self.script(envelope, plan, attempt) {
            self.queue(&command).map_err(|why| Error::local(Step::of_verb(command.verb()), why))?;
        }
        self.queue_whole(content, attempt)?;
        if quit {
            self.queue(&Command::Quit).map_err(|why| Error::local(Step::Quit, why))?;
        }
        match self.heard_hello().await {
            Err(refused @ Error::Refused { .. }) => self.turned_down(refused, attempt).await,
            result => result,
        }
    }

    /// What is left of a flight whose greeting or EHLO was refused.
    async fn turned_down(&mut self, refused: Error, attempt: &mut Attempt) -> Result<(), Error> {
        while self.awaits_something() {
            match self.next().await {
                // EHLO's, after the greeting.
                Ok(Event { to: Awaited::Command(Verb::Hello), .. }) => {}
                Ok(event) => attempt.record(event),
                // A server may know MAIL without EHLO: whether this one does has not been said.
                Err(error) if refused.step() == Step::Hello && !attempt.is_stopped() => return Err(error),
                Err(_) => break,
            }
        }
        if attempt.has_delivered() {
            return Ok(());
        }
        if refused.step() == Step::Greeting && !self.is_leaving() {
            // RFC 5321 §4.1.1.10: no close without QUIT.
            let _ = self.quit().await;
        }
        attempt.forget();
        Err(refused)
    }

    /// After a flight that knew nothing of the server's LIMITS: another try for the recipients that were too many, or
    /// [`Delivered::left`] if this session cannot be used for that.
    pub(super) async fn deliver_excess(
        &mut self,
        envelope: &Envelope,
        content: &mut Outgoing,
        options: &SendOptions,
        mut done: Delivered,
    ) -> Result<Delivered, Failure> {
        let limits = self.capabilities().limits();
        if split::groups(limits, &envelope.recipients).is_none() {
            return Ok(done);
        }
        let places = too_many(&done.outcome);
        // If it is everybody, it was not the number.
        if places.is_empty() || places.len() == envelope.recipients.len() {
            return Ok(done);
        }
        if !self.is_usable() || self.has_done_its_share() || !content.rewind() {
            done.left = places;
            return Ok(done);
        }
        let rest: Vec<_> = places.iter().filter_map(|n| envelope.recipients.get(*n)).cloned().collect();
        let groups = split::groups(limits, &rest).unwrap_or_else(|| vec![(0..rest.len()).collect()]);
        let rest = Envelope { mail: envelope.mail.clone(), recipients: rest };
        match self.deliver_in_groups(&rest, groups, content, options, true).await {
            Ok(part) => done.take(&places, part),
            // Some have their answer already: it must not be lost.
            Err(failure) => done.take(&places, Delivered::nobody(places.len(), &failure.error.refusal())),
        }
        Ok(done)
    }
}

/// True if the message needs no more of its server than every one on a channel with implied extensions has.
fn asks_nothing(envelope: &Envelope) -> bool {
    let Mail { from, parameters } = &envelope.mail;
    let harmless = |(keyword, value): (&str, Option<&str>)| {
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        is(Size::KEYWORD) || is(BodyType::KEYWORD) && !value.is_some_and(|v| v.eq_ignore_ascii_case("BINARYMIME"))
    };
    parameters.iter().all(harmless)
        && from.mailbox().is_none_or(|from| from.is_ascii())
        && envelope
            .recipients
            .iter()
            .all(|rcpt| rcpt.parameters.is_empty() && rcpt.to.mailbox().is_none_or(|to| to.is_ascii()))
}

/// The recipients that got a 452, by their places.
fn too_many(outcome: &Outcome) -> Vec<usize> {
    let too_many = |refusal: &Refusal| refusal.reply().code().get() == 452;
    let refused = outcome.iter().enumerate().filter(|(_, result)| result.as_ref().is_err_and(too_many));
    refused.map(|(n, _)| n).collect()
}
