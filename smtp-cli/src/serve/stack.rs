//! The stack that each session gets.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use smtp_core::driver;
use smtp_core::extension::{ETRN, Extension, Forwarders};
use smtp_core::service::{Delivery, Policy, Promises};
use smtp_core::session::server::{Config, Limits};
use smtp_queue::Queue;
use smtp_server::auth::{SenderLayer, SharedUsers};
use smtp_server::maildir::QuotaLayer;
use smtp_server::{
    AliasLayer, AuthLayer, EtrnLayer, LoopLayer, Mailboxes, Maildir, Places, ReceivedLayer, RequireAuthLayer,
    RequireTlsLayer, SessionLimitLayer, Settings, SubmissionLayer, TraceDeliveryLayer, TraceLayer,
};
use tower::util::option_layer;
use tower_layer::Layer;

use super::Plan;
use super::local;
use super::relay::{Dispatch, Relay};
use super::store::Store;
use crate::exit::Failure;
use crate::listen::{self, Entrance};
use crate::url::Role;

/// By which door a session comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Door {
    whose: Whose,
    /// Nothing that matters is said in clear here.
    tls_first: bool,
    /// Who is believed here what they say of others.
    forwarders: Forwarders,
}

/// Who comes in by a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Other hosts and users alike.
    Any,
    /// Other hosts.
    Mx,
    /// Users.
    Submission,
    /// Programs on this machine, by a socket that is for them.
    Programs,
}

impl Door {
    /// That of programs on this machine.
    pub(super) fn programs() -> Self {
        Self { whose: Whose::Programs, tls_first: false, forwarders: Forwarders::default() }
    }

    const fn authenticates(&self) -> bool {
        matches!(self.whose, Whose::Any | Whose::Submission)
    }

    /// Nobody but users comes in here, and they have said who they are.
    const fn is_for_users_alone(&self) -> bool {
        matches!(self.whose, Whose::Submission | Whose::Programs)
    }
}

impl From<Entrance> for Door {
    fn from(entrance: Entrance) -> Self {
        let Entrance { role, tls_first, forwarders } = entrance;
        let whose = match role {
            Role::Any => Whose::Any,
            Role::Mx => Whose::Mx,
            Role::Submission => Whose::Submission,
        };
        Self { whose, tls_first, forwarders }
    }
}

/// ETRN, where a queue is behind it: that is the promise.
static ETRN_HERE: Extension = Extension { needs_promise: false, ..ETRN };

/// How long after one ETRN the next for the same domain is refused.
const ETRN_EVERY: Duration = Duration::from_secs(300);

/// [`Queue::PROMISES`] but for what is a user's alone: to have mail held (RFC 4865), and to go before others.
const TO_STRANGERS: Promises = Promises::of(&["8BITMIME", "SMTPUTF8", "REQUIRETLS", "DSN", "DELIVERBY"]);

/// The stack that new sessions get; those that run keep theirs.
#[derive(Debug)]
pub(super) struct Current(RwLock<Arc<Stack>>);

impl Current {
    pub(super) fn new(stack: Stack) -> Self {
        Self(RwLock::new(Arc::new(stack)))
    }

    pub(super) fn get(&self) -> Arc<Stack> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, stack: Stack) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(stack);
    }
}

/// What all sessions share, to be put together for each.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    sessions: SessionLimitLayer,
    etrn: Option<EtrnLayer>,
    auth: Option<(AuthLayer, SenderLayer)>,
    mailboxes: Mailboxes,
    submission: SubmissionLayer,
    received: ReceivedLayer,
    maildir: Maildir,
    /// Whether there are any.
    quotas: bool,
    queue: Option<Queue>,
    /// The places for connections, whatever door they come by.
    places: Places,
    /// The number of the last session, whatever door it came by.
    last_session: Arc<AtomicU64>,
}

impl Stack {
    /// The parts, from the settings and the store.
    pub(super) fn new(
        plan: &Plan,
        store: &Store,
        mailboxes: Mailboxes,
        relay: Option<&Relay>,
    ) -> Result<Self, Failure> {
        let etrn = relay.filter(|_| !plan.etrn.is_empty()).map(|relay| {
            let layer = EtrnLayer::new(relay.waiting()).every(ETRN_EVERY);
            plan.etrn.iter().fold(layer, EtrnLayer::domain)
        });
        let connections = listen::connections();
        Ok(Self {
            // A twentieth, as the default is of the default.
            sessions: SessionLimitLayer::new().per_peer((connections / 20).max(10)),
            etrn,
            auth: store.users.as_ref().map(|users| auth(plan, users)).transpose()?,
            maildir: store.maildir.clone().for_mailboxes(&mailboxes),
            quotas: !plan.quotas.is_empty(),
            mailboxes,
            submission: SubmissionLayer::new(&plan.hostname),
            received: ReceivedLayer::new(&plan.hostname),
            queue: relay.map(|relay| relay.queue.clone()),
            places: Places::new(connections),
            last_session: Arc::default(),
        })
    }

    /// The same with what was read again. Whether anybody can authenticate stays as it was: what EHLO offers does not
    /// change.
    ///
    /// # Errors
    /// If a domain is none.
    pub(super) fn again(&self, plan: &Plan, store: &Store, mailboxes: Mailboxes) -> Result<Self, Failure> {
        let auth = store.users.as_ref().map(|users| auth(plan, users)).transpose()?;
        let (maildir, quotas) = (store.maildir.clone().for_mailboxes(&mailboxes), !plan.quotas.is_empty());
        Ok(Self { auth, mailboxes, maildir, quotas, ..self.clone() })
    }

