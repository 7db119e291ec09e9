//! Keys known by their hash.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use smtp_core::stream::Verification;

use crate::x509::{self, CertificateSyntaxError};

/// The SHA-256 of a certificate's SubjectPublicKeyInfo: it names a key, whatever certificate wraps it, so that it
/// outlives a renewal. The same quantity as the `3 1 1` form of a TLSA record (RFC 6698 §2.1) and, in another
/// encoding, as an HPKP pin (RFC 7469 §2.4).
///
/// Written as 64 hexadecimal digits; on input `:` may stand between the pairs and case does not matter.
///
/// ```
/// # use smtp_tls::Pin;
/// let text = "2CF24DBA:5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// let pin: Pin = text.parse()?;
/// assert_eq!(pin.to_string(), text.replace(':', "").to_lowercase());
/// # Ok::<(), smtp_tls::PinSyntaxError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin with this hash.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The pin of the key in `certificate`, which is DER.
    ///
    /// # Errors
    /// If it is not a certificate.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, CertificateSyntaxError> {
        pin_of(certificate).map(Self)
    }

    /// The hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

/// The SHA-256 of the SubjectPublicKeyInfo of `certificate`, which is DER: what [`Verification::Pin`] is held against.
///
/// # Errors
/// If it is not a certificate.
pub fn pin_of(certificate: &[u8]) -> Result<[u8; 32], CertificateSyntaxError> {
    x509::read(certificate).map(|facts| Pin::of_spki(&facts.spki).0)
}

/// A text that is not a [`Pin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is the SHA-256 of a public key: 64 hexadecimal digits, with or without ':' between the pairs")]
#[non_exhaustive]
pub struct PinSyntaxError;

impl FromStr for Pin {
    type Err = PinSyntaxError;

    fn from_str(text: &str) -> Result<Self, PinSyntaxError> {
        let mut rest = text;
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            if index > 0 {
                rest = rest.strip_prefix(':').unwrap_or(rest);
            }
            let (pair, after) = rest.split_at_checked(2).ok_or(PinSyntaxError)?;
            // `from_str_radix` alone would let a sign through.
            if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(PinSyntaxError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| PinSyntaxError)?;
            rest = after;
        }
        if rest.is_empty() { Ok(Self(hash)) } else { Err(PinSyntaxError) }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl From<Pin> for Verification {
    fn from(pin: Pin) -> Self {
        Self::Pin(pin.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let pin = Pin::new(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        let plain = pin.to_string();
        assert_eq!(plain.len(), 64);
        let pairs: Vec<&str> = (0..32).map(|i| &plain[i * 2..i * 2 + 2]).collect();
        for text in [plain.clone(), plain.to_uppercase(), pairs.join(":")] {
            assert_eq!(text.parse(), Ok(pin), "{text}");
        }
        assert_eq!(format!("{pin:?}"), format!("Pin({plain})"));
    }

    #[test]
    fn refuses_everything_else() {
        let good = "00".repeat(32);
        let long = format!("{good}0");
        let end = format!("{good}:");
        let start = format!(":{good}");
        let double = format!("00::{}", "00".repeat(31));
        let sign = format!("+0{}", "00".repeat(31));
        let split = format!("0:0{}", "00".repeat(31));
        let umlaut = format!("ü{}", "00".repeat(31));
        for bad in ["", &good[..62], &long, &end, &start, &double, &sign, &split, &umlaut, &"zz".repeat(32)] {
            assert_eq!(bad.parse::<Pin>(), Err(PinSyntaxError), "{bad}");
        }
    }

    #[test]
    fn is_the_hash_of_the_public_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let one = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let two = rcgen::CertificateParams::new(["b.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        assert_eq!(pin_of(one.der()), pin_of(two.der()));
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        assert_eq!(pin_of(one.der()).unwrap(), <[u8; 32]>::from(Sha256::digest(spki)));
    }
}
