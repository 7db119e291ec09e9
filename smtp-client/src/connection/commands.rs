//! The commands, one method each.

use bytes::Bytes;
use smtp_core::service::{Body, Outcome};
use smtp_core::session::client::{Awaited, NotNow};
use smtp_core::types::{Command, Invalid, Mail, Rcpt, Reply, Severity, Verb};
use smtp_core::wire::decode_command;

use super::{Connection, accepted};
use crate::Step;
use crate::error::{Error, Local};
use crate::observer::redact_auth;
use crate::send::Outgoing;

/// Each command is sent alone and its reply awaited. [`Connection::send`] is the fast way.
///
/// Errors are those of every step: [`Error::Refused`] for a 4yz or 5yz.
impl Connection {
    /// MAIL, with the parameters as they stand.
    ///
    /// # Errors
    /// As for every step.
    pub async fn mail(&mut self, mail: &Mail) -> Result<Reply, Error> {
        if needs_secrecy(mail) {
            self.confirmed(Step::Mail).await?;
        }
        self.ask(&Command::Mail(mail.clone())).await
    }

    /// RCPT, with the parameters as they stand.
    ///
    /// # Errors
    /// As for every step.
    pub async fn rcpt(&mut self, rcpt: &Rcpt) -> Result<Reply, Error> {
        self.ask(&Command::Rcpt(rcpt.clone())).await
    }

    /// DATA and the content; the outcome speaks of the recipients that were accepted, in order.
    ///
    /// # Errors
    /// As for every step; a refusal of the content is in the outcome.
    pub async fn data(&mut self, body: Body) -> Result<Outcome, Error> {
        self.ask(&Command::Data).await?;
        self.content(body).await
    }

    /// The content, after a 354 that [`Connection::raw`] brought.
    ///
    /// # Errors
    /// As [`Connection::data`].
    pub async fn content(&mut self, body: Body) -> Result<Outcome, Error> {
        let recipients = self.wire.session.accepted();
        self.send_data(&mut Outgoing::new(body), recipients).await
    }

    /// One BDAT with its octets (RFC 3030 §2). With `last` the reply decides on the message.
    ///
    /// Under LMTP with `last`, all replies are read, and the first refusal is the result, if there is one.
    ///
    /// # Errors
    /// As for every step; [`Local::NotNow`] if the server does not offer CHUNKING.
    pub async fn bdat(&mut self, chunk: Bytes, last: bool) -> Result<Reply, Error> {
        let step = if last { Step::EndOfContent } else { Step::Content };
        self.ready(step).await?;
        let command = Command::Bdat { size: chunk.len() as u64, last };
        self.queue(&command).map_err(|why| Error::local(step, why))?;
        if !chunk.is_empty() {
            if let Some(observer) = &self.options.observer {
                observer.content(chunk.len());
            }
            self.wire.session.content(chunk).map_err(|why| Error::local(step, why))?;
        }
        let mut result = self.next().await?.reply;
        while self.awaits_something() {
            let reply = self.next().await?.reply;
            // Behind a 353 (PRDR), too.
            if matches!(result.severity(), Severity::Success | Severity::Continue) {
                result = reply;
            }
        }
        if last {
            self.messages += 1;
        }
        accepted(step, result)
    }

    /// RSET: the transaction is forgotten.
    ///
    /// # Errors
    /// As for every step.
    pub async fn rset(&mut self) -> Result<Reply, Error> {
        self.ask(&Command::Rset).await
    }

    /// NOOP.
    ///
    /// # Errors
    /// As for every step.
    pub async fn noop(&mut self) -> Result<Reply, Error> {
        self.ask(&Command::Noop).await
    }

    /// VRFY.
    ///
    /// # Errors
    /// As for every step; [`NotNow::Control`] if `text` holds a control character.
    pub async fn vrfy(&mut self, text: &str) -> Result<Reply, Error> {
        let text = plain(Step::Verify, text)?;
        self.ask(&Command::Vrfy(text)).await
    }

