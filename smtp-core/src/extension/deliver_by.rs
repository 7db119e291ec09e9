//! DELIVERBY: deliver within a time, or return, or tell (RFC 2852).

use core::fmt;

use super::{Extension, Lack, ParameterRule, bad_value};
use crate::acceptance::Omitted;
use crate::types::{Invalid, Parameter, Refusal};

/// DELIVERBY, where the delivery keeps deadlines. On MAIL, for all recipients.
///
/// A next hop without it gets a message of mode N only, and the sender has to hear that it was relayed; one of mode R
/// is returned (RFC 2852 §4.1.4, §4.1.5).
pub static DELIVERBY: Extension = Extension {
    needs_promise: true,
    announce: |context, out| {
        if context.terms.deliver_by_min > 0 {
            // Writing to a String cannot fail.
            let _ = fmt::Write::write_fmt(out, format_args!(" {}", context.terms.deliver_by_min));
        }
    },
    mail: &[ParameterRule {
        check: |context, value, _| {
            let by = DeliverBy::from_value(value).map_err(bad_value)?;
            if by.mode == ByMode::Return && i64::from(by.seconds) < i64::from(context.terms.deliver_by_min) {
                let text = alloc::format!("a by-time below {} s cannot be kept", context.terms.deliver_by_min);
                return Err(Refusal::new(550, (5, 4, 7), text));
            }
            Ok(())
        },
        lacking: |value| match DeliverBy::from_value(value) {
            Ok(DeliverBy { mode: ByMode::Notify, .. }) => Lack::Note(Omitted::DELIVER_BY),
            Ok(_) | Err(_) => {
                Lack::Refuse(Refusal::fixed(550, (5, 4, 7), "the next hop keeps no delivery deadline (DELIVERBY)"))
            }
        },
        ..ParameterRule::of::<DeliverBy>()
    }],
    ..Extension::keyword("DELIVERBY", "RFC 2852")
};

/// What happens when the time is over (RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByMode {
    /// R: the message is returned.
    Return,
    /// N: the sender is told, and the delivery goes on.
    Notify,
}

/// MAIL's `BY=`: `by-time ";" by-mode [by-trace]` (RFC 2852 §4).
///
/// The time counts from when the parameter was sent: a queue takes off what passed, with [`DeliverBy::after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverBy {
    seconds: i32,
    mode: ByMode,
    trace: bool,
}

/// `by-time = ["-" / "+"] 1*9digit`.
const TIME_MAX: i32 = 999_999_999;

impl DeliverBy {
    /// So many seconds from now; below zero the deadline has passed. `trace` asks for notices along the way.
    ///
    /// # Errors
    /// [`Invalid`] beyond 9 digits, and for mode R with a time that is not above zero (RFC 2852 §4).
    pub const fn new(seconds: i32, mode: ByMode, trace: bool) -> Result<Self, Invalid> {
        if seconds > TIME_MAX || seconds < -TIME_MAX {
            return Err(Invalid::new("BY", "at most 9 digits of seconds (RFC 2852 §4)"));
        }
        if seconds <= 0 && matches!(mode, ByMode::Return) {
            return Err(Invalid::new("BY", "mode R needs a time above zero (RFC 2852 §4)"));
        }
        Ok(Self { seconds, mode, trace })
    }

    /// Seconds that are left.
    #[must_use]
    pub const fn seconds(self) -> i32 {
        self.seconds
    }

    /// What happens then.
    #[must_use]
    pub const fn mode(self) -> ByMode {
        self.mode
    }

    /// True if notices along the way are wanted.
    #[must_use]
    pub const fn trace(self) -> bool {
        self.trace
    }

    /// The same when so many seconds have passed; `None` if it is of mode R and its time is over, so that the message
    /// has to be returned.
    #[must_use]
    pub fn after(self, seconds: u32) -> Option<Self> {
        let left = i64::from(self.seconds) - i64::from(seconds);
        let left = i32::try_from(left.max(i64::from(-TIME_MAX))).unwrap_or(-TIME_MAX);
        Self::new(left, self.mode, self.trace).ok()
    }
}

impl Parameter for DeliverBy {
    const KEYWORD: &'static str = "BY";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid::new("BY", "seconds;R or seconds;N, with T to trace (RFC 2852 §4)");
        let (time, mode) = value.and_then(|value| value.split_once(';')).ok_or(BAD)?;
        let digits = time.strip_prefix(['-', '+']).unwrap_or(time);
        if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BAD);
        }
        let seconds = time.parse().map_err(|_| BAD)?;
        let (mode, trace) = match mode.as_bytes() {
            [b'R' | b'r', trace @ ..] => (ByMode::Return, trace),
            [b'N' | b'n', trace @ ..] => (ByMode::Notify, trace),
            _ => return Err(BAD),
        };
        match trace {
            [] => Self::new(seconds, mode, false),
            [b'T' | b't'] => Self::new(seconds, mode, true),
            _ => Err(BAD),
        }
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Return => "R",
            ByMode::Notify => "N",
        };
        write!(out, "{};{mode}{}", self.seconds, if self.trace { "T" } else { "" })
    }
}
