//! `smtp config`: what a configuration of `smtp serve` means, and whether it can be used.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;

use crate::exit::{Exit, Failure};
use crate::serve;

/// Checks or shows a configuration of `smtp serve`. Nothing is started or made.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to do.
    #[arg(value_enum)]
    action: Action,

    /// The configuration.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Say whether it can be used, with all files that it names.
    Check,
    /// Show what it means, defaults included, in the form of a configuration. Secrets are left out.
    Show,
}

/// Runs `smtp config`.
///
/// # Errors
/// If the configuration cannot be used.
pub(crate) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let settings = serve::check(&arguments.file)?;
    let mut out = io::stdout().lock();
    // A caller who closed the pipe does not want to know.
    let _ = match arguments.action {
        Action::Check => writeln!(out, "{} can be used", arguments.file.display()),
        Action::Show => write!(out, "{settings}"),
    };
    Ok(Exit::Success)
}
