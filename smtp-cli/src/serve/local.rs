//! What local mailboxes are: how the options for them are written, and what they make of the mailboxes.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use smtp_core::types::Mailbox;
use smtp_server::Mailboxes;
use smtp_server::delivery::{Invocation, RunAs};
use smtp_server::recipients::{AliasError, Aliases, Quota};

use super::Plan;
use crate::exit::Failure;
use crate::values::Size;

/// What stands before a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Separator(pub(crate) Option<char>);

impl Default for Separator {
    fn default() -> Self {
        Self(Some('+'))
    }
}

impl FromStr for Separator {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            _ if text == "none" => Ok(Self(None)),
            (Some(one), None) => Ok(Self(Some(one))),
            _ => Err("a separator is one character, such as +, or none"),
        }
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(one) => write!(f, "{one}"),
            None => f.write_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Separator {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A quota, of one mailbox or of all that have none of their own: `[ADDRESS=]SIZE[/MESSAGES]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuotaOf {
    /// `None`: of all others.
    pub(crate) mailbox: Option<Mailbox>,
    pub(crate) quota: Quota,
}

impl FromStr for QuotaOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WHAT: &str = "a quota is [ADDRESS=]SIZE, SIZE/MESSAGES, /MESSAGES or none: 1G, jo@example.org=5G/20000";
        let (mailbox, limits) = match text.rsplit_once('=') {
            Some((mailbox, limits)) => {
                (Some(mailbox.trim().parse().map_err(|error| format!("{mailbox:?}: {error}"))?), limits)
            }
            None => (None, text),
        };
        let (octets, messages) = limits.trim().split_once('/').unwrap_or((limits, ""));
        let octets = match octets.trim() {
            "" | "none" => None,
            octets => Some(octets.parse::<Size>().map_err(|_| WHAT)?.0),
        };
        let messages = match messages.trim() {
            "" => None,
            messages => Some(messages.parse::<u64>().ok().filter(|n| *n > 0).ok_or(WHAT)?),
        };
        let quota = Quota { octets, messages };
        if quota.is_unlimited() && limits.trim() != "none" { Err(WHAT.into()) } else { Ok(Self { mailbox, quota }) }
    }
}

impl fmt::Display for QuotaOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mailbox) = &self.mailbox {
            write!(f, "{mailbox}=")?;
        }
        match (self.quota.octets, self.quota.messages) {
            (None, None) => f.write_str("none"),
            (octets, messages) => {
                octets.map_or(Ok(()), |octets| write!(f, "{octets}"))?;
                messages.map_or(Ok(()), |messages| write!(f, "/{messages}"))
            }
        }
    }
}

/// The mailboxes with tags, quotas and aliases.
///
/// # Errors
/// What cannot be used, and where it stands.
pub(super) fn furnished(mut mailboxes: Mailboxes, plan: &Plan) -> Result<Mailboxes, Failure> {
    mailboxes = mailboxes
        .with_separator(plan.separator.0)
        .map_err(|error| Failure::config(format!("--tag-separator {}: {error}", plan.separator)))?;
    for quota in &plan.quotas {
        mailboxes = match &quota.mailbox {
            None => mailboxes.with_quota(quota.quota),
            Some(mailbox) => mailboxes
                .with_quota_of(mailbox, quota.quota)
                .map_err(|error| Failure::config(format!("--quota {quota}: {error}")))?,
        };
    }
    let Some(file) = &plan.alias_file else { return Ok(mailboxes) };
    let wrong = |error| match error {
        AliasError::Line { line, why } => Failure::config(format!("{}:{line}: {why}", file.display())),
        error => Failure::config(format!("--alias-file: {error}")),
    };
    let mailboxes = Aliases::from_file(file).and_then(|aliases| mailboxes.with_aliases(aliases)).map_err(wrong)?;
    match mailboxes.elsewhere().filter(|_| plan.queue.is_none()) {
        Some(elsewhere) => {
            let (file, line) = (file.display(), elsewhere.line);
            let what = format!(
                "{file}:{line}: mail for {} does not end in a mailbox here, and there is no queue",
                elsewhere.to
            );
            Err(Failure::config(what).help("--queue sqlite keeps such mail until it is delivered"))
        }
        None => Ok(mailboxes),
    }
}

/// Who runs these programs; `None` if there are none.
///
/// # Errors
/// If a program is not there, or nobody may run it.
pub(super) fn runner<'a>(
    plan: &Plan,
    programs: impl IntoIterator<Item = &'a Invocation>,
) -> Result<Option<RunAs>, Failure> {
    let mut any = false;
    for invocation in programs {
        any = true;
        let program = invocation.program();
        if std::fs::metadata(program).is_ok_and(|found| !found.is_file()) || !program.exists() {
            return Err(Failure::config(format!("|{invocation}: there is no program {}", program.display())));
        }
    }
    if !any {
        return Ok(None);
    }
    let run_as = match &plan.program_user {
        Some(name) => RunAs::user(name).map_err(|error| Failure::config(format!("--program-user {name}: {error}"))),
        None => RunAs::ourselves().map_err(Failure::config),
    };
    run_as.map(Some).map_err(|failure| failure.help("--program-user NAME names the user that programs run as"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_read_what_they_write() {
        for (text, octets, messages) in [
            ("1048576", Some(1 << 20), None),
            ("/20000", None, Some(20_000)),
            ("jo@example.org=5/7", Some(5), Some(7)),
            ("a=/b@example.org=none", None, None),
        ] {
            let quota: QuotaOf = text.parse().unwrap();
            assert_eq!((quota.to_string().as_str(), quota.quota), (text, Quota { octets, messages }));
        }
        assert_eq!("1G / 10".parse::<QuotaOf>().unwrap().to_string(), "1073741824/10");
        for bad in ["", "x", "jo@example.org=", "jo=1G", "/0", "0", "1G/x", "/"] {
            assert!(bad.parse::<QuotaOf>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_separator_is_one_character_or_none() {
        for text in ["+", "-", "none"] {
            assert_eq!(text.parse::<Separator>().unwrap().to_string(), text);
        }
        assert!("".parse::<Separator>().is_err() && "++".parse::<Separator>().is_err());
    }
}
