//! PLAIN (RFC 4616): `message = [authzid] UTF8NUL authcid UTF8NUL passwd`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::SessionInfo;
use smtp_core::types::Secret;

use super::users::check;
use super::{Exchange, Mechanism, Step, Users};

/// PLAIN (RFC 4616). The authorization identity must be empty or the user itself: nobody acts for anybody else.
#[derive(Clone)]
pub struct Plain(Arc<dyn Users>);

impl Plain {
    /// PLAIN for these users.
    #[must_use]
    pub const fn new(users: Arc<dyn Users>) -> Self {
        Self(users)
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

impl Mechanism for Plain {
    fn name(&self) -> &'static str {
        "PLAIN"
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Exchange for Plain {
    async fn step(&mut self, response: Option<Secret>, _: &SessionInfo) -> Step {
        // The client speaks first; without an initial response it is asked with an empty challenge (RFC 4954 §4).
        let Some(response) = response else { return Step::Challenge(Bytes::new()) };
        let mut parts = response.expose().split(|byte| *byte == 0);
        let (Some(acts_as), Some(name), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Step::Malformed;
        };
        match check(&self.0, name, password).await {
            // Looked at last, so that a foreign identity costs the same work as a wrong password.
            Step::Success { .. } if !acts_as.is_empty() && acts_as != name => Step::Failed,
            step => step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{OneUser, begin};

    async fn plain(message: &[u8]) -> Step {
        begin(&Plain::new(OneUser::shared())).step(Some(Secret::new(message)), &SessionInfo::local("test")).await
    }

    fn jo() -> Step {
        Step::Success { user: "jo".into() }
    }

    #[tokio::test]
    async fn the_message_has_three_parts() {
        assert_eq!(plain(b"\0jo\0right").await, jo());
        for malformed in [&b""[..], b"jo", b"jo\0right", b"\0jo\0right\0", b"\0jo\0right\0x", b"\0j\xff\0right"] {
            assert_eq!(plain(malformed).await, Step::Malformed, "{malformed:?}");
        }
    }

    #[tokio::test]
    async fn wrong_unknown_and_empty_fail_alike() {
        for message in [&b"\0jo\0wrong"[..], b"\0nobody\0right", b"\0jo\0", b"\0\0right", b"\0\0", b"\0JO\0right"] {
            assert_eq!(plain(message).await, Step::Failed, "{message:?}");
        }
    }

    #[tokio::test]
    async fn nobody_acts_for_another() {
        assert_eq!(plain(b"jo\0jo\0right").await, jo());
        assert_eq!(plain(b"boss\0jo\0right").await, Step::Failed);
        assert_eq!(plain(b"jo\0nobody\0right").await, Step::Failed);
    }

    #[tokio::test]
    async fn without_initial_response_comes_an_empty_challenge() {
        let mut exchange = begin(&Plain::new(OneUser::shared()));
        let session = SessionInfo::local("test");
        assert_eq!(exchange.step(None, &session).await, Step::Challenge(Bytes::new()));
        assert_eq!(exchange.step(Some(Secret::new(*b"\0jo\0right")), &session).await, jo());
    }
}
