//! The client's half.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_core::types::Secret;
use subtle::ConstantTimeEq;

use super::{Hash, ITERATIONS_MAX, ITERATIONS_MIN, ScramError, attribute, base64, escape, extensions, nonce, text};
use crate::prepare;

/// What the client says of channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// `n`: it has nothing to bind to.
    Unsupported,
    /// `y`: it could, and the server was not seen to offer a -PLUS mechanism. A server that does will know what
    /// happened.
    NotOffered,
    /// `p=`: it does, by the binding of this name with these octets. For -PLUS mechanisms.
    To(&'a str, &'a [u8]),
}

/// A client that is about to send its first message.
pub struct Client {
    hash: Hash,
    /// The header with its flag, and the octets of the binding.
    header: String,
    bound: Vec<u8>,
    first: String,
    nonce: String,
}

impl Client {
    /// Begins an exchange for the user `name`, who acts as `acts_as` (empty: as itself); `nonce` is random and
    /// printable.
    ///
    /// # Errors
    /// [`ScramError::Malformed`] for a name that is empty or holds a NUL, and for a nonce that is none.
    pub fn new(hash: Hash, binding: Binding<'_>, name: &str, acts_as: &str, nonce: &str) -> Result<Self, ScramError> {
        let nonce = super::nonce(nonce)?.to_owned();
        let (name, acts_as) = (prepare(name), prepare(acts_as));
        if name.is_empty() || name.contains('\0') || acts_as.contains('\0') {
            return Err(ScramError::Malformed("a name is not empty and holds no NUL"));
        }
        let (flag, octets) = match binding {
            Binding::Unsupported => ("n".to_owned(), &[][..]),
            Binding::NotOffered => ("y".to_owned(), &[][..]),
            Binding::To(name, octets) => (format!("p={name}"), octets),
        };
        let acts_as = if acts_as.is_empty() { String::new() } else { format!("a={}", escape(&acts_as)) };
        let header = format!("{flag},{acts_as},");
        let bound = [header.as_bytes(), octets].concat();
        let first = format!("n={},r={nonce}", escape(&name));
        Ok(Self { hash, header, bound, first, nonce })
    }

    /// The first message.
    #[must_use]
    pub fn message(&self) -> Secret {
        Secret::new(format!("{}{}", self.header, self.first))
    }

    /// Reads the server's challenge.
    ///
    /// # Errors
    /// [`ScramError`] if it is none, or for another exchange, or asks for too little or too much work.
    pub fn challenge(self, challenge: &[u8]) -> Result<Challenged, ScramError> {
        let challenge = text(challenge)?;
        let mut parts = challenge.split(',');
        let nonce = nonce(attribute(parts.next(), "r")?)?;
        let salt = base64(attribute(parts.next(), "s")?)?;
        let iterations: u32 = attribute(parts.next(), "i")?
            .parse()
            .map_err(|_| ScramError::Malformed("the iteration count is no number"))?;
        extensions(parts)?;
        // The server has to have added something of its own.
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Nonce);
        }
        if salt.is_empty() {
            return Err(ScramError::Malformed("no salt"));
        }
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ScramError::Iterations(iterations));
        }
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(&self.bound));
        let auth_message = format!("{},{challenge},{without_proof}", self.first);
        Ok(Challenged { hash: self.hash, salt, iterations, without_proof, auth_message })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// A client that has read the challenge.
pub struct Challenged {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
    without_proof: String,
    auth_message: String,
}

impl Challenged {
    /// The answer. Takes as long as the iterations do: off the threads that others wait on.
    #[must_use]
    pub fn respond(self, password: &Secret) -> (Secret, Responded) {
        let Self { hash, salt, iterations, without_proof, auth_message } = self;
        let prepared = std::str::from_utf8(password.expose()).map(prepare);
        let password = prepared.as_ref().map_or(password.expose(), |text| text.as_bytes());
        let salted = hash.salted(password, &salt, iterations);
        let client_key = hash.hmac(&salted, b"Client Key");
        let signature = hash.hmac(&hash.digest(&client_key), auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let expected = hash.hmac(&hash.hmac(&salted, b"Server Key"), auth_message.as_bytes());
        (Secret::new(format!("{without_proof},p={}", STANDARD.encode(proof))), Responded { expected })
    }
}

impl fmt::Debug for Challenged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenged").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// A client that waits for the server's proof.
pub struct Responded {
    expected: Vec<u8>,
}

impl Responded {
    /// Reads the server's last message, and holds its proof against what it has to be.
    ///
    /// # Errors
    /// [`ScramError`] if it is none, or an error, or the server does not know the keys.
    pub fn finish(self, message: &[u8]) -> Result<(), ScramError> {
        let mut parts = text(message)?.split(',');
        let first = parts.next();
        if first.is_some_and(|part| part.starts_with("e=")) {
            return Err(ScramError::Server);
        }
        let proof = base64(attribute(first, "v")?)?;
        extensions(parts)?;
        if bool::from(proof.ct_eq(&self.expected)) { Ok(()) } else { Err(ScramError::Proof) }
    }
}

impl fmt::Debug for Responded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Responded")
    }
}
