//! The server's half.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_core::channel::TlsInfo;
use subtle::ConstantTimeEq;

use super::{Hash, Keys, ScramError, attribute, base64, extensions, nonce, text, unescape};
use crate::binding;

/// What a server takes in this exchange.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accepts<'a> {
    /// The mechanism is a -PLUS one: the client has to bind.
    pub plus: bool,
    /// The server offers -PLUS mechanisms, in this exchange or another: a client that was not shown them is told.
    pub offers_plus: bool,
    /// What there is to bind to.
    pub tls: Option<&'a TlsInfo>,
}

/// A server that has read the client's first message.
pub struct Server {
    hash: Hash,
    name: String,
    acts_as: Option<String>,
    /// What the client will have to repeat: the header with its flag, and the octets of the binding.
    bound: Vec<u8>,
    first: String,
    client_nonce: String,
}

impl Server {
    /// Reads `message`: `gs2-header client-first-message-bare` (RFC 5802 §7).
    ///
    /// # Errors
    /// [`ScramError`] if it is none, and if the client binds otherwise than `accepts` has it.
    pub fn begin(hash: Hash, accepts: &Accepts<'_>, message: &[u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(acts_as), Some(first)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Malformed("the header has two commas"));
        };
        let octets = match flag {
            "n" | "y" if accepts.plus => {
                return Err(ScramError::Malformed("a -PLUS mechanism without channel binding"));
            }
            // RFC 5802 §6
            "y" if accepts.offers_plus => return Err(ScramError::Downgrade),
            "n" | "y" => &[],
            _ => {
                let name = flag.strip_prefix("p=").filter(|name| !name.is_empty());
                let name = name.ok_or(ScramError::Malformed("the flag is p=, n or y"))?;
                if !accepts.plus {
                    return Err(ScramError::Malformed("channel binding without a -PLUS mechanism"));
                }
                accepts.tls.and_then(|tls| binding::octets(tls, name)).ok_or(ScramError::BindingUnknown)?
            }
        };
        let acts_as = match acts_as {
            "" => None,
            text => {
                let name = unescape(attribute(Some(text), "a")?).filter(|name| !name.is_empty());
                Some(name.ok_or(ScramError::Malformed("a name"))?)
            }
        };
        let header_len = message.len() - first.len();
        let mut bound = Vec::from(message.split_at(header_len).0);
        bound.extend(octets);

        let mut parts = first.split(',');
        let name = unescape(attribute(parts.next(), "n")?).filter(|name| !name.is_empty());
        let name = name.ok_or(ScramError::Malformed("a name"))?;
        let client_nonce = nonce(attribute(parts.next(), "r")?)?.to_owned();
        extensions(parts)?;
        Ok(Self { hash, name, acts_as, bound, first: first.to_owned(), client_nonce })
    }

    /// Who the client says it is, as it was written.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom the client wants to act as, if it says so. Whether it may is not SCRAM's to know.
    #[must_use]
    pub fn acts_as(&self) -> Option<&str> {
        self.acts_as.as_deref()
    }

    /// The challenge for the user that `keys` belong to; `nonce` is random and printable.
    #[must_use]
    pub fn challenge(self, keys: Keys, nonce: &str) -> (String, Challenger) {
        debug_assert_eq!(keys.hash, self.hash, "keys of another mechanism");
        let nonce = format!("{}{nonce}", self.client_nonce);
        let challenge = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        // RFC 5802 §3: AuthMessage, as far as it is known.
        let so_far = format!("{},{challenge},", self.first);
        (challenge, Challenger { keys, nonce, bound: self.bound, so_far })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// A server that has sent its challenge.
pub struct Challenger {
    keys: Keys,
    nonce: String,
    bound: Vec<u8>,
    so_far: String,
}

impl Challenger {
    /// Reads the client's answer and gives the server's own proof, `v=…`.
    ///
    /// # Errors
    /// [`ScramError`] if it is none, if it belongs to another exchange or channel, and if the proof does not hold.
    pub fn finish(self, message: &[u8]) -> Result<String, ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("the proof is missing"))?;
        let proof = base64(proof)?;
        let mut parts = without_proof.split(',');
        let bound = base64(attribute(parts.next(), "c")?)?;
        let nonce = attribute(parts.next(), "r")?;
        extensions(parts)?;
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        if !bool::from(bound.ct_eq(&self.bound)) {
            return Err(ScramError::BindingDiffers);
        }
        let Keys { hash, stored, server, .. } = &self.keys;
        let auth_message = [self.so_far.as_bytes(), without_proof.as_bytes()].concat();
        let signature = hash.hmac(stored, &auth_message);
        if proof.len() != signature.len() {
            return Err(ScramError::Malformed("a proof is as long as the hash"));
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if !self.keys.is_stored(&client_key) {
            return Err(ScramError::Proof);
        }
        Ok(format!("v={}", STANDARD.encode(hash.hmac(server, &auth_message))))
    }
}

impl fmt::Debug for Challenger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenger").field("keys", &self.keys).finish_non_exhaustive()
    }
}
