//! Replies, and the two halves of them that the type system keeps apart: refusals and acceptances.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt;

use super::{Code, EnhancedCode, Invalid, Severity, any_octet};

/// A server's answer: code, enhanced code, and text of one or more lines (RFC 5321 §4.2, RFC 2034).
///
/// The text holds no control character but `\n`, which separates lines: anything else becomes `?` on the way in, so
/// a reply built from a peer's words cannot start a second reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: Code,
    enhanced: Option<EnhancedCode>,
    text: Cow<'static, str>,
}

impl Reply {
    /// A reply; lines of `text` are separated by `\n`.
    #[must_use]
    pub fn new(code: Code, enhanced: Option<EnhancedCode>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced, text: clean(text.into()) }
    }

    /// A reply with a text that holds no control character but `\n`.
    pub(crate) const fn of(code: Code, enhanced: Option<EnhancedCode>, text: String) -> Self {
        Self { code, enhanced, text: Cow::Owned(text) }
    }

    /// A reply whose code, `class.subject.detail` and text are known when the program is written.
    ///
    /// A code outside 200..=599 becomes 451. Subject and detail 0 with class 0 mean: no enhanced code.
    #[must_use]
    pub fn fixed(code: u16, (class, subject, detail): (u8, u16, u16), text: &'static str) -> Self {
        let enhanced = (class != 0).then(|| EnhancedCode::of(class, subject, detail));
        Self { code: Code::of(code), enhanced, text: Cow::Borrowed(text) }
    }

    /// The reply code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What the code's first digit says.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// The enhanced status code, if there is one.
    #[must_use]
    pub const fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The text, lines separated by `\n`, without codes.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines of the text; at least one, which may be empty.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }
}

fn clean(text: Cow<'static, str>) -> Cow<'static, str> {
    let bad = |c: char| c.is_control() && c != '\n';
    // What nearly all text is, and is told at once.
    if !any_octet(text.as_bytes(), |octet| !matches!(octet, b' '..=b'~' | b'\n')) {
        return text;
    }
    if text.contains(bad) {
        Cow::Owned(text.chars().map(|c| if bad(c) { '?' } else { c }).collect::<String>())
    } else {
        text
    }
}

impl fmt::Display for Reply {
    /// One line, for logs and errors: `550 5.1.1 no such mailbox`. Line breaks are shown as ` / `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for (i, line) in self.lines().enumerate() {
            f.write_str(if i == 0 { " " } else { " / " })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// A reply that says no: 4yz or 5yz, never anything else.
///
/// A service that refuses cannot say yes by mistake: the type has no 2yz value.
///
/// ```
/// use smtp_core::types::{Refusal, Reply};
/// assert!(Refusal::try_from(Reply::fixed(550, (5, 1, 1), "no such mailbox")).is_ok());
/// assert!(Refusal::try_from(Reply::fixed(250, (2, 0, 0), "fine")).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(Reply);

impl Refusal {
    /// A refusal whose parts are known when the program is written; a code that is not 4yz or 5yz becomes 451.
    #[must_use]
    pub fn fixed(code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Self {
        let code = if (400..600).contains(&code) { code } else { 451 };
        Self(Reply::fixed(code, enhanced, text))
    }

    /// A refusal with a text made at run time; a code that is not 4yz or 5yz becomes 451.
    #[must_use]
    pub fn new(code: u16, (class, subject, detail): (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Self {
        let code = if (400..600).contains(&code) { code } else { 451 };
        Self(Reply::new(Code::of(code), Some(EnhancedCode::of(class, subject, detail)), text))
    }

    /// The reply.
    #[must_use]
    pub const fn reply(&self) -> &Reply {
        &self.0
    }

    /// The reply, given away.
    #[must_use]
    pub fn into_reply(self) -> Reply {
        self.0
    }

    /// True for 4yz: the same may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.severity() == Severity::Transient
    }
}

impl TryFrom<Reply> for Refusal {
    type Error = Invalid;

    fn try_from(reply: Reply) -> Result<Self, Invalid> {
        match reply.severity() {
            Severity::Transient | Severity::Permanent => Ok(Self(reply)),
            Severity::Success | Severity::Continue => Err(Invalid::new("refusal", "a refusal is 4yz or 5yz")),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for Refusal {}

/// A reply that says yes: 2yz. It is what a relay shows as its proof that the next hop took the mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedReply(Reply);

impl AcceptedReply {
    /// The reply.
    #[must_use]
    pub const fn reply(&self) -> &Reply {
        &self.0
    }
}

impl TryFrom<Reply> for AcceptedReply {
    type Error = Invalid;

    fn try_from(reply: Reply) -> Result<Self, Invalid> {
        if reply.severity() == Severity::Success {
            Ok(Self(reply))
        } else {
            Err(Invalid::new("acceptance", "an acceptance is 2yz"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_cannot_start_another_reply() {
        let reply = Reply::new(Code::of(550), None, "no\r\n250 yes\u{1b}[2J\0");
        assert_eq!(reply.text(), "no?\n250 yes?[2J?");
        assert_eq!(reply.lines().count(), 2);
    }

    #[test]
    fn a_refusal_never_says_yes() {
        assert_eq!(Refusal::fixed(250, (2, 0, 0), "x").reply().code().get(), 451);
        assert!(AcceptedReply::try_from(Reply::fixed(354, (0, 0, 0), "go")).is_err());
    }

    #[test]
    fn display_is_one_line() {
        assert_eq!(Reply::fixed(550, (5, 1, 1), "a\nb").to_string(), "550 5.1.1 a / b");
    }
}
