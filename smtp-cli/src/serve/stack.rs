//! The stack that each session gets.

use std::sync::Arc;
use std::time::Duration;

use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::service::{Delivery, Policy};
use smtp_core::session::server::{Config, Limits};
use smtp_server::auth::{SenderLayer, SharedUsers};
use smtp_server::{
    AuthLayer, LoopLayer, Mailboxes, Maildir, ReceivedLayer, RequireTlsLayer, SessionLimitLayer, Settings,
    TraceDeliveryLayer, TraceLayer,
};
use tower::util::option_layer;
use tower_layer::Layer;

use super::Plan;
use super::store::Store;
use crate::exit::Failure;
use crate::listen::{self, Strict};

/// What all sessions share, to be put together for each.
#[derive(Debug)]
pub(super) struct Stack {
    sessions: SessionLimitLayer,
    strict: Strict,
    auth: Option<(AuthLayer, SenderLayer)>,
    mailboxes: Mailboxes,
    received: ReceivedLayer,
    maildir: Maildir,
}

impl Stack {
    /// The parts, from the settings and the store.
    ///
    /// # Errors
    /// If domains and mailboxes do not go together.
    pub(super) fn new(plan: &Plan, store: &Store, strict: Strict) -> Result<Self, Failure> {
        Ok(Self {
            sessions: SessionLimitLayer::new(),
            strict,
            auth: store.users.as_ref().map(|users| auth(plan, users)).transpose()?,
            mailboxes: mailboxes(plan)?,
            received: ReceivedLayer::new(&plan.hostname),
            maildir: store.maildir.clone(),
        })
    }

    /// What the sessions are told of the server.
    pub(super) fn settings(&self, plan: &Plan) -> Settings {
        let mut limits = Limits::default();
        if let Some(size) = plan.max_size {
            limits.message_size = size.0;
        }
        let config = Config::new(plan.hostname.clone())
            .promising(Maildir::PROMISES)
            .with_mechanisms(self.auth.as_ref().map(|(auth, _)| auth.offers()).unwrap_or_default())
            .with_limits(limits);
        let mut settings = Settings::new(driver::Settings::new(config));
        settings.connections = listen::connections();
        settings.drain = plan.drain.map_or(Duration::from_secs(30), |wait| wait.0);
        settings
    }

    /// The services of one session.
    pub(super) fn of(&self, session: &SessionInfo) -> (impl Policy + use<>, impl Delivery + use<>) {
        // Who gets mail here; nobody is relayed for, so that no open relay comes of a setting left out.
        let policy = self.mailboxes.clone();
        // AUTH, if somebody can authenticate; whoever has sends as itself.
        let (auth, sender) = self.auth.clone().unzip();
        let policy = option_layer(sender).layer(policy);
        let policy = option_layer(auth).layer(policy);
        // `?tls=required`: nothing that matters is said in clear.
        let policy = option_layer(self.strict.holds(session).then_some(RequireTlsLayer)).layer(policy);
        // One peer cannot take all the places.
        let policy = self.sessions.layer(policy);
        // Outermost, so that the log has what the others refuse.
        let policy = TraceLayer.layer(policy);

        // On stable storage before the 250.
        let delivery = self.maildir.clone();
        // Every host says that it had the message (RFC 5321 §4.4).
        let delivery = self.received.layer(delivery);
        // Outside of it, so that only what others wrote is counted.
        let delivery = LoopLayer::default().layer(delivery);
        // Outermost, so that the log has every end.
        let delivery = TraceDeliveryLayer.layer(delivery);
        (policy, delivery)
    }
}

fn mailboxes(plan: &Plan) -> Result<Mailboxes, Failure> {
    let [primary, others @ ..] = &*plan.domains else { return Err(Failure::config("there is no domain")) };
    let domain = |error| Failure::config(format!("--domain: {error}"));
    let mut mailboxes = Mailboxes::new(primary).map_err(domain)?;
    for other in others {
        mailboxes = mailboxes.and(other).map_err(domain)?;
    }
    if plan.mailboxes.is_empty() {
        return Ok(mailboxes);
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
    Ok(mailboxes)
}

fn auth(plan: &Plan, users: &Arc<SharedUsers>) -> Result<(AuthLayer, SenderLayer), Failure> {
    let domain = |error| Failure::config(format!("--domain: {error}"));
    let sender = SenderLayer::new(Arc::clone(users) as _);
    let sender = plan.domains.iter().try_fold(sender, SenderLayer::local).map_err(domain)?;
    Ok((AuthLayer::users(users, &plan.hostname), sender))
}
