//! The one loop that moves octets between a [`ByteStream`], a session and the services, and enforces every deadline.
//!
//! A session's loop owns no read buffer while it is idle, writes a group of replies at once, and calls the policy and
//! the delivery in place, in its own task. Back-pressure is natural: nothing more is read while a command is being
//! answered or content waits for its reader.

mod dialogue;
mod timer;
mod transaction;
mod wire;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use core::future::Future;
use core::time::Duration;
use std::io;

use tokio_util::sync::CancellationToken;

use crate::channel::SessionInfo;
use crate::service::{Delivery, Policy};
use crate::session::server::Config;
use crate::stream::ByteStream;

/// How long a server waits. Each has a default; RFC 5321 §4.5.3.2.7 asks a server for at least 5 minutes for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For the next command. Default 5 min.
    pub command: Duration,
    /// For the next octets of content. Default 3 min (RFC 5321 §4.5.3.2.5).
    pub content: Duration,
    /// For the peer to take what is sent to it. Default 5 min.
    pub send: Duration,
    /// For the policy to answer a command; then 451. Default 2 min.
    pub policy: Duration,
    /// For the delivery to begin, and to answer when it has all the content; then 451, while the delivery may finish
    /// by itself. Default 8 min, below the 10 min that a client waits (RFC 5321 §4.5.3.2.6), so that it hears it.
    pub commit: Duration,
    /// For a TLS handshake after STARTTLS. Default 1 min.
    pub upgrade: Duration,
    /// For the peer to take the last reply and close. Default 10 s; in a drain no more than 1 s for the closing.
    pub close: Duration,
    /// The least octets per second of content, judged when [`Timeouts::content`] has been spent waiting for them, so that
    /// a pause that RFC 5321 allows is never punished; 0 to ask for none. Default 500.
    pub min_data_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            content: Duration::from_secs(180),
            send: Duration::from_secs(300),
            policy: Duration::from_secs(120),
            commit: Duration::from_secs(480),
            upgrade: Duration::from_secs(60),
            close: Duration::from_secs(10),
            min_data_rate: 500,
        }
    }
}

/// What all sessions of a server share.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the server is, allows, and promises.
    pub session: Arc<Config>,
    /// How long it waits.
    pub timeouts: Timeouts,
}

impl Settings {
    /// `session` with the default timeouts.
    #[must_use]
    pub fn new(session: Config) -> Self {
        Self { session: Arc::new(session), timeouts: Timeouts::default() }
    }
}

/// Serves one session on `io` to its end.
///
/// `session` is what is known of it so far: its id and the channel's facts. When `drain` is cancelled, the client gets
/// 421 as soon as no transaction is open.
///
/// Dropping the future ends the session at once; a delivery that has all its content is the one thing that may go on
/// by itself then, if it was made to.
///
/// # Errors
/// When the channel breaks or the peer lets a deadline of the channel pass. A session that ends by QUIT, by 421 or by
/// the client closing between messages is no error.
pub fn serve<P: Policy, D: Delivery>(
    io: Box<dyn ByteStream>,
    session: Arc<SessionInfo>,
    policy: P,
    delivery: D,
    settings: Arc<Settings>,
    drain: CancellationToken,
) -> impl Future<Output = io::Result<()>> + Send + use<P, D> {
    // The arguments go into the dialogue before the future is made, so that it does not hold them twice.
    let mut dialogue = dialogue::Dialogue::new(io, session, policy, delivery, settings, drain);
    async move { dialogue.run().await }
}
