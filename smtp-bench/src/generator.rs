//! Makes the load.

use core::time::Duration;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use smtp_client::{Connection, Error, Options, SendOptions, Step as ClientStep};
use smtp_core::extension::BodyType;
use smtp_core::service::{Body, Outcome};
use smtp_core::stream::{self, ConnectError, ConnectStep, Connector, Target, TlsPolicy};
use smtp_core::types::{Envelope, Mail, Parameters, Rcpt};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::meter::{Figures, Meter, Shard, open};
use crate::report::{Report, Spent};
use crate::{Pace, Plan, Reuse, Step, Usage};

/// How many sets of figures there are at most; sessions share them.
const SHARDS: usize = 8;
/// How often the caller hears how it goes, and memory is looked at.
const TICK: Duration = Duration::from_millis(500);
/// A session that was free when a message was due and starts it so little later was woken late by its own timer, which
/// the server is not charged for.
const TIMER_SLACK: Duration = Duration::from_millis(2);
/// The waits of a session that got no connection: the first, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A load on one server.
#[derive(Clone)]
pub struct Generator {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<dyn Connector>,
    target: Target,
    policy: TlsPolicy,
    /// One for content that is US-ASCII, one for other.
    envelopes: [Envelope; 2],
    send: SendOptions,
    plan: Plan,
    /// With [`Reuse::Shared`], the connection of all.
    carrier: AsyncMutex<Option<Box<dyn stream::Connection>>>,
}

/// How it goes, since the warm-up.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// How long; zero while it warms up.
    pub elapsed: Duration,
    /// Messages that were accepted.
    pub accepted: u64,
    /// Messages that were refused for some recipient.
    pub refused: u64,
    /// Messages without an answer.
    pub failed: u64,
    /// Octets of content that were accepted.
    pub octets: u64,
    /// Median, 90th and 99th percentile, and the longest of a message's latency, in milliseconds; 0 without any.
    pub latency: [f64; 4],
    /// What went wrong, by reply code or by a word, and how often: those of [`Report::errors`].
    pub errors: Vec<(String, u64)>,
}

impl Generator {
    /// A load of `plan` on `target`, under `policy`.
    #[must_use]
    pub fn new(connector: Arc<dyn Connector>, target: Target, policy: TlsPolicy, plan: Plan) -> Self {
        let recipients: Vec<Rcpt> = plan.recipients.iter().cloned().map(Rcpt::new).collect();
        let envelope = |parameters| Envelope {
            mail: Mail { parameters, ..Mail::new(plan.from.clone()) },
            recipients: recipients.clone(),
        };
        let eight_bit = Parameters::default().with(&BodyType::EightBitMime).unwrap_or_default();
        let envelopes = [envelope(Parameters::default()), envelope(eight_bit)];
        // Where each session is for one message, its end goes along.
        let quit = matches!(plan.reuse, Reuse::Message | Reuse::Stream);
        let send = SendOptions { transfer: plan.transfer, quit, ..SendOptions::default() };
        let carrier = AsyncMutex::new(None);
        Self { shared: Arc::new(Shared { connector, target, policy, envelopes, send, plan, carrier }) }
    }

    /// One session without mail: tells whether there is a server at all.
    ///
    /// # Errors
    /// What keeps a session from being opened.
    pub async fn probe(&self) -> Result<(), Error> {
        let meter = Arc::new(Meter::new(Shard::default()));
        let mut worker = Worker::new(&self.shared, meter, 0);
        worker.open(true).await?;
        worker.leave().await;
        *self.shared.carrier.lock().await = None;
        Ok(())
    }

