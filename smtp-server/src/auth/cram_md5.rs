//! CRAM-MD5 (RFC 2195).

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use smtp_core::channel::SessionInfo;
use smtp_core::session::server::Needs;
use smtp_core::types::{Domain, Secret};
use smtp_sasl::{cram_md5, nonce};

use super::{Exchange, Mechanism, SecretUsers, Step, Unavailable};

/// CRAM-MD5, for peers that know nothing better. The server must keep the passwords themselves for it, it binds to
/// nothing, and the server proves nothing: offer it only to those who need it.
#[derive(Clone)]
pub struct CramMd5 {
    users: Arc<dyn SecretUsers>,
    hostname: Domain,
}

impl CramMd5 {
    /// CRAM-MD5 for these users, on a server with this name.
    #[must_use]
    pub fn new(users: Arc<dyn SecretUsers>, hostname: &Domain) -> Self {
        Self { users, hostname: hostname.clone() }
    }
}

impl fmt::Debug for CramMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CramMd5")
    }
}

impl Mechanism for CramMd5 {
    fn name(&self) -> &'static str {
        "CRAM-MD5"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn start(&self) -> Box<dyn Exchange> {
        Box::new(Attempt { mechanism: self.clone(), challenge: None })
    }
}

struct Attempt {
    mechanism: CramMd5,
    challenge: Option<String>,
}

#[async_trait]
impl Exchange for Attempt {
    async fn step(&mut self, response: Option<Secret>, _: &SessionInfo) -> Step {
        let (response, challenge) = match (response, self.challenge.take()) {
            (Some(response), Some(challenge)) => (response, challenge),
            // RFC 4954 §4: an initial response where the server speaks first.
            (Some(_), None) => return Step::Malformed,
            (None, _) => {
                let Ok(nonce) = nonce() else { return Step::Unavailable };
                // RFC 2195 §2: random digits, a timestamp, and the name of the host.
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
                let challenge = format!("<{nonce}.{now}@{}>", self.mechanism.hostname);
                self.challenge = Some(challenge.clone());
                return Step::Challenge(challenge.into());
            }
        };
        let Some((name, digest)) = cram_md5::parse(response.expose()) else { return Step::Malformed };
        match self.mechanism.users.secret(name).await {
            Err(Unavailable) => Step::Unavailable,
            Ok(secret) => {
                let known = secret.as_ref().is_some_and(|secret| !secret.expose().is_empty());
                // An unknown user costs a digest, too.
                let right = cram_md5::verify(&secret.unwrap_or_default(), challenge.as_bytes(), digest);
                if right && known { Step::Success { user: name.into() } } else { Step::Failed }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{OneUser, begin};

    fn mechanism() -> CramMd5 {
        CramMd5::new(OneUser::shared(), &"mx.example".parse().unwrap())
    }

    async fn answer(name: &str, password: &str) -> Step {
        let (mut exchange, session) = (begin(&mechanism()), SessionInfo::local("test"));
        let Step::Challenge(challenge) = exchange.step(None, &session).await else { panic!() };
        assert!(challenge.starts_with(b"<") && challenge.ends_with(b"@mx.example>"));
        let response = cram_md5::response(name, &Secret::new(password), &challenge);
        exchange.step(Some(response), &session).await
    }

    #[tokio::test]
    async fn the_right_digest_and_others() {
        assert_eq!(answer("jo", "right").await, Step::Success { user: "jo".into() });
        assert_eq!(answer("jo", "wrong").await, Step::Failed);
        assert_eq!(answer("nobody", "right").await, Step::Failed);
        assert_eq!(answer("nobody", "").await, Step::Failed);
    }

    #[tokio::test]
    async fn a_response_belongs_to_its_challenge() {
        let (mut one, mut two, session) = (begin(&mechanism()), begin(&mechanism()), SessionInfo::local("test"));
        let Step::Challenge(challenge) = one.step(None, &session).await else { panic!() };
        let Step::Challenge(other) = two.step(None, &session).await else { panic!() };
        assert_ne!(challenge, other);
        let response = cram_md5::response("jo", &Secret::new(*b"right"), &challenge);
        assert_eq!(two.step(Some(response), &session).await, Step::Failed);
        assert_eq!(one.step(Some(Secret::new(*b"garbage")), &session).await, Step::Malformed);
        let early = Some(Secret::new(*b"jo 00000000000000000000000000000000"));
        assert_eq!(begin(&mechanism()).step(early, &session).await, Step::Malformed);
    }
}
