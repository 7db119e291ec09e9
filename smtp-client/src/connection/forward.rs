//! Speaking for another client: XCLIENT and XFORWARD.

use smtp_core::extension::Forwarded;
use smtp_core::session::State;
use smtp_core::types::{Command, Reply, Severity};

use super::{Connection, accepted};
use crate::Step;
use crate::client::PassOn;
use crate::error::Error;

/// The most octets of arguments in one command: with the verb less than the 512 that every server takes
/// (RFC 5321 §4.5.3.1.4).
const ARGUMENTS_MAX: usize = 480;

impl Connection {
    /// XCLIENT: the server takes `client` for its peer from here on, and the session starts over; EHLO is said again.
    /// Of the attributes those are sent that the server's EHLO lists. Gives the new greeting, or `None` if the server
    /// does not offer XCLIENT to this client or wants nothing of what is known: nothing was said then.
    ///
    /// Between transactions only. After a refusal the session stands for whom it stood before, or for nobody.
    ///
    /// # Errors
    /// As for every step, and as [`Connection::hello`].
    pub async fn xclient(&mut self, client: &Forwarded) -> Result<Option<Reply>, Error> {
        let Some(wanted) = self.wanted("XCLIENT", client) else { return Ok(None) };
        // All in one command: the session starts over with each.
        let reply = accepted(Step::Other, self.exchange(&command("XCLIENT", wanted.to_string())).await?)?;
        self.hello().await?;
        Ok(Some(reply))
    }

    /// XFORWARD: the server logs the next transaction as one of `client`. Of the attributes those are sent that the
    /// server's EHLO lists, in as many commands as they need. False if the server does not offer XFORWARD to this
    /// client or wants nothing of what is known: nothing was said then.
    ///
    /// # Errors
    /// As for every step.
    pub async fn xforward(&mut self, client: &Forwarded) -> Result<bool, Error> {
        let Some(wanted) = self.wanted("XFORWARD", client) else { return Ok(false) };
        for line in wanted.lines(ARGUMENTS_MAX) {
            accepted(Step::Other, self.exchange(&command("XFORWARD", line)).await?)?;
        }
        Ok(true)
    }

    fn wanted(&self, keyword: &str, client: &Forwarded) -> Option<Forwarded> {
        let wanted = client.wanted(self.capabilities().get(keyword)?);
        (!wanted.is_empty()).then_some(wanted)
    }

    /// Tells the server for whom the next message is sent.
    pub(crate) async fn pass_on(&mut self, how: PassOn, client: &Forwarded) -> Result<(), Error> {
        // A transaction of which everybody was refused is still open.
        if how != PassOn::Nothing
            && matches!(self.wire.session.state(), State::Mail | State::Rcpt | State::ChunksRefused)
        {
            self.rset().await?;
        }
        match how {
            PassOn::Nothing => Ok(()),
            PassOn::XClient => self.xclient(client).await.map(drop),
            // It is for the other side's log: a server that does not like it gets the message all the same.
            PassOn::XForward => match self.xforward(client).await {
                Err(Error::Refused { reply, .. }) if reply.severity() >= Severity::Transient && self.is_usable() => {
                    Ok(())
                }
                result => result.map(drop),
            },
        }
    }
}

fn command(verb: &str, arguments: String) -> Command {
    Command::Other { verb: verb.into(), arguments: arguments.into() }
}
