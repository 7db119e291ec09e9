//! What a SASL mechanism is, to the server.

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::channel::SessionInfo;
use smtp_core::session::server::Needs;
use smtp_core::types::Secret;

/// A SASL mechanism (RFC 4422 §5). Holds whatever its exchanges ask: users, keys, a map of certificates.
pub trait Mechanism: Send + Sync + 'static {
    /// Its registered name, in upper case: `PLAIN`.
    fn name(&self) -> &'static str;

    /// What a channel has to have; elsewhere the mechanism is neither offered nor taken. The safe answer is the
    /// default: whoever overhears an exchange could log in with it.
    fn needs(&self) -> Needs {
        Needs::Secrecy
    }

    /// Begins an attempt.
    fn start(&self) -> Box<dyn Exchange>;
}

/// One attempt to authenticate.
#[async_trait]
pub trait Exchange: Send + 'static {
    /// Goes on with what the client sent: its initial response or its answer to the last challenge, `None` for AUTH
    /// without initial response. Not called again after anything but [`Step::Challenge`].
    async fn step(&mut self, response: Option<Secret>, session: &SessionInfo) -> Step;
}

/// What an exchange comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The client is to answer this: 334.
    Challenge(Bytes),
    /// The client is this user: 235.
    Success {
        /// The authorization identity.
        user: Box<str>,
    },
    /// The credentials do not hold, for whatever reason: 535 5.7.8. Says nothing more, so that users cannot be
    /// enumerated, and counts against the peer.
    Failed,
    /// As [`Step::Failed`], and the mechanism has a challenge that says so: 334 with it, then 535 whatever the client
    /// answers. Counts at once, as the client may not wait for the 535.
    FailedWith(Bytes),
    /// The exchange does not belong to this channel or this session: 535 5.7.8 with this text, which must not depend
    /// on who the user is. Counts against the peer.
    Refused(&'static str),
    /// Not a message of this mechanism: 501 5.5.2.
    Malformed,
    /// The channel lacks what the mechanism needs: 504 5.5.4 with this text.
    Unusable(&'static str),
    /// Nobody can tell now whether they hold: 454 4.7.0.
    Unavailable,
}
