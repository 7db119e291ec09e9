//! CRAM-MD5 (RFC 2195): for peers that know nothing better. The server has to keep what is as good as the password.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use smtp_core::types::Secret;
use subtle::ConstantTimeEq;

/// The digest that answers `challenge`: HMAC-MD5 under the password, in lower-case hexadecimal.
#[must_use]
pub fn digest(password: &Secret, challenge: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(password.expose()) else {
        // HMAC takes keys of every length.
        return String::new();
    };
    mac.update(challenge);
    mac.finalize().into_bytes().iter().fold(String::with_capacity(32), |mut hex, octet| {
        // Writing to a String cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut hex, format_args!("{octet:02x}"));
        hex
    })
}

/// The client's message: its name, a blank, the digest.
#[must_use]
pub fn response(name: &str, password: &Secret, challenge: &[u8]) -> Secret {
    Secret::new(format!("{name} {}", digest(password, challenge)))
}

/// The name and the digest in a client's message; `None` if it is none. The name may hold blanks.
#[must_use]
pub fn parse(response: &[u8]) -> Option<(&str, &str)> {
    let (name, digest) = std::str::from_utf8(response).ok()?.rsplit_once(' ')?;
    (!name.is_empty() && digest.len() == 32).then_some((name, digest))
}

/// True if `digest` answers `challenge` under `password`. Takes as long for a wrong one as for the right one.
#[must_use]
pub fn verify(password: &Secret, challenge: &[u8], digest: &str) -> bool {
    self::digest(password, challenge).as_bytes().ct_eq(digest.to_ascii_lowercase().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_2195() {
        let password = Secret::new(*b"tanstaaftanstaaf");
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        let response = response("tim", &password, challenge);
        assert_eq!(response.expose(), b"tim b913a602c7eda7a495b4e6e7334d3890");
        let (name, digest) = parse(response.expose()).unwrap();
        assert_eq!(name, "tim");
        assert!(verify(&password, challenge, digest));
        assert!(!verify(&password, b"<another@challenge>", digest));
        assert!(!verify(&Secret::new(*b"wrong"), challenge, digest));
    }

    #[test]
    fn what_is_no_response_is_told_from_a_wrong_one() {
        for text in [
            &b""[..],
            b"tim",
            b" b913a602c7eda7a495b4e6e7334d3890",
            b"tim b913",
            b"\xff b913a602c7eda7a495b4e6e7334d3890",
        ] {
            assert_eq!(parse(text), None);
        }
    }
}
