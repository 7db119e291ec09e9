//! Users for the unit tests.

use std::sync::Arc;

use argon2::password_hash::PasswordHasher;
use argon2::{Argon2, Params};
use async_trait::async_trait;
use smtp_core::types::Secret;
use smtp_sasl::scram::{Hash, Keys};

use super::{
    Bearer, Check, Exchange, Mechanism, ScramUsers, SecretUsers, TokenCheck, TokenVerifier, Unavailable, Users,
};

/// The user `jo` with the password `right`.
pub(super) struct OneUser {
    down: bool,
}

impl OneUser {
    pub(super) fn shared() -> Arc<Self> {
        Arc::new(Self { down: false })
    }

    pub(super) fn down() -> Arc<Self> {
        Arc::new(Self { down: true })
    }
}

#[async_trait]
impl Users for OneUser {
    async fn verify(&self, name: &str, password: &Secret) -> Check {
        assert!(!name.is_empty() && !password.expose().is_empty(), "never asked about nothing");
        match (self.down, name, password.expose()) {
            (true, _, _) => Check::Unavailable,
            (false, "jo", b"right") => Check::Yes,
            (false, _, _) => Check::No,
        }
    }
}

#[async_trait]
impl ScramUsers for OneUser {
    async fn keys(&self, hash: Hash, name: &str) -> Result<Keys, Unavailable> {
        match (self.down, name) {
            (true, _) => Err(Unavailable),
            (false, "jo") => Ok(Keys::derive(hash, "right", b"salt", 4096)),
            (false, name) => Ok(Keys::decoy(hash, b"secret", name, 4096)),
        }
    }
}

#[async_trait]
impl SecretUsers for OneUser {
    async fn secret(&self, name: &str) -> Result<Option<Secret>, Unavailable> {
        match (self.down, name) {
            (true, _) => Err(Unavailable),
            (false, name) => Ok((name == "jo").then(|| Secret::new(*b"right"))),
        }
    }
}

/// The token `good`, which is jo's.
pub(super) struct OneToken;

#[async_trait]
impl TokenVerifier for OneToken {
    async fn owner(&self, bearer: &Bearer) -> TokenCheck {
        match bearer.token.expose() {
            b"good" => TokenCheck::Valid("jo".into()),
            b"down" => TokenCheck::Unavailable,
            _ => TokenCheck::Invalid,
        }
    }
}

pub(super) fn begin(mechanism: &impl Mechanism) -> Box<dyn Exchange> {
    mechanism.start()
}

/// A hash that costs next to nothing.
pub(super) fn cheap_hash(password: &str) -> String {
    hash_with(password, 8, 1)
}

pub(super) fn hash_with(password: &str, kibibytes: u32, passes: u32) -> String {
    let params = Params::new(kibibytes, passes, 1, None).unwrap();
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon2.hash_password(password.as_bytes()).unwrap().to_string()
}
