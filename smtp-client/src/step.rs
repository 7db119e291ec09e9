//! The steps of a session, for deadlines, errors and timings.

use core::fmt;

use smtp_core::session::client::Awaited;
use smtp_core::types::Verb;

/// A step of a session: what was being done when something went wrong, or took its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Getting a connection from the connector, implicit TLS included.
    Connect,
    /// Waiting for the greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS, up to its reply.
    StartTls,
    /// The TLS handshake after STARTTLS.
    Tls,
    /// AUTH, all of the exchange.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, up to its 354.
    Data,
    /// Content under way: a block of DATA, or a chunk of BDAT that is not the last.
    Content,
    /// All of the content was sent, or is about to be, and the reply that decides has not come. A message whose reply
    /// is lost here may have been delivered.
    EndOfContent,
    /// RSET.
    Reset,
    /// NOOP.
    Noop,
    /// VRFY.
    Verify,
    /// EXPN.
    Expand,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// Some other command.
    Other,
    /// Nothing: the session was idle.
    Idle,
}

impl Step {
    pub(crate) const fn of(awaited: Option<Awaited>) -> Self {
        match awaited {
            Some(Awaited::Command(verb)) => Self::of_verb(verb),
            Some(Awaited::Content) => Self::EndOfContent,
            Some(Awaited::Nothing) | None => Self::Idle,
        }
    }

    pub(crate) const fn of_verb(verb: Verb) -> Self {
        match verb {
            Verb::Connect => Self::Greeting,
            Verb::Hello => Self::Hello,
            Verb::StartTls => Self::StartTls,
            Verb::Auth | Verb::Response => Self::Auth,
            Verb::Mail => Self::Mail,
            Verb::Rcpt => Self::Rcpt,
            Verb::Data => Self::Data,
            Verb::Bdat => Self::Content,
            Verb::Rset => Self::Reset,
            Verb::Noop => Self::Noop,
            Verb::Vrfy => Self::Verify,
            Verb::Expn => Self::Expand,
            Verb::Help => Self::Help,
            Verb::Quit => Self::Quit,
            Verb::Other => Self::Other,
        }
    }

    /// Its name, for logs and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Tls => "TLS handshake",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "content",
            Self::EndOfContent => "end of content",
            Self::Reset => "RSET",
            Self::Noop => "NOOP",
            Self::Verify => "VRFY",
            Self::Expand => "EXPN",
            Self::Help => "HELP",
            Self::Quit => "QUIT",
            Self::Other => "command",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
