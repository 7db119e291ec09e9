//! What is asked of TLS on the way to other hosts, as it is written: `dane+sts`, or for a destination
//! `bank.example=required`.

use std::fmt;
use std::str::FromStr;

use smtp_route::{Choice, Routes};

use super::Plan;
use crate::exit::Failure;

/// A policy, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsRule {
    /// A domain, or a dot and a domain for all below it; none for all others.
    destination: Option<String>,
    choice: Choice,
}

impl FromStr for TlsRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (destination, choice) = match text.split_once('=') {
            Some((destination, choice)) => (Some(destination.trim().to_owned()), choice.trim()),
            None => (None, text.trim()),
        };
        let choice = choice.parse().map_err(|error| format!("{choice:?}: {error}"))?;
        Ok(Self { destination, choice })
    }
}

impl fmt::Display for TlsRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(destination) = &self.destination {
            write!(f, "{destination}=")?;
        }
        self.choice.fmt(f)
    }
}

/// The policies of all destinations.
#[derive(Debug, Default)]
pub(super) struct Owed {
    others: Choice,
    some: Routes<Choice>,
}

impl Owed {
    /// Reads the plan's.
    ///
    /// # Errors
    /// If two are for the same, or one can never count.
    pub(super) fn new(plan: &Plan) -> Result<Self, Failure> {
        let wrong = |what: String| Err(Failure::config(format!("--tls-policy: {what}")));
        if plan.relay_host.is_some() && !plan.tls_policies.is_empty() {
            return wrong("all mail for others goes to the relay host".into())
                .map_err(|failure| failure.help("the URL of --relay-host says what is asked of TLS there"));
        }
        let (mut others, mut some) = (None, Routes::default());
        for TlsRule { destination, choice } in &plan.tls_policies {
            let known = match destination {
                None => others.replace(*choice),
                Some(name) if plan.routes.iter().any(|route| route.destination.eq_ignore_ascii_case(name)) => {
                    return wrong(format!("mail for {name} goes by --route"))
                        .map_err(|failure| failure.help("the URL of a route says what is asked of TLS there"));
                }
                Some(name) => some
                    .set(name, *choice)
                    .map_err(|error| Failure::config(format!("--tls-policy {name}={choice}: {error}")))?,
            };
            if known.is_some() {
                return wrong(format!("two for {}", destination.as_deref().unwrap_or("all destinations")));
            }
        }
        Ok(Self { others: others.unwrap_or_default(), some })
    }

    /// What is asked on the way to `domain`.
    pub(super) fn to(&self, domain: &str) -> Choice {
        self.some.find(domain).map_or(self.others, |(_, choice)| *choice)
    }

    /// Whether signatures in the DNS matter to any.
    pub(super) fn needs_dnssec(&self) -> bool {
        self.others.dane() || self.some.iter().any(|(_, choice)| choice.dane())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_what_they_write() {
        for text in ["dane+sts", "bank.example=required", ".example.org=dane"] {
            assert_eq!(text.parse::<TlsRule>().unwrap().to_string(), text);
        }
        let rule: TlsRule = " bank.example = sts ".parse().unwrap();
        assert_eq!(rule.to_string(), "bank.example=sts");
        let error = "bank.example=verified".parse::<TlsRule>().unwrap_err();
        assert!(error.contains("\"verified\"") && error.contains("dane+sts"), "{error}");
    }
}
