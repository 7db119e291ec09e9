//! Whom a password mechanism asks.

use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::types::Secret;

use super::Step;

/// Somebody who knows passwords.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Whether `password` is that of the user `name`.
    ///
    /// Must do the same work for a name it does not know, so that timing tells nothing. Never asked about an empty
    /// name or password. What to do when the backend is down or busy: say [`Check::Unavailable`], never `No`.
    async fn verify(&self, name: &str, password: &Secret) -> Check;
}

/// What [`Users`] say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Yes,
    /// It is not, or there is no such user.
    No,
    /// Nobody can tell now.
    Unavailable,
}

/// The common end of the password mechanisms.
pub(super) async fn check(users: &Arc<dyn Users>, name: &[u8], password: &[u8]) -> Step {
    // Backends there are (LDAP's simple bind) that take an empty password for a yes.
    if name.is_empty() || password.is_empty() {
        return Step::Failed;
    }
    let Ok(name) = std::str::from_utf8(name) else { return Step::Malformed };
    match users.verify(name, &Secret::new(password)).await {
        Check::Yes => Step::Success { user: name.into() },
        Check::No => Step::Failed,
        Check::Unavailable => Step::Unavailable,
    }
}
