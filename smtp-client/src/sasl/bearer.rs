//! OAUTHBEARER (RFC 7628) and XOAUTH2.

use core::fmt;

use async_trait::async_trait;
use smtp_core::types::Secret;
use smtp_sasl::bearer::{Bearer, DUMMY};

use super::{Credentials, Mechanism, SaslError};

/// OAUTHBEARER (RFC 7628): a token in the first message.
pub struct OAuthBearer(Exchange);

/// XOAUTH2, which came before OAUTHBEARER.
pub struct XOAuth2(Exchange);

struct Exchange {
    first: Option<Secret>,
    told: bool,
}

impl OAuthBearer {
    /// Its name.
    pub const NAME: &'static str = "OAUTHBEARER";

    /// The exchange for `credentials`.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        Self(Exchange::new(credentials, Bearer::oauthbearer))
    }
}

impl XOAuth2 {
    /// Its name.
    pub const NAME: &'static str = "XOAUTH2";

    /// The exchange for `credentials`.
    #[must_use]
    pub fn new(credentials: &Credentials) -> Self {
        Self(Exchange::new(credentials, Bearer::xoauth2))
    }
}

impl Exchange {
    fn new(credentials: &Credentials, write: fn(&Bearer) -> Secret) -> Self {
        let bearer = Bearer::new(credentials.user(), credentials.secret());
        Self { first: bearer.ok().map(|bearer| write(&bearer)), told: false }
    }

    fn first(&mut self) -> Result<Option<Secret>, SaslError> {
        self.first.take().map(Some).ok_or(SaslError("these credentials are not a bearer token"))
    }

    /// The server says what is wrong with the token, and waits for a word before it refuses it.
    fn acknowledge(&mut self, with: &[u8]) -> Result<Secret, SaslError> {
        match std::mem::replace(&mut self.told, true) {
            false => Ok(Secret::new(with)),
            true => Err(SaslError("the server has said what is wrong with the token, and goes on asking")),
        }
    }
}

impl fmt::Debug for OAuthBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAME)
    }
}

impl fmt::Debug for XOAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAME)
    }
}

#[async_trait]
impl Mechanism for OAuthBearer {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        self.0.first()
    }

    async fn respond(&mut self, _: &[u8]) -> Result<Secret, SaslError> {
        self.0.acknowledge(DUMMY)
    }
}

#[async_trait]
impl Mechanism for XOAuth2 {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        self.0.first()
    }

    async fn respond(&mut self, _: &[u8]) -> Result<Secret, SaslError> {
        self.0.acknowledge(b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_message_and_one_acknowledgement() {
        let credentials = Credentials::bearer("user@example.com", "dG9rZW4=").unwrap();
        let (mut bearer, mut old) = (OAuthBearer::new(&credentials), XOAuth2::new(&credentials));
        let first = bearer.initial().unwrap().unwrap();
        assert_eq!(first.expose(), b"n,a=user@example.com,\x01auth=Bearer dG9rZW4=\x01\x01");
        assert_eq!(bearer.respond(b"{}").await.unwrap().expose(), b"\x01");
        assert!(bearer.respond(b"{}").await.is_err());
        let first = old.initial().unwrap().unwrap();
        assert_eq!(first.expose(), b"user=user@example.com\x01auth=Bearer dG9rZW4=\x01\x01");
        assert_eq!(old.respond(b"{}").await.unwrap().expose(), b"");
    }
}
