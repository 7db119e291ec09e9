//! What one mail host is owed in TLS, and what came of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smtp_client::{Error, Observer, Step, TlsError, Unanswered};
use smtp_core::channel::ChannelInfo;
use smtp_core::service::BoxError;
use smtp_core::stream::{ConnectStep, TlsMode, TlsPolicy, Verification};
use smtp_core::types::{Domain, Refusal};
use smtp_dns::{Dns, LookupError, Security};
use smtp_tls::HandshakeError;
use smtp_tls_policy::{Applied, Binding, Choice, Failed, FailureKind, Finding, Mode, Policy, binding};

use crate::order::Exchanger;

/// What a message and its destination ask for, and what the destination has published.
pub(crate) struct Demand<'a> {
    /// The domain whose mail it is; none for an address literal.
    pub(crate) domain: Option<&'a Domain>,
    pub(crate) choice: Choice,
    /// The message says REQUIRETLS (RFC 8689).
    pub(crate) require_tls: bool,
    /// The domain's MTA-STS policy, if one was looked for.
    pub(crate) sts: Finding,
}

/// What is to be done with a host.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is tried, and counted.
    Try(Rule),
    /// It gets no mail; what a sender is told, and what is counted.
    Skip(Refusal, Option<(Applied, Failed)>),
}

/// How a host is reached.
#[derive(Debug)]
pub(crate) struct Rule {
    /// The policies to try one after the other, each if TLS fails under the one before.
    pub(crate) ladder: Vec<TlsPolicy>,
    /// The name for SNI and the certificate.
    pub(crate) name: Option<Domain>,
    /// What counts are kept under.
    pub(crate) applied: Applied,
    /// What an error says of it.
    pub(crate) under: &'static str,
    /// What is reported even where mail goes.
    pub(crate) complaint: Option<(FailureKind, &'static str)>,
}

const ENCRYPTED: TlsPolicy = TlsPolicy { mode: TlsMode::Required, verification: Verification::None };

impl Demand<'_> {
    /// The verdict on one host. `usual` is how hosts without a policy are reached, on `port`.
    pub(crate) async fn judge(&self, dns: &dyn Dns, host: &Exchanger, port: u16, usual: &[TlsPolicy]) -> Verdict {
        let rule = |ladder, applied, under| Rule { ladder, name: host.name.clone(), applied, under, complaint: None };
        let sts = self.sts.policy.as_deref().filter(|policy| policy.mode != Mode::None);
        let enforced = sts.filter(|policy| policy.mode == Mode::Enforce);
        let allowed = |policy: &Policy| host.name.as_ref().is_some_and(|name| policy.allows(name));
        // RFC 8689 §4.2.1: the host's name is no stranger's word.
        let authentic = host.named == Security::Secure || enforced.is_some_and(allowed);
        if self.require_tls && !authentic {
            let why = "neither DNSSEC nor an MTA-STS policy in force vouches for this mail host";
            return Verdict::Skip(Refusal::new(550, (5, 7, 30), format!("{}: {why}", shown(host))), None);
        }
        match self.bound(dns, host, port).await {
            // RFC 7672 §2.1.2, §2.2: on every transport.
            Err(error) => self.unknown(host, &error),
            Ok(Binding::Authenticated { dane, base }) => {
                let verification = Verification::Dane(Arc::new(dane));
                let ladder = vec![TlsPolicy { mode: TlsMode::Required, verification }];
                Verdict::Try(Rule { name: Some(base), ..rule(ladder, Applied::Tlsa, ", held to DANE") })
            }
            Ok(Binding::Encrypted) => {
                let ladder = vec![if self.require_tls { TlsPolicy::REQUIRED } else { ENCRYPTED }];
                let complaint = Some((FailureKind::TlsaInvalid, "none of the host's TLSA records can be used"));
                Verdict::Try(Rule { complaint, ..rule(ladder, Applied::Tlsa, ", held to TLS by DANE") })
            }
            Ok(Binding::Free) => match sts {
                Some(policy) => self.under_sts(policy, host, allowed(policy), usual),
                None if self.require_tls => {
                    Verdict::Try(rule(vec![TlsPolicy::REQUIRED], Applied::NoPolicyFound, ", held to REQUIRETLS"))
                }
                None if self.choice == Choice::Required => {
                    Verdict::Try(rule(vec![TlsPolicy::REQUIRED], Applied::NoPolicyFound, ", held to verified TLS"))
                }
                None => Verdict::Try(rule(usual.to_vec(), Applied::NoPolicyFound, "")),
            },
        }
    }

    /// What TLSA records bind the host to, if they count here.
    async fn bound(&self, dns: &dyn Dns, host: &Exchanger, port: u16) -> Result<Binding, LookupError> {
        let secure = host.named.min(host.located) == Security::Secure;
        match (&host.name, self.domain) {
            (Some(name), Some(domain)) if secure && (self.choice.dane() || self.require_tls) => {
                binding(dns, name, host.alias.as_ref(), port, domain).await
            }
            _ => Ok(Binding::Free),
        }
    }

