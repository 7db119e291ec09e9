//! Parameters of MAIL and RCPT (RFC 5321 §4.1.2).

use alloc::string::String;
use core::fmt;

use smol_str::SmolStr;

use super::octets::{self, is_beyond_ascii, split_span};
use super::{Invalid, split_at_byte};

/// A typed parameter of MAIL or RCPT, such as `SIZE=1000`. One implementation stands in the file of each extension.
pub trait Parameter: Sized {
    /// The keyword, in upper case.
    const KEYWORD: &'static str;

    /// Reads the value; `None` when the keyword stands alone.
    ///
    /// # Errors
    /// [`Invalid`] names the broken rule.
    fn from_value(value: Option<&str>) -> Result<Self, Invalid>;

    /// Writes the value, or nothing for a keyword that stands alone.
    ///
    /// # Errors
    /// Only those of `out`.
    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// The parameters that followed a path, each at most once:
/// `esmtp-param = esmtp-keyword ["=" esmtp-value]`, separated by spaces (RFC 5321 §4.1.2).
///
/// They are kept as text and read on demand, so that an extension is one file and a parameter nobody reads costs
/// nothing. The server's session has checked every one of them against the registry before a service sees them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Parameters(SmolStr);

impl Parameters {
    /// Parses what follows a path.
    ///
    /// # Errors
    /// [`Invalid`] for bad syntax, and for a keyword that occurs twice.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        const WHAT: &str = "parameter";
        const VALUE: Invalid = Invalid::new(WHAT, "the value is printable and not empty (RFC 5321 §4.1.2)");
        let text = trim_blanks(text);
        let mut rest = text.as_bytes();
        // The keywords before, each by the bits of its first letter that do not tell case.
        let mut initials = 0_u32;
        while let [initial, behind @ ..] = rest {
            if *initial == b' ' {
                rest = behind;
                continue;
            }
            // esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
            let (keyword, behind) = split_span(rest, octets::KEYWORD);
            if matches!(keyword, [] | [b'-', ..]) {
                return Err(Invalid::new(WHAT, "the keyword is letters, digits and '-' (RFC 5321 §4.1.2)"));
            }
            let bit = 1 << (initial & 0x1f);
            if initials & bit != 0 && occurs(keyword, text, rest.len()) {
                return Err(Invalid::new(WHAT, "each parameter at most once (RFC 5321 §4.1.1.11)"));
            }
            initials |= bit;
            // esmtp-value = 1*(%d33-60 / %d62-126), and UTF-8 under RFC 6531 §3.3. '=' inside a value is let through:
            // AUTH=<> style values of old clients carry it.
            let (value, behind) = match behind {
                [b'=', value @ ..] => split_span(value, octets::VALUE),
                _ => (keyword, behind),
            };
            if value.is_empty() || !matches!(behind, [] | [b' ', ..]) {
                return Err(VALUE);
            }
            rest = behind;
        }
        if is_beyond_ascii(text) && text.chars().any(char::is_control) {
            return Err(VALUE);
        }
        Ok(Self::of(text))
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they go on the wire, without a leading space.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(text: &str) -> Self {
        Self(text.into())
    }

    /// Each keyword with its value, in the order of the wire.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        pairs(self.as_str())
    }

    /// The value of `keyword`: `None` if it is not there, `Some(None)` if it stands alone.
    #[must_use]
    pub fn value(&self, keyword: &str) -> Option<Option<&str>> {
        self.iter().find(|(k, _)| k.eq_ignore_ascii_case(keyword)).map(|(_, v)| v)
    }

    /// The parameter `P`, if it is there and well formed.
    #[must_use]
    pub fn get<P: Parameter>(&self) -> Option<P> {
        self.value(P::KEYWORD).and_then(|value| P::from_value(value).ok())
    }

    /// These and `parameter`, which takes the place of one with the same keyword.
    ///
    /// # Errors
    /// [`Invalid`] if the value that `parameter` writes is not one.
    pub fn with<P: Parameter>(&self, parameter: &P) -> Result<Self, Invalid> {
        let mut text = String::from(self.without(P::KEYWORD).as_str());
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(P::KEYWORD);
        let mut value = String::new();
        parameter.write_value(&mut value).map_err(|_| Invalid::new("parameter", "its value cannot be written"))?;
        if !value.is_empty() {
            text.push('=');
            text.push_str(&value);
        }
        Self::new(&text)
    }

    /// These without `keyword`.
    #[must_use]
    pub fn without(&self, keyword: &str) -> Self {
        let mut text = String::with_capacity(self.as_str().len());
        for (k, value) in self.iter().filter(|(k, _)| !k.eq_ignore_ascii_case(keyword)) {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(k);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        }
        Self::of(&text)
    }
}

fn trim_blanks(mut text: &str) -> &str {
    while let Some(rest) = text.strip_prefix(' ').or_else(|| text.strip_suffix(' ')) {
        text = rest;
    }
    text
}

/// True if `keyword` is one of those in `text` that stand before its last `len` octets.
fn occurs(keyword: &[u8], text: &str, len: usize) -> bool {
    let before = text.get(..text.len() - len).unwrap_or_default();
    pairs(before).any(|(other, _)| other.as_bytes().eq_ignore_ascii_case(keyword))
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    // No other white space is left that it could split at.
    text.split_ascii_whitespace().map(|pair| split_at_byte(pair, b'='))
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_by_keyword_without_case() {
        let parameters = Parameters::new("size=100  BODY=8BITMIME SMTPUTF8").unwrap();
        assert_eq!(parameters.value("SIZE"), Some(Some("100")));
        assert_eq!(parameters.value("smtputf8"), Some(None));
        assert_eq!(parameters.value("RET"), None);
        assert_eq!(parameters.without("body").as_str(), "size=100 SMTPUTF8");
    }

    #[test]
    fn refused() {
        for bad in [
            "=1", "-A=1", "A B=", "A=1 a=2", "A=\u{7f}", "A=\r\n", "A=1\tB", "A=1 \tB", "A=1\t", "\tA=1", "A=\u{85}",
            "Ä=1",
        ] {
            assert!(Parameters::new(bad).is_err(), "{bad:?}");
        }
    }
}
