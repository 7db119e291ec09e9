//! A delivery to whoever takes a domain's mail.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use async_trait::async_trait;
use smtp_client::Client;
use smtp_core::channel::SessionInfo;
use smtp_core::extension::RequireTls;
use smtp_core::service::{BoxError, Outcome, Transaction, reply_for};
use smtp_core::stream::{Address, ConnectError, Connection, Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::{AddressLiteral, Domain, Envelope, Host, Refusal};
use smtp_dns::Dns;
use smtp_tls_policy::{Applied, Choice, Failed, FailureKind, Finding, Results, Sts};
use tower::ServiceExt;
use tower_service::Service;

use crate::Own;
use crate::lend::Lend;
use crate::lookup::{Settings, exchangers};
use crate::named::about;
use crate::order::Exchanger;
use crate::tls::{Demand, Rule, TlsFailure, Verdict, Watch, applied};

/// The way to any domain's mail exchangers, with the sessions that are kept for reuse. Clones share everything.
#[derive(Clone)]
pub struct Exchanges(Arc<Shared>);

#[derive(Clone)]
struct Shared {
    dns: Arc<dyn Dns>,
    connector: Arc<dyn Connector>,
    own: Own,
    client: smtp_client::Settings,
    /// How hosts are reached that are bound to nothing: one policy after the other, each if TLS fails under the last.
    usual: Vec<TlsPolicy>,
    settings: Settings,
    sts: Option<Arc<Sts>>,
    results: Arc<Results>,
    clients: Arc<Mutex<Clients>>,
}

/// By address, the name that a certificate has to show, and how it is held against it: one machine may be the host of many
/// names, and a session is worth what its policy was.
type Server = (IpAddr, Option<Box<str>>, TlsPolicy);

#[derive(Default)]
struct Clients {
    all: HashMap<Server, (Client, Arc<Watch>, u64)>,
    uses: u64,
}

impl Exchanges {
    /// Looks domains up in `dns` and connects with `connector`, as the host that `own` says; `client` is how. Its TLS
    /// policy is that of [`Choice::Opportunistic`].
    pub fn new(
        dns: Arc<dyn Dns>,
        connector: impl Connector,
        own: Own,
        client: smtp_client::Settings,
        settings: Settings,
    ) -> Self {
        let connector = Arc::new(connector);
        let mut usual = vec![client.tls.clone()];
        let opportunistic = client.tls.mode == TlsMode::Opportunistic && client.tls.verification == Verification::None;
        if opportunistic && client.clear_after_failed_tls {
            usual.push(TlsPolicy::NONE);
        }
        // What comes after a failed handshake is decided here, so that it can be counted.
        let client = smtp_client::Settings { clear_after_failed_tls: false, ..client };
        let (sts, results, clients) = (None, Arc::default(), Arc::default());
        Self(Arc::new(Shared { dns, connector, own, client, usual, settings, sts, results, clients }))
    }

    /// The same, which knows domains' MTA-STS policies. Without it there are none.
    #[must_use]
    pub fn with_sts(self, sts: Arc<Sts>) -> Self {
        Self(Arc::new(Shared { sts: Some(sts), ..Arc::unwrap_or_clone(self.0) }))
    }

    /// The same, which counts there what comes of TLS.
    #[must_use]
    pub fn with_results(self, results: Arc<Results>) -> Self {
        Self(Arc::new(Shared { results, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// A delivery to `host`'s mail exchangers.
    #[must_use]
    pub fn to(&self, host: Host) -> Exchange {
        Exchange { shared: Arc::clone(&self.0), host, choice: Choice::default() }
    }
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanges")
            .field("own", &self.0.own)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

/// A delivery to one domain's mail exchangers. It looks them up for each message and offers it to one after the other,
/// as [`exchangers`] orders them, until one begins to take it: the first that gives a session.
///
/// What is asked of TLS is decided for each host before anything is said to it ([`Exchange::under`]). A host that does not
/// do as its domain has published is passed over; if that leaves none, the delivery fails with 451 and a reason with a
/// code of X.7: the message waits (RFC 7672 §2.2, RFC 8461 §5). A message with REQUIRETLS goes only to hosts that DNSSEC
/// or an MTA-STS policy in force has named and whose certificate holds; if there are none, its recipients are refused with
/// 550 5.7.30.
///
/// It fails with the refusal of the lookup, or with that of the last server that was tried. Nothing of the content has
/// been read then. Once a server takes the content its answer is the answer, since a second one might deliver again.
#[derive(Clone)]
pub struct Exchange {
    shared: Arc<Shared>,
    host: Host,
    choice: Choice,
}

impl Exchange {
    /// The same, with this asked of TLS. Without it: [`Choice::Opportunistic`].
    #[must_use]
    pub fn under(self, choice: Choice) -> Self {
        Self { choice, ..self }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("host", &self.host).field("choice", &self.choice).finish_non_exhaustive()
    }
}

impl Service<Transaction> for Exchange {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let Self { shared, host, choice } = self.clone();
        Box::pin(async move { shared.deliver(&host, choice, transaction).await })
    }
}

/// One message on its way to one domain.
struct Attempt<'a> {
    shared: &'a Shared,
    /// For the log.
    host: &'a Host,
    domain: Option<&'a Domain>,
    session: Arc<SessionInfo>,
    envelope: Envelope,
    lend: Lend,
    /// How many addresses may still be tried.
    left: usize,
    last: Option<BoxError>,
    /// Whatever failed so far will the next time.
    lasting: bool,
    /// Something failed that was not TLS.
    unreached: bool,
}

impl Shared {
    async fn deliver(&self, host: &Host, choice: Choice, transaction: Transaction) -> Result<Outcome, BoxError> {
        let found = exchangers(&*self.dns, host, &self.own, &self.settings).await?;
        let Transaction { session, envelope, body } = transaction;
        let lend = Lend::new(body);
        let domain = match host {
            Host::Domain(domain) => Some(domain),
            Host::Literal(_) => None,
        };
        let require_tls = envelope.mail.parameters.get::<RequireTls>().is_some();
        let sts = self.published(domain, choice.sts() || require_tls).await;
        let demand = Demand { domain, choice, require_tls, sts };
        let left = self.settings.attempts.max(1);
        let (last, lasting, unreached) = (None, true, false);
        let mut attempt =
            Attempt { shared: self, host, domain, session, envelope, lend, left, last, lasting, unreached };
        for exchanger in &found {
            match demand.judge(&*self.dns, exchanger, self.settings.port, &self.usual).await {
                Verdict::Skip(refusal, count) => {
                    if let Some((applied, failed)) = count {
                        attempt.note(&applied, Err(failed));
                    }
                    attempt.passed_over(exchanger, refusal);
                }
                Verdict::Try(rule) => {
                    if let Some(outcome) = attempt.host(exchanger, &rule).await? {
                        return Ok(outcome);
                    }
                }
            }
        }
        if let (true, false, Some(why)) = (require_tls, attempt.unreached, &attempt.last) {
            let refusal = match reply_for(why) {
                _ if attempt.lasting => {
                    Refusal::new(550, (5, 7, 30), format!("the sender requires TLS (REQUIRETLS): {why}"))
                }
                later => later,
            };
            // It says nothing of the domain, which may be fine for other messages.
            return Ok(Outcome::all(Err(refusal), attempt.envelope.recipients.len()));
        }
        // Never without a reason: there is always one to try.
        Err(attempt.last.unwrap_or_else(|| Refusal::fixed(451, (4, 4, 4), "no server to try").into()))
    }

    /// What the domain's MTA-STS policy is, if that matters.
    async fn published(&self, domain: Option<&Domain>, wanted: bool) -> Finding {
        let (Some(sts), Some(domain), true) = (&self.sts, domain, wanted) else { return Finding::default() };
        let now = SystemTime::now();
        let found = sts.find(domain, now).await;
        if let Some((kind, reason)) = found.fault.clone() {
            let unknown = || Applied::Sts { lines: Vec::new(), mx: Vec::new() };
            let applied = found.policy.as_deref().map_or_else(unknown, applied);
            let failed = Failed { kind, mx: None, ip: None, reason };
            self.results.note(domain.as_str(), &applied, Err(failed), now);
        }
        found
    }

    fn client(&self, name: Option<&Domain>, ip: IpAddr, policy: &TlsPolicy) -> (Client, Arc<Watch>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.uses += 1;
        let uses = clients.uses;
        let server = (ip, name.map(|name| name.as_str().to_ascii_lowercase().into()), policy.clone());
        if let Some((client, watch, used)) = clients.all.get_mut(&server) {
            *used = uses;
            return (client.clone(), Arc::clone(watch));
        }
        if clients.all.len() >= self.settings.clients.max(1) {
            let oldest = clients.all.iter().min_by_key(|(_, (_, _, used))| *used).map(|(server, _)| server.clone());
            // Whoever works with it has a clone.
            oldest.map(|server| clients.all.remove(&server));
        }
        let address = Address::Host { host: Host::Literal(AddressLiteral::from(ip)), port: self.settings.port };
        let target = Target { address, server_name: name.cloned() };
        let mut settings = smtp_client::Settings { tls: policy.clone(), ..self.client.clone() };
        let watch = Arc::new(Watch::new(settings.options.observer.take()));
        settings.options.observer = Some(Arc::clone(&watch) as _);
        let client = Client::new(Share(Arc::clone(&self.connector)), target, settings);
        clients.all.insert(server, (client.clone(), Arc::clone(&watch), uses));
        (client, watch)
    }
}

impl Attempt<'_> {
    /// Offers the message to one host, address by address; `None` if it goes to none of them.
    async fn host(&mut self, exchanger: &Exchanger, rule: &Rule) -> Result<Option<Outcome>, BoxError> {
        let shown = exchanger.name.as_ref().map_or_else(|| self.host.to_string(), ToString::to_string);
        for ip in &exchanger.addresses {
            if self.left == 0 {
                break;
            }
            if let Err(why) = self.shared.settings.local.towards(*ip) {
                self.out_of_reach(&shown, *ip, &why);
                continue;
            }
            self.left -= 1;
            if let Some(outcome) = self.address(&shown, *ip, rule).await? {
                tracing::debug!(host = %self.host, server = shown, %ip, "answered");
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    async fn address(&mut self, shown: &str, ip: IpAddr, rule: &Rule) -> Result<Option<Outcome>, BoxError> {
        for (rung, policy) in rule.ladder.iter().enumerate() {
            let (client, watch) = self.shared.client(rule.name.as_ref(), ip, policy);
            let (session, envelope) = (Arc::clone(&self.session), self.envelope.clone());
            let offered = Transaction { session, envelope, body: self.lend.body() };
            let failed = |kind, reason: &str| {
                let mx = rule.name.as_ref().map(|name| name.as_str().into());
                Failed { kind, mx, ip: Some(ip), reason: reason.to_owned() }
            };
            let error = match client.oneshot(offered).await {
                Ok(outcome) => {
                    // Below, it was counted when TLS failed.
                    if rung == 0 && policy.mode != TlsMode::None {
                        let missing = (FailureKind::StarttlsNotSupported, "STARTTLS is not offered");
                        let complaint = rule.complaint.or_else(|| watch.is_clear().then_some(missing));
                        let result = complaint.map_or(Ok(()), |(kind, reason)| Err(failed(kind, reason)));
                        self.note(&rule.applied, result);
                    }
                    return Ok(Some(outcome));
                }
                Err(error) if self.lend.is_read() => return Err(about(shown, error)),
                Err(error) => error,
            };
            tracing::debug!(host = %self.host, server = shown, %ip, %error, "not reached");
            let Some(tls) = TlsFailure::of(&error) else {
                self.unreached = true;
                self.last = Some(about(shown, error));
                return Ok(None);
            };
            if rung == 0 {
                self.note(&rule.applied, Err(failed(tls.kind, &tls.reason)));
            }
            self.lasting &= tls.lasting;
            let text = format!("{shown}{}: {}", rule.under, tls.reason);
            self.last = Some(Refusal::new(451, tls.code, text).into());
        }
        Ok(None)
    }

    fn passed_over(&mut self, exchanger: &Exchanger, refusal: Refusal) {
        tracing::debug!(host = %self.host, server = ?exchanger.name, %refusal, "passed over");
        // What passes is what a sender is told: the message waits for it.
        if refusal.is_transient() || self.last.is_none() {
            self.lasting &= !refusal.is_transient();
            self.last = Some(refusal.into());
        }
    }

    /// What was tried says more to a sender than what was not.
    fn out_of_reach(&mut self, shown: &str, ip: IpAddr, why: &io::Error) {
        tracing::info!(host = %self.host, server = shown, %ip, %why, "passed over");
        self.unreached = true;
        let refusal = || Refusal::new(451, (4, 4, 4), format!("{shown}: {ip}: {why}"));
        self.last.get_or_insert_with(|| refusal().into());
    }

    fn note(&self, applied: &Applied, result: Result<(), Failed>) {
        if let Some(domain) = self.domain {
            self.shared.results.note(domain.as_str(), applied, result, SystemTime::now());
        }
    }
}

struct Share(Arc<dyn Connector>);

#[async_trait]
impl Connector for Share {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        self.0.connect(target, policy).await
    }
}
