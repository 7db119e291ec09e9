//! PRDR: one reply per recipient after the content, as Exim has it (draft-hall-prdr).

use core::fmt;

use super::{Extension, ParameterRule};
use crate::types::{Invalid, Parameter};

/// PRDR, on SMTP: LMTP does the same by itself.
///
/// If MAIL carries it and more than one recipient was accepted, the content is answered with 353, then with a reply for
/// each recipient in order, then with one for the message as a whole. A message that all are refused for the same reason
/// gets that one reply, as without PRDR.
pub static PRDR: Extension = Extension {
    offered: |context| !context.lmtp,
    mail: &[ParameterRule::of::<Prdr>().or_omitted()],
    ..Extension::keyword("PRDR", "draft-hall-prdr")
};

/// MAIL's `PRDR`: the client understands a reply per recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prdr;

impl Parameter for Prdr {
    const KEYWORD: &'static str = "PRDR";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        match value {
            None => Ok(Self),
            Some(_) => Err(Invalid::new("PRDR", "takes no value")),
        }
    }

    fn write_value(&self, _: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}
