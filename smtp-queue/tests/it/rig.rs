//! A queue with a runner in virtual time, and next hops that do as they are told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, BoxError, Omitted, Outcome, Receipt, Transaction};
use smtp_core::types::{AcceptedReply, Envelope, Mail, Mailbox, Parameters, Rcpt, Refusal, Reply, ReversePath};
use smtp_queue::kit::at;
use smtp_queue::{
    BoxDelivery, ByDomain, Clock, Counters, Dsn, Hops, MemSpool, NextHop, Queue, Router, Runner, Settings, Spool,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

/// What a next hop does with mail.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// Takes it after a while.
    Takes(Duration),
    /// Passes it on to a server that is not told this much of what was asked.
    Relays(Omitted),
    /// Cannot be reached.
    Dead,
    /// Answers so to each recipient.
    Says(Refusal),
    /// Answers for each recipient in turn.
    Each(Vec<Result<(), Refusal>>),
    /// Breaks off after the content.
    Breaks,
}

/// A message that a next hop took, or the content of a notice.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) time: SystemTime,
    pub(crate) hop: String,
    pub(crate) envelope: Envelope,
    pub(crate) content: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>, Arc<Clock>, Arc<AtomicI64>);

type Delegate = Arc<dyn Fn(&NextHop) -> BoxDelivery + Send + Sync>;

#[derive(Default)]
struct State {
    delegates: HashMap<String, Delegate>,
    does: HashMap<String, Does>,
    taken: Vec<Taken>,
    tries: Vec<(SystemTime, String)>,
    at_once: usize,
    most_at_once: usize,
}

impl World {
    pub(crate) fn new() -> Self {
        let jump = Arc::new(AtomicI64::new(0));
        Self(Arc::default(), Arc::new(virtual_clock(Arc::clone(&jump))), jump)
    }

    pub(crate) fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.1)
    }

    /// From now on the wall clock is so many seconds ahead, or behind.
    pub(crate) fn set_clock(&self, seconds: i64) {
        self.2.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn set(&self, hop: &str, does: Does) {
        self.0.lock().unwrap().does.insert(hop.into(), does);
    }

    /// Mail for `hop` goes through deliveries of its own.
    pub(crate) fn delegate(&self, hop: &str, to: impl Fn(&NextHop) -> BoxDelivery + Send + Sync + 'static) {
        self.0.lock().unwrap().delegates.insert(hop.into(), Arc::new(to));
    }

    pub(crate) fn taken(&self, hop: &str) -> Vec<Taken> {
        self.0.lock().unwrap().taken.iter().filter(|taken| taken.hop == hop).cloned().collect()
    }

    /// When `hop` was tried.
    pub(crate) fn tries(&self, hop: &str) -> Vec<SystemTime> {
        self.0.lock().unwrap().tries.iter().filter(|(_, name)| name == hop).map(|(time, _)| *time).collect()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.0.lock().unwrap().most_at_once
    }

    async fn deliver(self, hop: String, mut transaction: Transaction) -> Result<Outcome, BoxError> {
        let time = self.1.now();
        let does = {
            let mut state = self.0.lock().unwrap();
            state.tries.push((time, hop.clone()));
            state.at_once += 1;
            state.most_at_once = state.most_at_once.max(state.at_once);
            state.does.get(&hop).cloned().unwrap_or(Does::Takes(Duration::ZERO))
        };
        let n = transaction.envelope.recipients.len();
        let result = match does {
            Does::Dead => Err("no route to host".into()),
            Does::Says(refusal) => Ok(Outcome::all(Err(refusal), n)),
            Does::Takes(after) => {
                tokio::time::sleep(after).await;
                let (content, complete) = transaction.body.collect(1 << 24).await?;
                let (envelope, content) = (transaction.envelope, content.to_vec());
                self.0.lock().unwrap().taken.push(Taken { time: self.1.now(), hop, envelope, content });
                Ok(Outcome::all(Ok(Receipt::discarded(complete)), n))
            }
            Does::Relays(omitted) => {
                let (content, complete) = transaction.body.collect(1 << 24).await?;
                let (envelope, content) = (transaction.envelope, content.to_vec());
                self.0.lock().unwrap().taken.push(Taken { time, hop, envelope, content });
                let reply = AcceptedReply::try_from(Reply::fixed(250, (2, 0, 0), "taken"))?;
                Ok(Outcome::all(Ok(Receipt::relayed(complete, reply).omitting(omitted)), n))
            }
            Does::Each(answers) => {
                let (_, complete) = transaction.body.collect(1 << 24).await?;
                let receipt = Receipt::discarded(complete);
                Ok(Outcome::each(answers.into_iter().map(|answer| answer.map(|()| receipt.clone())).collect()))
            }
            Does::Breaks => {
                let _ = transaction.body.collect(1 << 24).await?;
                Err("connection reset".into())
            }
        };
        self.0.lock().unwrap().at_once -= 1;
        result
    }
}

