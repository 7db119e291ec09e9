//! RRVS: only if the mailbox has had one owner since a date (RFC 7293).

use alloc::boxed::Box;
use core::fmt::{self, Write};

use super::{Extension, Lack, ParameterRule};
use crate::types::{Invalid, Parameter, Refusal, date_time};

/// RRVS, where a policy knows since when each mailbox has had its owner, or the delivery passes the question on.
pub static RRVS: Extension = Extension {
    needs_promise: true,
    rcpt: &[ParameterRule {
        lacking: |value| match ValidSince::from_value(value) {
            Ok(ValidSince { or_continue: true, .. }) => Lack::Omit,
            // RFC 7293 §5.1.2
            Ok(_) | Err(_) => {
                Lack::Refuse(Refusal::fixed(550, (5, 7, 19), "the next hop cannot tell who owns the mailbox (RRVS)"))
            }
        },
        ..ParameterRule::of::<ValidSince>()
    }],
    ..Extension::keyword("RRVS", "RFC 7293")
};

/// RCPT's `RRVS=`: `date-time [";" ("C" / "R")]` (RFC 7293 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidSince {
    text: Box<str>,
    unix: i64,
    or_continue: bool,
}

impl ValidSince {
    /// Since when the mailbox must have had the owner that it has now, in seconds since 1970 (UTC).
    #[must_use]
    pub const fn unix(&self) -> i64 {
        self.unix
    }

    /// True for `C`: where the next hop cannot tell, the message goes on without the question. False for `R`, which
    /// holds without either: it is returned.
    #[must_use]
    pub const fn or_continue(&self) -> bool {
        self.or_continue
    }
}

impl Parameter for ValidSince {
    const KEYWORD: &'static str = "RRVS";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        let value = value.unwrap_or_default();
        let (text, action) = value.split_once(';').unwrap_or((value, "R"));
        let or_continue = match action {
            "C" | "c" => true,
            "R" | "r" => false,
            _ => return Err(Invalid::new("RRVS", "C or R behind the date (RFC 7293 §5)")),
        };
        Ok(Self { unix: date_time::parse("RRVS", text)?, text: text.into(), or_continue })
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(&self.text)?;
        out.write_str(if self.or_continue { ";C" } else { "" })
    }
}
