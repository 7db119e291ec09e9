//! What is measured: a histogram for each step, and counts.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;
use smtp_client::{Error, Observer, Step as ClientStep};
use smtp_core::channel::ChannelInfo;
use smtp_core::types::{Reply, printable};

/// The longest text of an error that is kept, in characters.
const TEXT_MAX: usize = 200;
/// What is told apart, in nanoseconds, the longest that is told, and the digits that hold.
const LOW: u64 = 100;
const HIGH: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// A step that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Getting a connection and a stream on it, implicit TLS and QUIC's handshake included.
    Connect,
    /// From the connection to the greeting.
    Greeting,
    /// EHLO or LHLO.
    Ehlo,
    /// STARTTLS, up to its reply.
    StartTls,
    /// The TLS handshake after STARTTLS.
    Tls,
    /// AUTH; each reply of it.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT, each.
    Rcpt,
    /// DATA, up to its 354.
    Data,
    /// Until the channel has taken the content.
    Body,
    /// From the end of the content to the last of the replies that decide: LMTP and PRDR have one for each recipient.
    Final,
    /// The message as a whole, with the connection where it was opened for it; in an open loop from when it was due.
    Message,
    /// QUIT.
    Quit,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Connect,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Tls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Final,
        Self::Message,
        Self::Quit,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Final => "final",
            Self::Message => "message",
            Self::Quit => "quit",
        }
    }

    const fn of(step: ClientStep) -> Option<Self> {
        Some(match step {
            ClientStep::Greeting => Self::Greeting,
            ClientStep::Hello => Self::Ehlo,
            ClientStep::StartTls => Self::StartTls,
            ClientStep::Auth => Self::Auth,
            ClientStep::Mail => Self::Mail,
            ClientStep::Rcpt => Self::Rcpt,
            ClientStep::Data => Self::Data,
            ClientStep::Quit => Self::Quit,
            _ => return None,
        })
    }
}

/// What went wrong, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) example: String,
    pub(crate) count: u64,
}

/// What was measured, by some of the sessions or by all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    steps: [Option<Box<Histogram<u64>>>; Step::ALL.len()],
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) recipients: u64,
    pub(crate) octets: u64,
    pub(crate) connections: u64,
    pub(crate) resumed: u64,
    /// When the last message was over.
    pub(crate) last: Option<tokio::time::Instant>,
    /// By reply code, or by what broke.
    pub(crate) faults: BTreeMap<String, Fault>,
}

impl Figures {
    pub(crate) fn record(&mut self, step: Step, took: Duration) {
        let Some(slot) = self.steps.get_mut(step as usize) else { return };
        if slot.is_none() {
            *slot = Histogram::new_with_bounds(LOW, HIGH, DIGITS).ok().map(Box::new);
        }
        if let Some(histogram) = slot {
            histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    pub(crate) fn of(&self, step: Step) -> Option<&Histogram<u64>> {
        self.steps.get(step as usize)?.as_deref()
    }

    /// A refusal, of a recipient or of a session.
    pub(crate) fn refusal(&mut self, reply: &Reply) {
        self.fault(reply.code().get().to_string(), || reply.to_string());
    }

    /// No answer at all, or one that says that there is none to come.
    pub(crate) fn error(&mut self, error: &Error) {
        match error.reply() {
            Some(reply) => self.refusal(reply),
            None => self.fault(kind(error).to_owned(), || told(error)),
        }
    }

    fn fault(&mut self, what: String, example: impl FnOnce() -> String) {
        let text = || printable(example().as_bytes()).chars().take(TEXT_MAX).collect();
        self.faults.entry(what).or_insert_with(|| Fault { example: text(), count: 0 }).count += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.steps.iter_mut().zip(&other.steps) {
            match (mine, theirs) {
                // The bounds are the same, so that nothing is left out.
                (Some(mine), Some(theirs)) => drop(mine.add(&**theirs)),
                (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
                (_, None) => {}
            }
        }
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.failed += other.failed;
        self.recipients += other.recipients;
        self.octets += other.octets;
        self.connections += other.connections;
        self.resumed += other.resumed;
        self.last = self.last.max(other.last);
        for (what, fault) in &other.faults {
            let known = self.faults.entry(what.clone()).or_insert_with(|| Fault { count: 0, ..fault.clone() });
            known.count += fault.count;
        }
    }
}

/// One word for an error that has no reply.
const fn kind(error: &Error) -> &'static str {
    match error {
        Error::Connect(_) => "connect",
        Error::Closed { .. } => "closed",
        Error::Timeout { .. } => "timeout",
        Error::Misbehaved { .. } => "protocol",
        Error::Tls(_) => "tls",
        _ => "local",
    }
}

/// The error and what is behind it.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Figures that a few sessions share: one set for each would be much memory, one for all a queue.
pub(crate) type Shard = Arc<Mutex<Figures>>;

/// The figures; a session that panicked has left them whole.
pub(crate) fn open(shard: &Mutex<Figures>) -> MutexGuard<'_, Figures> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks over the shoulder of one session after another of the same worker.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) shard: Shard,
    /// Not so during the warm-up.
    pub(crate) counting: AtomicBool,
    since: Mutex<Since>,
}

#[derive(Debug, Default)]
struct Since {
    starttls: Option<Instant>,
    content: Option<Instant>,
    /// Waited so far for the reply that decides: there can be several (LMTP, PRDR).
    deciding: Option<Duration>,
}

impl Meter {
    pub(crate) fn new(shard: Shard) -> Self {
        Self { shard, counting: AtomicBool::new(false), since: Mutex::default() }
    }

    pub(crate) fn record(&self, step: Step, took: Duration) {
        if self.counting.load(Ordering::Relaxed) {
            open(&self.shard).record(step, took);
        }
    }

    /// A message has all its replies.
    pub(crate) fn answered(&self) {
        let deciding = self.since().deciding.take();
        if let Some(took) = deciding {
            self.record(Step::Final, took);
        }
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Meter {
    fn secured(&self, _channel: &ChannelInfo) {
        let starttls = self.since().starttls.take();
        if let Some(since) = starttls {
            self.record(Step::Tls, since.elapsed());
        }
    }

    fn content(&self, _octets: usize) {
        self.since().content.get_or_insert_with(Instant::now);
    }

    fn finished(&self, step: ClientStep, took: Duration) {
        match step {
            ClientStep::StartTls => self.since().starttls = Some(Instant::now()),
            // Content that went before the reply to MAIL is in one flight with it: its own time cannot be told.
            ClientStep::Mail => {
                let mut since = self.since();
                (since.content, since.deciding) = (None, None);
            }
            ClientStep::EndOfContent => {
                *self.since().deciding.get_or_insert_default() += took;
                let content = self.since().content.take();
                if let Some(since) = content {
                    self.record(Step::Body, since.elapsed().saturating_sub(took));
                }
            }
            _ => {}
        }
        if let Some(step) = Step::of(step) {
            self.record(step, took);
        }
    }
}
