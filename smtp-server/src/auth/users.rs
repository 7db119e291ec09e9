//! Whom the mechanisms ask.

use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::types::{Mailbox, Secret};
pub use smtp_sasl::bearer::Bearer;
use smtp_sasl::scram::{Hash, Keys};

use super::Step;

/// Somebody who knows passwords: for PLAIN and LOGIN.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Whether `password` is that of the user `name`.
    ///
    /// Must do the same work for a name it does not know, so that timing tells nothing. Never asked about an empty
    /// name or password. What to do when the backend is down or busy: say [`Check::Unavailable`], never `No`.
    async fn verify(&self, name: &str, password: &Secret) -> Check;
}

/// Somebody who knows SCRAM keys.
#[async_trait]
pub trait ScramUsers: Send + Sync + 'static {
    /// The keys of the user `name` for `hash`.
    ///
    /// For a name it does not know, and for a user without such keys: [`Keys::decoy`], with a secret that stays over
    /// restarts and the iterations that most users have. Must do the same work for both.
    ///
    /// # Errors
    /// [`Unavailable`] if the backend is down or busy.
    async fn keys(&self, hash: Hash, name: &str) -> Result<Keys, Unavailable>;
}

/// Somebody who knows passwords as such, or what is as good: for CRAM-MD5.
#[async_trait]
pub trait SecretUsers: Send + Sync + 'static {
    /// The password of the user `name`; `None` if there is no such user, or none is kept.
    ///
    /// # Errors
    /// [`Unavailable`] if the backend is down or busy.
    async fn secret(&self, name: &str) -> Result<Option<Secret>, Unavailable>;
}

/// Somebody who knows whom a channel's own credentials belong to: for EXTERNAL.
#[async_trait]
pub trait ExternalUsers: Send + Sync + 'static {
    /// The user that `credential` belongs to, by an explicit map; `None` if to nobody.
    ///
    /// # Errors
    /// [`Unavailable`] if the backend is down or busy.
    async fn user_of(&self, credential: Credential<'_>) -> Result<Option<Box<str>>, Unavailable>;
}

/// What a channel vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential<'a> {
    /// The key of a client certificate that was verified: the SHA-256 of its SubjectPublicKeyInfo.
    Key(&'a [u8; 32]),
    /// A mail address (`rfc822Name`) in a client certificate that was verified.
    Mailbox(&'a str),
    /// The user id of a local process.
    Uid(u32),
}

/// Somebody who knows which addresses a user may send as.
#[async_trait]
pub trait Senders: Send + Sync + 'static {
    /// Whether `user` may send mail from `mailbox`, beside the address that is the user's own name.
    async fn may_send_as(&self, user: &str, mailbox: &Mailbox) -> Check;
}

/// Somebody who knows bearer tokens: for OAUTHBEARER and XOAUTH2. It checks signature, issuer, audience, scope and
/// expiry, or asks the issuer (RFC 7662).
#[async_trait]
pub trait TokenVerifier: Send + Sync + 'static {
    /// Whom the token belongs to.
    async fn owner(&self, bearer: &Bearer) -> TokenCheck;
}

/// What a [`TokenVerifier`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenCheck {
    /// The token is good and belongs to this user. A client that asked for another one is refused.
    Valid(Box<str>),
    /// It is not.
    Invalid,
    /// Nobody can tell now.
    Unavailable,
}

/// What [`Users`] and [`Senders`] say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Yes,
    /// It is not, or there is no such user.
    No,
    /// Nobody can tell now.
    Unavailable,
}

/// Nobody can tell now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user database cannot be asked now")]
pub struct Unavailable;

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
