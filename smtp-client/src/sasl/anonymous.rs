//! ANONYMOUS (RFC 4505).

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::{Credentials, Mechanism, SaslError};

/// ANONYMOUS: proves nothing; the message is for the server's log.
#[derive(Debug)]
pub struct Anonymous(Option<Secret>);

impl Anonymous {
    /// Its name.
    pub const NAME: &'static str = "ANONYMOUS";

    /// The exchange for `credentials`, whose user's name is the trace information.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        Self(Some(Secret::new(credentials.user())))
    }
}

#[async_trait]
impl Mechanism for Anonymous {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        Ok(self.0.take())
    }

    async fn respond(&mut self, _: &[u8]) -> Result<Secret, SaslError> {
        Err(SaslError("ANONYMOUS has one message, and the server asks for more"))
    }
}
