//! FUTURERELEASE: hold a message until a time, then send it (RFC 4865). For submission.

use alloc::boxed::Box;
use core::fmt::{self, Write};

use super::{Context, DeliverBy, Extension, ParameterRule, bad_value};
use crate::types::{Invalid, Parameter, Parameters, Refusal, date_time};

/// FUTURERELEASE, where the delivery can hold messages and [`Terms::clock`](super::Terms::clock) tells the time.
///
/// A next hop without it cannot be given such a message: nobody would hold it.
pub static FUTURERELEASE: Extension = Extension {
    needs_promise: true,
    offered: |context| context.terms.clock.is_some(),
    announce: |context, out| {
        if let Some(clock) = context.terms.clock {
            let hold = context.terms.hold_max;
            // Writing to a String cannot fail.
            let _ = write!(out, " {hold} ");
            let _ = date_time::write(clock().saturating_add(i64::from(hold)), out);
        }
    },
    mail: &[
        ParameterRule {
            check: |context, value, all| {
                let HoldFor(seconds) = HoldFor::from_value(value).map_err(bad_value)?;
                one_of_them(all)?;
                within(context, i64::from(seconds), all)
            },
            ..ParameterRule::of::<HoldFor>()
        },
        ParameterRule {
            check: |context, value, all| {
                let until = HoldUntil::from_value(value).map_err(bad_value)?;
                one_of_them(all)?;
                let now = context.terms.clock.map_or(0, |clock| clock());
                within(context, until.unix().saturating_sub(now), all)
            },
            ..ParameterRule::of::<HoldUntil>()
        },
    ],
    ..Extension::keyword("FUTURERELEASE", "RFC 4865")
};

fn one_of_them(all: &Parameters) -> Result<(), Refusal> {
    if all.value(HoldFor::KEYWORD).is_some() && all.value(HoldUntil::KEYWORD).is_some() {
        return Err(Refusal::fixed(501, (5, 5, 4), "HOLDFOR or HOLDUNTIL, not both (RFC 4865 §4)"));
    }
    Ok(())
}

/// Not longer than anything is held here, and not until the message is late (RFC 4865 §5.2.2).
fn within(context: &Context<'_>, seconds: i64, all: &Parameters) -> Result<(), Refusal> {
    let most = context.terms.hold_max;
    if seconds > i64::from(most) {
        let text = alloc::format!("nothing is held longer than {most} s here");
        return Err(Refusal::new(501, (5, 5, 4), text));
    }
    // One that is malformed is refused by its own rule.
    let by = all.value(DeliverBy::KEYWORD).and_then(|value| DeliverBy::from_value(value).ok());
    if by.is_some_and(|by| seconds > i64::from(by.seconds())) {
        return Err(Refusal::fixed(501, (5, 5, 4), "held until after it is to be delivered: HOLD against BY"));
    }
    Ok(())
}

/// MAIL's `HOLDFOR=`: seconds to hold the message, 1 to 999,999,999 (RFC 4865 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldFor(u32);

impl HoldFor {
    /// So many seconds.
    ///
    /// # Errors
    /// [`Invalid`] for 0 and beyond 9 digits.
    pub const fn new(seconds: u32) -> Result<Self, Invalid> {
        if seconds >= 1 && seconds <= 999_999_999 {
            Ok(Self(seconds))
        } else {
            Err(Invalid::new("HOLDFOR", "1 to 999999999 seconds (RFC 4865 §4)"))
        }
    }

    /// The seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl Parameter for HoldFor {
    const KEYWORD: &'static str = "HOLDFOR";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        let digits = value.filter(|v| v.len() <= 9 && v.bytes().all(|b| b.is_ascii_digit()));
        Self::new(digits.and_then(|v| v.parse().ok()).unwrap_or(0))
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// MAIL's `HOLDUNTIL=`: a date and time of RFC 3339 until which to hold the message (RFC 4865 §4). One that has passed
/// holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldUntil {
    text: Box<str>,
    unix: i64,
}

impl HoldUntil {
    /// In seconds since 1970 (UTC).
    #[must_use]
    pub const fn unix(&self) -> i64 {
        self.unix
    }
}

impl Parameter for HoldUntil {
    const KEYWORD: &'static str = "HOLDUNTIL";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        let text = value.unwrap_or_default();
        Ok(Self { unix: date_time::parse("HOLDUNTIL", text)?, text: text.into() })
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(&self.text)
    }
}
