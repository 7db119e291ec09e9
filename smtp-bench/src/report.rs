//! What came of a load.

use core::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use smtp_client::Transfer;

use crate::meter::Figures;
use crate::{Pace, Plan, Reuse, Step, Usage};

/// The version of the report's form.
pub const VERSION: u32 = 1;
/// The JSON Schema of a [`Report`], and of a [`Comparison`](crate::Comparison).
pub const SCHEMA: &str = include_str!("../report.schema.json");

/// A report. All that is measured leaves the warm-up out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The server.
    pub target: String,
    /// What the load was.
    pub load: Load,
    /// How long it took, until the last message had its reply.
    pub seconds: f64,
    /// What became of the messages.
    pub messages: Messages,
    /// Recipients that were accepted together with the content.
    pub recipients: u64,
    /// Octets of content that were accepted.
    pub octets: u64,
    /// Messages a second that were accepted.
    pub messages_per_second: f64,
    /// Octets of content a second that were accepted.
    pub octets_per_second: f64,
    /// Sessions that were opened, up to the end of their EHLO, or AUTH.
    pub sessions: u64,
    /// Of those, the ones whose TLS session was resumed.
    pub resumed: u64,
    /// What this process has spent.
    pub client: Option<Spent>,
    /// What the server's processes have spent, if it was said which they are.
    pub server: Option<Spent>,
    /// Latency of the steps that occurred, in the order of a session.
    pub steps: Vec<StepReport>,
    /// What went wrong: by reply code, or `connect`, `closed`, `timeout`, `protocol`, `tls`, `local`.
    pub errors: Vec<ErrorReport>,
}

/// What the load was.
#[derive(Debug, Clone, Serialize)]
pub struct Load {
    /// How many sessions at the same time.
    pub sessions: usize,
    /// Messages a second that were due; `null` in a closed loop.
    pub rate: Option<f64>,
    /// What a connection was used for.
    pub connection: Reuse,
    /// The sizes, or how many files.
    pub content: String,
    /// Recipients of each message.
    pub recipients: usize,
    /// `auto`, `data` or `bdat`.
    pub transfer: &'static str,
    /// False if each reply was awaited before the next command.
    pub pipelining: bool,
    /// The warm-up, in seconds.
    pub warm_up: f64,
    /// The seed.
    pub seed: u64,
}

/// What became of the messages.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
pub struct Messages {
    /// All.
    pub sent: u64,
    /// Accepted for every recipient.
    pub accepted: u64,
    /// Refused for some recipient.
    pub refused: u64,
    /// Without an answer: no connection, one that broke, a session that was turned away.
    pub failed: u64,
}

/// What processes have spent.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spent {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// The same for 1,000 messages that were accepted; `null` without any.
    pub cpu_seconds_per_1000: Option<f64>,
    /// The most memory that was seen, in octets; `null` where that may not be read.
    pub memory: Option<u64>,
    /// How many processes there were at the end.
    pub processes: usize,
}

impl Spent {
    pub(crate) fn between(begin: Usage, end: Usage, memory: Option<u64>, accepted: u64) -> Self {
        let cpu_seconds = end.cpu.saturating_sub(begin.cpu).as_secs_f64();
        let per_1000 = (accepted > 0).then(|| cpu_seconds * 1000.0 / count(accepted));
        Self { cpu_seconds, cpu_seconds_per_1000: per_1000, memory, processes: end.processes }
    }
}

/// The latency of one step, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepReport {
    /// Which.
    pub step: Step,
    /// How often.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The shortest.
    pub min: f64,
    /// Half of them took at most so long.
    pub p50: f64,
    /// 90 in 100.
    pub p90: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1,000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// Something that went wrong.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorReport {
    /// The reply code, or a word.
    pub what: String,
    /// How often.
    pub count: u64,
    /// The first of them.
    pub example: String,
}

impl Report {
    pub(crate) fn new(
        target: String,
        plan: &Plan,
        took: Duration,
        figures: &Figures,
        client: Option<Spent>,
        server: Option<Spent>,
    ) -> Self {
        let seconds = took.as_secs_f64();
        let rate = |number: u64| if seconds > 0.0 { count(number) / seconds } else { 0.0 };
        Self {
            version: VERSION,
            target,
            load: Load::of(plan),
            seconds,
            messages: Messages {
                sent: figures.sent,
                accepted: figures.accepted,
                refused: figures.refused,
                failed: figures.failed,
            },
            recipients: figures.recipients,
            octets: figures.octets,
            messages_per_second: rate(figures.accepted),
            octets_per_second: rate(figures.octets),
            sessions: figures.connections,
            resumed: figures.resumed,
            client,
            server,
            steps: Step::ALL.into_iter().filter_map(|step| Some(StepReport::of(step, figures.of(step)?))).collect(),
            errors: figures
                .faults
                .iter()
                .map(|(what, fault)| ErrorReport {
                    what: what.clone(),
                    count: fault.count,
                    example: fault.example.clone(),
                })
                .collect(),
        }
    }

    /// The latency of `step`, if it occurred.
    #[must_use]
    pub fn step(&self, step: Step) -> Option<&StepReport> {
        self.steps.iter().find(|report| report.step == step)
    }
}

impl Load {
    fn of(plan: &Plan) -> Self {
        Self {
            sessions: plan.sessions,
            rate: match plan.pace {
                Pace::Closed => None,
                Pace::Open { rate } => Some(rate),
            },
            connection: plan.reuse,
            content: plan.content.to_string(),
            recipients: plan.recipients.len(),
            transfer: match plan.transfer {
                Transfer::Auto => "auto",
                Transfer::Data => "data",
                Transfer::Chunks => "bdat",
            },
            pipelining: plan.options.pipelining,
            warm_up: plan.warm_up.as_secs_f64(),
            seed: plan.seed,
        }
    }
}

impl StepReport {
    fn of(step: Step, histogram: &Histogram<u64>) -> Self {
        let at = |quantile| count(histogram.value_at_quantile(quantile)) / 1e6;
        Self {
            step,
            count: histogram.len(),
            mean: histogram.mean() / 1e6,
            min: count(histogram.min()) / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: count(histogram.max()) / 1e6,
        }
    }
}

/// As a number to reckon with; exact up to 2^53.
pub(crate) const fn count(number: u64) -> f64 {
    number as f64
}
