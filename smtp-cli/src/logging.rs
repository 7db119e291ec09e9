//! The log: to stderr, through a writer that never holds a session up.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing.
    Off,
    /// What went wrong here.
    Error,
    /// And what looks wrong.
    Warn,
    /// And a line for each message, and refusals.
    Info,
    /// And each command.
    Debug,
    /// And everything else.
    Trace,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts the log at `level`, made more talkative by each `verbose`. What is logged is written until the guard is
/// dropped.
pub(crate) fn start(level: Level, verbose: u8, format: Format) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let level = filter(level, verbose);
    // Libraries underneath are asked only when everything is wanted.
    let others = if level == LevelFilter::TRACE { LevelFilter::TRACE } else { level.min(LevelFilter::WARN) };
    let targets = Targets::new().with_default(others).with_target("smtp", level);
    let layer = match format {
        Format::Text => text(writer).boxed(),
        Format::Json => tracing_subscriber::fmt::layer().json().with_writer(writer).boxed(),
    };
    // A second start would be a fault of this program; the first goes on then.
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
    guard
}

fn text<S>(writer: NonBlocking) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour && io::stderr().is_terminal());
    layer.with_target(false)
}

fn filter(level: Level, verbose: u8) -> LevelFilter {
    const STEPS: [LevelFilter; 6] = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let step = (level as usize).saturating_add(verbose.into());
    STEPS.get(step).copied().unwrap_or(LevelFilter::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_is_a_step_and_the_last_step_is_the_last() {
        assert_eq!(filter(Level::Info, 0), LevelFilter::INFO);
        assert_eq!(filter(Level::Off, 1), LevelFilter::ERROR);
        assert_eq!(filter(Level::Warn, 2), LevelFilter::DEBUG);
        assert_eq!(filter(Level::Info, 200), LevelFilter::TRACE);
    }
}
