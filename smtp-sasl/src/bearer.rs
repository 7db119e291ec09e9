//! The messages of OAUTHBEARER (RFC 7628) and of XOAUTH2, which came before it and which no RFC describes.
//!
//! Both carry a user and a token (RFC 6750) in one message. A server that does not take the token says so in a
//! challenge, and the client's answer to that is one octet or none; then comes the refusal.

use smtp_core::types::{Invalid, Secret};

/// What a client showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Whom it wants to be; `None` if the token alone is to say.
    pub user: Option<Box<str>>,
    /// The token, without `Bearer` and the blank before it.
    pub token: Secret,
    /// The host that the client believes to talk to, where the mechanism tells.
    pub host: Option<Box<str>>,
    /// The port that the client believes to talk to, where the mechanism tells.
    pub port: Option<u16>,
}

/// Separates the parts of a message.
const SEPARATOR: char = '\u{1}';
const SEPARATOR_OCTET: u8 = 1;

/// What a client answers to the challenge that says what is wrong with a token, in OAUTHBEARER (RFC 7628 §3.2.3).
pub const DUMMY: &[u8] = b"\x01";

/// What a server says of a token that it does not take: the challenge before the refusal (RFC 7628 §3.2.2).
pub const INVALID_TOKEN: &[u8] = br#"{"status":"invalid_token"}"#;

impl Bearer {
    /// The token of `user`.
    ///
    /// # Errors
    /// [`Invalid`] if the user's name holds a control character, or the token anything but the `b64token` of RFC 6750
    /// §2.1.
    pub fn new(user: &str, token: &Secret) -> Result<Self, Invalid> {
        if user.is_empty() || user.chars().any(char::is_control) {
            return Err(Invalid::new("user name", "not empty, and without control characters (RFC 7628 §3.1)"));
        }
        if !is_token(token.expose()) {
            return Err(Invalid::new("bearer token", "letters, digits and -._~+/, then = (RFC 6750 §2.1)"));
        }
        Ok(Self { user: Some(user.into()), token: token.clone(), host: None, port: None })
    }

    /// The message of OAUTHBEARER, without channel binding (RFC 7628 §3.1).
    #[must_use]
    pub fn oauthbearer(&self) -> Secret {
        let mut message = Vec::from(*b"n,");
        if let Some(user) = &self.user {
            message.extend(b"a=");
            message.extend(crate::scram::escape(user).into_bytes());
        }
        message.extend(b",\x01");
        if let Some(host) = &self.host {
            message.extend(format!("host={host}{SEPARATOR}").into_bytes());
        }
        if let Some(port) = self.port {
            message.extend(format!("port={port}{SEPARATOR}").into_bytes());
        }
        self.write_token(&mut message);
        Secret::new(message)
    }

    /// The message of XOAUTH2.
    #[must_use]
    pub fn xoauth2(&self) -> Secret {
        let mut message = format!("user={}{SEPARATOR}", self.user.as_deref().unwrap_or_default()).into_bytes();
        self.write_token(&mut message);
        Secret::new(message)
    }

    fn write_token(&self, message: &mut Vec<u8>) {
        message.extend(b"auth=Bearer ");
        message.extend(self.token.expose());
        message.extend([SEPARATOR_OCTET, SEPARATOR_OCTET]);
    }

    /// Reads a message of OAUTHBEARER. Binding flags are let pass: the mechanism has no binding of its own.
    #[must_use]
    pub fn from_oauthbearer(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (header, pairs) = text.split_once(SEPARATOR)?;
        let (flag, rest) = header.split_once(',')?;
        if !(flag == "n" || flag == "y" || flag.strip_prefix("p=").is_some_and(|name| !name.is_empty())) {
            return None;
        }
        let user = match rest.strip_suffix(',')? {
            "" => None,
            user => Some(crate::scram::unescape(user.strip_prefix("a=")?)?.into()),
        };
        Self::from_pairs(user, pairs)
    }

    /// Reads a message of XOAUTH2.
    #[must_use]
    pub fn from_xoauth2(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (user, pairs) = text.strip_prefix("user=")?.split_once(SEPARATOR)?;
        Self::from_pairs((!user.is_empty()).then(|| user.into()), pairs)
    }