    /// EXPN.
    ///
    /// # Errors
    /// As [`Connection::vrfy`].
    pub async fn expn(&mut self, text: &str) -> Result<Reply, Error> {
        let text = plain(Step::Expand, text)?;
        self.ask(&Command::Expn(text)).await
    }

    /// HELP, on a topic or in general.
    ///
    /// # Errors
    /// As [`Connection::vrfy`].
    pub async fn help(&mut self, topic: Option<&str>) -> Result<Reply, Error> {
        let topic = topic.map(|text| plain(Step::Help, text)).transpose()?;
        self.ask(&Command::Help(topic)).await
    }

    /// A verb of an extension, such as ETRN, with its arguments.
    ///
    /// # Errors
    /// As [`Connection::vrfy`].
    pub async fn verb(&mut self, verb: &str, arguments: &str) -> Result<Reply, Error> {
        let (verb, arguments) = (plain(Step::Other, verb)?, plain(Step::Other, arguments)?);
        self.ask(&Command::Other { verb, arguments }).await
    }

    /// QUIT; the channel is closed when the reply has come, or the deadline has passed. If QUIT went along with a
    /// message ([`SendOptions::quit`](crate::SendOptions::quit)), its reply is read here.
    ///
    /// # Errors
    /// As for every step. The connection is closed in any case.
    pub async fn quit(&mut self) -> Result<Reply, Error> {
        let reply = if self.is_leaving() {
            self.next().await.and_then(|event| accepted(Step::Quit, event.reply))
        } else {
            self.ask(&Command::Quit).await
        };
        //
        self.wire.close(self.options.timeouts.quit).await;
        reply
    }

    /// Any line, in any order, and its reply whatever it says: for shells and tests. STARTTLS runs the handshake
    /// after its 220, QUIT closes, a 354 wants [`Connection::content`].
    ///
    /// # Errors
    /// [`NotNow::Control`], before anything is sent, for a line with CR, LF, NUL or another control character; a BDAT
    /// line, which is of no use without its octets ([`Connection::bdat`]); and as for every step but
    /// [`Error::Refused`].
    pub async fn raw(&mut self, line: &str) -> Result<Reply, Error> {
        // Not `ready`: within a SASL exchange the line is a response.
        if !self.wire.is_open() {
            return Err(Error::Closed { step: Step::Other, source: None });
        }
        if matches!(decode_command(line.as_bytes()), Ok(Command::Bdat { .. })) {
            return Err(Error::local(Step::Other, Invalid::new("line", "BDAT is of no use without its octets")));
        }
        // Whatever it is.
        self.confirmed(Step::Other).await?;
        let greeted = self.wire.session.awaits() != Some(Awaited::Command(Verb::Connect));
        let verb = self.wire.session.raw(line).map_err(|why| Error::local(Step::Other, why))?;
        if let Some(observer) = &self.options.observer {
            match verb {
                Verb::Auth => observer.sent(&redact_auth(line)),
                Verb::Response => observer.sent("***"),
                _ => observer.sent(line),
            }
        }
        if !greeted {
            self.greeted_late().await?;
        }
        let reply = self.next().await?.reply;
        if self.wire.session.is_upgrading() {
            self.upgrade().await?;
        }
        if verb == Verb::Quit {
            self.wire.close(self.options.timeouts.quit).await;
        }
        // A 354 for nobody was answered with a lone dot, whose reply is due.
        while verb == Verb::Data && self.awaits_something() {
            self.next().await?;
        }
        Ok(reply)
    }
}

/// The message may travel only where nobody can read it later (RFC 8689).
pub(crate) fn needs_secrecy(mail: &Mail) -> bool {
    mail.parameters.iter().any(|(keyword, _)| keyword.eq_ignore_ascii_case("REQUIRETLS"))
}

/// The text, if it can stand in a line.
fn plain(step: Step, text: &str) -> Result<Box<str>, Error> {
    if text.chars().any(char::is_control) {
        return Err(Error::local(step, Local::NotNow(NotNow::Control)));
    }
    Ok(text.into())
}
