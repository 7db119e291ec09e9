//! MT-PRIORITY: how urgent a message is to those who transfer it (RFC 6710).

use core::fmt;

use super::{Extension, Lack, ParameterRule};
use crate::acceptance::Omitted;
use crate::types::{Invalid, Parameter};

/// MT-PRIORITY, where the delivery heeds priorities or has nothing to put in order. On MAIL, for all recipients.
///
/// To a next hop without it the message goes without (RFC 6710 §4.4); the receipt says so, for whoever wants to carry
/// the priority in a header field (RFC 6758).
pub static MT_PRIORITY: Extension = Extension {
    needs_promise: true,
    announce: |context, out| {
        if let Some(profile) = context.terms.priority_profile {
            out.push(' ');
            out.push_str(profile);
        }
    },
    mail: &[ParameterRule { lacking: |_| Lack::Note(Omitted::PRIORITY), ..ParameterRule::of::<Priority>() }],
    ..Extension::keyword("MT-PRIORITY", "RFC 6710")
};

/// MAIL's `MT-PRIORITY=`: from -9, which can wait, to 9, which cannot; 0 without the parameter (RFC 6710 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Priority(i8);

impl Priority {
    /// A priority.
    ///
    /// # Errors
    /// [`Invalid`] outside -9..=9.
    pub const fn new(priority: i8) -> Result<Self, Invalid> {
        if priority >= -9 && priority <= 9 {
            Ok(Self(priority))
        } else {
            Err(Invalid::new("MT-PRIORITY", "-9 to 9 (RFC 6710 §5)"))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl Parameter for Priority {
    const KEYWORD: &'static str = "MT-PRIORITY";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        // priority-value = (["-"] NZDIGIT) / "0"
        match value.map(str::as_bytes) {
            Some([b'0']) => Ok(Self(0)),
            Some([digit @ b'1'..=b'9']) => Ok(Self((digit - b'0').cast_signed())),
            Some([b'-', digit @ b'1'..=b'9']) => Ok(Self(-(digit - b'0').cast_signed())),
            _ => Err(Invalid::new("MT-PRIORITY", "-9 to 9 (RFC 6710 §5)")),
        }
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}
