//! REQUIRETLS: TLS with a verified peer at every hop, or no delivery (RFC 8689).

use core::fmt;

use super::{Extension, Lack, ParameterRule};
use crate::types::{Invalid, Parameter, Refusal};

/// REQUIRETLS, over TLS only, where the delivery keeps it: it ends the message's way here, or hands it on under the
/// same condition.
pub static REQUIRETLS: Extension = Extension {
    needs_promise: true,
    // RFC 8689 §2: "only offered within a TLS session".
    offered: |context| context.channel.tls.is_some(),
    mail: &[ParameterRule { lacking: |_| Lack::Refuse(RequireTls::refusal()), ..ParameterRule::of::<RequireTls>() }],
    ..Extension::keyword("REQUIRETLS", "RFC 8689")
};

/// MAIL's `REQUIRETLS`: no hop without TLS and a verified peer (RFC 8689 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequireTls;

impl RequireTls {
    /// 550 5.7.30: the next hop does not offer it (RFC 8689 §4.2.1).
    #[must_use]
    pub fn refusal() -> Refusal {
        Refusal::fixed(550, (5, 7, 30), "the next hop does not offer REQUIRETLS, which the sender requires")
    }

    /// 550 5.7.10: there is no TLS with a next hop that has proved who it is (RFC 8689 §4.2.1).
    #[must_use]
    pub fn no_tls() -> Refusal {
        Refusal::fixed(
            550,
            (5, 7, 10),
            "there is no verified TLS with the next hop, which the sender requires (REQUIRETLS)",
        )
    }
}

impl Parameter for RequireTls {
    const KEYWORD: &'static str = "REQUIRETLS";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        match value {
            None => Ok(Self),
            Some(_) => Err(Invalid::new("REQUIRETLS", "takes no value (RFC 8689 §2)")),
        }
    }

    fn write_value(&self, _: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}
