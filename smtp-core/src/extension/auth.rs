//! AUTH (RFC 4954). The exchange itself is opaque to the session; mechanisms are the services'.

use alloc::boxed::Box;
use core::fmt;

use super::{Extension, ParameterRule};
use crate::types::{Invalid, Parameter};

/// AUTH: offered while there is a mechanism that can be used on the channel. It stays in the list when the client is
/// authenticated, so that `AUTH=` stays legal; a second AUTH is refused by the session.
pub static AUTH: Extension = Extension {
    offered: |context| !context.mechanisms.is_empty(),
    announce: |context, out| {
        out.push(' ');
        out.push_str(context.mechanisms);
    },
    // A next hop that does not know it has nobody's word to rely on either.
    mail: &[ParameterRule::of::<AuthParameter>().or_omitted()],
    ..Extension::keyword("AUTH", "RFC 4954")
};

/// MAIL's `AUTH=`: who submitted the message in the first place, in xtext, or `<>` (RFC 4954 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthParameter(pub Box<str>);

impl Parameter for AuthParameter {
    const KEYWORD: &'static str = "AUTH";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        let value = value.ok_or(Invalid::new("AUTH", "needs a mailbox in xtext, or <> (RFC 4954 §5)"))?;
        Ok(Self(value.into()))
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(&self.0)
    }
}
