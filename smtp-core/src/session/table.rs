//! What is legal when: the only place that knows (RFC 5321 §4.1.4 and the extensions' own words).

use alloc::string::String;
use core::fmt;

use crate::types::Verb;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The channel is open, nobody has greeted.
    Opened,
    /// The server has greeted, the client has not; so it is again after STARTTLS.
    Greeted,
    /// The client has greeted; no transaction is open.
    Ready,
    /// A SASL exchange is under way (RFC 4954).
    Sasl,
    /// MAIL was accepted.
    Mail,
    /// At least one recipient was accepted.
    Rcpt,
    /// The content flows after 354.
    Data,
    /// A chunk that was not the last has been accepted (RFC 3030).
    Chunks,
    /// A chunk was refused: the transaction is lost, and only RSET or EHLO leads out (RFC 3030 §2).
    ChunksRefused,
    /// The greeting was a refusal: only QUIT makes sense (RFC 5321 §3.1).
    TurnedAway,
    /// Over.
    Ended,
}

impl State {
    /// Every state, in the order of the diagram.
    pub const ALL: [Self; 11] = [
        Self::Opened,
        Self::Greeted,
        Self::Ready,
        Self::Sasl,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Chunks,
        Self::ChunksRefused,
        Self::TurnedAway,
        Self::Ended,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the table says to a verb in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Legal; success leads to this state. A refusal leaves the state as it was.
    Go(State),
    /// 503: bad sequence. The text says what is missing.
    BadSequence(&'static str),
    /// Cannot occur: these octets are not a command line in this state.
    Never,
}

/// The law. Success of a legal command leads to the state in [`Law::Go`]; DATA and BDAT lead back to
/// [`State::Ready`] when the content is over.
#[must_use]
pub const fn law(state: State, verb: Verb) -> Law {
    use Law::{BadSequence, Go, Never};
    use State::{Chunks, ChunksRefused, Data, Ended, Greeted, Mail, Opened, Rcpt, Ready, Sasl, TurnedAway};
    match (state, verb) {
        (Opened, Verb::Connect) => Go(Greeted),
        (Opened | Ended | Data, _) | (_, Verb::Connect) => Never,

        // During a SASL exchange every line is a response (RFC 4954 §4).
        (Sasl, Verb::Response) => Go(Ready),
        (Sasl, _) | (_, Verb::Response) => Never,

        (_, Verb::Quit) => Go(Ended),
        (TurnedAway, _) => BadSequence("service was refused; only QUIT is left"),

        // EHLO may come at any time and clears the transaction (RFC 5321 §4.1.4).
        (_, Verb::Hello) => Go(Ready),

        // No greeting is needed (RFC 5321 §4.1.4).
        (ChunksRefused, Verb::Noop) => Go(ChunksRefused),
        (state, Verb::Noop | Verb::Help) if !matches!(state, ChunksRefused) => Go(state),
        (Greeted, Verb::Vrfy | Verb::Expn) => Go(Greeted),
        (Greeted, Verb::Rset) => Go(Greeted),
        (_, Verb::Rset) => Go(Ready),

        // Only RSET, EHLO, NOOP and QUIT, until RSET or EHLO; BDAT is swallowed (RFC 3030 §2).
        (ChunksRefused, _) => BadSequence("a chunk was refused; send RSET first"),
        (Greeted, _) => BadSequence("send EHLO first"),

        (state, Verb::Vrfy | Verb::Expn) => Go(state),
        (Chunks, Verb::Bdat) => Go(Chunks),
        // DATA and BDAT do not mix in one transaction (RFC 3030 §3), and nothing else may stand between chunks.
        (Chunks, _) => BadSequence("the message is not complete; send BDAT or RSET"),

        (Ready, Verb::StartTls) => Go(Greeted),
        // Not in a transaction: RFC 3207 §4.2 forgets all there was, RFC 4954 §4 forbids it outright.
        (Mail | Rcpt, Verb::StartTls | Verb::Auth) => BadSequence("not within a mail transaction; send RSET first"),
        (Ready, Verb::Auth) => Go(Ready),

        (Ready, Verb::Mail) => Go(Mail),
        (Mail | Rcpt, Verb::Mail) => BadSequence("nested MAIL; send RSET first"),
        (Mail | Rcpt, Verb::Rcpt) => Go(Rcpt),
        (Ready, Verb::Rcpt) => BadSequence("send MAIL first"),
        (Rcpt, Verb::Data) => Go(Data),
        (Rcpt, Verb::Bdat) => Go(Chunks),
        (Mail, Verb::Data | Verb::Bdat) => BadSequence("no valid recipients"),
        (Ready, Verb::Data | Verb::Bdat) => BadSequence("send MAIL and RCPT first"),

        (state, Verb::Other) => Go(state),
        (state, Verb::Noop | Verb::Help) => Go(state),
    }
}

/// The table as Markdown, for the docs: a row per state, a column per verb; an arrow where success changes the state.
#[must_use]
pub fn diagram() -> String {
    let mut out = String::from("| state |");
    for verb in Verb::ALL {
        out.push_str(&alloc::format!(" {verb} |"));
    }
    out.push_str("\n|---|");
    for _ in Verb::ALL {
        out.push_str("---|");
    }
    for state in State::ALL {
        out.push_str(&alloc::format!("\n| **{state}** |"));
        for verb in Verb::ALL {
            match law(state, verb) {
                Law::Go(to) if to == state => out.push_str(" ok |"),
                Law::Go(to) => out.push_str(&alloc::format!(" → {to} |")),
                Law::BadSequence(_) => out.push_str(" 503 |"),
                Law::Never => out.push_str(" · |"),
            }
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_reached_only_with_sender_and_recipient() {
        for state in State::ALL {
            assert_eq!(law(state, Verb::Data) == Law::Go(State::Data), state == State::Rcpt);
            assert_eq!(matches!(law(state, Verb::Bdat), Law::Go(_)), matches!(state, State::Rcpt | State::Chunks));
            assert_eq!(matches!(law(state, Verb::Rcpt), Law::Go(_)), matches!(state, State::Mail | State::Rcpt));
            assert_eq!(matches!(law(state, Verb::Mail), Law::Go(_)), state == State::Ready);
        }
    }

    #[test]
    fn quit_is_legal_wherever_a_command_is() {
        for state in State::ALL {
            let commands = !matches!(state, State::Opened | State::Sasl | State::Data | State::Ended);
            assert_eq!(law(state, Verb::Quit) == Law::Go(State::Ended), commands);
        }
    }
}
