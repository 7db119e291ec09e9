//! What came of TLS, counted for the reports of RFC 8460.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use smtp_core::types::printable;
use smtp_tls::HandshakeError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const DAY: u64 = 86_400;
/// Days of which counts are kept, today's included: reports are of whole days (RFC 8460 §4.1).
const DAYS: u64 = 3;
/// Domains that are counted in a day.
const DOMAINS: usize = 10_000;
/// Kinds of failure that are told apart for a domain, a day and a policy.
const DETAILS: usize = 100;
/// The longest reason, in octets.
const REASON: usize = 300;

/// The result types of RFC 8460 §4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The host offers no STARTTLS, or refuses it.
    StarttlsNotSupported,
    /// The certificate is for other names.
    CertificateHostMismatch,
    /// The certificate is too old.
    CertificateExpired,
    /// Nobody who is trusted vouches for the certificate.
    CertificateNotTrusted,
    /// Anything else that TLS failed for.
    ValidationFailure,
    /// None of the TLSA records can be used.
    TlsaInvalid,
    /// The DNS gave no answer that holds under DNSSEC.
    DnssecInvalid,
    /// The MTA-STS policy could not be fetched.
    StsPolicyFetchError,
    /// The MTA-STS policy is none.
    StsPolicyInvalid,
    /// The certificate of the policy's web server does not hold.
    StsWebpkiInvalid,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StarttlsNotSupported => "starttls-not-supported",
            Self::CertificateHostMismatch => "certificate-host-mismatch",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateNotTrusted => "certificate-not-trusted",
            Self::ValidationFailure => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::StsPolicyFetchError => "sts-policy-fetch-error",
            Self::StsPolicyInvalid => "sts-policy-invalid",
            Self::StsWebpkiInvalid => "sts-webpki-invalid",
        })
    }
}

impl From<&HandshakeError> for FailureKind {
    fn from(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::WrongName { .. } => Self::CertificateHostMismatch,
            HandshakeError::Expired { .. } => Self::CertificateExpired,
            HandshakeError::UnknownIssuer { .. }
            | HandshakeError::BadSignature { .. }
            | HandshakeError::CaAsLeaf { .. } => Self::CertificateNotTrusted,
            _ => Self::ValidationFailure,
        }
    }
}

/// The policy that was applied (RFC 8460 §4.4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applied {
    /// TLSA records.
    Tlsa,
    /// An MTA-STS policy, by its lines and its patterns.
    Sts {
        /// Its lines.
        lines: Vec<Box<str>>,
        /// Which hosts it allows.
        mx: Vec<Box<str>>,
    },
    /// There was none.
    NoPolicyFound,
}

impl Applied {
    const fn name(&self) -> &'static str {
        match self {
            Self::Tlsa => "tlsa",
            Self::Sts { .. } => "sts",
            Self::NoPolicyFound => "no-policy-found",
        }
    }
}

/// A failure to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The mail host, if it is about one.
    pub mx: Option<Box<str>>,
    /// Its address, if one was reached.
    pub ip: Option<IpAddr>,
    /// In words. Only the first of a kind is kept.
    pub reason: String,
}

/// Who reports (RFC 8460 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// The organization; this host's name will do.
    pub organization: String,
    /// How to reach it: an address.
    pub contact: String,
}

/// Counts of what came of TLS, by domain and day (UTC). Memory only: a restart begins anew.
///
/// At most 10,000 domains are counted a day, and 100 kinds of failure for each; three days are kept.
#[derive(Debug, Default)]
pub struct Results(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    days: BTreeMap<u64, BTreeMap<Box<str>, Vec<Tally>>>,
}

#[derive(Debug)]
struct Tally {
    applied: Applied,
    successful: u64,
    failed: u64,
    details: BTreeMap<Site, Count>,
}

/// What failed, at which host, at which address.
type Site = (FailureKind, Option<Box<str>>, Option<IpAddr>);
/// How often, and why the first time.
type Count = (u64, Box<str>);

impl Results {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts an attempt to hand mail for `domain` to one of its hosts.
    pub fn note(&self, domain: &str, applied: &Applied, result: Result<(), Failed>, now: SystemTime) {
        let day = seconds(now) / DAY;
        let mut state = self.lock();
        state.days.retain(|known, _| (*known..*known + DAYS).contains(&day) || *known > day);
        while state.days.len() > DAYS as usize {
            state.days.pop_first();
        }
        let domains = state.days.entry(day).or_default();
        let full = domains.len() >= DOMAINS;
        let tallies = match domains.entry(domain.to_ascii_lowercase().into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => return,
            Entry::Vacant(new) => new.insert(Vec::new()),
        };
        // One for each kind: a policy that was renewed goes on counting where the old one did.
        let at = tallies.iter().position(|tally| tally.applied.name() == applied.name());
        let at = at.unwrap_or_else(|| {
            tallies.push(Tally { applied: applied.clone(), successful: 0, failed: 0, details: BTreeMap::new() });
            tallies.len() - 1
        });
        let Some(tally) = tallies.get_mut(at) else { return };
        tally.applied = applied.clone();
        match result {
            Ok(()) => tally.successful += 1,
            Err(Failed { kind, mx, ip, reason }) => {
                tally.failed += 1;
                let room = tally.details.len() < DETAILS;
                match tally.details.entry((kind, mx, ip)) {
                    Entry::Occupied(mut known) => known.get_mut().0 += 1,
                    Entry::Vacant(new) if room => {
                        let mut reason = printable(reason.as_bytes());
                        reason.truncate(reason.floor_char_boundary(REASON));
                        new.insert((1, reason.into()));
                    }
                    Entry::Vacant(_) => {}
                }
            }
        }
    }

