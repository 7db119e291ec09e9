//! OAUTHBEARER (RFC 7628) and XOAUTH2: a token from somewhere else.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::SessionInfo;
use smtp_core::types::Secret;
use smtp_sasl::bearer::INVALID_TOKEN;

use super::{Bearer, Exchange, Mechanism, Step, TokenCheck, TokenVerifier};

/// OAUTHBEARER (RFC 7628): the token in the client's first message.
#[derive(Clone)]
pub struct OAuthBearer(Arc<dyn TokenVerifier>);

/// XOAUTH2, which came before OAUTHBEARER and which some providers' clients still speak.
#[derive(Clone)]
pub struct XOAuth2(Arc<dyn TokenVerifier>);

impl OAuthBearer {
    /// OAUTHBEARER for these tokens.
    #[must_use]
    pub const fn new(tokens: Arc<dyn TokenVerifier>) -> Self {
        Self(tokens)
    }
}

impl XOAuth2 {
    /// XOAUTH2 for these tokens.
    #[must_use]
    pub const fn new(tokens: Arc<dyn TokenVerifier>) -> Self {
        Self(tokens)
    }
}

impl fmt::Debug for OAuthBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OAuthBearer")
    }
}

impl fmt::Debug for XOAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XOAuth2")
    }
}

impl Mechanism for OAuthBearer {
    fn name(&self) -> &'static str {
        "OAUTHBEARER"
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(Attempt { tokens: Arc::clone(&self.0), read: Bearer::from_oauthbearer })
    }
}

impl Mechanism for XOAuth2 {
    fn name(&self) -> &'static str {
        "XOAUTH2"
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(Attempt { tokens: Arc::clone(&self.0), read: Bearer::from_xoauth2 })
    }
}

struct Attempt {
    tokens: Arc<dyn TokenVerifier>,
    read: fn(&[u8]) -> Option<Bearer>,
}

#[async_trait]
impl Exchange for Attempt {
    async fn step(&mut self, response: Option<Secret>, _: &SessionInfo) -> Step {
        let Some(response) = response else { return Step::Challenge(Bytes::new()) };
        let Some(bearer) = (self.read)(response.expose()) else { return Step::Malformed };
        match self.tokens.owner(&bearer).await {
            TokenCheck::Valid(user) if bearer.user.as_deref().is_none_or(|asked| asked == &*user) => {
                Step::Success { user }
            }
            TokenCheck::Valid(_) | TokenCheck::Invalid => Step::FailedWith(Bytes::from_static(INVALID_TOKEN)),
            TokenCheck::Unavailable => Step::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{OneToken, begin};

    async fn answer(mechanism: &impl Mechanism, message: &str) -> Step {
        begin(mechanism).step(Some(Secret::new(message)), &SessionInfo::local("test")).await
    }

    #[tokio::test]
    async fn the_token_says_who_it_is() {
        let jo = Step::Success { user: "jo".into() };
        let invalid = Step::FailedWith(Bytes::from_static(br#"{"status":"invalid_token"}"#));
        let bearer = OAuthBearer::new(Arc::new(OneToken));
        assert_eq!(answer(&bearer, "n,a=jo,\x01auth=Bearer good\x01\x01").await, jo);
        assert_eq!(answer(&bearer, "n,,\x01auth=Bearer good\x01\x01").await, jo);
        assert_eq!(answer(&bearer, "n,a=al,\x01auth=Bearer good\x01\x01").await, invalid);
        assert_eq!(answer(&bearer, "n,a=jo,\x01auth=Bearer bad\x01\x01").await, invalid);
        assert_eq!(answer(&bearer, "n,a=jo,\x01auth=Bearer down\x01\x01").await, Step::Unavailable);
        assert_eq!(answer(&bearer, "garbage").await, Step::Malformed);
        let old = XOAuth2::new(Arc::new(OneToken));
        assert_eq!(answer(&old, "user=jo\x01auth=Bearer good\x01\x01").await, jo);
        assert_eq!(answer(&old, "user=jo\x01auth=Bearer bad\x01\x01").await, invalid);
        assert_eq!(answer(&old, "n,a=jo,\x01auth=Bearer good\x01\x01").await, Step::Malformed);
        assert_eq!(begin(&old).step(None, &SessionInfo::local("test")).await, Step::Challenge(Bytes::new()));
    }
}
