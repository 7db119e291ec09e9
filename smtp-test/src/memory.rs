//! A transport in memory, as unfriendly as one likes.
//!
//! [`pair`] gives both ends of one channel; [`MemoryListener`] and [`MemoryConnector`] make whole connections, with one
//! stream or with many. [`Knobs`] say how reads and writes are cut, where polls are in vain, how long octets take, where
//! the channel breaks, and which facts it claims. The same knobs give the same run: there is no thread, no randomness
//! and no wall clock; latency is tokio's time, which a test can pause.
//!
//! # STARTTLS without TLS
//! With [`Tls::StartTls`] an end can be upgraded: both ends exchange a fixed handshake, every octet is masked from then
//! on, and the facts change as after a TLS handshake. Nothing is encrypted. What counts for SMTP is faithful: octets in
//! clear that stand between the two sides and the handshake make it fail, as does a peer that goes on in clear, and the
//! end of the channel is an error unless the peer has shut its side down. So the whole STARTTLS dialogue, and the
//! attacks on it (RFC 3207 §4, CVE-2011-0411), can be tested without certificates.
//!
//! ```
//! use smtp_core::stream::ByteStream;
//! use smtp_test::memory::{Knobs, pair};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let (mut client, server) = pair(Knobs::starttls());
//! // Somebody in the middle slips a command in before the handshake.
//! client.write_all(b"NOOP\r\n").await?;
//! let (_client, server) = tokio::join!(Box::new(client).upgrade(), Box::new(server).upgrade());
//! assert!(server.is_err());
//! # Ok(())
//! # }
//! ```

mod connect;
mod knobs;
mod link;
mod stream;

pub use connect::{MemoryConnector, MemoryListener};
pub use knobs::{Cut, CutHow, Knobs, Pace, Tls};
pub use stream::MemoryStream;

/// Both ends of a channel: the client's and the server's.
#[must_use]
pub fn pair(knobs: Knobs) -> (MemoryStream, MemoryStream) {
    MemoryStream::both(&knobs)
}