    /// Makes the load, and reports. It ends when the plan says, and in any case has each message wait no longer than
    /// its timeouts. `server` is the process whose tree is the server; `tick` is called twice a second.
    ///
    /// Dropping the future ends it at once.
    pub async fn run(&self, server: Option<u32>, mut tick: impl FnMut(Live)) -> Report {
        let plan = &self.shared.plan;
        let shards: Vec<Shard> = (0..plan.sessions.clamp(1, SHARDS)).map(|_| Shard::default()).collect();
        let schedule = Arc::new(Schedule::new(plan));
        let counted_from = schedule.counted_from;
        let mut workers = JoinSet::new();
        for (n, shard) in (0..plan.sessions.max(1)).zip(shards.iter().cycle()) {
            let meter = Arc::new(Meter::new(Arc::clone(shard)));
            let worker = Worker::new(&self.shared, meter, n as u64);
            workers.spawn(worker.run(Arc::clone(&schedule)));
        }

        let own = || Usage::of_process(std::process::id()).ok();
        let theirs = || server.and_then(|pid| Usage::of_tree(pid).ok());
        if !plan.warm_up.is_zero() {
            sleep_until(counted_from).await;
        }
        let begin = (own(), theirs());
        let mut memory = [None, None];
        loop {
            let joined = timeout(TICK, workers.join_next()).await;
            if let Ok(Some(_)) = joined {
                continue;
            }
            memory = [most(memory[0], own()), most(memory[1], theirs())];
            tick(live(&shards, counted_from.elapsed()));
            if let Ok(None) = joined {
                break;
            }
        }
        let finish = (own(), theirs());
        // All sessions are over.
        *self.shared.carrier.lock().await = None;

        let all = sum(&shards);
        let spent =
            |begin: Option<Usage>, end: Option<Usage>, memory| Some(Spent::between(begin?, end?, memory, all.accepted));
        // QUIT is not waited for.
        let took = all.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(counted_from));
        let [own_memory, server_memory] = memory;
        let client = spent(begin.0, finish.0, own_memory);
        let server = spent(begin.1, finish.1, server_memory);
        Report::new(self.shared.target.address.to_string(), plan, took, &all, client, server)
    }
}

impl core::fmt::Debug for Generator {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Generator").field("target", &self.shared.target).finish_non_exhaustive()
    }
}

fn most(memory: Option<u64>, now: Option<Usage>) -> Option<u64> {
    memory.max(now.and_then(|usage| usage.memory))
}

fn sum(shards: &[Shard]) -> Figures {
    let mut all = Figures::default();
    for shard in shards {
        all.add(&open(shard));
    }
    all
}

fn live(shards: &[Arc<Mutex<Figures>>], elapsed: Duration) -> Live {
    let all = sum(shards);
    let latency = [0.5, 0.9, 0.99, 1.0].map(|quantile| {
        all.of(Step::Message).map_or(0.0, |h| crate::report::count(h.value_at_quantile(quantile)) / 1e6)
    });
    let errors = all.faults.iter().map(|(what, fault)| (what.clone(), fault.count)).collect();
    let Figures { accepted, refused, failed, octets, .. } = all;
    Live { elapsed, accepted, refused, failed, octets, latency, errors }
}

/// Whose turn it is, and when.
#[derive(Debug)]
struct Schedule {
    begin: Instant,
    counted_from: Instant,
    /// Nothing starts from here on.
    until: Option<Instant>,
    pace: Pace,
    messages: Option<u64>,
    /// Open loop: the next message. Closed: the next that counts.
    next: AtomicU64,
}

/// A message that is due.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// Its latency counts from here.
    at: Instant,
    counted: bool,
}

impl Schedule {
    fn new(plan: &Plan) -> Self {
        let begin = Instant::now();
        // A span too long for the clock is one without end.
        let after = |at: Instant, span| at.checked_add(span).unwrap_or_else(|| at + Duration::from_secs(1 << 30));
        let counted_from = after(begin, plan.warm_up);
        let until = plan.lasts().map(|span| after(counted_from, span));
        Self { begin, counted_from, until, pace: plan.pace, messages: plan.messages, next: AtomicU64::new(0) }
    }

