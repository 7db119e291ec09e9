//! AUTH (RFC 4954).

use smtp_core::session::client::Event;
use smtp_core::types::{Command, Reply, Severity};
use smtp_core::wire::decode_response;

use super::Connection;
use crate::Step;
use crate::error::{Error, Local};
use crate::sasl::{Credentials, Exposure, Mechanism, SaslError};

/// The longest line with an initial response, in octets: a longer response waits for a 334 (RFC 4954 §4, RFC 5321
/// §4.5.3.1.4).
const LINE_MAX: usize = 512;
/// How many challenges are answered before the exchange is given up.
const ROUNDS_MAX: usize = 32;

impl Connection {
    /// Authenticates by the strongest mechanism that is offered, known, and allowed on this channel, or by the pinned
    /// one; see [`Credentials`] for the order.
    ///
    /// # Errors
    /// [`Error::Local`] before anything is sent if there is no such mechanism, or if the channel may not see the
    /// secret; [`Error::Refused`] for a 4yz or 5yz, after which the connection goes on unauthenticated.
    pub async fn auth(&mut self, credentials: &Credentials) -> Result<Reply, Error> {
        let before = self.exporter();
        self.confirmed(Step::Auth).await?;
        let mut mechanism = self.choose(credentials);
        // The reply to an EHLO in early data was for somebody who had shown no certificate yet: EXTERNAL is not in it.
        if mechanism.is_err() && self.exporter() != before {
            self.ehlo().await?;
            mechanism = self.choose(credentials);
        }
        let mut mechanism = mechanism.map_err(|why| Error::local(Step::Auth, why))?;
        self.authenticate(&mut *mechanism, credentials.exposure()).await
    }

    fn choose(&self, credentials: &Credentials) -> Result<Box<dyn Mechanism>, Local> {
        let offered = self.capabilities().mechanisms().collect::<Vec<_>>();
        credentials.choose(offered.iter().copied(), &self.info)
    }

    /// There is none before the handshake is complete.
    fn exporter(&self) -> Option<[u8; 32]> {
        self.info.tls.as_ref().and_then(|tls| tls.exporter)
    }

    /// Authenticates by `mechanism`, whether or not it is offered.
    ///
    /// # Errors
    /// As [`Connection::auth`].
    pub async fn authenticate(&mut self, mechanism: &mut dyn Mechanism, exposure: Exposure) -> Result<Reply, Error> {
        if mechanism.exposes_secret() {
            exposure.allows(&self.info).map_err(|why| Error::local(Step::Auth, why))?;
        }
        self.ready(Step::Auth).await?;
        let mut held = mechanism.initial().map_err(|why| Error::local(Step::Auth, why))?;
        let name = mechanism.name().to_ascii_uppercase();
        let fits = |octets: usize| "AUTH ".len() + name.len() + 1 + octets.div_ceil(3) * 4 + 2 <= LINE_MAX;
        let initial = held.take_if(|secret| fits(secret.expose().len()));
        let command = Command::Auth { mechanism: name.into(), initial };
        self.queue(&command).map_err(|why| Error::local(Step::Auth, why))?;
        for _ in 0..ROUNDS_MAX {
            let Event { reply, .. } = self.next().await?;
            match reply.severity() {
                Severity::Continue => {}
                Severity::Success if mechanism.may_succeed() => return Ok(reply),
                // The server claims success without its proof: whoever it is, it does not know the password.
                Severity::Success => {
                    self.wire.abort(smtp_core::stream::CloseCode::Policy);
                    return Err(Error::local(Step::Auth, SaslError("the server did not prove itself")));
                }
                Severity::Transient | Severity::Permanent => {
                    return Err(Error::Refused { step: Step::Auth, reply });
                }
            }
            let response = match (decode_response(reply.text().as_bytes()), held.take()) {
                (Ok(Some(challenge)), Some(held)) if challenge.expose().is_empty() => Ok(held),
                (Ok(Some(_)), Some(_)) => Err(Local::from(SaslError("the server did not wait for the first message"))),
                (Ok(Some(challenge)), None) => mechanism.respond(challenge.expose()).await.map_err(Local::from),
                (Ok(None), _) => Err(Local::from(SaslError("a challenge that is not base64"))),
                (Err(invalid), _) => Err(Local::from(invalid)),
            };
            match response {
                Ok(response) => {
                    let command = Command::Response(response);
                    self.queue(&command).map_err(|why| Error::local(Step::Auth, why))?;
                }
                Err(why) => return Err(self.cancel(why).await),
            }
        }
        let _ = self.next().await?;
        Err(self.cancel(SaslError("the server asks without end")).await)
    }

    /// Gives the exchange up; the error says why, whatever the server says to that.
    async fn cancel(&mut self, why: impl Into<Local>) -> Error {
        if self.wire.session.cancel_auth().is_ok() {
            if let Some(observer) = &self.options.observer {
                observer.sent("*");
            }
            if let Err(error) = self.next().await {
                return error;
            }
        }
        Error::local(Step::Auth, why)
    }
}
