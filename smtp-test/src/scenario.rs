//! Conversations as files: what a client sends, and what a server has to say to it.
//!
//! A scenario holds one side to the other's words. [`run`] plays the client against any live stream: our own server
//! over any transport, or somebody else's. [`server::play`](crate::server::play) plays the server, to test a client. The
//! format is the same, and a [`Transcript`] prints in it.
//!
//! | line | says |
//! |---|---|
//! | `C: text` | the client sends this line and CRLF; lines that follow each other leave in one write |
//! | `C+: raw` | the client sends these octets and no CRLF; `\r \n \t \0 \\ \xNN` stand for octets |
//! | `C*: 3 "raw"` | the same, so many times |
//! | `S: pattern` | the server sends one reply line; `*` stands for any text, `\*` and `\\` for themselves |
//! | `S?: pattern` | the same, unless the server closes instead |
//! | `S: ...` | any further lines of the same reply, up to one that the next `S:` matches, or to its end |
//! | `S: ... without SIZE` | the same, and none of them is about that EHLO keyword |
//! | `S*: 3 "pattern"` | so many lines of this pattern |
//! | `S+: raw` | the server sends exactly these octets |
//! | `C!`, `S!` | the client, the server closes its side; behind `S!` nothing more may come |
//! | `S*!` | the server closes; octets that are no reply may come before, such as a TLS alert |
//! | `UPGRADE` | both sides turn the channel into a TLS one (RFC 3207) |
//! | `WAIT 5 s` | whoever plays the file waits; also `ms` and `min` |
//! | `ABORT` | whoever plays the file breaks the channel off |
//! | `ONLY word…` | plays only on a channel that is `secure`, `plain`, `tls`, `starttls` (can be upgraded), `server-first`, `client-first`; `!word` for the contrary |
//! | `NEEDS keyword…`, `WITHOUT keyword…` | plays on only if the reply to the first EHLO offers these, or does not |
//! | `SERVER property…` | plays only against a server with these properties, such as `size=1000000`; see [`Runner::properties`] |
//! | `title: text`, `rfc: text` | at the top: what it is about, and where that is written |
//! | `# text` | why |
//!
//! Where the client speaks first, what the file has before the client's first line is expected behind it.
//!
//! ```
//! use smtp_test::memory::{Knobs, pair};
//! use smtp_test::scenario::{self, Scenario};
//! use smtp_test::server;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let scenario = Scenario::parse("quit", "S: 220 *\nC: QUIT\nS: 221 2.0.0 *\nS!\n")?;
//! let (client, server) = pair(Knobs::default());
//! // Here the server is played from the same file; any other would do.
//! let (client, server) = tokio::join!(
//!     scenario::run(&scenario, Box::new(client)),
//!     server::play(&scenario, Box::new(server)),
//! );
//! assert!(client?.has_passed());
//! server?;
//! # Ok(())
//! # }
//! ```

mod mismatch;
mod parse;
mod reply;
mod run;
mod text;

pub use mismatch::{Got, Mismatch};
pub use reply::Matching;
pub(crate) use run::is_reply;
pub use run::{Report, Runner, run};
pub(crate) use text::{Pattern, escape, escape_pattern};

use std::io;
use std::path::Path;
use std::time::Duration;

#[cfg(doc)]
use crate::recorder::Transcript;
use smtp_core::channel::ChannelInfo;

/// One conversation, read from a file.
#[derive(Debug, Clone)]
pub struct Scenario {
    name: String,
    title: String,
    references: String,
    conditions: Vec<Condition>,
    pub(crate) steps: Vec<Step>,
}

/// One line of a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) line: usize,
    /// The line itself, for messages.
    pub(crate) source: String,
    pub(crate) what: What,
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    ClientLine(String),
    ClientRaw(Vec<u8>),
    ClientCloses,
    ServerLine(Pattern),
    ServerMaybe(Pattern),
    ServerRest {
        without: Option<String>,
    },
    ServerRaw(Vec<u8>),
    ServerCloses,
    /// The server closes, and may do so in the words of another protocol.
    ServerClosesSomehow,
    Upgrade,
    Wait(Duration),
    Abort,
}

impl What {
    /// The octets that the client sends.
    pub(crate) fn client_octets(&self) -> Option<Vec<u8>> {
        match self {
            Self::ClientLine(line) => Some([line.as_bytes(), b"\r\n"].concat()),
            Self::ClientRaw(octets) => Some(octets.clone()),
            _ => None,
        }
    }

