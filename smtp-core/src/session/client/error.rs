//! What goes wrong in a client's session, by who is at fault.

use super::Awaited;
use crate::types::Reply;
use crate::wire::{BadLine, ReplyError};

/// The server, or somebody on the way to it, broke the protocol. The session is over.
///
/// Never this side: what this side does wrong is [`NotNow`] or [`ContentError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// What came is no reply.
    #[error("the server broke the reply grammar: {0}")]
    Reply(#[from] ReplyError),
    /// A reply to something that was not asked, or not wholly sent yet.
    #[error("the server answered what was not asked: {0}")]
    Unasked(Reply),
    /// A reply whose code cannot answer what was asked: 354 to MAIL, 250 to DATA …
    #[error("the server gave an answer of the wrong kind: {reply}")]
    Unexpected {
        /// What was asked.
        to: Awaited,
        /// What came.
        reply: Reply,
    },
    /// Octets in clear behind the 220 to STARTTLS. They would have been taken for an answer given inside TLS
    /// (the class of CVE-2021-38371); RFC 3207 §4.2 allows none.
    #[error("octets in clear behind the 220 to STARTTLS: a response was injected")]
    Injected,
}

/// Why a command cannot be sent now. Nothing was queued; this side is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotNow {
    /// The reply to this has to come first.
    #[error("a reply is outstanding")]
    Outstanding(Awaited),
    /// The command is not legal here.
    #[error("bad sequence of commands: {0}")]
    BadSequence(&'static str),
    /// The content is not complete.
    #[error("the content is not complete")]
    InContent,
    /// BDAT to a server that did not offer CHUNKING: it would read the octets as commands.
    #[error("the server does not offer CHUNKING")]
    NoChunking,
    /// DATA for content of BODY=BINARYMIME.
    #[error("BINARYMIME content goes by BDAT only (RFC 3030 §3)")]
    Binary,
    /// The content that is to end here ends within a line.
    #[error(transparent)]
    BadLine(BadLine),
    /// The line holds a control character.
    #[error("a line must not hold CR, LF, NUL or another control character")]
    Control,
    /// The session is over.
    #[error("the session is over")]
    Over,
}

/// Why content was not taken. This side is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The content breaks the line law. What was queued of it before is not sent, and the session is over, since
    /// DATA cannot be taken back.
    #[error(transparent)]
    BadLine(#[from] BadLine),
    /// More than BDAT announced. Nothing of the piece was queued.
    #[error("only {left} octets are left of the chunk")]
    TooMuch {
        /// How many octets are wanted still.
        left: u64,
    },
    /// No content is wanted now: no 354 has come, no chunk is open, or the server ended the session.
    #[error("no content is wanted now")]
    NotWanted,
}
