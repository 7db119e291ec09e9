//! ETRN: a site that was away asks for its mail (RFC 1985).

use core::fmt;
use core::str::FromStr;

use alloc::boxed::Box;

use super::Extension;
use crate::types::{Domain, Invalid};

/// ETRN, where a service answers the verb and a queue stands behind it.
pub static ETRN: Extension =
    Extension { needs_promise: true, verbs: &["ETRN"], ..Extension::keyword("ETRN", "RFC 1985") };

/// Whose mail ETRN asks for (RFC 1985 §5.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EtrnNode {
    /// `example.org`: that host.
    Host(Domain),
    /// `@example.org`: the domain and all beneath it.
    Domain(Domain),
    /// `#name`: a queue with a name of this server's own.
    Queue(Box<str>),
}

impl FromStr for EtrnNode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some(queue) = text.strip_prefix('#') {
            let fine = !queue.is_empty() && queue.len() <= 255 && queue.bytes().all(|b| b.is_ascii_graphic());
            let bad = Invalid::new("ETRN queue", "1 to 255 printable octets behind '#' (RFC 1985 §5.3)");
            return if fine { Ok(Self::Queue(queue.into())) } else { Err(bad) };
        }
        match text.strip_prefix('@') {
            Some(domain) => Ok(Self::Domain(domain.parse()?)),
            None => Ok(Self::Host(text.parse()?)),
        }
    }
}

impl fmt::Display for EtrnNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "{host}"),
            Self::Domain(domain) => write!(f, "@{domain}"),
            Self::Queue(queue) => write!(f, "#{queue}"),
        }
    }
}
