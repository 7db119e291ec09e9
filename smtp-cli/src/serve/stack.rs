//! The stack that each session gets.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::service::{Delivery, Policy};
use smtp_core::session::server::{Config, Limits};
use smtp_queue::Queue;
use smtp_server::auth::{SenderLayer, SharedUsers};
use smtp_server::maildir::QuotaLayer;
use smtp_server::{
    AliasLayer, AuthLayer, LoopLayer, Mailboxes, Maildir, ReceivedLayer, RequireAuthLayer, RequireTlsLayer,
    SessionLimitLayer, Settings, SubmissionLayer, TraceDeliveryLayer, TraceLayer,
};
use tower::util::option_layer;
use tower_layer::Layer;

use super::Plan;
use super::local;
use super::relay::{Dispatch, Relay};
use super::store::Store;
use crate::exit::Failure;
use crate::listen::{self, Strict};
use crate::url::Role;

/// By which door a session comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Other hosts and users alike.
    Any,
    /// Other hosts.
    Mx,
    /// Users.
    Submission,
    /// Programs of this process's user, by a socket that nobody else can reach.
    Programs,
}

impl Door {
    pub(super) const ALL: [Self; 4] = [Self::Any, Self::Mx, Self::Submission, Self::Programs];

    const fn authenticates(self) -> bool {
        matches!(self, Self::Any | Self::Submission)
    }
}

impl From<Role> for Door {
    fn from(role: Role) -> Self {
        match role {
            Role::Any => Self::Any,
            Role::Mx => Self::Mx,
            Role::Submission => Self::Submission,
        }
    }
}

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
    strict: Strict,
    auth: Option<(AuthLayer, SenderLayer)>,
    mailboxes: Mailboxes,
    submission: SubmissionLayer,
    received: ReceivedLayer,
    maildir: Maildir,
    /// Whether there are any.
    quotas: bool,
    queue: Option<Queue>,
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
        strict: Strict,
    ) -> Result<Self, Failure> {
        Ok(Self {
            sessions: SessionLimitLayer::new(),
            strict,
            auth: store.users.as_ref().map(|users| auth(plan, users)).transpose()?,
            maildir: store.maildir.clone().for_mailboxes(&mailboxes),
            quotas: !plan.quotas.is_empty(),
            mailboxes,
            submission: SubmissionLayer::new(&plan.hostname),
            received: ReceivedLayer::new(&plan.hostname),
            queue: relay.map(|relay| relay.queue.clone()),
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

    /// What the sessions of one of several doors are told of the server. Connections are shared out among doors.
    pub(super) fn settings(&self, plan: &Plan, door: Door, doors: usize) -> Settings {
        let limits = Limits { message_size: plan.message_size(), ..Limits::default() };
        let mechanisms = self.auth.as_ref().filter(|_| door.authenticates()).map(|(auth, _)| auth.offers());
        let config = Config::new(plan.hostname.clone())
            .promising(Maildir::PROMISES)
            .with_mechanisms(mechanisms.unwrap_or_default())
            .with_limits(limits);
        let mut settings = Settings::new(driver::Settings::new(config));
        settings.connections = (listen::connections() / doors.max(1)).max(16);
        settings.drain = plan.drain_time();
        settings.last_session = Arc::clone(&self.last_session);
        settings
    }

    /// The services of one session.
    pub(super) fn of(&self, session: &SessionInfo, door: Door) -> (impl Policy + use<>, impl Delivery + use<>) {
        // Who gets mail here. Others do only by way of the queue, and from those who have shown who they are.
        let relays = self.queue.is_some();
        let mailboxes = self.mailboxes.clone().relay_for_authenticated(relays && door.authenticates());
        let policy = mailboxes.relay_for_processes(relays && door == Door::Programs);
        // And whose mailbox is not full.
        let policy = option_layer(self.quotas.then(|| QuotaLayer::new(&self.maildir))).layer(policy);
        // Whoever has shown who they are sends as themselves.
        let (auth, sender) = self.auth.clone().filter(|_| door.authenticates()).unzip();
        let policy = option_layer(sender).layer(policy);
        // Users first do so.
        let policy = option_layer((door == Door::Submission).then_some(RequireAuthLayer)).layer(policy);
        // AUTH, if somebody can authenticate.
        let policy = option_layer(auth).layer(policy);
        // `?tls=required`: nothing that matters is said in clear.
        let policy = option_layer(self.strict.holds(session).then_some(RequireTlsLayer)).layer(policy);
        // One peer cannot take all the places.
        let policy = self.sessions.layer(policy);
        // Outermost, so that the log has what the others refuse.
        let policy = TraceLayer.layer(policy);

        // On stable storage before the 250: in the mailboxes, or in the queue.
        let relay = self.queue.clone().map(|queue| (self.mailboxes.clone(), queue));
        let delivery = Dispatch { maildir: self.maildir.clone(), relay };
        // Everything above sees the address that was written to.
        let delivery = AliasLayer::new(&self.mailboxes).layer(delivery);
        // Every host says that it had the message (RFC 5321 §4.4).
        let delivery = self.received.layer(delivery);
        // What its author left out comes below that.
        let delivery = self.submission.clone().processes(door == Door::Programs).layer(delivery);
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