    /// The reports as RFC 8460 §4.4 has them, one for each domain and day, the oldest first; with `domain`, of that alone.
    /// That of today is not complete yet.
    #[must_use]
    pub fn reports(&self, by: &Reporter, domain: Option<&str>) -> Vec<Value> {
        let state = self.lock();
        let wanted = |name: &str| domain.is_none_or(|domain| domain.eq_ignore_ascii_case(name));
        let all = state.days.iter().flat_map(|(day, domains)| domains.iter().map(move |(name, of)| (*day, name, of)));
        all.filter(|(_, name, _)| wanted(name)).map(|(day, name, of)| report(by, day, name, of)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(by: &Reporter, day: u64, domain: &str, tallies: &[Tally]) -> Value {
    let start = day * DAY;
    json!({
        "organization-name": by.organization,
        "date-range": {"start-datetime": date(start), "end-datetime": date(start + DAY - 1)},
        "contact-info": by.contact,
        "report-id": format!("{start}.{domain}@{}", by.organization),
        "policies": tallies.iter().map(|tally| tally.json(domain)).collect::<Vec<_>>(),
    })
}

impl Tally {
    fn json(&self, domain: &str) -> Value {
        let mut policy = json!({"policy-type": self.applied.name(), "policy-domain": domain});
        if let Applied::Sts { lines, mx } = &self.applied {
            policy["policy-string"] = json!(lines);
            policy["mx-host"] = json!(mx);
        }
        let mut value = json!({
            "policy": policy,
            "summary": {
                "total-successful-session-count": self.successful,
                "total-failure-session-count": self.failed,
            },
        });
        if !self.details.is_empty() {
            value["failure-details"] = self.details.iter().map(|(site, count)| detail(site, count)).collect();
        }
        value
    }
}

fn detail((kind, mx, ip): &Site, (count, reason): &Count) -> Value {
    let mut detail = json!({"result-type": kind.to_string(), "failed-session-count": count});
    if let Some(mx) = mx {
        detail["receiving-mx-hostname"] = json!(mx);
    }
    if let Some(ip) = ip {
        detail["receiving-ip"] = json!(ip);
    }
    if !reason.is_empty() {
        detail["failure-reason-code"] = json!(reason);
    }
    detail
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(day * DAY + 7)
    }

    fn failed(kind: FailureKind, mx: &str) -> Result<(), Failed> {
        Err(Failed { kind, mx: Some(mx.into()), ip: Some("192.0.2.1".parse().unwrap()), reason: "why\r\n".into() })
    }

    fn by() -> Reporter {
        Reporter { organization: "mx.example".into(), contact: "postmaster@mx.example".into() }
    }

    #[test]
    fn a_report_is_what_the_rfc_says() {
        let results = Results::new();
        let sts = Applied::Sts { lines: vec!["version: STSv1".into()], mx: vec!["*.d.example".into()] };
        results.note("D.example", &sts, Ok(()), at(20_000));
        results.note("d.example", &sts, failed(FailureKind::CertificateExpired, "a.d.example"), at(20_000));
        results.note("d.example", &sts, failed(FailureKind::CertificateExpired, "a.d.example"), at(20_000));
        results.note("d.example", &Applied::Tlsa, Ok(()), at(20_000));
        results.note("other.example", &Applied::NoPolicyFound, Ok(()), at(20_001));
        let reports = results.reports(&by(), Some("d.example"));
        assert_eq!(reports.len(), 1);
        assert_eq!(
            reports[0],
            json!({
                "organization-name": "mx.example",
                "date-range": {"start-datetime": "2024-10-04T00:00:00Z", "end-datetime": "2024-10-04T23:59:59Z"},
                "contact-info": "postmaster@mx.example",
                "report-id": "1728000000.d.example@mx.example",
                "policies": [
                    {
                        "policy": {
                            "policy-type": "sts",
                            "policy-domain": "d.example",
                            "policy-string": ["version: STSv1"],
                            "mx-host": ["*.d.example"],
                        },
                        "summary": {"total-successful-session-count": 1, "total-failure-session-count": 2},
                        "failure-details": [{
                            "result-type": "certificate-expired",
                            "receiving-mx-hostname": "a.d.example",
                            "receiving-ip": "192.0.2.1",
                            "failed-session-count": 2,
                            "failure-reason-code": "why??",
                        }],
                    },
                    {
                        "policy": {"policy-type": "tlsa", "policy-domain": "d.example"},
                        "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
                    },
                ],
            })
        );
        assert_eq!(results.reports(&by(), None).len(), 2);
    }

    #[test]
    fn counts_are_bounded() {
        let results = Results::new();
        for n in 0..DOMAINS + 5 {
            results.note(&format!("d{n}.example"), &Applied::Tlsa, Ok(()), at(1));
        }
        assert_eq!(results.reports(&by(), None).len(), DOMAINS);
        for n in 0..DETAILS + 5 {
            let failed = failed(FailureKind::TlsaInvalid, &format!("mx{n}.example"));
            results.note("d1.example", &Applied::Tlsa, failed, at(1));
        }
        let report = results.reports(&by(), Some("d1.example")).remove(0);
        assert_eq!(report["policies"][0]["failure-details"].as_array().unwrap().len(), DETAILS);
        assert_eq!(report["policies"][0]["summary"]["total-failure-session-count"], DETAILS + 5);
        for day in 2..10 {
            results.note("d1.example", &Applied::Tlsa, Ok(()), at(day));
        }
        assert_eq!(results.reports(&by(), None).len(), DAYS as usize);
        // A clock that is set back forgets nothing and grows nothing.
        for day in (0..9).rev() {
            results.note("d1.example", &Applied::Tlsa, Ok(()), at(day));
        }
        assert!(results.lock().days.len() <= DAYS as usize + 1);
    }
}