    /// Waits until the next message is due; `None` if there is none.
    async fn next(&self) -> Option<Start> {
        let over = |at: Instant| self.until.is_some_and(|until| at >= until);
        let rate = match self.pace {
            Pace::Open { rate } => rate,
            Pace::Closed => {
                let at = Instant::now();
                let counted = at >= self.counted_from;
                let turn = if counted { self.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
                let done = counted && self.messages.is_some_and(|messages| turn >= messages);
                return (!done && !over(at)).then_some(Start { at, counted });
            }
        };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.due(turn, rate)?;
        let first = (self.counted_from.duration_since(self.begin).as_secs_f64() * rate).ceil();
        let behind_first = crate::report::count(turn) - first;
        let done = self.messages.is_some_and(|messages| behind_first >= crate::report::count(messages));
        if done || over(due) {
            return None;
        }
        let counted = behind_first >= 0.0;
        if due <= Instant::now() {
            // Nobody was free when it was due.
            return Some(Start { at: due, counted });
        }
        sleep_until(due).await;
        let now = Instant::now();
        let at = if now.duration_since(due) <= TIMER_SLACK { now } else { due };
        Some(Start { at, counted })
    }

    fn due(&self, turn: u64, rate: f64) -> Option<Instant> {
        let span = Duration::try_from_secs_f64(crate::report::count(turn) / rate).ok()?;
        self.begin.checked_add(span)
    }
}

impl Shared {
    /// A stream on the connection in `carrier`, or on another one that takes its place.
    async fn open(
        &self,
        carrier: &mut Option<Box<dyn stream::Connection>>,
    ) -> Result<Box<dyn stream::ByteStream>, Error> {
        if let Some(carrier) = carrier
            && let Ok(stream) = carrier.open().await
        {
            return Ok(stream);
        }
        let broke = |error| ConnectError::transient(&self.target.address, ConnectStep::Connect, error);
        let connected = self.connector.connect(&self.target, &self.policy).await?;
        Ok(carrier.insert(connected).open().await.map_err(broke)?)
    }
}

/// One session at a time, until the load is over.
struct Worker {
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    options: Arc<Options>,
    rng: Rng,
    carrier: Option<Box<dyn stream::Connection>>,
    session: Option<Connection>,
}

impl Worker {
    fn new(shared: &Arc<Shared>, meter: Arc<Meter>, number: u64) -> Self {
        let plan = &shared.plan;
        let observer = Some(Arc::clone(&meter) as Arc<dyn smtp_client::Observer>);
        Self {
            shared: Arc::clone(shared),
            meter,
            options: Arc::new(Options { observer, ..plan.options.clone() }),
            rng: Rng::with_seed(plan.seed.wrapping_add(number)),
            carrier: None,
            session: None,
        }
    }

    async fn run(mut self, schedule: Arc<Schedule>) {
        let mut backoff = BACKOFF.0;
        while let Some(start) = schedule.next().await {
            self.meter.counting.store(start.counted, Ordering::Relaxed);
            let connected = self.message(start).await;
            if connected {
                backoff = BACKOFF.0;
            } else {
                // A server that is gone is asked again, but not as fast as it can refuse.
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
        self.meter.counting.store(false, Ordering::Relaxed);
        self.leave().await;
    }

    /// One message; false if there was no session to send it on.
    async fn message(&mut self, start: Start) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(item) = shared.plan.content.pick(&mut self.rng) else { return false };
        let [plain, eight_bit] = &shared.envelopes;
        let envelope = if item.eight_bit { eight_bit } else { plain };
        let mut connected = true;
        let result = match self.open(false).await {
            Ok(session) => session.send(envelope, Body::from_bytes(item.octets.clone()), &shared.send).await,
            Err(error) => {
                connected = false;
                Err(error)
            }
        };
        if result.is_ok() {
            self.meter.answered();
        }
        if start.counted {
            self.count(&result, start.at.elapsed(), item.octets.len());
        }
        if result.is_err() {
            (self.session, self.carrier) = (None, None);
        } else if shared.send.quit || !self.session.as_ref().is_some_and(Connection::is_usable) {
            self.close().await;
        }
        connected
    }

    fn count(&self, result: &Result<Outcome, Error>, took: Duration, octets: usize) {
        let mut figures = open(&self.meter.shard);
        figures.sent += 1;
        figures.last = Some(Instant::now());
        match result {
            Ok(outcome) => {
                let accepted = outcome.iter().filter(|result| result.is_ok()).count();
                figures.recipients += accepted as u64;
                for refusal in outcome.iter().filter_map(|result| result.as_ref().err()) {
                    figures.refusal(refusal.reply());
                }
                if accepted == outcome.len() {
                    figures.accepted += 1;
                    figures.octets += octets as u64;
                    // A refusal is fast; the latency is that of mail.
                    figures.record(Step::Message, took);
                } else {
                    figures.refused += 1;
                }
            }
            Err(error) => {
                figures.failed += 1;
                figures.error(error);
            }
        }
    }

    /// The session, opened if there is none; when `probing`, with an answer from the server in any case.
    async fn open(&mut self, probing: bool) -> Result<&mut Connection, Error> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.begin(probing).await?,
        };
        Ok(self.session.insert(session))
    }

