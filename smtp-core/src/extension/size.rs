//! SIZE: the largest message, declared before it is sent (RFC 1870).

use core::fmt;

use super::{Extension, Lack, ParameterRule, bad_value};
use crate::types::{Invalid, Parameter, Refusal};

/// SIZE. EHLO names the limit; a MAIL that declares more is refused with 552 5.3.4 before the message is sent.
pub static SIZE: Extension = Extension {
    announce: |context, out| {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(out, format_args!(" {}", context.max_size));
    },
    mail: &[ParameterRule {
        keyword: Size::KEYWORD,
        check: |context, value, _| {
            let Size(size) = Size::from_value(value).map_err(bad_value)?;
            if size > context.max_size {
                // RFC 1870 §6.1
                let text = alloc::format!("a message of {size} octets is over the limit of {}", context.max_size);
                return Err(Refusal::new(552, (5, 3, 4), text));
            }
            Ok(())
        },
        lacking: |_| Lack::Omit,
    }],
    ..Extension::keyword("SIZE", "RFC 1870")
};

/// MAIL's `SIZE=`: how large the sender believes the message to be, in octets (RFC 1870 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Parameter for Size {
    const KEYWORD: &'static str = "SIZE";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        // size-value = 1*20DIGIT
        value
            .filter(|v| v.len() <= 20 && v.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|v| v.parse().ok())
            .map(Self)
            .ok_or(Invalid::new("SIZE", "1 to 20 digits (RFC 1870 §4)"))
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}
