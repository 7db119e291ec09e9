//! Where mail goes next: to a mailbox or a program here, by a route that was set, to the relay host, or to whoever the DNS
//! says.
//!
//! Next hops are names and not URLs, so that what the configuration says holds for mail that is queued already.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use smtp_client::{Client, Options, RacingConnector, RacingOptions};
use smtp_core::types::{EhloName, ForwardPath, Host, Refusal};
use smtp_dns::{Dns, Resolver, Settings as DnsSettings, SvcbDiscovery};
use smtp_queue::{BoxDelivery, NextHop, Plan as QueuePlan, Queue, Router};
use smtp_route::{Exchanges, Named, Own, Routes, Settings as RouteSettings};
use smtp_server::delivery::RunAs;
use smtp_server::{AliasLayer, Mailboxes, Maildir, Program};
use smtp_tls::ClientTls;
use smtp_tls_policy::{HttpsFetch, Results, Settings as StsSettings, Sts};
use smtp_transport_quic::{ConnectOptions as QuicOptions, QuicConnector};
use smtp_transport_tcp::{ConnectOptions, TcpConnector};
use tower_layer::Layer;

use super::Plan;
use super::hop::By;
use super::local;
use super::owed::Owed;
use super::relay::Dispatch;
use crate::exit::Failure;

/// The next hop of mail for mailboxes here. No domain has a colon.
pub(super) const LOCAL: &str = "local:";
/// The next hop of mail for the relay host.
const RELAY: &str = "relay:";
/// The next hop of notices for an alias, which is looked up on the way; all other mail comes in with that done.
const ALIAS: &str = "alias:";
/// What the next hop of mail for a program begins with; the program's path follows. Those with a program in common wait
/// together.
const PROGRAM: &str = "program:";

/// What there is to decide by; replaced whole when the configuration is read again.
pub(super) struct Table {
    mailboxes: Mailboxes,
    maildir: Maildir,
    /// Who runs programs, if there are any.
    run_as: Option<RunAs>,
    routes: Routes<Way>,
    relay: Option<Named<Client>>,
    exchanges: Exchanges,
    owed: Owed,
}

/// A route that can be used.
#[derive(Debug, Clone)]
enum Way {
    Server(Named<Client>),
    Program(Program),
}

impl Way {
    fn delivery(&self) -> BoxDelivery {
        match self {
            Self::Server(server) => BoxDelivery::new(server.clone()),
            Self::Program(program) => BoxDelivery::new(program.clone()),
        }
    }
}

impl Table {
    /// The table that the plan asks for.
    ///
    /// # Errors
    /// If a route cannot be used; says which.
    pub(super) fn new(
        plan: &Plan,
        mailboxes: Mailboxes,
        maildir: Maildir,
        own: &[IpAddr],
        results: &Arc<Results>,
    ) -> Result<Self, Failure> {
        let hello = EhloName::from(plan.hostname.clone());
        let Set { routes, relay, run_as } = set(plan, &mailboxes, &hello)?;
        let maildir = maildir.for_mailboxes(&mailboxes);
        let exchanges = exchanges(plan, hello, own)?.with_results(Arc::clone(results));
        Ok(Self { mailboxes, maildir, run_as, routes, relay, exchanges, owed: Owed::new(plan)? })
    }

    fn hop(&self, to: &ForwardPath) -> NextHop {
        if let Some(invocation) = self.mailboxes.program_of(to) {
            let path: String = invocation.program().to_string_lossy().chars().take(120).collect();
            return named(&format!("{PROGRAM}{path}"));
        }
        let Some(mailbox) = to.mailbox().filter(|_| !self.mailboxes.is_local(to)) else { return named(LOCAL) };
        match self.routes.find(mailbox.host()) {
            Some((pattern, _)) => named(pattern),
            None if self.relay.is_some() => named(RELAY),
            None => smtp_queue::ByDomain.next_hop(to),
        }
    }

