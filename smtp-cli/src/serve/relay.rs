//! The queue of mail for others: what comes in, what goes out, and what is told of it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use smtp_core::service::{BoxError, Outcome, Transaction};
use smtp_core::stream::BoxFuture;
use smtp_queue::{Clock, Dsn, Health, Hops, Limits, Queue, Runner, Schedule, Settings as RunnerSettings, Spool};
use smtp_server::{Mailboxes, Maildir};
use std::task::{Context, Poll};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::Plan;
use super::store::Store;
use super::ways::{Table, Ways};
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
    ways: Arc<Ways>,
    own: Vec<IpAddr>,
    schedule: Schedule,
}

impl Relay {
    /// Opens the queue that the plan names; `None` if it names none.
    ///
    /// # Errors
    /// If the queue or a route cannot be used.
    pub(super) async fn open(
        plan: &Plan,
        store: &Store,
        mailboxes: &Mailboxes,
        sockets: &[Socket],
    ) -> Result<Option<Self>, Failure> {
        let Some(place) = &plan.queue else { return Ok(None) };
        let own = own_addresses(plan, sockets);
        let table = Table::new(plan, mailboxes.clone(), store.maildir.clone(), &own)?;
        let limits = Limits::default();
        let body = plan.message_size().saturating_add(ADDED);
        let limits = Limits { body, free: limits.free.max(body.saturating_mul(2)), ..limits };
        let spool = place.open(plan, limits).await?;
        let (clock, schedule) = (Arc::new(Clock::new()), plan.schedule.clone());
        let ways = Arc::new(Ways::new(table));
        let queue = Queue::new(Arc::clone(&spool), ways.clone(), schedule.clone(), Arc::clone(&clock));
        if let Health::Full(why) | Health::Unhealthy(why) = spool.health() {
            tracing::warn!(why, "the queue takes no mail yet");
        }
        Ok(Some(Self { spool, clock, queue, ways, own, schedule }))
    }

    /// What the configuration says now holds for all mail from here on.
    ///
    /// # Errors
    /// If a route cannot be used; the old ones stay.
    pub(super) fn reload(&self, plan: &Plan, mailboxes: &Mailboxes, maildir: &Maildir) -> Result<(), Failure> {
        self.ways.replace(Table::new(plan, mailboxes.clone(), maildir.clone(), &self.own)?);
        Ok(())
    }

    /// Begins to empty the queue, until `stop`.
    pub(super) fn start(&self, plan: &Plan, stop: CancellationToken) -> (Hops, JoinHandle<()>) {
        let notices = Dsn::new(plan.hostname.clone(), self.ways.clone(), self.schedule.clone());
        let settings =
            RunnerSettings { schedule: self.schedule.clone(), drain: plan.drain_time(), ..RunnerSettings::default() };
        let (spool, clock) = (Arc::clone(&self.spool), Arc::clone(&self.clock));
        let runner = Runner::new(spool, self.ways.clone(), Arc::new(notices), settings, clock);
        (runner.hops(), tokio::spawn(runner.run(stop)))
    }
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
/// of them, so that there is one answer and no part of it is delivered twice.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    pub(super) maildir: Maildir,
    pub(super) relay: Option<(Mailboxes, Queue)>,
}

impl Service<Transaction> for Dispatch {
    type Response = Outcome;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Outcome, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        match &mut self.relay {
            Some((mailboxes, queue)) if !transaction.envelope.recipients.iter().all(|r| mailboxes.is_local(&r.to)) => {
                let queued = queue.call(transaction);
                Box::pin(async move { queued.await.map_err(|never| match never {}) })
            }
            _ => {
                let stored = self.maildir.call(transaction);
                Box::pin(async move { stored.await.map_err(|never| match never {}) })
            }
        }
    }
}

/// Where the folder of the admin socket and of the submission socket is.
pub(crate) fn run_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("run")
}