    async fn begin(&mut self, probing: bool) -> Result<Connection, Error> {
        let shared = Arc::clone(&self.shared);
        let after = self.options.timeouts.connect;
        let since = Instant::now();
        let reaching = self.reach(&shared);
        let stream = match timeout(after, reaching).await {
            Ok(stream) => stream?,
            Err(_) => return Err(Error::Timeout { step: ClientStep::Connect, after }),
        };
        self.meter.record(Step::Connect, since.elapsed());
        let mut session = Connection::over(stream, &shared.policy, Arc::clone(&self.options)).await?;
        // Where the client speaks first, EHLO goes in one flight with the mail, unless something comes between them.
        let waits = self.options.pipelining && shared.plan.credentials.is_none() && session.info().client_speaks_first;
        if probing || !waits {
            session.hello().await?;
        }
        if let Some(credentials) = &shared.plan.credentials {
            session.auth(credentials).await?;
        }
        if self.meter.counting.load(Ordering::Relaxed) {
            let mut figures = open(&self.meter.shard);
            figures.connections += 1;
            figures.resumed += u64::from(session.info().tls.as_ref().is_some_and(|tls| tls.resumed));
        }
        Ok(session)
    }

    /// A stream, on the connection that is there or on another one.
    async fn reach(&mut self, shared: &Shared) -> Result<Box<dyn stream::ByteStream>, Error> {
        match shared.plan.reuse {
            Reuse::Shared => shared.open(&mut *shared.carrier.lock().await).await,
            Reuse::Session | Reuse::Message | Reuse::Stream => shared.open(&mut self.carrier).await,
        }
    }

    /// Ends the session, and its connection unless that is for more.
    async fn close(&mut self) {
        if let Some(mut session) = self.session.take() {
            // What counts has been said.
            let _ = session.quit().await;
        }
        if self.shared.plan.reuse != Reuse::Stream {
            self.carrier = None;
        }
    }

    async fn leave(&mut self) {
        self.close().await;
        self.carrier = None;
    }
}

#[cfg(test)]
mod tests {
    use smtp_core::types::Mailbox;
    use smtp_test::memory::{Knobs, MemoryListener};
    use smtp_test::scenario::Scenario;
    use smtp_test::server::ScriptedServer;

    use super::*;
    use crate::Content;

    /// One session, with a reply to each content that takes so many milliseconds.
    fn script(delays: &[u64]) -> Scenario {
        let mut text = String::from("S: 220 mx.example ESMTP\nC: EHLO *\nS: 250 mx.example\n");
        for delay in delays {
            text.push_str("C: MAIL FROM:*\nS: 250 ok\nC: RCPT TO:*\nS: 250 ok\nC: DATA\nS: 354 go\n");
            text.push_str("C: *\nC: *\nC: *\nC: *\nC: \nC: *\nC: *\nC: .\n");
            if *delay > 0 {
                text.push_str(&format!("WAIT {delay} ms\n"));
            }
            text.push_str("S: 250 taken\n");
        }
        text.push_str("C: QUIT\nS: 221 bye\nS!\n");
        Scenario::parse("slow", &text).unwrap()
    }

