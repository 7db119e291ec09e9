//! On what terms some extensions are offered, as options say it.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use serde::Deserialize;
use smtp_core::extension::{Solicit, Terms};
use smtp_core::types::Invalid;

use crate::settings::group;
use crate::values::{self, Wait};

/// What `serve` and `sink` take alike.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TermsArguments {
    /// Put up the sign NO-SOLICITING, with these solicitation classes, and refuse mail that says to be of one (RFC 3865).
    ///
    /// Classes are words such as net.example:ADV, with commas between them; an empty text is the sign alone.
    #[arg(long, value_name = "CLASSES")]
    #[serde(deserialize_with = "values::parsed")]
    no_soliciting: Option<Sign>,

    /// Where deadlines are kept (DELIVERBY, RFC 2852): the shortest in which mail can be delivered or returned, in
    /// seconds. Default: the first pause of a queue; without one, any.
    #[arg(long, value_name = "SECONDS")]
    deliver_by_min: Option<Wait>,

    /// Where priorities are heeded (MT-PRIORITY, RFC 6710): what is told of how they are assigned. Default: nothing.
    #[arg(long, value_name = "PROFILE", value_enum)]
    priority_profile: Option<Profile>,

    /// Where mail can be held for its sender (FUTURERELEASE, RFC 4865): how long at most. Default: 30d.
    #[arg(long, value_name = "TIME")]
    hold_max: Option<Wait>,
}

group!(TermsArguments { no_soliciting, deliver_by_min, priority_profile, hold_max });

impl TermsArguments {
    /// What they mean.
    pub(crate) fn terms(self) -> Terms {
        let usual = Terms::default();
        Terms {
            no_soliciting: self.no_soliciting.map(|Sign(classes)| classes.into()),
            deliver_by_min: self.deliver_by_min.map_or(usual.deliver_by_min, seconds),
            priority_profile: self.priority_profile.map(Profile::name),
            hold_max: self.hold_max.map_or(usual.hold_max, seconds),
            clock: Some(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            }),
        }
    }
}

/// True if both say the same; clocks are not compared.
pub(crate) fn same(a: &Terms, b: &Terms) -> bool {
    let told =
        |terms: &Terms| (terms.no_soliciting.clone(), terms.deliver_by_min, terms.priority_profile, terms.hold_max);
    told(a) == told(b)
}

/// What a server says of solicitation (RFC 3865): classes that are not wanted, or none for the sign alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sign(String);

impl FromStr for Sign {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if !text.is_empty() {
            Solicit::new(text)?;
        }
        Ok(Self(text.to_owned()))
    }
}

/// A priority assignment policy that is registered (RFC 6710 §9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// RFC 6710, for MIXER.
    Mixer,
    /// RFC 6710, for STANAG 4406.
    Stanag4406,
    /// RFC 6710, for National Security/Emergency Preparedness.
    Nsep,
}

impl Profile {
    /// As EHLO shows it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mixer => "MIXER",
            Self::Stanag4406 => "STANAG4406",
            Self::Nsep => "NSEP",
        }
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: Wait) -> u32 {
    let up = u64::from(wait.0.subsec_nanos() > 0);
    u32::try_from(wait.0.as_secs().saturating_add(up)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_names_classes_or_nothing() {
        for good in ["", "net.example:ADV", "net.example:ADV,org.example:ADV:ADLT"] {
            assert_eq!(good.parse::<Sign>().unwrap().0, good);
        }
        assert!("no thanks".parse::<Sign>().is_err());
    }

    #[test]
    fn half_a_second_is_one() {
        for (text, whole) in [("500ms", 1), ("60", 60), ("1.2", 2)] {
            assert_eq!(seconds(text.parse().unwrap()), whole);
        }
    }
}
