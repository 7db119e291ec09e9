//! One spelling for each name and password.

use std::borrow::Cow;

/// The text in the form that SASLprep gives it (RFC 4013): what looks the same is the same, whichever keyboard it came
/// from. A text that SASLprep forbids stays as it is, as other servers have it too: somebody's password with a sign
/// from a later Unicode goes on to work, octet by octet.
#[must_use]
pub fn prepare(text: &str) -> Cow<'_, str> {
    stringprep::saslprep(text).unwrap_or(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_4013() {
        for (text, prepared) in
            [("I\u{ad}X", "IX"), ("user", "user"), ("USER", "USER"), ("\u{aa}", "a"), ("\u{2168}", "IX")]
        {
            assert_eq!(prepare(text), prepared);
        }
    }

    #[test]
    fn what_is_forbidden_stays_as_it_is() {
        for text in ["\u{7}", "\u{627}1", "p\u{1f600}"] {
            assert_eq!(prepare(text), text);
        }
    }
}
