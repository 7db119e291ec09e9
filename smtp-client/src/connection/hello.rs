//! EHLO, STARTTLS, and the policy that says in which order and whether at all.

use smtp_core::session::client::Awaited;
use smtp_core::stream::{CloseCode, TlsMode, Verification};
use smtp_core::types::{Command, Hello, HelloKind, Reply, Severity, Verb};

use super::{Connection, accepted};
use crate::Step;
use crate::error::{Error, TlsError};
use crate::wire::Upgrade;

impl Connection {
    /// All that comes before mail: EHLO, STARTTLS as the TLS policy wants it, and EHLO again inside TLS.
    ///
    /// - `None` and `Implicit`: EHLO alone.
    /// - `Opportunistic`: STARTTLS if it is offered; if it is refused, on in clear. If the handshake fails the
    ///   connection is lost, and whoever wants to may try another one in clear.
    /// - `Required`: STARTTLS, or an error.
    ///
    /// A channel that has TLS already satisfies any of them. Where the policy wants verification, a channel that does
    /// not say that its certificate was verified is an error.
    ///
    /// # Errors
    /// [`Error::Tls`] where the policy is not met, and what the steps give.
    pub async fn hello(&mut self) -> Result<Reply, Error> {
        let mut reply = self.ehlo().await?;
        let wanted = matches!(self.policy.mode, TlsMode::Opportunistic | TlsMode::Required);
        if wanted && self.info.tls.is_none() {
            match self.starttls().await {
                Ok(()) => reply = self.ehlo().await?,
                Err(Error::Tls(TlsError::NotOffered | TlsError::Refused(_)))
                    if self.policy.mode == TlsMode::Opportunistic && self.wire.session.is_idle() => {}
                Err(error) => return Err(error),
            }
        }
        self.check_tls()?;
        Ok(reply)
    }

    /// EHLO, or LHLO.
    pub(crate) fn hello_kind(&self) -> HelloKind {
        if self.options.lmtp { HelloKind::Lhlo } else { HelloKind::Ehlo }
    }

    /// The command with this client's name.
    pub(crate) fn hello_command(&self, kind: HelloKind) -> Command {
        Command::Hello(Hello { kind, name: self.options.hello.clone() })
    }

    /// The replies to an EHLO that went ahead of the greeting, with other things behind it; an error if one of them is
    /// a refusal.
    pub(crate) async fn heard_hello(&mut self) -> Result<(), Error> {
        let greeting = accepted(Step::Greeting, self.next().await?.reply)?;
        self.greeting = Some(greeting);
        accepted(Step::Hello, self.next().await?.reply)?;
        self.remember();
        Ok(())
    }

    /// EHLO (LHLO for LMTP); HELO if the server knows no EHLO and nothing is wanted that HELO cannot give.
    ///
    /// On a channel on which the client speaks first the greeting is read here.
    ///
    /// # Errors
    /// As for every step.
    pub async fn ehlo(&mut self) -> Result<Reply, Error> {
        let kind = self.hello_kind();
        let reply = self.greet(kind).await?;
        // RFC 5321 §3.2 and §4.1.1.1. STARTTLS is an extension: who needs it cannot do with HELO. A 4yz is no sign of
        // an old server.
        let old = reply.severity() == Severity::Permanent && kind == HelloKind::Ehlo;
        // Nor is there an old server behind a channel that implies extensions.
        let old = old && self.info.implied.is_empty();
        let needs_starttls = self.policy.mode == TlsMode::Required && self.info.tls.is_none();
        if old && !needs_starttls && self.wire.session.is_idle() {
            let reply = self.greet(HelloKind::Helo).await?;
            return accepted(Step::Hello, reply);
        }
        let reply = accepted(Step::Hello, reply)?;
        self.remember();
        Ok(reply)
    }

    /// EHLO may be early data. If the server does not take it, it goes once more on another stream.
    async fn greet(&mut self, kind: HelloKind) -> Result<Reply, Error> {
        match self.say_hello(kind).await {
            Err(_) if self.wire.is_unseen() && self.renew().await => self.say_hello(kind).await,
            result => result,
        }
    }

    async fn say_hello(&mut self, kind: HelloKind) -> Result<Reply, Error> {
        let command = self.hello_command(kind);
        if self.wire.session.awaits() != Some(Awaited::Command(Verb::Connect)) {
            return self.exchange(&command).await;
        }
        self.queue(&command).map_err(|why| Error::local(Step::Hello, why))?;
        self.greeted_late().await?;
        Ok(self.next().await?.reply)
    }

    /// The greeting, behind an EHLO that had to go first.
    pub(super) async fn greeted_late(&mut self) -> Result<(), Error> {
        let greeting = self.next().await?.reply;
        if greeting.severity() != Severity::Success {
            // The reply to EHLO, a 503, has to be read before QUIT.
            if self.awaits_something() {
                let _ = self.next().await;
            }
            let _ = self.quit().await;
            return Err(Error::Refused { step: Step::Greeting, reply: greeting });
        }
        self.greeting = Some(greeting);
        Ok(())
    }

    /// STARTTLS and the handshake (RFC 3207). EHLO has to come next: all that was offered before is forgotten.
    ///
    /// # Errors
    /// [`Error::Tls`]: after [`TlsError::NotOffered`] and [`TlsError::Refused`] the connection goes on in clear, after
    /// [`TlsError::Handshake`] it is lost. [`Error::Misbehaved`] if octets in clear came behind the 220.
    pub async fn starttls(&mut self) -> Result<(), Error> {
        if !self.offers("STARTTLS") || !self.info.can_upgrade {
            return Err(TlsError::NotOffered.into());
        }
        let reply = self.exchange(&Command::StartTls).await?;
        if reply.severity() != Severity::Success {
            return Err(TlsError::Refused(reply).into());
        }
        self.upgrade().await
    }

    /// The handshake, after a 220 to STARTTLS.
    pub(super) async fn upgrade(&mut self) -> Result<(), Error> {
        match self.wire.upgrade(self.options.timeouts.tls).await {
            Ok(info) => self.info = info,
            Err(Upgrade::Failed(error)) => return Err(TlsError::Handshake(error).into()),
            Err(Upgrade::Broken(broken)) => return Err(self.broken(Step::Tls, broken)),
        }
        if let Some(observer) = &self.options.observer {
            observer.secured(&self.info);
        }
        Ok(())
    }

    /// Is the channel what the policy wants? The connector has checked; a connector that did not is found here.
    pub(crate) fn check_tls(&mut self) -> Result<(), Error> {
        let must = matches!(self.policy.mode, TlsMode::Required | TlsMode::Implicit);
        let fine = match &self.info.tls {
            None if must => Err(TlsError::NotOffered),
            Some(tls) if !tls.verified && self.policy.verification != Verification::None => Err(TlsError::Unverified),
            Some(_) | None => Ok(()),
        };
        fine.map_err(|error| {
            self.wire.abort(CloseCode::Policy);
            error.into()
        })
    }
}
