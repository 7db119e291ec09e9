//! What an administrator says.

use std::fmt;
use std::str::FromStr;

/// What is asked of TLS on the way to a destination's mail hosts.
///
/// Written as `opportunistic`, `required`, `dane`, `sts` or `dane+sts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Choice {
    /// TLS if it is offered, verified against nothing (RFC 3207, RFC 7435): the default.
    #[default]
    Opportunistic,
    /// TLS with a certificate that trust anchors vouch for and that shows the mail host's name; or no mail.
    Required,
    /// What the destination has published, and [`Choice::Opportunistic`] where it has published nothing. Where both are
    /// there, DANE counts (RFC 8461 §2).
    Published {
        /// TLSA records under DNSSEC (RFC 7672).
        dane: bool,
        /// An MTA-STS policy (RFC 8461).
        sts: bool,
    },
}

impl Choice {
    /// Whether TLSA records count.
    #[must_use]
    pub const fn dane(self) -> bool {
        matches!(self, Self::Published { dane: true, .. })
    }

    /// Whether MTA-STS policies count.
    #[must_use]
    pub const fn sts(self) -> bool {
        matches!(self, Self::Published { sts: true, .. })
    }
}

/// A text that is no [`Choice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a TLS policy is one of opportunistic, required, dane, sts, dane+sts")]
#[non_exhaustive]
pub struct UnknownChoice;

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        Ok(match text {
            "opportunistic" => Self::Opportunistic,
            "required" => Self::Required,
            "dane" => Self::Published { dane: true, sts: false },
            "sts" => Self::Published { dane: false, sts: true },
            "dane+sts" | "sts+dane" => Self::Published { dane: true, sts: true },
            _ => return Err(UnknownChoice),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Published { dane: true, sts: true } => "dane+sts",
            Self::Published { dane: true, sts: false } => "dane",
            Self::Published { dane: false, sts: true } => "sts",
            Self::Opportunistic | Self::Published { dane: false, sts: false } => "opportunistic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["opportunistic", "required", "dane", "sts", "dane+sts"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        for text in ["", "DANE", "none", "dane+", "dane+required", "sts,dane"] {
            assert_eq!(text.parse::<Choice>(), Err(UnknownChoice), "{text}");
        }
        assert_eq!(Choice::default(), Choice::Opportunistic);
    }
}
