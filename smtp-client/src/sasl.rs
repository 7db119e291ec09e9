//! SASL mechanisms, the client's side (RFC 4422, RFC 4954). One file each; [`Mechanism`] is the seam for one's own.

mod login;
mod plain;

pub use login::Login;
pub use plain::Plain;

use core::fmt;

use smtp_core::channel::ChannelInfo;
use smtp_core::types::{Invalid, Secret};

use crate::error::Local;

/// The client's half of one SASL exchange. Octets are raw here: base64 is the session's.
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

    /// The response to a challenge.
    ///
    /// # Errors
    /// [`SaslError`] cancels the exchange.
    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, SaslError>;

    /// True if a 235 may come now. A mechanism that makes the server prove itself says so only after the proof.
    fn may_succeed(&self) -> bool {
        true
    }
}

/// Why a mechanism gave up. The exchange is cancelled; no secret is in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SASL: {0}")]
pub struct SaslError(pub &'static str);

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

/// Who we are to the server, and how to prove it.
#[derive(Clone)]
pub struct Credentials {
    user: Box<str>,
    password: Secret,
    act_as: Option<Box<str>>,
    mechanism: Option<Box<str>>,
    exposure: Exposure,
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
        Ok(Self {
            user: user.into(),
            password: Secret::new(password.as_bytes()),
            act_as: None,
            mechanism: None,
            exposure: Exposure::default(),
        })
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

    /// The same where the secret may also go elsewhere.
    #[must_use]
    pub const fn exposed(mut self, exposure: Exposure) -> Self {
        self.exposure = exposure;
        self
    }

    /// The user's name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    #[must_use]
    pub const fn password(&self) -> &Secret {
        &self.password
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

    /// The strongest mechanism that is among those `offered`, and allowed on `channel`.
    pub(crate) fn choose<'a>(
        &self,
        offered: impl Iterator<Item = &'a str> + Clone,
        channel: &ChannelInfo,
    ) -> Result<Box<dyn Mechanism>, Local> {
        let known = MECHANISMS.iter().filter(|(name, _)| self.mechanism.as_deref().is_none_or(|pin| pin == *name));
        let mut hindrance = None;
        for (_, make) in known.filter(|(name, _)| offered.clone().any(|o| o.eq_ignore_ascii_case(name))) {
            let mechanism = make(self);
            match self.exposure.allows(channel) {
                Err(why) if mechanism.exposes_secret() => hindrance = hindrance.or(Some(why)),
                Err(_) | Ok(()) => return Ok(mechanism),
            }
        }
        Err(hindrance.unwrap_or_else(|| Local::NoMechanism { offered: offered.collect::<Vec<_>>().join(" ") }))
    }
}

type Make = fn(&Credentials) -> Box<dyn Mechanism>;

/// All that is known, the strongest first.
const MECHANISMS: [(&str, Make); 2] =
    [(Plain::NAME, |c| Box::new(Plain::new(c))), (Login::NAME, |c| Box::new(Login::new(c)))];

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("act_as", &self.act_as)
            .field("mechanism", &self.mechanism)
            .field("exposure", &self.exposure)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::channel::{Peer, TlsInfo};

    fn choose(credentials: &Credentials, offered: &str, channel: &ChannelInfo) -> Result<String, Local> {
        credentials.choose(offered.split(' '), channel).map(|m| m.name().to_owned())
    }

    fn channel(tls: Option<bool>) -> ChannelInfo {
        let mut info = ChannelInfo::new("tcp", Peer::Named("x".into()));
        info.secure = tls.is_some();
        info.tls = tls.map(|verified| TlsInfo { verified, ..TlsInfo::default() });
        info
    }

    #[test]
    fn the_strongest_or_the_pinned_one() {
        let (jo, secure) = (Credentials::new("jo", "pw").unwrap(), channel(Some(true)));
        assert_eq!(choose(&jo, "LOGIN plain CRAM-MD5", &secure).unwrap(), "PLAIN");
        assert_eq!(choose(&jo, "LOGIN", &secure).unwrap(), "LOGIN");
        assert_eq!(choose(&jo.clone().pinned("login"), "LOGIN PLAIN", &secure).unwrap(), "LOGIN");
        let none = Err(Local::NoMechanism { offered: "PLAIN".into() });
        assert_eq!(choose(&jo.pinned("LOGIN"), "PLAIN", &secure), none);
    }

    #[test]
    fn secrets_travel_only_where_they_may() {
        let jo = Credentials::new("jo", "pw").unwrap();
        assert_eq!(choose(&jo, "PLAIN", &channel(None)), Err(Local::Overheard));
        assert_eq!(choose(&jo, "PLAIN", &channel(Some(false))), Err(Local::Unverified));
        assert!(choose(&jo, "PLAIN", &ChannelInfo::memory("x")).is_ok());
        let unverified = Exposure { to_unverified: true, ..Exposure::default() };
        let jo = jo.exposed(unverified);
        assert!(choose(&jo, "PLAIN", &channel(Some(false))).is_ok());
        assert_eq!(choose(&jo, "PLAIN", &channel(None)), Err(Local::Overheard));
        let jo = jo.exposed(Exposure { in_clear: true, ..unverified });
        assert!(choose(&jo, "PLAIN", &channel(None)).is_ok());
    }

    #[test]
    fn what_would_break_the_encoding_is_refused() {
        assert!(Credentials::new("jo\0root", "pw").is_err());
        assert!(Credentials::new("jo", "p\0w").is_err());
        assert!(Credentials::new("", "pw").is_err());
        assert!(Credentials::new("jo", "pw").unwrap().act_as("a\0b").is_err());
        assert!(!format!("{:?}", Credentials::new("jo", "hunter2").unwrap()).contains("hunter2"));
    }
}
