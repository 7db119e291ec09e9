//! PLAIN (RFC 4616).

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::{Credentials, Mechanism, SaslError};

/// PLAIN: `[authzid] NUL authcid NUL passwd`, in the initial response (RFC 4616 §2).
#[derive(Debug)]
pub struct Plain(Option<Secret>);

impl Plain {
    /// Its name.
    pub const NAME: &'static str = "PLAIN";

    /// The exchange for `credentials`, which cannot hold a NUL.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        let authorization = credentials.authorization().unwrap_or_default();
        let parts = [authorization.as_bytes(), credentials.user().as_bytes(), credentials.secret().expose()];
        Self(Some(Secret::new(parts.join(&0))))
    }
}

#[async_trait]
impl Mechanism for Plain {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        Ok(self.0.take())
    }

    async fn respond(&mut self, _: &[u8]) -> Result<Secret, SaslError> {
        Err(SaslError("PLAIN has one message, and the server asks for more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_rfc_4616() {
        let tim = Credentials::new("tim", "tanstaaftanstaaf").unwrap();
        let message = |c: &Credentials| Plain::new(c).initial().unwrap().unwrap().expose().to_vec();
        assert_eq!(message(&tim), b"\0tim\0tanstaaftanstaaf");
        assert_eq!(message(&tim.act_as("Ursel").unwrap()), b"Ursel\0tim\0tanstaaftanstaaf");
    }
}
