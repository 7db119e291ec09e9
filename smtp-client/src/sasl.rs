//! SASL mechanisms, the client's side (RFC 4422, RFC 4954). One file each; [`Mechanism`] is the seam for one's own.

mod bearer;
mod choice;
mod cram_md5;
mod login;
mod one_message;
mod plain;
mod scram;

pub use bearer::{OAuthBearer, XOAuth2};
pub use cram_md5::CramMd5;
pub use login::Login;
pub use one_message::OneMessage;
pub use plain::Plain;
pub use scram::Scram;
pub use smtp_sasl::scram::Hash;

use core::fmt;

use async_trait::async_trait;
use smtp_core::channel::ChannelInfo;
use smtp_core::types::{Invalid, Secret};
use smtp_sasl::bearer::Bearer;
use smtp_sasl::scram::ScramError;

use crate::error::Local;

/// The client's half of one SASL exchange. Octets are raw here: base64 is the session's.
#[async_trait]
pub trait Mechanism: Send {
    /// The name, in upper case, as in the server's AUTH line.
    fn name(&self) -> &str;

    /// True if what travels lets whoever reads it act as the user. Such a mechanism is not run on a channel that can
    /// be overheard, or with a server that is not verified, unless [`Exposure`] says so.
    fn exposes_secret(&self) -> bool {
        true
    }

    /// The initial response, for mechanisms in which the client speaks first.
    ///
    /// # Errors
    /// [`SaslError`] ends the exchange.
    fn initial(&mut self) -> Result<Option<Secret>, SaslError> {
        Ok(None)
    }

    /// The response to a challenge. Work that takes long belongs on a thread of its own.
    ///
    /// # Errors
    /// [`SaslError`] cancels the exchange.
    async fn respond(&mut self, challenge: &[u8]) -> Result<Secret, SaslError>;

    /// True if a 235 may come now. A mechanism that makes the server prove itself says so only after the proof.
    fn may_succeed(&self) -> bool {
        true
    }
}

/// Why a mechanism gave up. The exchange is cancelled; no secret is in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SASL: {0}")]
pub struct SaslError(pub &'static str);

impl From<ScramError> for SaslError {
    fn from(error: ScramError) -> Self {
        Self(match error {
            ScramError::Nonce => "the server's nonce is not one of this exchange",
            ScramError::Proof => "the server does not know the password: it is another one, or somebody in between",
            ScramError::Iterations(_) => "the server wants the password hashed too seldom to be safe, or too often",
            ScramError::Server => "the server ended the exchange with an error",
            _ => "not a message of SCRAM",
        })
    }
}

/// Where a secret may go beyond a channel that is secure and verified. The default is nowhere else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Over a channel in clear: whoever is on the way can read the password. For tests and closed networks.
    pub in_clear: bool,
    /// To a server whose certificate was not verified: an active attacker can read the password.
    pub to_unverified: bool,
}

impl Exposure {
    /// May a secret travel on `channel`?
    pub(crate) fn allows(self, channel: &ChannelInfo) -> Result<(), Local> {
        match &channel.tls {
            _ if self.in_clear => Ok(()),
            _ if !channel.secure => Err(Local::Overheard),
            Some(tls) if !tls.verified && !self.to_unverified => Err(Local::Unverified),
            Some(_) | None => Ok(()),
        }
    }
}

/// How much a mechanism gives away, and to whom; each is better than those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strength {
    /// The server sees the password or the token, or can guess it from what it sees: PLAIN, LOGIN, OAUTHBEARER,
    /// XOAUTH2, CRAM-MD5. ANONYMOUS, which proves nothing, counts here.
    #[default]
    Any,
    /// Both sides prove that they know the password, and neither shows it: SCRAM.
    Mutual,
    /// The proof holds on this TLS connection only, so that nobody in between can pass it on: SCRAM-…-PLUS, EXTERNAL.
    Bound,
}

/// Who we are to the server, and how to prove it.
///
/// Of the mechanisms that the server offers the first of these is taken that the credentials are good for:
/// SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, SCRAM-SHA-256, SCRAM-SHA-1, PLAIN, LOGIN with a password; OAUTHBEARER, XOAUTH2
/// with a token. CRAM-MD5 is only taken if it is [pinned](Credentials::pinned).
///
/// Whoever could change the server's list on the way could take the strong ones off it. -PLUS is missed there by the
/// server itself; [`Credentials::at_least`] does not depend on anybody.
#[derive(Clone)]
pub struct Credentials {
    user: Box<str>,
    proof: Proof,
    act_as: Option<Box<str>>,
    mechanism: Option<Box<str>>,
    least: Strength,
    exposure: Exposure,
}