    /// What the sessions of one door are told of the server.
    pub(super) fn settings(&self, plan: &Plan, door: &Door) -> Settings {
        let limits = Limits { message_size: plan.message_size(), ..Limits::default() };
        let mechanisms = self.auth.as_ref().filter(|_| door.authenticates()).map(|(auth, _)| auth.offers());
        let promises = match &self.queue {
            None => Maildir::PROMISES,
            Some(_) if door.is_for_users_alone() => Queue::PROMISES,
            Some(_) => TO_STRANGERS,
        };
        let mut config = Config::new(plan.hostname.clone())
            .promising(promises)
            .with_terms(plan.terms.clone())
            .with_forwarders(door.forwarders.clone())
            .with_mechanisms(mechanisms.unwrap_or_default())
            .with_limits(limits);
        if self.etrn_at(door).is_some() {
            config.registry = config.registry.with(&ETRN_HERE);
        }
        let mut settings = Settings::new(driver::Settings::new(config));
        settings.connections = self.places.clone();
        settings.drain = plan.drain_time();
        settings.last_session = Arc::clone(&self.last_session);
        settings
    }

    /// What starts the queue for those who come in by a door.
    fn etrn_at(&self, door: &Door) -> Option<&EtrnLayer> {
        self.etrn.as_ref().filter(|_| matches!(door.whose, Whose::Any | Whose::Mx))
    }

    /// The services of one session.
    pub(super) fn of(&self, door: &Door) -> (impl Policy + use<>, impl Delivery + use<>) {
        let programs = door.whose == Whose::Programs;
        // Who gets mail here. Others do only by way of the queue, and from those who have shown who they are.
        let relays = self.queue.is_some();
        let mailboxes = self.mailboxes.clone().relay_for_authenticated(relays && door.authenticates());
        let policy = mailboxes.relay_for_processes(relays && programs);
        // And whose mailbox is not full.
        let policy = option_layer(self.quotas.then(|| QuotaLayer::new(&self.maildir))).layer(policy);
        // Whoever has shown who they are sends as themselves.
        let (auth, sender) = self.auth.clone().filter(|_| door.authenticates()).unzip();
        let policy = option_layer(sender).layer(policy);
        // Hosts that were away ask for what waits for them.
        let policy = option_layer(self.etrn_at(door).cloned()).layer(policy);
        // Users first do so.
        let policy = option_layer((door.whose == Whose::Submission).then_some(RequireAuthLayer)).layer(policy);
        // AUTH, if somebody can authenticate.
        let policy = option_layer(auth).layer(policy);
        // `?tls=required`: nothing that matters is said in clear.
        let policy = option_layer(door.tls_first.then_some(RequireTlsLayer)).layer(policy);
        // One peer cannot take all the places.
        let policy = self.sessions.layer(policy);
        // Outermost, so that the log has what the others refuse.
        let policy = TraceLayer.layer(policy);

        // On stable storage before the 250: in the mailboxes, or in the queue.
        let relay = self.queue.clone().map(|queue| (self.mailboxes.clone(), queue));
        let delivery = Dispatch { maildir: self.maildir.clone(), relay };
        // Everything above sees the address that was written to.
        let delivery = AliasLayer::new(&self.mailboxes).telling(Queue::expanded).layer(delivery);
        // Every host says that it had the message (RFC 5321 §4.4).
        let delivery = self.received.layer(delivery);
        // What its author left out comes below that.
        let delivery = self.submission.clone().processes(programs).layer(delivery);
        // Outside of both, so that only what others wrote is counted.
        let delivery = LoopLayer::default().layer(delivery);
        // Outermost, so that the log has every end.
        let delivery = TraceDeliveryLayer.layer(delivery);
        (policy, delivery)
    }
}

/// Who gets mail here.
///
/// # Errors
/// If domains and mailboxes do not go together.
pub(super) fn mailboxes(plan: &Plan) -> Result<Mailboxes, Failure> {
    let [primary, others @ ..] = &*plan.domains else { return Err(Failure::config("there is no domain")) };
    let domain = |error| Failure::config(format!("--domain: {error}"));
    let mut mailboxes = Mailboxes::new(primary).map_err(domain)?;
    for other in others {
        mailboxes = mailboxes.and(other).map_err(domain)?;
    }
    for domain in &plan.relay_domains {
        if plan.domains.contains(domain) {
            let what = format!("--relay-domain {domain}: it is a local domain");
            return Err(Failure::config(what).help("a domain has its mailboxes here, or its mail is passed on"));
        }
        mailboxes = mailboxes.relay_to(domain).map_err(|error| Failure::config(format!("--relay-domain: {error}")))?;
    }
    // One by one, so that the error can name the one.
    for mailbox in &plan.mailboxes {
        mailboxes = mailboxes.only([mailbox]).map_err(|error| {
            let domains: Vec<&str> = plan.domains.iter().map(|domain| domain.as_str()).collect();
            Failure::config(format!("--mailbox {mailbox}: {error}")).help(format!(
                "--domain {} makes its domain a local one; local are {}",
                mailbox.host(),
                domains.join(", ")
            ))
        })?;
    }
    local::furnished(mailboxes, plan)
}

fn auth(plan: &Plan, users: &Arc<SharedUsers>) -> Result<(AuthLayer, SenderLayer), Failure> {
    let domain = |error| Failure::config(format!("--domain: {error}"));
    let sender = SenderLayer::new(Arc::clone(users) as _);
    let sender = plan.domains.iter().try_fold(sender, SenderLayer::local).map_err(domain)?;
    Ok((AuthLayer::users(users, &plan.hostname), sender))
}