    fn delivery(&self, next_hop: &str, queue: Option<&Queue>) -> Result<BoxDelivery, Refusal> {
        let gone = |what: &str| Refusal::new(451, (4, 3, 5), format!("{what} is not in the configuration any more"));
        match next_hop {
            LOCAL => return Ok(BoxDelivery::new(self.maildir.clone().each())),
            ALIAS => {
                let relay = queue.map(|queue| (self.mailboxes.clone(), queue.clone()));
                let dispatch = Dispatch { maildir: self.maildir.clone(), relay };
                return Ok(BoxDelivery::new(AliasLayer::new(&self.mailboxes).layer(dispatch)));
            }
            _ if next_hop.starts_with(PROGRAM) => {
                let run_as = self.run_as.clone().ok_or_else(|| gone("the program"))?;
                return Ok(BoxDelivery::new(Program::of_aliases(&self.mailboxes, run_as)));
            }
            RELAY => {
                let relay = self.relay.clone().ok_or_else(|| gone("the relay host"))?;
                return Ok(BoxDelivery::new(relay));
            }
            _ if next_hop.starts_with('.') => {
                return Ok(self.routes.get(next_hop).ok_or_else(|| gone("the route"))?.delivery());
            }
            _ => {}
        }
        let host: Host = next_hop
            .parse()
            .map_err(|error| Refusal::new(550, (5, 1, 2), format!("no mail goes to {next_hop:?}: {error}")))?;
        // Queued before the configuration said otherwise.
        Ok(match (self.routes.find(next_hop), &self.relay) {
            (Some((_, route)), _) => route.delivery(),
            (None, Some(relay)) => BoxDelivery::new(relay.clone()),
            (None, None) => BoxDelivery::new(self.exchanges.to(host).under(self.owed.to(next_hop))),
        })
    }
}

/// Whether the routes and programs of the plan can be used.
///
/// # Errors
/// If one cannot; says which.
pub(super) fn check(plan: &Plan, mailboxes: &Mailboxes) -> Result<(), Failure> {
    Owed::new(plan)?;
    client_tls(plan)?;
    resolver(plan)?;
    set(plan, mailboxes, &EhloName::from(plan.hostname.clone())).map(drop)
}

/// Whether signatures in the DNS are validated.
pub(super) fn validates(plan: &Plan) -> bool {
    let needed = || Owed::new(plan).is_ok_and(|owed| owed.needs_dnssec());
    plan.dnssec || plan.dnssec_anchor.is_some() || needed()
}

/// What looks names up. Nothing is sent yet.
fn resolver(plan: &Plan) -> Result<Resolver, Failure> {
    let settings = DnsSettings {
        servers: plan.dns.clone(),
        validate: validates(plan),
        trust_anchor: plan.dnssec_anchor.clone(),
        ..DnsSettings::default()
    };
    Resolver::new(settings).map_err(|error| {
        Failure::config(error).help(match plan.dnssec_anchor {
            Some(_) => "--dnssec-anchor FILE has DNSKEY records, one on a line, as they stand in a zone file",
            None => "--dns ADDRESS:PORT names a name server; --relay-host URL does without one",
        })
    })
}

/// TLS to hosts that the DNS names.
fn client_tls(plan: &Plan) -> Result<ClientTls, Failure> {
    let tls = ClientTls::builder();
    let tls = match &plan.mx_tls_ca {
        Some(ca) => tls.ca_file(ca),
        None => tls,
    };
    tls.build().map_err(Failure::config)
}

struct Set {
    routes: Routes<Way>,
    relay: Option<Named<Client>>,
    run_as: Option<RunAs>,
}

/// The routes that were set, the relay host, and who runs programs.
fn set(plan: &Plan, mailboxes: &Mailboxes, hello: &EhloName) -> Result<Set, Failure> {
    let routed = plan.routes.iter().filter_map(|route| match &route.by {
        By::Program(invocation) => Some(&**invocation),
        By::Server(_) => None,
    });
    let run_as = local::runner(plan, mailboxes.programs().chain(routed))?;
    let mut routes = Routes::default();
    for route in &plan.routes {
        let way = match (&route.by, &run_as) {
            (By::Server(hop), _) => Way::Server(hop.client(hello, plan.source)?),
            (By::Program(invocation), Some(run_as)) => {
                let program = Program::new(Arc::clone(invocation), run_as.clone());
                Way::Program(program.with_separator(mailboxes.separator()))
            }
            (By::Program(_), None) => continue,
        };
        let known = routes
            .set(&route.destination, way)
            .map_err(|error| Failure::config(format!("--route {route}: {error}")))?;
        if known.is_some() {
            return Err(Failure::config(format!("--route: two routes for {}", route.destination)));
        }
    }
    let relay = plan.relay_host.as_ref().map(|hop| hop.client(hello, plan.source)).transpose()?;
    Ok(Set { routes, relay, run_as })
}

