//! `smtp completions` and `smtp man`: what packagers put beside the binary.

use std::io::{self, Write};
use std::path::PathBuf;

use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::exit::{Exit, Failure};

/// Prints a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Prints a manual page, or writes all of them into a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// The subcommand whose page is printed. Default: the page of smtp itself.
    #[arg(value_name = "SUBCOMMAND", conflicts_with = "out")]
    pub(crate) page: Option<String>,

    /// Write all pages into this folder: smtp.1, smtp-serve.1 …
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Runs `smtp completions`.
///
/// # Errors
/// If standard output does not take it.
pub(crate) fn completions(arguments: &Completions, mut command: clap::Command) -> Result<Exit, Failure> {
    // clap_complete panics where writing fails; memory takes everything.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "smtp", &mut script);
    print(&script)
}

/// Runs `smtp man`.
///
/// # Errors
/// If there is no such page, or it cannot be written.
pub(crate) fn man(arguments: &Man, command: clap::Command) -> Result<Exit, Failure> {
    if let Some(folder) = &arguments.out {
        let fault = |error: io::Error| {
            Failure::new(Exit::Io, format!("cannot write the pages into {}: {error}", folder.display()))
        };
        std::fs::create_dir_all(folder).map_err(fault)?;
        clap_mangen::generate_to(command, folder).map_err(fault)?;
        return Ok(Exit::Success);
    }
    let mut command = command;
    command.build();
    let page = match &arguments.page {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            Failure::usage(format!("no page for {name:?}")).help(format!("there are {}", known.join(", ")))
        })?,
    };
    let mut roff = Vec::new();
    Page::new(page).render(&mut roff).map_err(|error| Failure::new(Exit::Io, error))?;
    print(&roff)
}

fn print(text: &[u8]) -> Result<Exit, Failure> {
    match io::stdout().write_all(text) {
        // `smtp man | head` is no fault.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(Exit::Success),
    }
}
