//! EXTERNAL (RFC 4422 appendix A) and ANONYMOUS (RFC 4505): one message, and no secret in it.

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::{Credentials, Mechanism, SaslError};

/// EXTERNAL or ANONYMOUS.
#[derive(Debug)]
pub struct OneMessage {
    name: &'static str,
    message: Option<Secret>,
}

impl OneMessage {
    /// The name of EXTERNAL.
    pub const EXTERNAL: &'static str = "EXTERNAL";
    /// The name of ANONYMOUS.
    pub const ANONYMOUS: &'static str = "ANONYMOUS";

    /// EXTERNAL: the server takes what the channel says of us, a client certificate or a local user. The message is the
    /// user to act as, or empty.
    #[must_use]
    pub fn external(credentials: &Credentials) -> Self {
        Self { name: Self::EXTERNAL, message: Some(Secret::new(credentials.authorization().unwrap_or_default())) }
    }

    /// ANONYMOUS: proves nothing. The message is the user's name in `credentials`, for the server's log.
    #[must_use]
    pub fn anonymous(credentials: &Credentials) -> Self {
        Self { name: Self::ANONYMOUS, message: Some(Secret::new(credentials.user())) }
    }
}

#[async_trait]
impl Mechanism for OneMessage {
    fn name(&self) -> &str {
        self.name
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        Ok(self.message.take())
    }

    async fn respond(&mut self, _: &[u8]) -> Result<Secret, SaslError> {
        Err(SaslError("the mechanism has one message, and the server asks for more"))
    }
}
