//! The queue of mail for others: what comes in, what goes out, and what is told of it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use smtp_core::extension::{HoldFor, HoldUntil};
use smtp_core::service::{Outcome, Transaction};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Envelope, Parameter};
use smtp_queue::{
    Clock, Counters, Dsn, Health, Hops, Kind as NoticeKind, Limits, Queue, Runner, Settings as RunnerSettings, Spool,
};
use smtp_server::{Mailboxes, Maildir};
use smtp_tls_policy::{Reporter, Results};
use std::task::{Context, Poll};
use tower_service::Service;

use super::Plan;
use super::etrn::Waiting;
use super::store::Store;
use super::ways::{Returns, Table, Ways};
use crate::exit::Failure;
use crate::transport::Socket;

/// More than the fields that are put before a message here.
const ADDED: u64 = 64 << 10;

/// The queue at work.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) spool: Arc<dyn Spool>,
    pub(super) clock: Arc<Clock>,
    pub(super) queue: Queue,
    pub(super) hops: Hops,
    pub(super) counters: Arc<Counters>,
    pub(super) ways: Arc<Ways>,
    own: Vec<IpAddr>,
    /// What came of TLS to other hosts.
    pub(super) results: Arc<Results>,
}

impl Relay {
    /// Opens the queue that the plan names, with what empties it; `None` if it names none.
    ///
    /// # Errors
    /// If the queue or a route cannot be used.
    pub(super) async fn open(
        plan: &Plan,
        store: &Store,
        mailboxes: &Mailboxes,
        sockets: &[Socket],
    ) -> Result<Option<(Self, Runner)>, Failure> {
        let Some(place) = &plan.queue else { return Ok(None) };
        let own = own_addresses(plan, sockets);
        let results = Arc::new(Results::new());
        let table = Table::new(plan, mailboxes.clone(), store.maildir.clone(), &own, &results)?;
        let limits = Limits::default();
        let body = plan.message_size().saturating_add(ADDED);
        let limits = Limits { body, free: limits.free.max(body.saturating_mul(2)), ..limits };
        let spool = place.open(plan, limits).await?;
        let (clock, schedule) = (Arc::new(Clock::new()), plan.schedule.clone());
        let ways = Arc::new(Ways::new(table));
        let queue = Queue::new(Arc::clone(&spool), ways.clone(), schedule.clone(), Arc::clone(&clock));
        ways.set_queue(queue.clone());
        if let Health::Full(why) | Health::Unhealthy(why) = spool.health() {
            tracing::warn!(why, "the queue takes no mail yet");
        }
        let notices = Dsn::new(plan.hostname.clone(), Arc::new(Returns(ways.clone())), schedule.clone());
        let settings = RunnerSettings { schedule, drain: plan.drain_time(), ..RunnerSettings::default() };
        let runner = Runner::new(Arc::clone(&spool), ways.clone(), Arc::new(notices), settings, Arc::clone(&clock));
        let (hops, counters) = (runner.hops(), runner.counters());
        Ok(Some((Self { spool, clock, queue, hops, counters, ways, own, results }, runner)))
    }

    /// What the configuration says now holds for all mail from here on.
    ///
    /// # Errors
    /// If a route cannot be used; the old ones stay.
    pub(super) fn reload(&self, plan: &Plan, mailboxes: &Mailboxes, maildir: &Maildir) -> Result<(), Failure> {
        self.ways.replace(Table::new(plan, mailboxes.clone(), maildir.clone(), &self.own, &self.results)?);
        Ok(())
    }

    /// The queue, for those who start it from outside.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting { spool: Arc::clone(&self.spool), clock: Arc::clone(&self.clock), hops: self.hops.clone() }
    }
}

/// Who says what came of TLS.
pub(super) fn reporter(plan: &Plan) -> Reporter {
    let domain = plan.domains.first().unwrap_or(&plan.hostname);
    Reporter { organization: plan.hostname.to_string(), contact: format!("postmaster@{domain}") }
}

/// The addresses that this machine has and was told of, so that it sends no mail to itself.
fn own_addresses(plan: &Plan, sockets: &[Socket]) -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "the addresses of this machine are not known; --own-address names them");
        Vec::new()
    });
    let listened = sockets.iter().filter_map(|socket| socket.url.parse::<crate::url::Url>().ok());
    let listened = listened.filter_map(|url| url.listen_address().ok()).map(|address| address.ip());
    let interfaces = interfaces.into_iter().map(|interface| interface.ip());
    let loopback = |ip: &IpAddr| ip.is_loopback();
    // Whether the loopback addresses count is said apart from the others.
    let mut own: Vec<IpAddr> = interfaces.chain(listened).filter(|ip| !loopback(ip) && !ip.is_unspecified()).collect();
    own.extend(&plan.own_addresses);
    own
}

/// A delivery that stores mail for mailboxes here in them, and all else in the queue.
///
/// A message for mailboxes alone goes straight into them: its sender hears at once what they say, such as that one is
/// full, where a queue could only send a bounce to an address that may be forged. One for others too is queued for all
/// of them, so that there is one answer and no part of it is delivered twice; and so is one whose sender asks for what only
/// the queue does: to hold it, or to tell that it was delivered.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    pub(super) maildir: Maildir,
    pub(super) relay: Option<(Mailboxes, Queue)>,
}

impl Service<Transaction> for Dispatch {
    type Response = Outcome;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let stays = |mailboxes: &Mailboxes| {
            let mut recipients = transaction.envelope.recipients.iter();
            recipients.all(|rcpt| mailboxes.is_local(&rcpt.to) && mailboxes.program_of(&rcpt.to).is_none())
        };
        match &mut self.relay {
            Some((mailboxes, queue)) if needs_queue(&transaction.envelope) || !stays(mailboxes) => {
                queue.call(transaction)
            }
            _ => self.maildir.call(transaction),
        }
    }
}

/// A mailbox holds nothing back, and sends no notices of success.
fn needs_queue(envelope: &Envelope) -> bool {
    let asks = |keyword| envelope.mail.parameters.value(keyword).is_some();
    asks(HoldFor::KEYWORD)
        || asks(HoldUntil::KEYWORD)
        || envelope.recipients.iter().any(|rcpt| NoticeKind::Delivered.is_wanted(rcpt))
}

/// Where the folder of the admin socket and of the submission socket is.
pub(crate) fn run_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("run")
}
