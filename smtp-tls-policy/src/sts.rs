//! MTA-STS (RFC 8461): its two texts. No I/O.

use std::time::Duration;

use smtp_core::types::Domain;
use smtp_dns::Name;

/// The longest that a policy may hold: a year (RFC 8461 §3.2). What says more holds so long.
const MAX_AGE: u64 = 31_557_600;
/// A policy with more patterns than this is refused.
const MAX_PATTERNS: usize = 200;

/// What is done about a host that does not do as the policy says (RFC 8461 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It gets no mail.
    Enforce,
    /// It gets its mail, and its domain a report.
    Testing,
    /// Nothing: there is no policy any more.
    None,
}

/// A domain's policy (RFC 8461 §3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What is done.
    pub mode: Mode,
    /// Which hosts may take mail, in lower case and as A-labels; a `*.` in front stands for one label.
    pub mx: Vec<Box<str>>,
    /// How long it holds.
    pub max_age: Duration,
    /// Its lines, as they came, for reports.
    pub lines: Vec<Box<str>>,
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an MTA-STS policy: {0}")]
#[non_exhaustive]
pub struct PolicyError(Box<str>);

impl PolicyError {
    fn new(what: impl Into<Box<str>>) -> Self {
        Self(what.into())
    }
}

impl Policy {
    /// Reads a policy. Fields that are not known are passed over; of one that comes twice, `mx` apart, the first counts.
    ///
    /// # Errors
    /// [`PolicyError`] says what is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let (mut mx, mut lines) = (Vec::new(), Vec::new());
        for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            if line.trim_matches([' ', '\t']).is_empty() {
                continue;
            }
            let (key, value) =
                line.split_once(':').ok_or_else(|| PolicyError::new(format!("a line without a colon: {line:?}")))?;
            let (key, value) = (key.trim_matches([' ', '\t']), value.trim_matches([' ', '\t']));
            if line.chars().any(|c| c.is_control() && c != '\t') {
                return Err(PolicyError::new("control characters"));
            }
            match key {
                "version" => {
                    version.get_or_insert(value);
                }
                "mode" => {
                    mode.get_or_insert(value);
                }
                "max_age" => {
                    max_age.get_or_insert(value);
                }
                "mx" if mx.len() == MAX_PATTERNS => {
                    return Err(PolicyError::new(format!("more than {MAX_PATTERNS} mx")));
                }
                "mx" => mx.push(pattern(value)?),
                _ => continue,
            }
            lines.push(line.into());
        }
        if version != Some("STSv1") {
            return Err(PolicyError::new("no version: STSv1"));
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            Some(other) => return Err(PolicyError::new(format!("mode {other:?} is not enforce, testing or none"))),
            None => return Err(PolicyError::new("no mode")),
        };
        let seconds = max_age.ok_or_else(|| PolicyError::new("no max_age"))?;
        if seconds.is_empty() || seconds.len() > 10 || !seconds.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PolicyError::new(format!("max_age {seconds:?} is no number of seconds")));
        }
        let seconds = seconds.parse::<u64>().map_err(|_| PolicyError::new("max_age"))?;
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::new("no mx"));
        }
        Ok(Self { mode, mx, max_age: Duration::from_secs(seconds.min(MAX_AGE)), lines })
    }

    /// Whether mail may go to this host (RFC 8461 §4.1).
    #[must_use]
    pub fn allows(&self, host: &Domain) -> bool {
        let Ok(host) = Name::of(host) else { return false };
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.as_str().split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => host.as_str() == &**pattern,
        })
    }
}

fn pattern(text: &str) -> Result<Box<str>, PolicyError> {
    let wrong = || PolicyError::new(format!("mx {text:?} is neither a host nor *. and a domain"));
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    let domain = Domain::new(name.strip_suffix('.').unwrap_or(name)).map_err(|_| wrong())?;
    let name = Name::of(&domain).map_err(|_| wrong())?;
    Ok(format!("{star}{name}").into())
}