    fn plan(pace: Pace, messages: u64) -> Plan {
        let content = Content::generated(&"256".parse().unwrap(), 1).unwrap();
        let plan = Plan::new(Mailbox::new("a@mx.example").unwrap(), content);
        Plan { pace, messages: Some(messages), ..plan }
    }

    async fn load(connector: impl Connector, plan: Plan) -> Report {
        let target = Target::host("mx.example".parse().unwrap(), 25);
        Generator::new(Arc::new(connector), target, TlsPolicy::NONE, plan).run(None, |_| {}).await
    }

    /// Virtual time, so that the figures are exact but for what a histogram and a timer round.
    fn near(ms: f64, expected: f64) {
        assert!((ms - expected).abs() <= 2.0 + expected / 500.0, "{ms} ms, not {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn at_a_rate_a_stall_is_charged_for_all_who_had_to_wait() {
        // Due at 0, 100, … 400 ms; the first holds all others up until 1,000.
        let server = ScriptedServer::start(vec![script(&[1000, 0, 0, 0, 0])]);
        let report = load(server.connector(), plan(Pace::Open { rate: 10.0 }, 5)).await;
        server.finish().await.unwrap();
        assert_eq!(report.messages.accepted, 5, "{report:?}");
        let message = *report.step(Step::Message).unwrap();
        near(message.max, 1000.0);
        near(message.p50, 800.0);
        near(message.min, 600.0);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_closed_loop_it_is_charged_once() {
        let server = ScriptedServer::start(vec![script(&[1000, 0, 0, 0, 0])]);
        let report = load(server.connector(), plan(Pace::Closed, 5)).await;
        server.finish().await.unwrap();
        let message = *report.step(Step::Message).unwrap();
        assert_eq!(message.count, 5);
        near(message.max, 1000.0);
        near(message.p50, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_a_distance_and_the_warm_up_does_not_count() {
        let server = ScriptedServer::start(vec![script(&[0; 15])]);
        let warm_up = Duration::from_millis(500);
        let report = load(server.connector(), Plan { warm_up, ..plan(Pace::Open { rate: 10.0 }, 10) }).await;
        server.finish().await.unwrap();
        // Five were for the warm-up; the last of ten is due 0.9 s after the first that counts.
        assert_eq!(report.messages.accepted, 10);
        near(report.seconds * 1000.0, 900.0);
        near(report.step(Step::Message).unwrap().max, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_duration_ends_it() {
        let server = ScriptedServer::start(vec![script(&[300, 300, 300, 300])]);
        let duration = Some(Duration::from_secs(1));
        let report = load(server.connector(), Plan { messages: None, duration, ..plan(Pace::Closed, 0) }).await;
        server.finish().await.unwrap();
        // The fourth begins at 900 ms, and is waited for.
        assert_eq!(report.messages.accepted, 4);
        near(report.seconds * 1000.0, 1200.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_gone_ends_by_count_and_is_not_hammered() {
        let listener = MemoryListener::new(Knobs::default());
        let connector = listener.connector();
        drop(listener);
        let begun = Instant::now();
        let report = load(connector, Plan { sessions: 2, ..plan(Pace::Closed, 20) }).await;
        assert_eq!((report.messages.sent, report.messages.failed), (20, 20));
        assert_eq!((report.errors[0].what.as_str(), report.errors[0].count), ("connect", 20));
        assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_breaks_is_told_and_followed_by_another() {
        let broken =
            Scenario::parse("broken", "S: 220 a\nC: EHLO *\nS: 250 a\nC: MAIL *\nS: 421 4.3.2 bye\nS!\n").unwrap();
        let server = ScriptedServer::start(vec![broken, script(&[0])]);
        let report = load(server.connector(), plan(Pace::Closed, 2)).await;
        server.finish().await.unwrap();
        assert_eq!((report.messages.sent, report.messages.accepted, report.sessions), (2, 1, 2), "{report:?}");
        assert_eq!(report.errors.len(), 1, "{report:?}");
    }
}