    pub(crate) const fn is_said_by_server(&self) -> bool {
        matches!(self, Self::ServerLine(_) | Self::ServerMaybe(_) | Self::ServerRest { .. } | Self::ServerRaw(_))
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Condition {
    Channel {
        word: String,
        is: fn(&ChannelInfo) -> bool,
        wanted: bool,
    },
    Ehlo(Need, String),
    /// A property of the server that no channel and no keyword shows.
    Server(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Offered,
    Absent,
}

impl Condition {
    fn of_channel(text: &str) -> Result<Self, String> {
        let (word, wanted) = text.strip_prefix('!').map_or((text, true), |word| (word, false));
        let is: fn(&ChannelInfo) -> bool = match word {
            "secure" => |info| info.secure,
            "plain" => |info| !info.secure,
            "tls" => |info| info.tls.is_some(),
            "starttls" => |info| info.can_upgrade,
            "server-first" => |info| !info.client_speaks_first,
            "client-first" => |info| info.client_speaks_first,
            _ => return Err(format!("{word}: secure, plain, tls, starttls, server-first or client-first")),
        };
        Ok(Self::Channel { word: text.to_owned(), is, wanted })
    }
}

impl Scenario {
    /// Reads a scenario; `name` is for messages.
    ///
    /// # Errors
    /// [`ParseError`] names the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        parse::parse(name, text)
    }

    /// Reads a scenario from a file.
    ///
    /// # Errors
    /// Those of reading; [`ParseError`] inside an error of the kind `InvalidData`.
    pub fn load(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Self::parse(&path.display().to_string(), &text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Reads all files of a folder whose names end in `.txt`, in the order of their names.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn load_all(folder: &Path) -> io::Result<Vec<Self>> {
        let mut paths = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
        paths.sort();
        paths.iter().map(|path| Self::load(path)).collect()
    }

    /// Where it was read from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is about.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Where that is written.
    #[must_use]
    pub fn references(&self) -> &str {
        &self.references
    }

    /// Everything the client sends, one after the other, as far as the first point where more than octets counts:
    /// an upgrade, a close, a wait.
    #[must_use]
    pub fn client_octets(&self) -> Vec<u8> {
        let plain =
            |step: &&Step| !matches!(step.what, What::Upgrade | What::Wait(_) | What::Abort | What::ClientCloses);
        self.steps.iter().take_while(plain).filter_map(|step| step.what.client_octets()).flatten().collect()
    }

    /// Why the scenario cannot be played on a channel with these facts, if so. Whether an EHLO keyword is there only
    /// the server can tell.
    #[must_use]
    pub fn unmet(&self, channel: &ChannelInfo) -> Option<String> {
        self.conditions.iter().find_map(|condition| match condition {
            Condition::Channel { word, is, wanted } if is(channel) != *wanted => {
                Some(format!("only on a channel that is {word}"))
            }
            _ => None,
        })
    }

    /// What must be in the first reply to EHLO, and what must not.
    pub(crate) fn keywords(&self) -> impl Iterator<Item = (Need, &str)> {
        self.conditions.iter().filter_map(|condition| match condition {
            Condition::Ehlo(need, keyword) => Some((*need, keyword.as_str())),
            Condition::Channel { .. } | Condition::Server(_) => None,
        })
    }

    /// What the server has to be like, beside what every server is and the protocol that it speaks.
    pub fn properties(&self) -> impl Iterator<Item = &str> {
        self.server_words().filter(|word| *word != LMTP)
    }

    /// True if it is about LMTP: it has a line `SERVER lmtp`.
    #[must_use]
    pub fn is_lmtp(&self) -> bool {
        self.server_words().any(|word| word == LMTP)
    }

    fn server_words(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|condition| match condition {
            Condition::Server(property) => Some(property.as_str()),
            Condition::Channel { .. } | Condition::Ehlo(..) => None,
        })
    }

    /// The steps in the order in which they happen on a channel: where the client speaks first, its first words come
    /// before what the file has in front of them.
    pub(crate) fn steps_on(&self, channel: &ChannelInfo) -> Vec<&Step> {
        let mut steps: Vec<&Step> = self.steps.iter().collect();
        if channel.client_speaks_first {
            let from = steps.iter().take_while(|step| step.what.is_said_by_server()).count();
            let words = steps.iter().skip(from).take_while(|step| step.what.client_octets().is_some()).count();
            if let Some(moved) = steps.get_mut(..from + words) {
                moved.rotate_left(from);
            }
        }
        steps
    }
}

/// The word behind `SERVER` in files about LMTP.
const LMTP: &str = "lmtp";

/// Why a file is not a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
#[non_exhaustive]
pub struct ParseError {
    /// Its name.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}
