//! What a lookup brings.

use std::fmt;
use std::io;
use std::time::Duration;

use smtp_core::types::Domain;

use crate::Name;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A and AAAA.
    Address,
    /// MX (RFC 5321 §5.1).
    Mx,
    /// SVCB (RFC 9460).
    Svcb,
    /// TLSA (RFC 6698).
    Tlsa,
    /// TXT.
    Txt,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Mx => "MX",
            Self::Svcb => "SVCB",
            Self::Tlsa => "TLSA",
            Self::Txt => "TXT",
        })
    }
}

/// Whether DNSSEC has proved an answer (RFC 4033 §5). What it has shown to be forged is no answer but
/// [`LookupError::Bogus`], so that nobody can use it by forgetting to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Security {
    /// Nothing is proved: the zone is not signed, or nobody has validated.
    Insecure,
    /// Signed, up to a trust anchor, aliases on the way included.
    Secure,
}

/// Records that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// The records, in the order in which they came. Those that cannot be meant for mail, such as an MX whose name is
    /// no host name, are left out; if that leaves none, there are records of this kind all the same.
    pub records: Vec<T>,
    /// The weakest of all that led to them.
    pub security: Security,
    /// The name that has them, if that is another one than was asked for: where its aliases lead.
    pub alias: Option<Name>,
    /// How long it holds: the shortest of all.
    pub ttl: Duration,
}

/// A mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mx {
    /// Lower comes first.
    pub preference: u16,
    /// The host; `None` is `.`, the null MX: the domain takes no mail at all (RFC 7505).
    pub exchange: Option<Domain>,
}

/// A service binding (RFC 9460).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Svcb {
    /// SvcPriority: 0 is AliasMode, else lower comes first in ServiceMode.
    pub priority: u16,
    /// TargetName without the dot at the end, lower case; empty for `.`.
    pub target: Box<str>,
    /// `port`.
    pub port: Option<u16>,
    /// `alpn`.
    pub alpn: Vec<Box<str>>,
    /// `no-default-alpn`.
    pub no_default_alpn: bool,
    /// `mandatory` names a parameter that is not one of these: the record must not be used (§8).
    pub unknown_mandatory: bool,
}

impl Svcb {
    /// A record without parameters.
    #[must_use]
    pub fn service(priority: u16, target: &str) -> Self {
        let target = target.trim_end_matches('.').to_ascii_lowercase().into();
        Self { priority, target, port: None, alpn: Vec::new(), no_default_alpn: false, unknown_mandatory: false }
    }

    /// The same with a port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// The same with these application protocols, and `no-default-alpn`.
    #[must_use]
    pub fn with_alpn(self, alpn: &[&str]) -> Self {
        Self { alpn: alpn.iter().map(|id| (*id).into()).collect(), no_default_alpn: true, ..self }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// It is certain that there is none.
    #[error("{name}: {}", if *.name_exists { format!("there is no {kind} record") } else { "no such name".to_owned() })]
    NotFound {
        /// The name.
        name: Box<str>,
        /// What was asked for.
        kind: Kind,
        /// Only records of this kind are missing.
        name_exists: bool,
        /// Whether that is proved.
        security: Security,
    },
    /// Nobody knows at the moment: no answer, SERVFAIL, more than the limits allow. Try again later.
    #[error("{name}: {kind} lookup failed for now: {why}")]
    Temporary {
        /// The name.
        name: Box<str>,
        /// What was asked for.
        kind: Kind,
        /// What happened.
        why: Box<str>,
    },
    /// DNSSEC shows that the answer is not what the zone's owner has signed. It may pass, and must not be ignored
    /// (RFC 7672 §2.1.2).
    #[error("{name}: the {kind} answer is forged or its signature is broken (DNSSEC: bogus)")]
    Bogus {
        /// The name.
        name: Box<str>,
        /// What was asked for.
        kind: Kind,
    },
}

impl LookupError {
    /// True if it is certain that there is nothing to be found, false if trying again may help.
    #[must_use]
    pub const fn is_certain(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl From<LookupError> for io::Error {
    /// [`io::ErrorKind::NotFound`] only if that is certain.
    fn from(error: LookupError) -> Self {
        let kind = if error.is_certain() { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
        Self::new(kind, error)
    }
}
