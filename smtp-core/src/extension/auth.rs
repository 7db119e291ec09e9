//! AUTH (RFC 4954). The exchange itself is opaque to the session; mechanisms are the services'.

use alloc::string::ToString;
use core::fmt;

use super::{Extension, ParameterRule};
use crate::types::{Invalid, Mailbox, Parameter, xtext};

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

/// MAIL's `AUTH=`: who submitted the message in the first place, as a mailbox in xtext; `None` is `<>`, nobody who is
/// known (RFC 4954 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthParameter(pub Option<Mailbox>);

impl Parameter for AuthParameter {
    const KEYWORD: &'static str = "AUTH";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid::new("AUTH", "a mailbox in xtext, or <> (RFC 4954 §5)");
        match value.ok_or(BAD)? {
            "<>" => Ok(Self(None)),
            text => xtext::decode(text)?.parse().map(|mailbox| Self(Some(mailbox))).map_err(|_| BAD),
        }
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match &self.0 {
            None => out.write_str("<>"),
            Some(mailbox) => xtext::encode(&mailbox.to_string(), out),
        }
    }
}
