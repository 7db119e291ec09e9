//! Reply codes (RFC 5321 §4.2) and enhanced status codes (RFC 3463).

use core::fmt;
use core::str::FromStr;

use super::Invalid;

/// What the first digit of a [`Code`] says (RFC 5321 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// 2yz: done.
    Success,
    /// 3yz: go on, more is needed.
    Continue,
    /// 4yz: not now; the same command may succeed later.
    Transient,
    /// 5yz: no, and asking again will not help.
    Permanent,
}

/// A three-digit reply code: `Reply-code = %x32-35 %x30-35 %x30-39` (RFC 5321 §4.2).
///
/// The second digit is taken up to 9, because servers in the field use it; the first is 2 to 5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// A code, if `value` lies in 200..=599.
    ///
    /// # Errors
    /// [`Invalid`] outside that range.
    pub const fn new(value: u16) -> Result<Self, Invalid> {
        if value >= 200 && value <= 599 {
            Ok(Self(value))
        } else {
            Err(Invalid::new("reply code", "three digits, 200 to 599 (RFC 5321 §4.2)"))
        }
    }

    /// A code known when the program is written; anything outside 200..=599 becomes 451.
    pub(crate) const fn of(value: u16) -> Self {
        if value >= 200 && value <= 599 { Self(value) } else { Self(451) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What the first digit says.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.0 / 100 {
            2 => Severity::Success,
            3 => Severity::Continue,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An enhanced status code, `class "." subject "." detail` (RFC 3463 §2): class is 2, 4 or 5.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedCode {
    /// A code from its three numbers.
    ///
    /// # Errors
    /// [`Invalid`] if `class` is not 2, 4 or 5, or a part has more than three digits.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Result<Self, Invalid> {
        if matches!(class, 2 | 4 | 5) && subject <= 999 && detail <= 999 {
            Ok(Self { class, subject, detail })
        } else {
            Err(Invalid::new("enhanced status code", "2, 4 or 5, then two numbers of up to 3 digits (RFC 3463 §2)"))
        }
    }

    /// A code known when the program is written; an unknown class becomes 5.
    pub(crate) const fn of(class: u8, subject: u16, detail: u16) -> Self {
        match Self::new(class, subject, detail) {
            Ok(code) => code,
            Err(_) => Self { class: 5, subject: 0, detail: 0 },
        }
    }

    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.class
    }

    /// The second number: 1 addressing, 2 mailbox, 3 mail system, 4 network, 5 protocol, 6 content, 7 security.
    #[must_use]
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The third number.
    #[must_use]
    pub const fn detail(self) -> u16 {
        self.detail
    }
}

impl EnhancedCode {
    /// Takes a code off the start of `text`.
    pub(crate) fn split(text: &[u8]) -> Option<(Self, &[u8])> {
        let (class, text) = number(text)?;
        let (subject, text) = number(text.strip_prefix(b".")?)?;
        let (detail, text) = number(text.strip_prefix(b".")?)?;
        Some((Self::new(u8::try_from(class).ok()?, subject, detail).ok()?, text))
    }
}

/// Takes one to three digits off the start of `text`; behind them stands none.
fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let (mut number, mut rest) = (0, text);
    while let [digit @ b'0'..=b'9', behind @ ..] = rest {
        if text.len() - rest.len() == 3 {
            return None;
        }
        number = number * 10 + u16::from(digit - b'0');
        rest = behind;
    }
    (rest.len() < text.len()).then_some((number, rest))
}

impl fmt::Debug for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl FromStr for EnhancedCode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match Self::split(text.as_bytes()) {
            Some((code, [])) => Ok(code),
            _ => Err(Invalid::new("enhanced status code", "class.subject.detail (RFC 3463 §2)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn severity_is_the_first_digit() {
        assert_eq!(Code::of(250).severity(), Severity::Success);
        assert_eq!(Code::of(354).severity(), Severity::Continue);
        assert_eq!(Code::of(421).severity(), Severity::Transient);
        assert_eq!(Code::of(554).severity(), Severity::Permanent);
        assert!(Code::new(199).is_err());
        assert!(Code::new(600).is_err());
    }

    #[test]
    fn enhanced_codes_read_back() {
        let code: EnhancedCode = "5.7.30".parse().unwrap();
        assert_eq!((code.class(), code.subject(), code.detail()), (5, 7, 30));
        assert_eq!(code.to_string(), "5.7.30");
        for bad in ["", "5", "5.7", "3.1.1", "5.7.1.1", "5.7.1000", "5.-7.1", "5.7.1 "] {
            assert!(bad.parse::<EnhancedCode>().is_err(), "{bad}");
        }
    }
}
