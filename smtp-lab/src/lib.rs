#![doc = include_str!("../README.md")]

mod cell;
mod choice;
mod cpu;
mod environment;
mod experiment;
#[cfg(target_os = "linux")]
mod link;
mod number;
mod preset;
mod race;
mod record;
pub mod report;
mod run;
mod script;
mod serve;
mod sim;
mod stats;
mod tls;

pub use cell::{Cell, Path};
pub use choice::{
    Congestion, Dialogue, Ground, KeyExchange, NoSuchChoice, Priority, Resumption, Spread, Transfer, Transport, Tuning,
};
pub use environment::Environment;
pub use experiment::{Experiment, ExperimentError, LeftOut, Part, Place};
pub use preset::PRESETS;
pub use record::{End, Head, Record, RecordError, Recorder, Run, SCHEMA, Sample, VERSION};
pub use run::{Differences, RunError, compare, run, unavailable};
pub use script::Step;
pub use stats::Summary;
