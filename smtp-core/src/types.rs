//! Values of the protocol that cannot be invalid.
//!
//! A value that exists has passed its grammar: it holds no CR, LF, NUL or other control character, so no encoder
//! can be made to write a second command or header (the class of CRLF injection). The ABNF stands in the doc of
//! each type.

mod code;
mod command;
pub(crate) mod date_time;
mod host;
mod mailbox;
mod parameters;
mod path;
mod reply;
mod secret;
pub mod status;
pub mod xtext;

pub use code::{Code, EnhancedCode, Severity};
pub use command::{Command, Envelope, Hello, HelloKind, Mail, Rcpt, Verb};
pub use host::{AddressLiteral, Domain, EhloName, GeneralLiteral, Host};
pub use mailbox::{LocalPart, Mailbox};
pub use parameters::{Parameter, Parameters};
pub use path::{ForwardPath, ReversePath};
pub use reply::{AcceptedReply, Refusal, Reply};
pub use secret::Secret;

use alloc::boxed::Box;
use alloc::string::String;

/// Why a text is not a value of the type it was parsed as.
///
/// Carries the rule that was broken, never the offending octets: those may be hostile, and belong into a log only
/// after escaping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {rule}")]
pub struct Invalid {
    /// What was being parsed, in the field's terms: `mailbox`, `domain`, `parameter` …
    pub what: &'static str,
    /// The rule that was broken and, where it helps, its source.
    pub rule: &'static str,
}

impl Invalid {
    /// An error for `what`, naming the broken `rule`.
    #[must_use]
    pub const fn new(what: &'static str, rule: &'static str) -> Self {
        Self { what, rule }
    }
}

/// Text from outside with everything that a terminal, a log line or a reply could trip over replaced by `?`.
#[must_use]
pub fn printable(text: &[u8]) -> String {
    // What nearly all text is, and is told at once.
    if text.iter().all(|b| matches!(b, b' '..=b'~')) {
        return String::from_utf8_lossy(text).into_owned();
    }
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() || c == '\u{FFFD}' { '?' } else { c }).collect()
}

/// `Box<str>` of the ASCII upper-case form, used for keywords and verbs, which compare without case.
pub(crate) fn upper(text: &str) -> Box<str> {
    let mut text = String::from(text);
    text.make_ascii_uppercase();
    text.into_boxed_str()
}
