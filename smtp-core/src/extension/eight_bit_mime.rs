//! 8BITMIME and the BODY parameter (RFC 6152, RFC 3030).

use core::fmt;

use super::{Extension, Lack, ParameterRule, bad_value};
use crate::types::{Invalid, Parameter, Refusal};

/// 8BITMIME (RFC 6152). The check of BODY lives here; BINARYMIME needs its own extension to be offered.
pub static EIGHT_BIT_MIME: Extension = Extension {
    mail: &[ParameterRule {
        keyword: BodyType::KEYWORD,
        check: |context, value, _| match BodyType::from_value(value).map_err(bad_value)? {
            BodyType::BinaryMime if !context.promises.contains(&"BINARYMIME") => {
                Err(Refusal::fixed(555, (5, 6, 1), "BODY=BINARYMIME is not supported here"))
            }
            BodyType::SevenBit | BodyType::EightBitMime | BodyType::BinaryMime => Ok(()),
        },
        lacking: |value| match BodyType::from_value(value) {
            Ok(BodyType::SevenBit) => Lack::Omit,
            // RFC 6152 §3: not without a conversion, which is for whoever understands MIME.
            Ok(BodyType::EightBitMime) => {
                Lack::Refuse(Refusal::fixed(554, (5, 6, 3), "the next hop does not take 8-bit content"))
            }
            Ok(BodyType::BinaryMime) | Err(_) => {
                Lack::Refuse(Refusal::fixed(554, (5, 6, 1), "the next hop does not take BINARYMIME content"))
            }
        },
    }],
    ..Extension::keyword("8BITMIME", "RFC 6152")
};

/// MAIL's `BODY=`: what octets the content holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyType {
    /// US-ASCII lines; what holds without the parameter.
    #[default]
    SevenBit,
    /// Lines of any octets (RFC 6152).
    EightBitMime,
    /// Any octets, not in lines; with BDAT only (RFC 3030 §3).
    BinaryMime,
}

impl Parameter for BodyType {
    const KEYWORD: &'static str = "BODY";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        match value {
            Some(v) if v.eq_ignore_ascii_case("7BIT") => Ok(Self::SevenBit),
            Some(v) if v.eq_ignore_ascii_case("8BITMIME") => Ok(Self::EightBitMime),
            Some(v) if v.eq_ignore_ascii_case("BINARYMIME") => Ok(Self::BinaryMime),
            _ => Err(Invalid::new("BODY", "7BIT, 8BITMIME or BINARYMIME (RFC 6152, RFC 3030)")),
        }
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        })
    }
}
