//! The way in: a delivery that stores.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Chunk, Outcome, Promises, Receipt, Transaction};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Envelope, ForwardPath, Mail, Rcpt, Refusal};
use tower_service::Service;

use crate::clock::Clock;
use crate::error::Error;
use crate::expansion;
use crate::job::{NewJob, NewMessage, NextHop};
use crate::notice::Kind;
use crate::scheduler::Schedule;
use crate::spool::Spool;
use crate::terms::{Terms, deadline, released};

/// Recipients of one job: 100, which every server takes (RFC 5321 §4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;

/// Names the next hop of an address. It does not look anything up: that is for whoever delivers.
pub trait Plan: Send + Sync + 'static {
    /// Where mail for this address goes next.
    fn next_hop(&self, to: &ForwardPath) -> NextHop;
}

impl<F: Fn(&ForwardPath) -> NextHop + Send + Sync + 'static> Plan for F {
    fn next_hop(&self, to: &ForwardPath) -> NextHop {
        self(to)
    }
}

/// The plan of a host that has no routes of its own: the next hop is the domain, in lower case.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByDomain;

impl Plan for ByDomain {
    fn next_hop(&self, to: &ForwardPath) -> NextHop {
        let host = to.mailbox().map_or("localhost", |mailbox| mailbox.host());
        NextHop::new(&host.to_lowercase()).unwrap_or_else(|_| NextHop::unknown())
    }
}

/// A delivery that stages each message into a [`Spool`] and answers when it is stored: 250 with its id, 452 4.3.1 when
/// the spool is full, 451 4.3.0 when its disk does not work.
///
/// Mail that is to be held until after the deadline that was set for it is refused with 501 5.5.4.
///
/// Each next hop of the [`Plan`] becomes a job, and more than one beyond 100 recipients. Clones share everything.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    spool: Arc<dyn Spool>,
    plan: Arc<dyn Plan>,
    schedule: Schedule,
    clock: Arc<Clock>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("spool", &self.0.spool).finish_non_exhaustive()
    }
}

impl Queue {
    /// It stores octets as they are; what was asked by parameters is kept and passed on, and a next hop that cannot do it
    /// gets no such mail (REQUIRETLS). [`Dsn`](crate::Dsn) writes the notices of RFC 3461, and deadlines and priorities
    /// are heeded. FUTURERELEASE is offered only where [`Terms::clock`](smtp_core::extension::Terms::clock) is set; it is
    /// for submission (RFC 4865), as priorities should be, since whoever may set them goes before others.
    pub const PROMISES: Promises =
        Promises::of(&["8BITMIME", "SMTPUTF8", "REQUIRETLS", "DSN", "DELIVERBY", "MT-PRIORITY", "FUTURERELEASE"]);

    /// A queue into `spool`. `clock` is to be the runner's too.
    #[must_use]
    pub fn new(spool: Arc<dyn Spool>, plan: Arc<dyn Plan>, schedule: Schedule, clock: Arc<Clock>) -> Self {
        Self(Arc::new(Shared { spool, plan, schedule, clock }))
    }

    /// A recipient to be put beside those that `alias` stands for, where they are more than one. It gets no mail: once the
    /// message is stored, its sender gets the notice that the alias was expanded ([`Kind::Expanded`]), as surely as any
    /// other. `None` if NOTIFY has no SUCCESS, so that no such notice is wanted (RFC 3461 §5.2.7.3).
    #[must_use]
    pub fn expanded(alias: &Rcpt) -> Option<Rcpt> {
        expansion::owed(alias)
    }
}

impl Service<Transaction> for Queue {
    type Response = Outcome;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let recipients = transaction.envelope.recipients.len();
            Ok(Outcome::all(shared.store(transaction).await, recipients))
        })
    }
}

impl Shared {
    async fn store(&self, transaction: Transaction) -> Result<Receipt, Refusal> {
        let Transaction { session, envelope, body } = transaction;
        let session_id = session.id;
        let stored = self.stage(&session, envelope, body).await;
        stored.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Spool(error) => {
                tracing::warn!(session = session_id, %error, "a message was not queued; its sender tries again");
                error.refusal()
            }
        })
    }

    async fn stage(&self, session: &SessionInfo, envelope: Envelope, mut body: Body) -> Result<Receipt, Failure> {
        let now = self.clock.now();
        let release = released(&envelope.mail, now);
        if deadline(&envelope.mail, now).is_some_and(|(deadline, _)| release > now && release >= deadline) {
            let late = "it is to be held until after its deadline (HOLDFOR or HOLDUNTIL, and BY)";
            return Err(Failure::Refused(Refusal::fixed(501, (5, 5, 4), late)));
        }
        let declared = || envelope.mail.parameters.value("SIZE").flatten().and_then(|size| size.parse().ok());
        let mut staged = self.spool.begin(now, body.size().or_else(declared)).await?;
        let complete = loop {
            match body.next().await {
                Ok(Chunk::Data(data)) => staged.write(data).await?,
                Ok(Chunk::End(complete)) => break complete,
                Err(_) => {
                    return Err(Failure::Refused(Refusal::fixed(451, (4, 4, 2), "the message did not come whole")));
                }
            }
        };
        let sender = match &session.identity {
            Some(identity) => Arc::from(&*identity.user),
            None => sender_of(&envelope.mail),
        };
        let message = new_message(envelope, sender, &*self.plan, &self.schedule, now);
        Ok(staged.commit(complete, message).await?)
    }
}

enum Failure {
    Refused(Refusal),
    Spool(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Spool(error)
    }
}

fn sender_of(mail: &Mail) -> Arc<str> {
    mail.from.mailbox().map_or_else(|| Arc::from("<>"), |mailbox| Arc::from(mailbox.as_str()))
}

/// A message for a spool: its recipients divided among jobs by next hop.
pub fn new_message(
    envelope: Envelope,
    sender: Arc<str>,
    plan: &dyn Plan,
    schedule: &Schedule,
    now: std::time::SystemTime,
) -> NewMessage {
    let Terms { due, alarm, expires, priority } = Terms::of(&envelope.mail, schedule, now);
    let mut jobs = Vec::<NewJob>::new();
    let mut open = HashMap::<NextHop, usize>::new();
    let (mut seen, several) = (HashSet::new(), envelope.recipients.len() > 1);
    // One that is named twice is told of once.
    let mut first = |rcpt: &Rcpt| !several || seen.insert((rcpt.to.clone(), rcpt.parameters.clone()));
    for rcpt in envelope.recipients.into_iter().filter(|rcpt| first(rcpt)) {
        let next_hop = if expansion::is_owed(&rcpt) { NextHop::expanded() } else { plan.next_hop(&rcpt.to) };
        let place = open.get(&next_hop).and_then(|n| jobs.get_mut(*n));
        match place.filter(|job| job.recipients.len() < RECIPIENTS_MAX) {
            Some(job) => job.recipients.push(rcpt),
            None => {
                open.insert(next_hop.clone(), jobs.len());
                jobs.push(NewJob { next_hop, priority, due, alarm, expires, recipients: vec![rcpt] });
            }
        }
    }
    for job in &mut jobs {
        // Where nobody wants to hear of a delay there is no alarm before the end.
        if !job.recipients.iter().any(|rcpt| Kind::Delayed.is_wanted(rcpt)) && due < expires {
            job.alarm = expires;
        }
    }
    NewMessage { mail: envelope.mail, sender, jobs }
}
