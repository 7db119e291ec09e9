//! What the two sides of a SASL exchange (RFC 4422) share: messages and keys, without I/O, users or policy.
//!
//! The mechanisms themselves are the server's and the client's: they know whom to ask and what to trust. Here is what
//! must be the same on both sides, so that each can be tested against the other and against the RFCs' examples.
//!
//! ```
//! use smtp_core::types::Secret;
//! use smtp_sasl::scram::{self, Binding, Hash, Keys};
//!
//! let password = Secret::new(*b"pencil");
//! // What a server keeps: neither the password nor anything to log in with.
//! let keys = Keys::derive(Hash::Sha256, "pencil", b"a random salt", 4096);
//!
//! let client = scram::Client::new(Hash::Sha256, Binding::Unsupported, "user", "", "clientnonce")?;
//! let server = scram::Server::begin(Hash::Sha256, &scram::Accepts::default(), client.message().expose())?;
//! assert_eq!(server.name(), "user");
//! let (challenge, server) = server.challenge(keys, "servernonce");
//! let (response, client) = client.challenge(challenge.as_bytes())?.respond(&password);
//! let proof = server.finish(response.expose())?;
//! client.finish(proof.as_bytes())?; // The server knew the keys, too.
//! # Ok::<(), scram::ScramError>(())
//! ```
//!
//! - [`scram`]: SCRAM-SHA-256 and SCRAM-SHA-1, with and without channel binding (RFC 5802, RFC 7677).
//! - [`binding`]: which facts of a channel can be bound to (RFC 5929, RFC 9266).
//! - [`bearer`]: the messages of OAUTHBEARER (RFC 7628) and XOAUTH2.
//! - [`cram_md5`]: the digest of CRAM-MD5 (RFC 2195).
//! - [`prepare()`]: one spelling for each name and password (RFC 4013).

pub mod bearer;
pub mod binding;
pub mod cram_md5;
mod prepare;
mod random;
pub mod scram;

pub use prepare::prepare;
pub use random::{NoRandomness, nonce, random};