/// The `id` that the TXT records at `_mta-sts` give (RFC 8461 §3.1); none if there is not exactly one record that begins
/// with `v=STSv1;`, or it is not as it has to be: the domain has no policy then.
#[must_use]
pub fn record_id(records: &[Box<[u8]>]) -> Option<Box<str>> {
    let mut ours = records.iter().filter_map(|record| {
        let text = std::str::from_utf8(record).ok()?.strip_prefix("v=STSv1")?;
        text.trim_start_matches([' ', '\t']).strip_prefix(';')
    });
    let (Some(fields), None) = (ours.next(), ours.next()) else { return None };
    let mut id = None;
    for field in fields.split(';').map(|field| field.trim_matches([' ', '\t'])).filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=')?;
        if key == "id" && id.replace(value).is_some() {
            return None;
        }
    }
    id.filter(|id| (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";

    #[test]
    fn policies() {
        let policy = Policy::parse(GOOD).unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, Duration::from_secs(604_800)));
        assert_eq!(policy.mx, ["mail.example.com".into(), "*.example.net".into()]);
        assert_eq!(policy.lines.len(), 5);
        let same = Policy::parse(&GOOD.replace("\r\n", "\n")).unwrap();
        assert_eq!(same, policy);
        assert_eq!(Policy::parse(GOOD.trim_end()).unwrap(), policy, "the last line may lack its end");
        let more = format!("{GOOD}mode: none\nnew_field: x\n");
        assert_eq!(Policy::parse(&more).unwrap().mode, Mode::Enforce, "the first counts");
        assert_eq!(Policy::parse("version: STSv1\nmode: none\nmax_age: 0").unwrap().mode, Mode::None);
        let long = Policy::parse(&GOOD.replace("604800", "9999999999")).unwrap();
        assert_eq!(long.max_age, Duration::from_secs(MAX_AGE));
        for (from, to) in [
            ("version: STSv1\r\n", ""),
            ("STSv1", "STSv2"),
            ("mode: enforce\r\n", ""),
            ("enforce", "Enforce"),
            ("604800", ""),
            ("604800", "-1"),
            ("604800", "99999999999"),
            ("604800", "1 day"),
            ("max_age: 604800\r\n", ""),
            ("mail.example.com", "*"),
            ("mail.example.com", "mail.*.com"),
            ("mail.example.com", "a b"),
            ("mail.example.com", ""),
            ("mode: enforce", "mode enforce"),
            ("mode: enforce", "mode: enforce\u{0}"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert!(Policy::parse(&text).is_err(), "{text}");
        }
        assert!(Policy::parse("version: STSv1\nmode: testing\nmax_age: 1\n").is_err(), "no mx");
        let crowd = format!("{GOOD}{}", "mx: a.example\n".repeat(MAX_PATTERNS));
        assert!(Policy::parse(&crowd).is_err());
    }

    #[test]
    fn hosts() {
        let policy = Policy::parse(GOOD).unwrap();
        for (host, allowed) in [
            ("mail.example.com", true),
            ("MAIL.Example.COM", true),
            ("other.example.com", false),
            ("a.mail.example.com", false),
            ("a.example.net", true),
            ("example.net", false),
            ("a.b.example.net", false),
            ("aexample.net", false),
        ] {
            assert_eq!(policy.allows(&host.parse().unwrap()), allowed, "{host}");
        }
    }

    #[test]
    fn records() {
        let id = |records: &[&str]| {
            let records: Vec<Box<[u8]>> = records.iter().map(|text| text.as_bytes().into()).collect();
            record_id(&records).map(String::from)
        };
        for (record, expected) in [
            ("v=STSv1; id=20160831085700Z;", Some("20160831085700Z")),
            ("v=STSv1;id=1", Some("1")),
            ("v=STSv1 ; id=1 ; x=y;", Some("1")),
            ("v=STSv1;", None),
            ("v=STSv1; id=", None),
            ("v=STSv1; id=a-b", None),
            ("v=STSv1; id=1; id=2", None),
            ("v=STSv1; id", None),
            ("v=STSv10; id=1", None),
            ("id=1; v=STSv1", None),
            ("v=spf1 -all", None),
        ] {
            assert_eq!(id(&[record]).as_deref(), expected, "{record}");
        }
        assert_eq!(id(&["v=spf1 -all", "v=STSv1; id=1"]).as_deref(), Some("1"));
        assert_eq!(id(&["v=STSv1; id=1", "v=STSv1; id=1"]), None, "two are none");
        assert_eq!(id(&[&format!("v=STSv1; id={}", "1".repeat(33))]), None);
        assert_eq!(record_id(&[Box::from(&b"v=STSv1; id=1\xff"[..])]), None);
    }
}