fn named(name: &str) -> NextHop {
    // Domains and the names above are next hops; what is none goes nowhere and is told so.
    NextHop::new(name).unwrap_or_else(|_| smtp_queue::ByDomain.next_hop(&ForwardPath::Postmaster))
}

fn exchanges(plan: &Plan, hello: EhloName, own: &[IpAddr]) -> Result<Exchanges, Failure> {
    let dns: Arc<dyn Dns> = Arc::new(resolver(plan)?);
    let tls = client_tls(plan)?;
    let names = std::iter::once(&plan.hostname).chain(&plan.domains).map(|name| name.as_str());
    // On another port than that of mail this machine's own addresses may be other servers, as in tests.
    let own = Own::new(names, own.iter().copied()).with_loopback(plan.mx_port.is_none());
    let client = smtp_client::Settings { options: Options::new(hello), ..smtp_client::Settings::default() };
    let local = plan.source;
    let settings = RouteSettings { port: plan.mx_port.unwrap_or(25), local, ..RouteSettings::default() };
    // A host that says so in the DNS is reached over QUIC, raced against TCP.
    let options = QuicOptions { transport: plan.quic.transport(), local, ..QuicOptions::default() };
    let quic = QuicConnector::new(&tls, options).map_err(Failure::config)?;
    let discovery = SvcbDiscovery::new(Arc::clone(&dns), "smtp-quic-00");
    let sts = sts(plan, &dns, &tls)?;
    let tcp = TcpConnector::new(tls).with_options(ConnectOptions { local, ..ConnectOptions::default() });
    let connector = RacingConnector::new(quic, tcp, discovery, RacingOptions::default());
    Ok(Exchanges::new(dns, connector, own, client, settings).with_sts(Arc::new(sts)))
}

/// What domains say in MTA-STS policies. It is asked only where that matters.
fn sts(plan: &Plan, dns: &Arc<dyn Dns>, tls: &ClientTls) -> Result<Sts, Failure> {
    let fetch = HttpsFetch::new(Arc::clone(dns), tls, plan.mx_sts_port.unwrap_or(443));
    let settings = StsSettings { folder: Some(plan.data_dir.join("sts")), ..StsSettings::default() };
    Sts::new(Arc::clone(dns), fetch, settings, SystemTime::now())
        .map_err(|error| Failure::config(format!("cannot keep MTA-STS policies: {error}")))
}

/// The table that holds now.
pub(super) struct Ways {
    table: RwLock<Arc<Table>>,
    /// For what goes back into it.
    queue: OnceLock<Queue>,
}

impl Ways {
    pub(super) fn new(table: Table) -> Self {
        Self { table: RwLock::new(Arc::new(table)), queue: OnceLock::new() }
    }

    /// Names the queue, once.
    pub(super) fn set_queue(&self, queue: Queue) {
        // A second one changes nothing.
        let _ = self.queue.set(queue);
    }

    /// From now on this one holds, for queued mail too.
    pub(super) fn replace(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ways")
    }
}

impl QueuePlan for Ways {
    fn next_hop(&self, to: &ForwardPath) -> NextHop {
        self.table().hop(to)
    }
}

impl Router for Ways {
    fn route(&self, next_hop: &NextHop) -> Result<BoxDelivery, Refusal> {
        self.table().delivery(next_hop.as_str(), self.queue.get())
    }
}

/// The plan for notices: the sender's address may be an alias.
#[derive(Debug)]
pub(super) struct Returns(pub(super) Arc<Ways>);

impl QueuePlan for Returns {
    fn next_hop(&self, to: &ForwardPath) -> NextHop {
        let table = self.0.table();
        if table.mailboxes.is_alias(to) { named(ALIAS) } else { table.hop(to) }
    }
}
