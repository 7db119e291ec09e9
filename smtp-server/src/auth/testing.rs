//! Users for the unit tests.

use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::{Check, Exchange, Mechanism, Users};

/// The user `jo` with the password `right`.
pub(super) struct OneUser {
    down: bool,
}

impl OneUser {
    pub(super) fn shared() -> Arc<dyn Users> {
        Arc::new(Self { down: false })
    }

    pub(super) fn down() -> Arc<dyn Users> {
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

pub(super) fn begin(mechanism: &impl Mechanism) -> Box<dyn Exchange> {
    mechanism.start()
}