impl Router for World {
    fn route(&self, next_hop: &NextHop) -> Result<BoxDelivery, Refusal> {
        if let Some(delegate) = self.0.lock().unwrap().delegates.get(next_hop.as_str()) {
            return Ok(delegate(next_hop));
        }
        let (world, hop) = (self.clone(), next_hop.as_str().to_owned());
        Ok(BoxDelivery::new(tower::service_fn(move |transaction| world.clone().deliver(hop.clone(), transaction))))
    }
}

/// A clock that goes as tokio's does, but for the jumps of the wall clock.
fn virtual_clock(jump: Arc<AtomicI64>) -> Clock {
    let start = tokio::time::Instant::now();
    Clock::with(move || {
        let now = tokio::time::Instant::now();
        let (wall, jump) = (at(0) + (now - start), jump.load(Ordering::SeqCst));
        let by = Duration::from_secs(jump.unsigned_abs());
        (if jump < 0 { wall - by } else { wall + by }, now.into_std())
    })
}

/// A queue that is running.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) spool: Arc<dyn Spool>,
    pub(crate) queue: Queue,
    pub(crate) counters: Arc<Counters>,
    pub(crate) hops: Hops,
    pub(crate) stop: CancellationToken,
    pub(crate) runner: JoinHandle<()>,
}

impl Rig {
    pub(crate) fn start(settings: Settings) -> Self {
        Self::over(Arc::new(MemSpool::default()), World::new(), settings)
    }

    pub(crate) fn over(spool: Arc<dyn Spool>, world: World, settings: Settings) -> Self {
        let (plan, clock) = (Arc::new(ByDomain), world.clock());
        let queue = Queue::new(Arc::clone(&spool), plan.clone(), settings.schedule.clone(), Arc::clone(&clock));
        let dsn = Dsn::new("mx.example".parse().unwrap(), plan, settings.schedule.clone());
        let runner = Runner::new(Arc::clone(&spool), Arc::new(world.clone()), Arc::new(dsn), settings, clock);
        let (counters, hops, stop) = (runner.counters(), runner.hops(), CancellationToken::new());
        let runner = tokio::spawn(runner.run(stop.clone()));
        Self { world, spool, queue, counters, hops, stop, runner }
    }

    /// Hands a message in; gives the answer.
    pub(crate) async fn send(&self, mail: &str, rcpts: &[&str], content: &str) -> Result<Receipt, Refusal> {
        let (from, parameters) = mail.split_once(' ').unwrap_or((mail, ""));
        let from = if from.is_empty() { ReversePath::Null } else { Mailbox::new(from).unwrap().into() };
        let rcpt = |text: &&str| {
            let (to, parameters) = text.split_once(' ').unwrap_or((text, ""));
            Rcpt { to: Mailbox::new(to).unwrap().into(), parameters: Parameters::new(parameters).unwrap() }
        };
        let envelope = Envelope {
            mail: Mail { from, parameters: Parameters::new(parameters).unwrap() },
            recipients: rcpts.iter().map(rcpt).collect(),
        };
        let body = Body::from_bytes(content.to_owned());
        let transaction = Transaction { session: SessionInfo::local("test"), envelope, body };
        let outcome = self.queue.clone().ready().await.unwrap().call(transaction).await.unwrap();
        outcome.single().cloned()
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.runner.await.unwrap();
    }
}
