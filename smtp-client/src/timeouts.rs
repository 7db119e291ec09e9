//! How long each step may take.

use core::time::Duration;

use crate::Step;

/// How long each step may take; nothing waits for a peer without one of these.
///
/// The defaults are the minima of RFC 5321 §4.5.3.2 where it names one: a shorter wait gives up on servers that are
/// within their rights. They count from when the step's octets were written to when its reply is whole; a reply that
/// trickles in does not extend them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Getting a connection: name lookup, connecting, implicit TLS. 30 s.
    pub connect: Duration,
    /// The greeting. 5 min (RFC 5321 §4.5.3.2.1).
    pub greeting: Duration,
    /// EHLO, STARTTLS, each reply of AUTH, RSET, NOOP, VRFY, EXPN, HELP and anything that has no setting of its own.
    /// 5 min.
    pub command: Duration,
    /// The TLS handshake after STARTTLS. 1 min.
    pub tls: Duration,
    /// MAIL. 5 min (RFC 5321 §4.5.3.2.2).
    pub mail: Duration,
    /// RCPT, each. 5 min (RFC 5321 §4.5.3.2.3).
    pub rcpt: Duration,
    /// DATA, up to its 354. 2 min (RFC 5321 §4.5.3.2.4).
    pub data: Duration,
    /// Each block of content, up to 64 KiB of DATA or a chunk of BDAT, until the channel has taken it; and the reply
    /// to a chunk that is not the last. 3 min (RFC 5321 §4.5.3.2.5).
    pub block: Duration,
    /// The reply to the message. 10 min (RFC 5321 §4.5.3.2.6): giving up earlier makes duplicates.
    pub end_of_content: Duration,
    /// Each piece of the content, from its own source. 10 min. This is about the local side, not the peer.
    pub source: Duration,
    /// QUIT and the close of the channel. 10 s: nothing depends on it.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        let minutes = |n: u64| Duration::from_secs(n * MINUTE);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            command: minutes(5),
            tls: minutes(1),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end_of_content: minutes(10),
            source: minutes(10),
            quit: Duration::from_secs(10),
        }
    }
}

impl Timeouts {
    /// The same wait for every step, for programs that a person sits in front of, and for tests.
    #[must_use]
    pub const fn all(wait: Duration) -> Self {
        Self {
            connect: wait,
            greeting: wait,
            command: wait,
            tls: wait,
            mail: wait,
            rcpt: wait,
            data: wait,
            block: wait,
            end_of_content: wait,
            source: wait,
            quit: wait,
        }
    }

    /// How long `step` may take.
    #[must_use]
    pub const fn of(&self, step: Step) -> Duration {
        match step {
            Step::Connect => self.connect,
            Step::Greeting => self.greeting,
            Step::Tls => self.tls,
            Step::Mail => self.mail,
            Step::Rcpt => self.rcpt,
            Step::Data => self.data,
            Step::Content => self.block,
            Step::EndOfContent => self.end_of_content,
            Step::Quit => self.quit,
            Step::Hello
            | Step::StartTls
            | Step::Auth
            | Step::Reset
            | Step::Noop
            | Step::Verify
            | Step::Expand
            | Step::Help
            | Step::Other
            | Step::Idle => self.command,
        }
    }
}
