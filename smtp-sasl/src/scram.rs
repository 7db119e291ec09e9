//! SCRAM (RFC 5802) with SHA-256 (RFC 7677) and SHA-1, with and without channel binding.
//!
//! ```text
//! client                                        server
//!   Client::new            n,,n=user,r=…     →    Server::begin
//!   Client::challenge   ←  r=……,s=salt,i=n        Server::challenge(keys)
//!   Challenged::respond    c=biws,r=……,p=…   →    Challenger::finish
//!   Responded::finish   ←  v=…
//! ```
//!
//! Each state is a type of its own and is used up by its step, so that no step can be left out or taken twice.
//!
//! **Channel binding**, and how a downgrade is noticed (RFC 5802 §6): a client that could bind says in its first
//! message whether it does (`p=`), or does not because the server was not seen to offer it (`y`), or cannot (`n`). The
//! proof covers that. Somebody in the middle who takes the -PLUS mechanisms off the server's list thereby turns `p`
//! into `y`, which a server that does offer them refuses ([`ScramError::Downgrade`]).

mod client;
mod keys;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Binding, Challenged, Client, Responded};
pub use keys::{Hash, KeySyntaxError, Keys};
pub use server::{Accepts, Challenger, Server};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How often a password is hashed for new [`Keys`]: 65,536 times, sixteen times what RFC 7677 §4 asks for. Some 20 ms
/// for a client, once per connection; and so much for whoever tries passwords against a stolen user file.
pub const ITERATIONS: u32 = 65_536;
/// The fewest iterations that a client agrees to (RFC 7677 §4): a server that asks for less wants the password.
pub const ITERATIONS_MIN: u32 = 4_096;
/// The most that a client agrees to: some seconds of one CPU.
pub const ITERATIONS_MAX: u32 = 10_000_000;
/// The longest message that is read, in octets. None of a real peer comes near.
const MESSAGE_MAX: usize = 4_096;

/// Why an exchange ends without success. No secret is in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScramError {
    /// Not a message of SCRAM, or not the one that is due.
    #[error("not a SCRAM message: {0}")]
    Malformed(&'static str),
    /// The two sides are not on the same TLS connection: somebody is between them.
    #[error("the channel bindings differ: somebody is between client and server")]
    BindingDiffers,
    /// The channel has no binding of the kind that is asked for.
    #[error("the channel has no such channel binding")]
    BindingUnknown,
    /// The client could bind and was kept from it by a list of mechanisms that is not the server's.
    #[error("the server offers channel binding and the client was not shown it: somebody is between them")]
    Downgrade,
    /// The nonce is not the one of this exchange.
    #[error("the nonce is not the one of this exchange")]
    Nonce,
    /// The client does not know the password, or the server does not know the keys.
    #[error("the proof does not hold")]
    Proof,
    /// The server wants the password hashed too seldom to be safe, or too often to be meant.
    #[error("{0} iterations are beyond 4,096 to 10,000,000")]
    Iterations(u32),
    /// The server gave this error in the place of its proof (RFC 5802 §7, `server-error`).
    #[error("the server ended the exchange with an error")]
    Server,
}

/// A name as it stands in a message: `saslname` of RFC 5802 §7.
pub(crate) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// The name in a `saslname`; `None` if it is none.
pub(crate) fn unescape(text: &str) -> Option<String> {
    if text.contains(['\0', ',']) {
        return None;
    }
    let mut parts = text.split('=');
    let mut name = String::from(parts.next()?);
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        name.push(sign);
        name.push_str(rest);
    }
    Some(name)
}

/// The message as text, if it is short enough.
fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_MAX {
        return Err(ScramError::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// The value of the attribute `name`, which `part` has to be.
fn attribute<'a>(part: Option<&'a str>, name: &'static str) -> Result<&'a str, ScramError> {
    let value = part.and_then(|part| part.strip_prefix(name)?.strip_prefix('='));
    value.ok_or(ScramError::Malformed("an attribute is missing, or stands elsewhere"))
}

/// A nonce: printable, and no comma.
fn nonce(text: &str) -> Result<&str, ScramError> {
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    fine.then_some(text).ok_or(ScramError::Malformed("a nonce is printable (RFC 5802 §7)"))
}

fn base64(text: &str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(text).map_err(|_| ScramError::Malformed("not base64"))
}

/// Extensions behind the known attributes; each is an attribute that may be ignored (RFC 5802 §5.1).
fn extensions<'a>(parts: impl Iterator<Item = &'a str>) -> Result<(), ScramError> {
    let is_attribute = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.next() == Some('=')
    };
    let all = { parts }.all(|part| is_attribute(part) && !part.starts_with("m="));
    if all { Ok(()) } else { Err(ScramError::Malformed("an extension that is unknown and mandatory, or none")) }
}
