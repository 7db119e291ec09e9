//! EXTERNAL (RFC 4422 appendix A).

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::{Credentials, Mechanism, SaslError};

/// EXTERNAL: the server takes what the channel says of us, a client certificate or a local user. The message is the
/// user to act as, or empty.
#[derive(Debug)]
pub struct External(Option<Secret>);

impl External {
    /// Its name.
    pub const NAME: &'static str = "EXTERNAL";

    /// The exchange for `credentials`.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        Self(Some(Secret::new(credentials.authorization().unwrap_or_default())))
    }
}

#[async_trait]
impl Mechanism for External {
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
        Err(SaslError("EXTERNAL has one message, and the server asks for more"))
    }
}