#[derive(Clone)]
enum Proof {
    Password(Secret),
    Token(Secret),
    /// The channel has it.
    External,
    /// None.
    Anonymous,
}

impl Credentials {
    /// A user name and a password, for the strongest mechanism that both sides know.
    ///
    /// # Errors
    /// [`Invalid`] if either is empty or holds a NUL, which PLAIN separates by (RFC 4616 §2).
    pub fn new(user: &str, password: &str) -> Result<Self, Invalid> {
        for (what, text) in [("user name", user), ("password", password)] {
            if text.is_empty() || text.contains('\0') {
                return Err(Invalid::new(what, "not empty, and without NUL (RFC 4616 §2)"));
            }
        }
        Ok(Self::with(user, Proof::Password(Secret::new(password.as_bytes()))))
    }

    /// A user name and a bearer token (RFC 6750), for OAUTHBEARER or XOAUTH2.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty or holds a control character, or the token is none.
    pub fn bearer(user: &str, token: &str) -> Result<Self, Invalid> {
        let token = Secret::new(token.as_bytes());
        Bearer::new(user, &token)?;
        Ok(Self::with(user, Proof::Token(token)))
    }

    /// What the channel vouches for: a client certificate, or the user that this program runs as. For EXTERNAL.
    #[must_use]
    pub fn external() -> Self {
        Self::with("", Proof::External)
    }

    /// Nobody, for ANONYMOUS. `trace` is what the server's log is to have, such as a mail address, or empty.
    ///
    /// # Errors
    /// [`Invalid`] if it is longer than 255 characters or holds a NUL (RFC 4505 §2).
    pub fn anonymous(trace: &str) -> Result<Self, Invalid> {
        if trace.chars().count() > 255 || trace.contains('\0') {
            return Err(Invalid::new("trace information", "at most 255 characters, without NUL (RFC 4505 §2)"));
        }
        Ok(Self::with(trace, Proof::Anonymous))
    }

    fn with(user: &str, proof: Proof) -> Self {
        let (least, exposure) = (Strength::default(), Exposure::default());
        Self { user: user.into(), proof, act_as: None, mechanism: None, least, exposure }
    }

    /// The same, acting as another user: the authorization identity (RFC 4422 §2).
    ///
    /// # Errors
    /// [`Invalid`] if it holds a NUL.
    pub fn act_as(mut self, user: &str) -> Result<Self, Invalid> {
        if user.contains('\0') {
            return Err(Invalid::new("authorization identity", "without NUL (RFC 4616 §2)"));
        }
        self.act_as = Some(user.into());
        Ok(self)
    }

    /// The same by this mechanism only: no other is tried, whatever the server offers.
    #[must_use]
    pub fn pinned(mut self, mechanism: &str) -> Self {
        self.mechanism = Some(mechanism.to_ascii_uppercase().into());
        self
    }

    /// The same by no weaker mechanism, whatever the server offers.
    #[must_use]
    pub const fn at_least(mut self, strength: Strength) -> Self {
        self.least = strength;
        self
    }

    /// The same where the secret may also go elsewhere.
    #[must_use]
    pub const fn exposed(mut self, exposure: Exposure) -> Self {
        self.exposure = exposure;
        self
    }

    /// The user's name; for [`Credentials::anonymous`] the trace information.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password or the token; empty where there is none.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        static NONE: std::sync::LazyLock<Secret> = std::sync::LazyLock::new(Secret::default);
        match &self.proof {
            Proof::Password(secret) | Proof::Token(secret) => secret,
            Proof::External | Proof::Anonymous => &NONE,
        }
    }

    /// The authorization identity, if it is another than the user.
    #[must_use]
    pub fn authorization(&self) -> Option<&str> {
        self.act_as.as_deref()
    }

    /// Where the secret may go.
    #[must_use]
    pub const fn exposure(&self) -> Exposure {
        self.exposure
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("act_as", &self.act_as)
            .field("mechanism", &self.mechanism)
            .field("least", &self.least)
            .field("exposure", &self.exposure)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_encoding_is_refused() {
        assert!(Credentials::new("jo\0root", "pw").is_err());
        assert!(Credentials::new("jo", "p\0w").is_err());
        assert!(Credentials::new("", "pw").is_err());
        assert!(Credentials::new("jo", "pw").unwrap().act_as("a\0b").is_err());
        assert!(Credentials::bearer("jo", "two words").is_err());
        assert!(Credentials::bearer("jo\u{1}", "token").is_err());
        assert!(Credentials::anonymous(&"x".repeat(256)).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", Credentials::new("jo", "hunter2").unwrap()).contains("hunter2"));
        assert!(!format!("{:?}", Credentials::bearer("jo", "hunter2").unwrap()).contains("hunter2"));
    }
}
