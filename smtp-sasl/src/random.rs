//! Chance.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// The system gives no random octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random octets")]
#[non_exhaustive]
pub struct NoRandomness;

/// Random octets from the system, for salts.
///
/// # Errors
/// If it has none.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(|_| NoRandomness)?;
    Ok(octets)
}

/// A nonce that nobody guesses and nobody sees twice: 144 random bits, as 24 printable characters without a comma.
///
/// # Errors
/// If there is no randomness.
pub fn nonce() -> Result<String, NoRandomness> {
    Ok(STANDARD_NO_PAD.encode(random::<18>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ_and_can_stand_in_a_message() {
        let (one, two) = (nonce().unwrap(), nonce().unwrap());
        assert_ne!(one, two);
        assert!(one.len() == 24 && one.bytes().all(|b| b.is_ascii_graphic() && b != b','), "{one}");
    }
}
