//! What the program tells the shell that started it, and how it says what went wrong.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Exit codes, in the numbers of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Exit {
    /// All went well; for `send`: every recipient was accepted.
    Success = 0,
    /// For `replay`: the server answers differently, as diff(1) says it.
    Differs = 1,
    /// The command line is wrong.
    Usage = 64,
    /// The message was refused, or what was to be sent cannot be.
    Data = 65,
    /// The sender or a recipient was refused.
    Refused = 67,
    /// No connection, no TLS, or turned away for good.
    Unavailable = 69,
    /// This machine did not let it: a file, an output.
    Io = 74,
    /// Not now: the same may succeed later.
    Temporary = 75,
    /// The peer broke the protocol.
    Protocol = 76,
    /// AUTH failed, or the TLS policy cannot be met.
    Policy = 77,
    /// A setting, or a file that one names, cannot be used.
    Config = 78,
}

impl Exit {
    /// The worse of two results of the same message: what may still succeed counts more than what never will, since
    /// somebody has to act on it; then the envelope, then the content.
    pub(crate) fn worst(self, other: Self) -> Self {
        let rank = |exit: Self| match exit {
            Self::Success => 0,
            Self::Data => 1,
            Self::Refused => 2,
            Self::Temporary => 3,
            // These end a session; they do not come together with results of recipients.
            Self::Differs
            | Self::Usage
            | Self::Unavailable
            | Self::Io
            | Self::Protocol
            | Self::Policy
            | Self::Config => 4,
        };
        if rank(other) > rank(self) { other } else { self }
    }

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// One word for machines.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Differs => "differs",
            Self::Usage => "usage",
            Self::Data => "message",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Io => "io",
            Self::Temporary => "temporary",
            Self::Protocol => "protocol",
            Self::Policy => "policy",
            Self::Config => "config",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table for `smtp send --help`.
pub(crate) const SEND_TABLE: &str = "\
Exit codes:
   0  every recipient was accepted
  75  something may succeed later: a 4xx reply, a deadline, a broken connection
  67  the sender or a recipient was refused
  65  the message was refused, or what was to be sent is unusable
  69  no connection, no TLS, or turned away for good
  76  the server broke the protocol
  77  AUTH failed, or the TLS policy cannot be met
  78  a setting cannot be used
  64  the command line is wrong
If recipients fare differently it is the first of 75, 67, 65 that fits one of them.";

/// Why a command ends without having done what it was asked: what was wrong and where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    help: Option<String>,
}

impl Failure {
    /// A failure with its exit code; `what` names the thing and the place.
    pub(crate) fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, what: one_line(&what.to_string()), help: None }
    }

    /// A command line that cannot be obeyed.
    pub(crate) fn usage(what: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// A setting that cannot be used.
    pub(crate) fn config(what: impl fmt::Display) -> Self {
        Self::new(Exit::Config, what)
    }

    /// The same with what to do.
    #[must_use]
    pub(crate) fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(one_line(&help.to_string()));
        self
    }

    /// The exit code.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// What was wrong, in one line.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// What to do, in one line.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Says it on stderr.
    pub(crate) fn report(&self) {
        let bad = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let good = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
        say(format_args!("smtp: {bad}error{bad:#}: {}", self.what));
        if let Some(help) = &self.help {
            say(format_args!("{good}help{good:#}: {help}"));
        }
    }
}

/// Says what looks wrong, on stderr.
pub(crate) fn warn(what: impl fmt::Display) {
    let style = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    say(format_args!("smtp: {style}warning{style:#}: {}", one_line(&what.to_string())));
}

/// A line on stderr. Nobody may be there to read it.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// One line, whatever a peer or a file brought into it: no terminal is to be driven by an error.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
    smtp_core::types::printable(lines.join(" / ").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_what_can_still_be_acted_on() {
        use Exit::{Data, Refused, Success, Temporary};
        let order = [Success, Data, Refused, Temporary];
        for (i, a) in order.into_iter().enumerate() {
            for (j, b) in order.into_iter().enumerate() {
                assert_eq!(a.worst(b), order[i.max(j)]);
            }
        }
    }

    #[test]
    fn the_table_names_every_code_that_send_gives() {
        use Exit::{Config, Data, Policy, Protocol, Refused, Success, Temporary, Unavailable, Usage};
        for exit in [Success, Temporary, Refused, Data, Unavailable, Protocol, Policy, Config, Usage] {
            let number = format!("{:>4}  ", exit.code());
            assert_eq!(SEND_TABLE.lines().filter(|line| line.starts_with(&number)).count(), 1, "{exit:?}");
        }
    }

    #[test]
    fn an_error_is_one_line_that_drives_no_terminal() {
        let failure = Failure::usage("a\r\nb\u{1b}[2J\n\nc").help("d\ne");
        assert_eq!(failure.what(), "a / b?[2J / c");
        assert_eq!(failure.help.as_deref(), Some("d / e"));
    }
}
