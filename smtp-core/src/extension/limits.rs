//! LIMITS: how much a server takes, told before it is sent (RFC 9422).

use core::fmt;

use super::Extension;

/// LIMITS, from the limits that the server enforces.
pub static LIMITS: Extension = Extension {
    offered: |context| context.limits != TransactionLimits::default(),
    announce: |context, out| {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(out, format_args!("{}", context.limits));
    },
    ..Extension::keyword("LIMITS", "RFC 9422")
};

/// The limits of RFC 9422 §4; `None` where there is none, or none is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionLimits {
    /// MAILMAX: transactions of one session.
    pub messages: Option<u32>,
    /// RCPTMAX: recipients of one transaction.
    pub recipients: Option<u32>,
    /// RCPTDOMAINMAX: different domains among the recipients of one transaction.
    pub recipient_domains: Option<u32>,
}

impl TransactionLimits {
    /// From the parameters of an EHLO keyword. A limit that cannot be read counts as none (RFC 9422 §3), and so does
    /// one of 0, under which no mail could be sent.
    #[must_use]
    pub fn parse(parameters: &str) -> Self {
        let mut limits = Self::default();
        for (name, value) in parameters.split_ascii_whitespace().filter_map(|p| p.split_once('=')) {
            let limit = match name {
                n if n.eq_ignore_ascii_case("MAILMAX") => &mut limits.messages,
                n if n.eq_ignore_ascii_case("RCPTMAX") => &mut limits.recipients,
                n if n.eq_ignore_ascii_case("RCPTDOMAINMAX") => &mut limits.recipient_domains,
                _ => continue,
            };
            let digits = value.bytes().all(|b| b.is_ascii_digit());
            *limit = value.parse().ok().filter(|n| *n > 0 && digits);
        }
        limits
    }
}

impl fmt::Display for TransactionLimits {
    /// As EHLO's parameters, a blank before each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("MAILMAX", self.messages), ("RCPTMAX", self.recipients), ("RCPTDOMAINMAX", self.recipient_domains)];
        for (name, limit) in all {
            if let Some(limit) = limit {
                write!(f, " {name}={limit}")?;
            }
        }
        Ok(())
    }
}