    fn from_pairs(user: Option<Box<str>>, pairs: &str) -> Option<Self> {
        // A message ends with an empty pair.
        let pairs = pairs.strip_suffix("\u{1}\u{1}")?;
        let (mut token, mut host, mut port) = (None, None, None);
        for pair in pairs.split(SEPARATOR) {
            let (key, value) = pair.split_once('=')?;
            let twice = match key {
                "auth" => {
                    let (scheme, value) = value.split_once(' ')?;
                    let right = scheme.eq_ignore_ascii_case("Bearer") && is_token(value.as_bytes());
                    token.replace(right.then(|| Secret::new(value))?).is_some()
                }
                "host" => host.replace(value.into()).is_some(),
                "port" => port.replace(value.parse().ok()?).is_some(),
                // RFC 7628 §3.1: unknown keys are for later.
                _ => false,
            };
            if twice {
                return None;
            }
        }
        Some(Self { user, token: token?, host, port })
    }
}

/// `b64token` of RFC 6750 §2.1.
fn is_token(octets: &[u8]) -> bool {
    let end = octets.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1);
    let (body, _) = octets.split_at(end);
    !body.is_empty() && body.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";

    fn bearer(user: &str) -> Bearer {
        Bearer::new(user, &Secret::new(TOKEN)).unwrap()
    }

    #[test]
    fn the_example_of_rfc_7628() {
        let message =
            format!("n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer {TOKEN}\x01\x01");
        let bearer = Bearer { host: Some("server.example.com".into()), port: Some(143), ..bearer("user@example.com") };
        assert_eq!(bearer.oauthbearer().expose(), message.as_bytes());
        assert_eq!(Bearer::from_oauthbearer(message.as_bytes()), Some(bearer));
    }

    #[test]
    fn the_example_of_xoauth2() {
        let message = format!("user=someuser@example.com\x01auth=Bearer {TOKEN}\x01\x01");
        let bearer = bearer("someuser@example.com");
        assert_eq!(bearer.xoauth2().expose(), message.as_bytes());
        assert_eq!(Bearer::from_xoauth2(message.as_bytes()), Some(bearer));
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in [
            "",
            "n,,",
            "n,,\x01\x01",
            "n,a=x,\x01auth=Bearer t\x01",
            "n,a=x,\x01auth=Basic t\x01\x01",
            "n,a=x,\x01auth=Bearer \x01\x01",
            "n,a=x,\x01auth=Bearer a b\x01\x01",
            "n,a=x,\x01auth=Bearer t\x01auth=Bearer t\x01\x01",
            "n,a=x=3D,\x01port=99999\x01auth=Bearer t\x01\x01",
            "n,a=x=4A,\x01auth=Bearer t\x01\x01",
            "z,a=x,\x01auth=Bearer t\x01\x01",
            "p=,a=x,\x01auth=Bearer t\x01\x01",
            "n,x,\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(Bearer::from_oauthbearer(text.as_bytes()), None, "{text:?}");
        }
        for text in ["", "user=x", "user=x\x01\x01", "auth=Bearer t\x01\x01", "user=x\x01auth=t\x01\x01"] {
            assert_eq!(Bearer::from_xoauth2(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn what_would_break_the_message_cannot_be_made() {
        assert!(Bearer::new("x\x01auth=Bearer y", &Secret::new(*b"t")).is_err());
        assert!(Bearer::new("x", &Secret::new(*b"t\x01")).is_err());
        assert!(Bearer::new("x", &Secret::new(*b"")).is_err());
        assert!(Bearer::new("", &Secret::new(*b"t")).is_err());
        assert!(!format!("{:?}", Bearer::new("x", &Secret::new(*b"hunter2")).unwrap()).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(user in "[^\\x00-\\x1f\\x7f-\\u{9f}]{1,20}", token in "[A-Za-z0-9._~+/-]{1,40}={0,2}") {
            let bearer = Bearer::new(&user, &Secret::new(token)).unwrap();
            prop_assert_eq!(Bearer::from_oauthbearer(bearer.oauthbearer().expose()), Some(bearer.clone()));
            prop_assert_eq!(Bearer::from_xoauth2(bearer.xoauth2().expose()), Some(bearer));
        }

        #[test]
        fn garbage_is_none_or_a_message(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Bearer::from_oauthbearer(&octets);
            let _ = Bearer::from_xoauth2(&octets);
        }
    }
}
