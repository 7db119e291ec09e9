//! SMTPUTF8: internationalized mail (RFC 6531).

use core::fmt;

use super::{Extension, Lack, ParameterRule};
use crate::types::{Invalid, Parameter, Refusal};

/// SMTPUTF8, where the delivery can keep UTF-8 addresses and headers.
pub static SMTPUTF8: Extension = Extension {
    needs_promise: true,
    mail: &[ParameterRule {
        lacking: |_| {
            // RFC 6531 §3.7.4.1 has 553 and 550 with X.6.7.
            Lack::Refuse(Refusal::fixed(553, (5, 6, 7), "the next hop does not take internationalized mail (SMTPUTF8)"))
        },
        ..ParameterRule::of::<SmtpUtf8>()
    }],
    ..Extension::keyword("SMTPUTF8", "RFC 6531")
};

/// MAIL's `SMTPUTF8`: addresses or header of this message may hold UTF-8 (RFC 6531 §3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmtpUtf8;

impl Parameter for SmtpUtf8 {
    const KEYWORD: &'static str = "SMTPUTF8";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        match value {
            None => Ok(Self),
            Some(_) => Err(Invalid::new("SMTPUTF8", "takes no value (RFC 6531 §3.4)")),
        }
    }

    fn write_value(&self, _: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}
