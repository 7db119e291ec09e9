//! Two servers under the same load, round by round.

use serde::Serialize;

use crate::report::{Report, VERSION};
use crate::{Step, StepReport};

/// How the intervals of a [`Ratio`] are made.
pub const METHOD: &str = "geometric mean of each round's ratio; 95 % interval by Student's t on the logarithms";

/// The ratio of two quantities that were measured in turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The geometric mean of the ratios of the rounds.
    pub ratio: f64,
    /// The lower end of the 95 % interval; `null` with a single round.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
}

/// The ratio of the first to the second of each pair: a pair is one round, so that what slows both of a round down
/// does not count. `None` without pairs, or if one of them has no ratio.
#[must_use]
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let logs = pairs.iter().map(|(a, b)| (*a > 0.0 && *b > 0.0).then(|| (a / b).ln())).collect::<Option<Vec<_>>>()?;
    let n = f64::from(u32::try_from(logs.len()).ok().filter(|n| *n > 0)?);
    let mean = logs.iter().sum::<f64>() / n;
    let half = student(logs.len().saturating_sub(1)).map(|t| {
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
        t * (variance / n).sqrt()
    });
    Some(Ratio {
        ratio: mean.exp(),
        low: half.map(|half| (mean - half).exp()),
        high: half.map(|half| (mean + half).exp()),
    })
}

/// The 97.5 % quantile of Student's t; `None` for 0 degrees of freedom.
fn student(freedom: usize) -> Option<f64> {
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    // Beyond the table the last is a little too wide, never too narrow.
    T.get(freedom.checked_sub(1)?.min(T.len() - 1)).copied()
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Messages a second that were accepted.
    MessagesPerSecond,
    /// The median latency of a message.
    MessageP50,
    /// The 99th percentile of it.
    MessageP99,
    /// The server's CPU seconds for 1,000 messages.
    ServerCpu,
    /// This program's CPU seconds for 1,000 messages.
    ClientCpu,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MessagesPerSecond, Self::MessageP50, Self::MessageP99, Self::ServerCpu, Self::ClientCpu];

    /// What a person calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessagesPerSecond => "messages/s",
            Self::MessageP50 => "message p50, ms",
            Self::MessageP99 => "message p99, ms",
            Self::ServerCpu => "server CPU s/1,000",
            Self::ClientCpu => "client CPU s/1,000",
        }
    }

    /// Its value in `report`, if that has one.
    #[must_use]
    pub fn of(self, report: &Report) -> Option<f64> {
        let message = |value: fn(&StepReport) -> f64| report.step(Step::Message).map(value);
        match self {
            Self::MessagesPerSecond => Some(report.messages_per_second),
            Self::MessageP50 => message(|step| step.p50),
            Self::MessageP99 => message(|step| step.p99),
            Self::ServerCpu => report.server?.cpu_seconds_per_1000,
            Self::ClientCpu => report.client?.cpu_seconds_per_1000,
        }
    }
}

/// One of those that are compared.
#[derive(Debug, Clone, Serialize)]
pub struct Contestant {
    /// The server.
    pub target: String,
    /// A report for each round.
    pub rounds: Vec<Report>,
}

/// A ratio of one contestant to the first.
#[derive(Debug, Clone, Serialize)]
pub struct RatioReport {
    /// Whose.
    pub target: String,
    /// To whose.
    pub to: String,
    /// Of what.
    pub metric: Metric,
    /// The ratio.
    #[serde(flatten)]
    pub ratio: Ratio,
}

/// Several servers under the same load, in turns.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// [`VERSION`].
    pub version: u32,
    /// [`METHOD`].
    pub method: &'static str,
    /// What was measured.
    pub contestants: Vec<Contestant>,
    /// Each of the others to the first.
    pub ratios: Vec<RatioReport>,
}

impl Comparison {
    /// Compares each with the first. What a round did not measure for both is left out.
    #[must_use]
    pub fn new(contestants: Vec<Contestant>) -> Self {
        let mut ratios = Vec::new();
        if let Some((first, others)) = contestants.split_first() {
            for other in others {
                let rounds = || other.rounds.iter().zip(&first.rounds);
                for metric in Metric::ALL {
                    let pairs = rounds().map(|(a, b)| Some((metric.of(a)?, metric.of(b)?))).collect::<Option<Vec<_>>>();
                    if let Some(ratio) = pairs.and_then(|pairs| ratio(&pairs)) {
                        let (target, to) = (other.target.clone(), first.target.clone());
                        ratios.push(RatioReport { target, to, metric, ratio });
                    }
                }
            }
        }
        Self { version: VERSION, method: METHOD, contestants, ratios }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_students() {
        // Logarithms 0 and ln 4: mean ln 2, standard error ln 2, t = 12.706.
        let Ratio { ratio: mean, low, high } = ratio(&[(1.0, 1.0), (4.0, 1.0)]).unwrap();
        let half = 12.706 * 2_f64.ln();
        assert!((mean - 2.0).abs() < 1e-9);
        assert!((low.unwrap().ln() - (2_f64.ln() - half)).abs() < 1e-9);
        assert!((high.unwrap().ln() - (2_f64.ln() + half)).abs() < 1e-9);
    }

    #[test]
    fn what_slows_a_whole_round_down_does_not_count() {
        let steady = ratio(&[(10.0, 5.0), (2.0, 1.0), (600.0, 300.0)]).unwrap();
        assert!((steady.low.unwrap() - 2.0).abs() < 1e-9 && (steady.high.unwrap() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn without_enough_there_is_no_interval_and_without_anything_no_ratio() {
        assert_eq!(ratio(&[(3.0, 2.0)]).map(|one| (one.low, one.high)), Some((None, None)));
        assert_eq!(ratio(&[]), None);
        assert_eq!(ratio(&[(1.0, 0.0)]), None);
        assert!(student(1).unwrap() > student(2).unwrap() && student(500) == student(30));
    }
}
