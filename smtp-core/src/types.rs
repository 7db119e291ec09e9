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
mod octets;
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
use core::str;

use ascii::{AsAsciiStr, AsciiStr};

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

/// `octets` as text, if they are UTF-8. Nearly always they are US-ASCII, which is told by looking at a word at a time; the
/// standard library looks at each octet of so short a text.
#[inline]
pub(crate) fn utf8(octets: &[u8]) -> Option<&str> {
    match octets.as_ascii_str() {
        Ok(ascii) => Some(ascii.as_str()),
        Err(_) => str::from_utf8(octets).ok(),
    }
}

/// What stands before the first `byte`, which is of US-ASCII, and what behind it. Texts are short here; `str::split_once`
/// is made for long ones.
pub(crate) fn split_at_byte(text: &str, byte: u8) -> (&str, Option<&str>) {
    debug_assert!(byte.is_ascii());
    match text.bytes().position(|b| b == byte) {
        Some(i) => (text.get(..i).unwrap_or_default(), text.get(i + 1..)),
        None => (text, None),
    }
}

/// Text from outside with everything that a terminal, a log line or a reply could trip over replaced by `?`.
#[must_use]
pub fn printable(text: &[u8]) -> String {
    match plain(text) {
        Some(text) => text.into(),
        None => String::from_utf8_lossy(text)
            .chars()
            .map(|c| if c.is_control() || c == '\u{FFFD}' { '?' } else { c })
            .collect(),
    }
}

/// `octets` as text, if all is printable US-ASCII, as nearly all text is.
#[inline]
pub(crate) fn plain(octets: &[u8]) -> Option<&str> {
    if any_octet(octets, |octet| !matches!(octet, b' '..=b'~')) {
        return None;
    }
    octets.as_ascii_str().ok().map(AsciiStr::as_str)
}

/// True if `wrong` holds for any octet. Eight of them are looked at together, without a branch for each; the last eight may
/// overlap with those before.
pub(crate) fn any_octet(octets: &[u8], wrong: impl Fn(u8) -> bool) -> bool {
    let any = |octets: &[u8]| octets.iter().fold(false, |any, octet| any | wrong(*octet));
    match octets.last_chunk::<8>() {
        Some(last) => octets.as_chunks::<8>().0.iter().any(|chunk| any(chunk)) || any(last),
        None => any(octets),
    }
}

/// `Box<str>` of the ASCII upper-case form, used for keywords and verbs, which compare without case.
pub(crate) fn upper(text: &str) -> Box<str> {
    let mut text = String::from(text);
    text.make_ascii_uppercase();
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_wrong_octet_is_found_wherever_it_stands(len in 0..40_usize, at in any::<prop::sample::Index>()) {
            let mut octets: Vec<u8> = [b'x'].repeat(len);
            prop_assert!(plain(&octets).is_some());
            if len > 0 {
                octets[at.index(len)] = 0;
                prop_assert!(plain(&octets).is_none());
            }
        }

        #[test]
        fn printable_text_is_shown_as_it_is_and_nothing_else_is(text in any::<Vec<u8>>()) {
            let plainly = |c: char| if c.is_control() || c == '\u{FFFD}' { '?' } else { c };
            prop_assert_eq!(printable(&text), String::from_utf8_lossy(&text).chars().map(plainly).collect::<String>());
        }
    }
}
