//! What a client asks for, and the envelope that MAIL and RCPT build.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::{EhloName, ForwardPath, Parameters, ReversePath, Secret};

/// Which greeting a client used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HelloKind {
    /// EHLO: extensions may be used (RFC 5321 §4.1.1.1).
    Ehlo,
    /// HELO: none may.
    Helo,
    /// LHLO: LMTP, one reply per recipient after the content (RFC 2033 §4.1).
    Lhlo,
}

/// A client's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// EHLO, HELO or LHLO.
    pub kind: HelloKind,
    /// Who the client says it is. A claim, not a fact.
    pub name: EhloName,
}

/// `MAIL FROM:<reverse-path> [parameters]` (RFC 5321 §4.1.1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Where notices go.
    pub from: ReversePath,
    /// SIZE, BODY, …
    pub parameters: Parameters,
}

impl Mail {
    /// MAIL without parameters.
    #[must_use]
    pub fn new(from: impl Into<ReversePath>) -> Self {
        Self { from: from.into(), parameters: Parameters::default() }
    }
}

/// `RCPT TO:<forward-path> [parameters]` (RFC 5321 §4.1.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rcpt {
    /// The recipient.
    pub to: ForwardPath,
    /// NOTIFY, ORCPT, …
    pub parameters: Parameters,
}

impl Rcpt {
    /// RCPT without parameters.
    #[must_use]
    pub fn new(to: impl Into<ForwardPath>) -> Self {
        Self { to: to.into(), parameters: Parameters::default() }
    }
}

/// The envelope of one transaction: what MAIL said and the recipients that were accepted, in order, duplicates
/// included (RFC 5321 §2.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The sender's side.
    pub mail: Mail,
    /// The accepted recipients.
    pub recipients: Vec<Rcpt>,
}

/// What a client asks for: a command line, a SASL response, or the channel itself.
///
/// This is what the wire codec reads and writes, and what a policy is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The channel was opened. Never on the wire; a policy is asked before the greeting goes out.
    Connect,
    /// EHLO, HELO or LHLO.
    Hello(Hello),
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `AUTH mechanism [initial-response]` (RFC 4954).
    Auth {
        /// In upper case.
        mechanism: Box<str>,
        /// Decoded from base64; `=` gives an empty one.
        initial: Option<Secret>,
    },
    /// A line that answers a challenge, decoded from base64 (RFC 4954 §4).
    Response(Secret),
    /// `MAIL`.
    Mail(Mail),
    /// `RCPT`.
    Rcpt(Rcpt),
    /// `DATA`: the content follows after a 354.
    Data,
    /// `BDAT size [LAST]`: so many octets follow at once (RFC 3030).
    Bdat {
        /// Octets in this chunk.
        size: u64,
        /// The message ends with this chunk.
        last: bool,
    },
    /// `RSET`: the transaction is forgotten.
    Rset,
    /// `NOOP`.
    Noop,
    /// `VRFY string`.
    Vrfy(Box<str>),
    /// `EXPN string`.
    Expn(Box<str>),
    /// `HELP [string]`.
    Help(Option<Box<str>>),
    /// `QUIT`.
    Quit,
    /// A verb that an extension brought.
    Other {
        /// In upper case.
        verb: Box<str>,
        /// What followed, as it stood; printable.
        arguments: Box<str>,
    },
}

/// The name of a command, as the state table knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// The channel was opened.
    Connect,
    /// EHLO, HELO, LHLO.
    Hello,
    /// STARTTLS
    StartTls,
    /// AUTH
    Auth,
    /// A SASL response.
    Response,
    /// MAIL
    Mail,
    /// RCPT
    Rcpt,
    /// DATA
    Data,
    /// BDAT
    Bdat,
    /// RSET
    Rset,
    /// NOOP
    Noop,
    /// VRFY
    Vrfy,
    /// EXPN
    Expn,
    /// HELP
    Help,
    /// QUIT
    Quit,
    /// A verb of an extension.
    Other,
}

impl Verb {
    /// Every verb, in the order of the table in the docs.
    pub const ALL: [Self; 16] = [
        Self::Connect,
        Self::Hello,
        Self::StartTls,
        Self::Auth,
        Self::Response,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Bdat,
        Self::Rset,
        Self::Noop,
        Self::Vrfy,
        Self::Expn,
        Self::Help,
        Self::Quit,
        Self::Other,
    ];

    /// Its name, for logs and docs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "(connect)",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Response => "(SASL response)",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Bdat => "BDAT",
            Self::Rset => "RSET",
            Self::Noop => "NOOP",
            Self::Vrfy => "VRFY",
            Self::Expn => "EXPN",
            Self::Help => "HELP",
            Self::Quit => "QUIT",
            Self::Other => "(extension)",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Command {
    /// The command's name.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Connect => Verb::Connect,
            Self::Hello(_) => Verb::Hello,
            Self::StartTls => Verb::StartTls,
            Self::Auth { .. } => Verb::Auth,
            Self::Response(_) => Verb::Response,
            Self::Mail(_) => Verb::Mail,
            Self::Rcpt(_) => Verb::Rcpt,
            Self::Data => Verb::Data,
            Self::Bdat { .. } => Verb::Bdat,
            Self::Rset => Verb::Rset,
            Self::Noop => Verb::Noop,
            Self::Vrfy(_) => Verb::Vrfy,
            Self::Expn(_) => Verb::Expn,
            Self::Help(_) => Verb::Help,
            Self::Quit => Verb::Quit,
            Self::Other { .. } => Verb::Other,
        }
    }
}
