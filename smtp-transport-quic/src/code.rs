//! Application error codes.

use quinn::VarInt;
use smtp_core::stream::CloseCode;

/// The number of `code` on the wire.
//
pub(crate) const fn to_wire(code: CloseCode) -> VarInt {
    VarInt::from_u32(match code {
        CloseCode::NoError => 0,
        CloseCode::Internal => 1,
        CloseCode::Protocol => 2,
        CloseCode::Cancelled => 3,
        CloseCode::ExcessiveLoad => 4,
        CloseCode::Unspecified => 5,
        CloseCode::Shutdown => 6,
        CloseCode::Timeout => 7,
        CloseCode::EarlyDataRefused => 8,
        CloseCode::Policy => 9,
    })
}

/// What a number on the wire means; one that nobody has defined means [`CloseCode::Unspecified`].
//
pub(crate) fn from_wire(code: VarInt) -> CloseCode {
    match code.into_inner() {
        0 => CloseCode::NoError,
        1 => CloseCode::Internal,
        2 => CloseCode::Protocol,
        3 => CloseCode::Cancelled,
        4 => CloseCode::ExcessiveLoad,
        6 => CloseCode::Shutdown,
        7 => CloseCode::Timeout,
        8 => CloseCode::EarlyDataRefused,
        9 => CloseCode::Policy,
        _ => CloseCode::Unspecified,
    }
}

/// True if the peer that said `code` will say it again the next time: then another transport is the way out.
//
pub(crate) const fn is_permanent(code: CloseCode) -> bool {
    matches!(code, CloseCode::Protocol | CloseCode::Policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire_and_strangers_are_unspecified() {
        for number in 0..=9 {
            assert_eq!(to_wire(from_wire(VarInt::from_u32(number))).into_inner(), u64::from(number));
        }
        for number in [10, 0x100, u64::from(u32::MAX), (1 << 62) - 1] {
            assert_eq!(from_wire(VarInt::from_u64(number).unwrap()), CloseCode::Unspecified);
        }
    }
}
