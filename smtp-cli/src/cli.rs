//! The command line as a whole.

use clap::{CommandFactory, Parser, Subcommand};

use crate::settings::with_environment;
use crate::{config, manual, queue, replay, send, sendmail, serve, shell, sink, user};

/// SMTP: a mail server in one command, a sink, a sender, a shell.
#[derive(Debug, Parser)]
#[command(name = "smtp", version, arg_required_else_help = true, infer_subcommands = false)]
#[command(disable_help_subcommand = true, after_help = MORE_HELP)]
struct Cli {
    #[command(subcommand)]
    _command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    #[command(after_help = serve::MORE_HELP)]
    Serve(Box<serve::Arguments>),
    #[command(after_help = queue::MORE_HELP)]
    Queue(queue::Arguments),
    Config(config::Arguments),
    #[command(after_help = sendmail::MORE_HELP)]
    Sendmail(sendmail::Arguments),
    #[command(after_help = sink::MORE_HELP)]
    Sink(sink::Arguments),
    #[command(after_help = crate::exit::SEND_TABLE, after_long_help = send_help())]
    Send(send::Arguments),
    #[command(after_help = shell::MORE_HELP)]
    Shell(shell::Arguments),
    #[command(after_help = user::MORE_HELP)]
    User(user::Arguments),
    #[command(after_help = replay::MORE_HELP)]
    Replay(replay::Arguments),
    #[cfg(feature = "bench")]
    #[command(after_help = crate::bench::MORE_HELP)]
    Bench(Box<crate::bench::Arguments>),
    #[cfg(feature = "lab")]
    #[command(after_help = crate::lab::MORE_HELP)]
    Lab(Box<crate::lab::Arguments>),
    Completions(manual::Completions),
    Man(manual::Man),
}

const MORE_HELP: &str = "\
Start with `smtp serve`: it needs no configuration, and says how to send it a first mail.

Every option can also be given as an environment variable, SMTP_<SUBCOMMAND>_<OPTION> (SMTP_SERVE_DATA_DIR), and in a \
TOML file named by --config (data_dir = \"/var/lib/smtp\"). A flag outweighs the environment, the environment the file.";

fn send_help() -> String {
    format!("{}\n\n{}", crate::exit::SEND_TABLE, send::MORE_HELP)
}

/// The command with all that it takes, the environment included.
pub(crate) fn command() -> clap::Command {
    with_environment(Cli::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_the_exit_codes_and_no_secret() {
        let mut command = command();
        let send = command.find_subcommand_mut("send").unwrap();
        let help = send.render_long_help().to_string();
        assert!(help.contains("Exit codes:") && help.contains("75  something may succeed later"), "{help}");
        assert!(help.contains("SMTP_SEND_SERVER for --server") && !help.contains("[env:"), "{help}");
        assert!(send.render_help().to_string().contains("Exit codes:"));
    }
}
