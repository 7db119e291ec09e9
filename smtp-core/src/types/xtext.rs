//! xtext: any US-ASCII text in the alphabet of a parameter's value (RFC 3461 §4).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::Invalid;

/// `xchar`: stands for itself. Everything else is `+` and two hexadecimal digits.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && byte != b'+' && byte != b'='
}

/// Writes `text` in xtext. Octets beyond US-ASCII are encoded one by one.
///
/// # Errors
/// Only those of `out`.
pub fn encode(text: &str, out: &mut dyn Write) -> fmt::Result {
    for byte in text.bytes() {
        if is_plain(byte) { out.write_char(char::from(byte))? } else { write!(out, "+{byte:02X}")? }
    }
    Ok(())
}

/// How many octets `text` has in xtext.
#[must_use]
pub fn encoded_len(text: &str) -> usize {
    text.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}

/// Reads xtext.
///
/// # Errors
/// [`Invalid`] for an octet outside the alphabet, a `+` without two upper-case hexadecimal digits, and for what is not
/// UTF-8 when decoded.
pub fn decode(text: &str) -> Result<String, Invalid> {
    const BAD: Invalid = Invalid::new("xtext", "printable US-ASCII, with +HEX for '+', '=' and the rest (RFC 3461 §4)");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let hex = |digit: Option<u8>| match digit {
        Some(d @ b'0'..=b'9') => Ok(d - b'0'),
        Some(d @ b'A'..=b'F') => Ok(d - b'A' + 10),
        _ => Err(BAD),
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(hex(bytes.next())? * 16 + hex(bytes.next())?),
            byte if is_plain(byte) => out.push(byte),
            _ => return Err(BAD),
        }
    }
    String::from_utf8(out).map_err(|_| BAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_xtext() {
        for bad in ["+", "+4", "+4g", "+4a", "a=b", "a b", "\u{7f}", "+FF", "ü"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
        assert_eq!(decode("a+2Bb+3D+20").unwrap(), "a+b= ");
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(text in any::<String>()) {
            let mut wire = String::new();
            encode(&text, &mut wire).unwrap();
            prop_assert_eq!(wire.len(), encoded_len(&text));
            prop_assert!(wire.bytes().all(|b| b.is_ascii_graphic() && b != b'='));
            prop_assert_eq!(decode(&wire).unwrap(), text);
        }
    }
}