    fn unknown(&self, host: &Exchanger, error: &LookupError) -> Verdict {
        let code = if matches!(error, LookupError::Bogus { .. }) { (4, 7, 5) } else { (4, 4, 3) };
        let name = shown(host);
        let refusal =
            Refusal::new(451, code, format!("{name}: not used while its TLSA records are not known: {error}"));
        let kind = FailureKind::DnssecInvalid;
        let failed = Failed { kind, mx: Some(name.into()), ip: None, reason: error.to_string() };
        Verdict::Skip(refusal, Some((Applied::Tlsa, failed)))
    }

    fn under_sts(&self, policy: &Policy, host: &Exchanger, allowed: bool, usual: &[TlsPolicy]) -> Verdict {
        const STRANGER: &str = "it is not among the mail hosts of the domain's MTA-STS policy";
        let (kind, name) = (FailureKind::ValidationFailure, shown(host));
        if policy.mode == Mode::Enforce && !allowed {
            let refusal = Refusal::new(451, (4, 7, 1), format!("{name}: {STRANGER}"));
            let failed = Failed { kind, mx: Some(name.into()), ip: None, reason: STRANGER.into() };
            return Verdict::Skip(refusal, Some((applied(policy), failed)));
        }
        // While a policy is tried out, what does not keep to it is reported, and gets its mail (RFC 8461 §5).
        let ladder = match (policy.mode, allowed) {
            _ if self.require_tls => vec![TlsPolicy::REQUIRED],
            (Mode::Testing, true) => [&[TlsPolicy::REQUIRED], usual].concat(),
            (Mode::Testing, false) => usual.to_vec(),
            _ => vec![TlsPolicy::REQUIRED],
        };
        let complaint = (!allowed).then_some((kind, STRANGER));
        let under = ", held to MTA-STS";
        Verdict::Try(Rule { ladder, name: host.name.clone(), applied: applied(policy), under, complaint })
    }
}

/// What counts are kept under for a policy.
pub(crate) fn applied(policy: &Policy) -> Applied {
    Applied::Sts { lines: policy.lines.clone(), mx: policy.mx.clone() }
}

fn shown(host: &Exchanger) -> String {
    host.name.as_ref().map_or_else(|| "the host".to_owned(), ToString::to_string)
}

/// TLS as the reason of an error.
#[derive(Debug)]
pub(crate) struct TlsFailure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
    pub(crate) code: (u8, u16, u16),
    /// It will be the same the next time.
    pub(crate) lasting: bool,
}

impl TlsFailure {
    /// What `error` says of TLS, if that is what it is about.
    pub(crate) fn of(error: &BoxError) -> Option<Self> {
        let handshake = |error: &io::Error| {
            let known = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>());
            let kind = known.map_or(FailureKind::ValidationFailure, FailureKind::from);
            let lasting = known.is_some_and(HandshakeError::is_permanent);
            Self { kind, reason: error.to_string(), code: (4, 7, 5), lasting }
        };
        let known = match error.downcast_ref::<Unanswered>()?.error() {
            Error::Tls(TlsError::Handshake(source)) => handshake(source),
            Error::Connect(error) if error.step == ConnectStep::Tls => handshake(&error.source),
            Error::Tls(error) => {
                let kind = match error {
                    TlsError::Unverified => FailureKind::ValidationFailure,
                    _ => FailureKind::StarttlsNotSupported,
                };
                Self { kind, reason: error.to_string(), code: (4, 7, 4), lasting: !is_transient(error) }
            }
            _ => return None,
        };
        Some(known)
    }
}

/// A 4yz to STARTTLS (454) may pass.
fn is_transient(error: &TlsError) -> bool {
    matches!(error, TlsError::Refused(reply) if reply.code().get() < 500)
}

/// Watches whether a client's sessions are under TLS, and passes on what it sees.
pub(crate) struct Watch {
    clear: AtomicBool,
    next: Option<Arc<dyn Observer>>,
}

impl Watch {
    pub(crate) fn new(next: Option<Arc<dyn Observer>>) -> Self {
        Self { clear: AtomicBool::new(false), next }
    }

    /// True if the session that was begun last is in clear.
    pub(crate) fn is_clear(&self) -> bool {
        self.clear.load(Ordering::Relaxed)
    }
}

impl Observer for Watch {
    fn connected(&self, channel: &ChannelInfo) {
        self.clear.store(channel.tls.is_none(), Ordering::Relaxed);
        if let Some(next) = &self.next {
            next.connected(channel);
        }
    }

    fn secured(&self, channel: &ChannelInfo) {
        self.clear.store(false, Ordering::Relaxed);
        if let Some(next) = &self.next {
            next.secured(channel);
        }
    }

    fn sent(&self, line: &str) {
        if let Some(next) = &self.next {
            next.sent(line);
        }
    }

    fn received(&self, line: &str) {
        if let Some(next) = &self.next {
            next.received(line);
        }
    }

    fn content(&self, octets: usize) {
        if let Some(next) = &self.next {
            next.content(octets);
        }
    }

    fn finished(&self, step: Step, took: Duration) {
        if let Some(next) = &self.next {
            next.finished(step, took);
        }
    }
}
