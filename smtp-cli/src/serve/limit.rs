//! How much goes to one destination: how the option for it is written.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use smtp_queue::{HopLimits, NextHop, Rate};

use crate::values::Wait;

/// What a destination gets at once, and in a time; or all that have no limit of their own:
/// `[DESTINATION=]N`, `N MESSAGES/TIME` or `MESSAGES/TIME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitOf {
    /// `None`: all others.
    pub(crate) destination: Option<NextHop>,
    pub(crate) limits: HopLimits,
}

/// The most messages on their way to one destination.
const MAX: usize = 1_000;

impl FromStr for LimitOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WHAT: &str = "a limit is [DESTINATION=]N, N MESSAGES/TIME or MESSAGES/TIME, with N from 1 to 1000: \
                            10, example.org=2, 'example.org=2 100/1h'";
        let (destination, limits) = match text.rsplit_once('=') {
            Some((name, limits)) => {
                let name = name.trim().to_ascii_lowercase();
                (Some(NextHop::new(&name).map_err(|error| format!("{name:?}: {error}"))?), limits)
            }
            None => (None, text),
        };
        let mut parts = HopLimits { rate: None, ..HopLimits::default() };
        let mut said = [false; 2];
        for limit in limits.split_whitespace() {
            let again = match limit.split_once('/') {
                Some((jobs, per)) => {
                    let jobs = jobs.trim().parse().ok().filter(|jobs| *jobs > 0).ok_or(WHAT)?;
                    let per = per.trim().parse::<Wait>().ok().filter(|per| !per.0.is_zero()).ok_or(WHAT)?.0;
                    parts.rate = Some(Rate { jobs, per });
                    &mut said[1]
                }
                None => {
                    parts.max = limit.parse().ok().filter(|max| (1..=MAX).contains(max)).ok_or(WHAT)?;
                    parts.initial = parts.initial.min(parts.max);
                    &mut said[0]
                }
            };
            if std::mem::replace(again, true) {
                return Err(WHAT.into());
            }
        }
        if said == [false; 2] {
            return Err(WHAT.into());
        }
        Ok(Self { destination, limits: parts })
    }
}

impl fmt::Display for LimitOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(destination) = &self.destination {
            write!(f, "{destination}=")?;
        }
        write!(f, "{}", self.limits.max)?;
        match self.limits.rate {
            Some(Rate { jobs, per }) => write!(f, " {jobs}/{}", per.as_secs_f64()),
            None => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for LimitOf {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_form_is_read_and_shown() {
        let limit = |text: &str| text.parse::<LimitOf>().unwrap();
        let hour = Duration::from_secs(3_600);
        let all = limit("10");
        assert_eq!((all.destination, all.limits), (None, HopLimits { max: 10, ..HopLimits::default() }));
        let one = limit("Example.org=2 100/1h");
        assert_eq!(one.destination.as_ref().map(NextHop::as_str), Some("example.org"));
        assert_eq!(one.limits, HopLimits { initial: 2, max: 2, rate: Some(Rate { jobs: 100, per: hour }) });
        assert_eq!(limit(&one.to_string()), one);
        let rate = limit("relay:=100/1h").limits;
        assert_eq!((rate.max, rate.rate), (HopLimits::default().max, Some(Rate { jobs: 100, per: hour })));
        for wrong in ["", "0", "1001", "x", "example.org=", "1 2", "5/0", "0/1h", "5/1h 6/1h", "=3", "1/2/3"] {
            assert!(wrong.parse::<LimitOf>().is_err(), "{wrong:?}");
        }
    }
}
