//! Names to look up.

use std::fmt;

use smtp_core::types::{Domain, Invalid};

/// A name in the DNS: a [`Domain`], or labels with `_` in front of one (RFC 8552). In ASCII, lower case, without the dot
/// at the end; at most 253 octets (RFC 1035 §2.3.4), 63 to a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The name of `domain`; U-labels become A-labels (RFC 5891 §4.4).
    ///
    /// # Errors
    /// If it has no such form, or is too long for the DNS.
    pub fn of(domain: &Domain) -> Result<Self, Invalid> {
        Self::below(&[], domain)
    }

    /// The name of `labels` in front of `domain`: `["_25", "_tcp"]` and `mx.example` are `_25._tcp.mx.example`.
    ///
    /// # Errors
    /// As [`Name::of`].
    ///
    /// ```
    /// # use smtp_dns::Name;
    /// let name = Name::below(&["_smtp"], &"MX.bücher.example".parse()?)?;
    /// assert_eq!(name.as_str(), "_smtp.mx.xn--bcher-kva.example");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn below(labels: &[&str], domain: &Domain) -> Result<Self, Invalid> {
        let domain = idna::domain_to_ascii(domain.as_str())
            .map_err(|_| Invalid::new("domain", "it has no form for the DNS (RFC 5891)"))?;
        let mut text = String::new();
        for label in labels {
            text.push_str(label);
            text.push('.');
        }
        text.push_str(&domain);
        text.make_ascii_lowercase();
        if text.len() > 253 {
            return Err(Invalid::new("domain", "at most 253 octets in the DNS (RFC 1035 §2.3.4)"));
        }
        if text.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(Invalid::new("domain", "labels of 1 to 63 octets in the DNS (RFC 1035 §2.3.4)"));
        }
        Ok(Self(text.into()))
    }

    /// A name that stood in an answer: without the dot at the end, in lower case, within the limits.
    pub(crate) fn found(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, without the dot at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
