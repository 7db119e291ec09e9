//! What a server keeps of a password for SCRAM.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{ITERATIONS_MAX, ITERATIONS_MIN};
use crate::prepare;

/// The hash function of a SCRAM mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-256 (RFC 7677).
    Sha256,
    /// SHA-1 (RFC 5802), for peers that know no other. As HMAC it is not broken; it is faster to guess against.
    Sha1,
}

impl Hash {
    /// The mechanism's name, with channel binding (`-PLUS`) or without.
    #[must_use]
    pub const fn mechanism(self, plus: bool) -> &'static str {
        match (self, plus) {
            (Self::Sha256, false) => "SCRAM-SHA-256",
            (Self::Sha256, true) => "SCRAM-SHA-256-PLUS",
            (Self::Sha1, false) => "SCRAM-SHA-1",
            (Self::Sha1, true) => "SCRAM-SHA-1-PLUS",
        }
    }

    const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha1 => 20,
        }
    }

    pub(super) fn digest(self, octets: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(octets).to_vec(),
            Self::Sha1 => Sha1::digest(octets).to_vec(),
        }
    }

    pub(super) fn hmac(self, key: &[u8], octets: &[u8]) -> Vec<u8> {
        fn under<M: KeyInit + Mac>(key: &[u8], octets: &[u8]) -> Vec<u8> {
            // HMAC takes keys of every length.
            let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Vec::new() };
            mac.update(octets);
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha256 => under::<Hmac<Sha256>>(key, octets),
            Self::Sha1 => under::<Hmac<Sha1>>(key, octets),
        }
    }

    /// `Hi` of RFC 5802 §2.2: what takes the time.
    pub(super) fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut salted = vec![0; self.len()];
        match self {
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut salted),
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut salted),
        }
        salted
    }
}

/// StoredKey and ServerKey with their salt and iteration count (RFC 5802 §3).
///
/// Whoever has them can test passwords against them, and can play the server; the password is not in them. The text
/// form is that of RFC 5803: `SCRAM-SHA-256$65536:salt$StoredKey:ServerKey`, in base64. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub(super) hash: Hash,
    pub(super) salt: Box<[u8]>,
    pub(super) iterations: u32,
    pub(super) stored: Box<[u8]>,
    pub(super) server: Box<[u8]>,
}

impl Keys {
    /// The keys of `password`, which is [prepared](prepare()) first. Takes as long as the iterations do.
    #[must_use]
    pub fn derive(hash: Hash, password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = hash.salted(prepare(password).as_bytes(), salt, iterations);
        Self {
            hash,
            salt: salt.into(),
            iterations,
            stored: hash.digest(&hash.hmac(&salted, b"Client Key")).into(),
            server: hash.hmac(&salted, b"Server Key").into(),
        }
    }

    /// Keys for a user that does not exist, which nobody can tell from real ones: the same salt for the same name
    /// every time, as long as the `secret` stays, and no password that fits (RFC 5802 §9 asks for no less than that
    /// users cannot be enumerated).
    #[must_use]
    pub fn decoy(hash: Hash, secret: &[u8], name: &str, iterations: u32) -> Self {
        let of = |what: &[u8]| hash.hmac(secret, &[what, name.as_bytes()].concat());
        let mut salt = Hash::Sha256.hmac(secret, &[b"salt\0", name.as_bytes()].concat());
        salt.truncate(SALT_LEN);
        Self { hash, salt: salt.into(), iterations, stored: of(b"stored\0").into(), server: of(b"server\0").into() }
    }

    /// The hash function.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// How often the password was hashed.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The text form, for a file that only the server can read.
    #[must_use]
    pub fn expose(&self) -> String {
        let [salt, stored, server] = [&self.salt, &self.stored, &self.server].map(|octets| STANDARD.encode(octets));
        format!("{}${}:{salt}${stored}:{server}", self.hash.mechanism(false), self.iterations)
    }

    pub(super) fn is_stored(&self, client_key: &[u8]) -> bool {
        self.hash.digest(client_key).ct_eq(&self.stored).into()
    }
}

/// The length of a salt in octets.
pub(crate) const SALT_LEN: usize = 16;

/// A text that is not [`Keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "SCRAM keys are written SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey (RFC 5803), with 4,096 iterations or more"
)]
#[non_exhaustive]
pub struct KeySyntaxError;

impl FromStr for Keys {
    type Err = KeySyntaxError;

    fn from_str(text: &str) -> Result<Self, KeySyntaxError> {
        let mut parts = text.split('$');
        let (Some(name), Some(info), Some(keys), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(KeySyntaxError);
        };
        let known = [Hash::Sha256, Hash::Sha1].into_iter().find(|hash| hash.mechanism(false) == name);
        let hash = known.ok_or(KeySyntaxError)?;
        let (iterations, salt) = info.split_once(':').ok_or(KeySyntaxError)?;
        let (stored, server) = keys.split_once(':').ok_or(KeySyntaxError)?;
        let iterations = iterations.parse().map_err(|_| KeySyntaxError)?;
        let decode = |text: &str| STANDARD.decode(text).map(Vec::into_boxed_slice).map_err(|_| KeySyntaxError);
        let keys = Self { hash, salt: decode(salt)?, iterations, stored: decode(stored)?, server: decode(server)? };
        let fits = (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations)
            && !keys.salt.is_empty()
            && keys.stored.len() == hash.len()
            && keys.server.len() == hash.len();
        if fits { Ok(keys) } else { Err(KeySyntaxError) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("hash", &self.hash).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}
