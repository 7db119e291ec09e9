//! Running an experiment, and running it again.

use std::io::{self, Write};
use std::time::Instant;

use crate::choice::Ground;
use crate::environment::{Environment, load};
use crate::experiment::{Experiment, ExperimentError, Place};
use crate::record::{End, Head, Record, Recorder, Run, VERSION};
use crate::sim::Simulation;

/// Why an experiment was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It cannot be run at all.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// There can be no emulated link here.
    #[error("no emulated link: {0}")]
    Unavailable(String),
    /// The system says so; what was measured up to here is in the record.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why there can be no emulated link here, if so.
///
/// # Errors
/// With what is missing.
pub fn unavailable() -> Result<(), String> {
    #[cfg(target_os = "linux")]
    return smtp_netem::unavailable();
    #[cfg(not(target_os = "linux"))]
    return Err("network namespaces are Linux's".to_owned());
}

/// Runs all cells in turn, round by round, and writes each run to `to` as soon as it is over. `tick` is told how many of
/// how many runs are done.
///
/// This blocks, and makes runtimes of its own: call it outside of one.
///
/// # Errors
/// If it cannot be run, or not to its end. A run that fails is no error: it is in the record, with its reason.
pub fn run(experiment: &Experiment, to: impl Write, mut tick: impl FnMut(usize, usize)) -> Result<Record, RunError> {
    let (cells, left_out) = experiment.cells()?;
    let began = Instant::now();
    let mut environment = Environment::here();
    let all = experiment.runs(&cells);
    let turns = experiment.turns(&cells);
    let mut runs = Vec::with_capacity(all);
    let mut done = |recorder: &mut Recorder<_>, run: Run| {
        recorder.run(&run)?;
        runs.push(run);
        tick(runs.len(), all);
        io::Result::Ok(())
    };
    let head;
    let recorder = match experiment.ground {
        Ground::Simulation => {
            head = Head { version: VERSION, experiment: experiment.clone(), environment, cells, left_out };
            let mut recorder = Recorder::new(to, &head)?;
            let simulation = Simulation::new()?;
            for (round, cell) in turns {
                let Some(place) = head.cells.get(cell) else { continue };
                let seed = experiment.seed_of(round);
                let sample = simulation.run(&place.cell, seed)?;
                done(&mut recorder, Run { cell, round, seed, sample })?;
            }
            recorder
        }
        Ground::Link => {
            unavailable().map_err(RunError::Unavailable)?;
            #[cfg(target_os = "linux")]
            {
                let bench = crate::link::Bench::new(&cells, experiment.seed)?;
                environment.congestion = bench.congestion().to_vec();
                head = Head { version: VERSION, experiment: experiment.clone(), environment, cells, left_out };
                let mut recorder = Recorder::new(to, &head)?;
                for (round, cell) in turns {
                    let Some(place) = head.cells.get(cell) else { continue };
                    let seed = experiment.seed_of(round);
                    let sample = bench.run(&place.cell, seed)?;
                    done(&mut recorder, Run { cell, round, seed, sample })?;
                }
                recorder
            }
            #[cfg(not(target_os = "linux"))]
            return Err(RunError::Unavailable("network namespaces are Linux's".to_owned()));
        }
    };
    let end = End { seconds: began.elapsed().as_secs_f64(), load: load() };
    recorder.end(&end)?;
    Ok(Record { head, runs, end: Some(end) })
}

impl Experiment {
    /// Every cell in each of its rounds, in an order that moves on by one each round, so that none always comes first.
    fn turns(&self, places: &[Place]) -> Vec<(u32, usize)> {
        let most = places.iter().map(|place| self.rounds_of(place.part)).max().unwrap_or(0);
        let mut turns = Vec::new();
        for round in 0..most {
            let order = (0..places.len()).map(|n| (n + round as usize) % places.len());
            let has_it = |n: &usize| places.get(*n).is_some_and(|place| round < self.rounds_of(place.part));
            turns.extend(order.filter(has_it).map(|n| (round, n)));
        }
        turns
    }
}

/// What differs between a record and its rerun.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// Runs that were compared.
    pub runs: usize,
    /// Of those, the ones with another result; their places in the record.
    pub differing: Vec<usize>,
    /// Crates that have another version now, as `name 1.0 -> 1.1`.
    pub versions: Vec<String>,
}

/// Compares a record with its rerun, run by run, in all that a simulation repeats exactly: everything but CPU time. A
/// record that was not run to its end is compared as far as it goes.
#[must_use]
pub fn compare(before: &Record, after: &Record) -> Differences {
    let pairs = before.runs.iter().zip(&after.runs);
    let same = |a: &Run, b: &Run| {
        (a.cell, a.round, a.seed) == (b.cell, b.round, b.seed) && a.sample.exact() == b.sample.exact()
    };
    let differing = pairs.enumerate().filter(|(_, (a, b))| !same(a, b)).map(|(n, _)| n).collect();
    let (old, new) = (&before.head.environment.crates, &after.head.environment.crates);
    let versions = old.iter().filter_map(|(name, old)| {
        let new = new.get(name).map_or("none", String::as_str);
        (old != new).then(|| format!("{name} {old} -> {new}"))
    });
    Differences { runs: before.runs.len().min(after.runs.len()), differing, versions: versions.collect() }
}
