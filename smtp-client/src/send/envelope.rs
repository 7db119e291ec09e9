//! The envelope on its way out, and the replies to it.

use smtp_core::extension::SmtpUtf8;
use smtp_core::session::State;
use smtp_core::session::client::NotNow;
use smtp_core::types::{Command, Envelope, Parameter, Rcpt};

use super::plan::{NextHop, Plan};
use super::{Attempt, Outgoing};
use crate::{Connection, Error, Step};

impl Connection {
    /// Sends the envelope and reads the replies to it: all in one group if that is allowed. With `eager` a message
    /// that is in memory goes along as one chunk.
    pub(super) async fn send_envelope(
        &mut self,
        envelope: &Envelope,
        plan: &Plan,
        content: &mut Outgoing,
        eager: bool,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        let left_over = self.wire.session.state() != State::Ready;
        let reset = left_over.then_some(Command::Rset);
        let mut script = reset
            .into_iter()
            .chain(self.script(envelope, plan, attempt))
            .chain((!plan.chunks).then_some(Command::Data))
            .collect::<Vec<_>>()
            .into_iter()
            .peekable();
        loop {
            while let Some(command) = script.peek() {
                match self.queue(command) {
                    Ok(()) => drop(script.next()),
                    Err(NotNow::Outstanding(_)) => break,
                    // A refusal in lock step makes the rest pointless: no sender, no recipients.
                    Err(NotNow::BadSequence(_) | NotNow::Over) if attempt.answered() => {
                        script = Vec::new().into_iter().peekable();
                    }
                    Err(why) => return Err(Error::local(Step::Mail, why)),
                }
            }
            if plan.chunks && eager && script.peek().is_none() && self.wire.session.pipelining() {
                self.queue_whole(content, attempt)?;
            }
            if !self.awaits_something() || self.wire.session.wants_content() {
                return Ok(());
            }
            let event = self.next().await?;
            attempt.record(event);
        }
    }

    /// MAIL, and RCPT for everybody who is to be asked about.
    pub(super) fn script(&self, envelope: &Envelope, plan: &Plan, attempt: &Attempt) -> Vec<Command> {
        let utf8 = plan.mail.parameters.value(SmtpUtf8::KEYWORD).is_some();
        let recipients = envelope.recipients.iter().enumerate().filter(|(n, _)| !attempt.is_refused(*n));
        let recipients = recipients.map(|(_, rcpt)| {
            let (parameters, _) = self.next_hop().recipient(rcpt, utf8).unwrap_or_default();
            Command::Rcpt(Rcpt { to: rcpt.to.clone(), parameters })
        });
        core::iter::once(Command::Mail(plan.mail.clone())).chain(recipients).collect()
    }

    pub(super) fn next_hop(&self) -> NextHop<'_> {
        NextHop { session: &self.wire.session, channel: self.info(), registry: &self.options.registry }
    }

    /// Queues a message that is in memory as one chunk.
    //
    pub(super) fn queue_whole(&mut self, content: &mut Outgoing, attempt: &mut Attempt) -> Result<(), Error> {
        if attempt.ended || attempt.answered() {
            return Ok(());
        }
        let Some(whole) = content.give_whole() else { return Ok(()) };
        let command = Command::Bdat { size: whole.len() as u64, last: true };
        self.queue(&command).map_err(|why| Error::local(Step::EndOfContent, why))?;
        if !whole.is_empty() {
            self.show_content(whole.len());
            self.wire.session.content(whole).map_err(|why| Error::local(Step::EndOfContent, why))?;
        }
        attempt.ended = true;
        self.messages += 1;
        Ok(())
    }
}
