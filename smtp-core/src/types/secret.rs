//! Octets that must not be shown.

use alloc::vec::Vec;
use core::fmt;

/// Something that must never reach a log, a transcript or an error text: a password, a SASL response.
///
/// `Debug` prints a placeholder, there is no `Display`, and the only way to the octets is [`Secret::expose`], which
/// a reader can search for.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps `octets`.
    #[must_use]
    pub fn new(octets: impl Into<Vec<u8>>) -> Self {
        Self(octets.into())
    }

    /// The octets themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_octets() {
        assert_eq!(alloc::format!("{:?}", Secret::new(*b"hunter2")), "Secret(…)");
    }
}
