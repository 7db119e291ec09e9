//! What an experiment leaves behind: one JSON object a line. The first says what was run and where, the last that it was
//! run to its end, and each between them is one run.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};
use smtp_netem::Counters;

use crate::environment::Environment;
use crate::experiment::{Experiment, ExperimentError, LeftOut, Place};
use crate::number::micros;
use crate::script::{Outcome, Step};

/// The version of the record's form.
pub const VERSION: u32 = 1;
/// The JSON Schema of a line.
pub const SCHEMA: &str = include_str!("../record.schema.json");
/// The longest record that is read, in octets.
const RECORD_MAX: u64 = 512 << 20;

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Experiment(Box<Head>),
    Run(Run),
    End(End),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// [`VERSION`].
    pub version: u32,
    /// What was run.
    pub experiment: Experiment,
    /// Where.
    pub environment: Environment,
    /// The cells; a run names its by the place in here.
    pub cells: Vec<Place>,
    /// Combinations that were not run.
    pub left_out: Vec<LeftOut>,
}

/// One run of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The cell's place in [`Head::cells`].
    pub cell: usize,
    /// The round, from 0.
    pub round: u32,
    /// What chance came from.
    pub seed: u64,
    /// What came of it.
    #[serde(flatten)]
    pub sample: Sample,
}

/// What came of a run. Arrays of two are client to server, and server to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Why it has no result.
    pub error: Option<String>,
    /// When each mail was accepted, in microseconds from before the connection was begun, in order.
    pub accepted_us: Vec<u64>,
    /// The steps of the first mail's session, and when each was over, in microseconds.
    pub steps: Vec<(Step, u64)>,
    /// Packets that were sent.
    pub packets: [u64; 2],
    /// Their octets, IP headers included.
    pub octets: [u64; 2],
    /// Packets that did not arrive.
    pub lost: [u64; 2],
    /// A hash of all that was sent, with its times and fates; only in a simulation.
    pub digest: Option<String>,
    /// CPU time of the client in microseconds, where it has a thread of its own.
    pub client_cpu_us: Option<u64>,
    /// CPU time of the server, or in a simulation of all together.
    pub cpu_us: Option<u64>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How long all of it took, in seconds.
    pub seconds: f64,
    /// The machine's load average over a minute at the end.
    pub load: Option<f64>,
}

/// All of an experiment's record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What was run.
    pub head: Head,
    /// Every run.
    pub runs: Vec<Run>,
    /// `None` if it was not run to its end.
    pub end: Option<End>,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The experiment in it cannot be run.
    #[error("the experiment in it: {0}")]
    Experiment(#[from] ExperimentError),
}

impl Sample {
    pub(crate) fn new(outcome: io::Result<Outcome>, counters: [Counters; 2]) -> Self {
        let (error, outcome) = match outcome {
            Ok(outcome) => (None, outcome),
            Err(error) => (Some(error.to_string().chars().take(300).collect()), Outcome::default()),
        };
        Self {
            error,
            accepted_us: outcome.accepted.into_iter().map(micros).collect(),
            steps: outcome.steps.into_iter().map(|(step, at)| (step, micros(at))).collect(),
            packets: counters.map(|counters| counters.packets),
            octets: counters.map(|counters| counters.octets),
            lost: counters.map(|counters| counters.lost + counters.queue_full + counters.refused),
            digest: None,
            client_cpu_us: None,
            cpu_us: None,
        }
    }

    pub(crate) fn digested(self, digest: u64) -> Self {
        Self { digest: Some(format!("{digest:016x}")), ..self }
    }

    pub(crate) fn spending(self, client: Option<std::time::Duration>, cpu: Option<std::time::Duration>) -> Self {
        Self { client_cpu_us: client.map(micros), cpu_us: cpu.map(micros), ..self }
    }

    /// The same without what a rerun need not have in common.
    #[must_use]
    pub fn exact(&self) -> Self {
        Self { client_cpu_us: None, cpu_us: None, ..self.clone() }
    }

    /// When the last mail was accepted, in microseconds; `None` for a run that failed.
    #[must_use]
    pub fn last_us(&self) -> Option<u64> {
        self.accepted_us.last().copied().filter(|_| self.error.is_none())
    }
}

/// What was counted between two moments.
pub(crate) const fn difference(after: Counters, before: Counters) -> Counters {
    Counters {
        packets: after.packets - before.packets,
        octets: after.octets - before.octets,
        arrived: after.arrived.saturating_sub(before.arrived),
        lost: after.lost - before.lost,
        queue_full: after.queue_full - before.queue_full,
        refused: after.refused - before.refused,
    }
}

/// Writes a record as it comes, so that what was measured is there if the rest fails.
#[derive(Debug)]
pub struct Recorder<W> {
    to: W,
}

impl<W: Write> Recorder<W> {
    /// Begins a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut to: W, head: &Head) -> io::Result<Self> {
        write_line(&mut to, &Line::Experiment(Box::new(head.clone())))?;
        Ok(Self { to })
    }

    /// One run more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn run(&mut self, run: &Run) -> io::Result<()> {
        write_line(&mut self.to, &Line::Run(run.clone()))
    }

    /// The end of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self, end: &End) -> io::Result<()> {
        write_line(&mut self.to, &Line::End(end.clone()))?;
        self.to.flush()
    }
}

fn write_line(to: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

impl Record {
    /// Reads a record of at most 512 MiB.
    ///
    /// # Errors
    /// If it is no record, or one of another version.
    pub fn read(from: impl Read) -> Result<Self, RecordError> {
        let (mut head, mut runs, mut end) = (None, Vec::new(), None);
        let mut number = 0;
        for line in io::BufReader::new(from.take(RECORD_MAX)).lines() {
            let line = line?;
            number += 1;
            let wrong = |what: String| RecordError::Line { line: number, what };
            match serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))? {
                Line::Experiment(first) if number == 1 && first.version == VERSION => head = Some(*first),
                Line::Experiment(first) if number == 1 => {
                    return Err(wrong(format!("its version is {}, and this program's {VERSION}", first.version)));
                }
                Line::Run(run) if head.as_ref().is_some_and(|head: &Head| run.cell < head.cells.len()) => {
                    runs.push(run)
                }
                Line::End(last) if head.is_some() && end.is_none() => end = Some(last),
                Line::Experiment(_) | Line::Run(_) | Line::End(_) => {
                    return Err(wrong("it does not belong here".into()));
                }
            }
        }
        let head = head.ok_or(RecordError::Line { line: 1, what: "there is none".into() })?;
        head.experiment.cells()?;
        if head.cells.iter().any(|place| place.part >= head.experiment.part.len()) {
            return Err(RecordError::Line { line: 1, what: "a cell of a part that there is not".into() });
        }
        Ok(Self { head, runs, end })
    }

    /// The runs of a cell.
    pub fn of(&self, cell: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.cell == cell)
    }
}
