//! SCRAM-SHA-256 and SCRAM-SHA-1 (RFC 7677, RFC 5802), with and without channel binding.

use core::fmt;
use std::mem;

use async_trait::async_trait;
use smtp_core::channel::TlsInfo;
use smtp_core::types::Secret;
use smtp_sasl::scram::{Binding, Client, Hash, Responded};
use smtp_sasl::{binding, nonce};

use super::{Credentials, Mechanism, SaslError};

/// SCRAM: proves that the password is known, and makes the server prove that it knows its keys. What travels does not
/// let anybody act as the user; with channel binding, not even whoever sits in between.
///
/// Hashing the password takes tens of milliseconds, on a thread for such work.
pub struct Scram {
    name: &'static str,
    password: Secret,
    state: State,
}

enum State {
    /// Nothing is sent yet. An error is kept until there is somebody to tell.
    Start(Result<Client, SaslError>),
    /// The challenge is due.
    Sent(Client),
    /// The server's proof is due.
    Proving(Responded),
    /// The server has proved itself.
    Proved,
    Failed,
}

impl Scram {
    /// Without channel binding. `unused` is what there would be to bind to if the server offered that, which it was not
    /// seen to do; a server that does offer it will know that somebody is in between.
    #[must_use]
    pub fn new(hash: Hash, credentials: &Credentials, unused: Option<&TlsInfo>) -> Self {
        let could = unused.and_then(binding::preferred).is_some();
        Self::with(hash, false, credentials, if could { Binding::NotOffered } else { Binding::Unsupported })
    }

    /// With channel binding to `tls`; `None` if there is nothing in it to bind to.
    #[must_use]
    pub fn bound(hash: Hash, credentials: &Credentials, tls: &TlsInfo) -> Option<Self> {
        let (name, octets) = binding::preferred(tls)?;
        Some(Self::with(hash, true, credentials, Binding::To(name, octets)))
    }

    fn with(hash: Hash, plus: bool, credentials: &Credentials, binding: Binding<'_>) -> Self {
        let acts_as = credentials.authorization().unwrap_or_default();
        let client = nonce()
            .map_err(|_| SaslError("no random octets"))
            .and_then(|nonce| Client::new(hash, binding, credentials.user(), acts_as, &nonce).map_err(SaslError::from));
        let password = credentials.secret().clone();
        Self { name: hash.mechanism(plus), password, state: State::Start(client) }
    }
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[async_trait]
impl Mechanism for Scram {
    fn name(&self) -> &str {
        self.name
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        let State::Start(client) = mem::replace(&mut self.state, State::Failed) else {
            return Err(SaslError("SCRAM begins once"));
        };
        let client = client?;
        let message = client.message();
        self.state = State::Sent(client);
        Ok(Some(message))
    }

    async fn respond(&mut self, challenge: &[u8]) -> Result<Secret, SaslError> {
        match mem::replace(&mut self.state, State::Failed) {
            State::Sent(client) => {
                let (challenged, password) = (client.challenge(challenge)?, self.password.clone());
                let work = tokio::task::spawn_blocking(move || challenged.respond(&password));
                let (response, responded) = work.await.map_err(|_| SaslError("hashing the password was cut short"))?;
                self.state = State::Proving(responded);
                Ok(response)
            }
            State::Proving(responded) => {
                responded.finish(challenge)?;
                self.state = State::Proved;
                Ok(Secret::default())
            }
            State::Start(_) | State::Proved | State::Failed => {
                Err(SaslError("SCRAM has two challenges, and the server has another"))
            }
        }
    }

    fn may_succeed(&self) -> bool {
        matches!(self.state, State::Proved)
    }
}
