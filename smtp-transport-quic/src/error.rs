//! What can go wrong on a stream, in the terms of the mapping.

use std::io;

use quinn::{ConnectionError, ReadError, StoppedError, TransportErrorCode, VarInt, WriteError};
use rustls::AlertDescription;
use smtp_core::stream::CloseCode;
use smtp_core::types::printable;
use smtp_tls::{HandshakeError, Role};

use crate::code;

/// Why a stream or its connection is of no more use. Found inside the [`io::Error`]s of this crate's streams.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// The peer gave its half of the stream up; what it had sent may be missing at the end.
    #[error("the peer reset the stream ({0:?})")]
    Reset(CloseCode),
    /// The peer reads no more of this stream. Replies that it sent before can still be read.
    #[error("the peer reads no more of this stream ({0:?})")]
    Stopped(CloseCode),
    /// The peer closed the connection, and with it all of its streams.
    #[error("the peer closed the connection ({code:?}{}{reason})", if reason.is_empty() { "" } else { ": " })]
    Closed {
        /// Why.
        code: CloseCode,
        /// What it said to that, for logs.
        reason: String,
    },
    /// This side closed the connection.
    #[error("the connection was closed on this side")]
    ClosedHere,
    /// The server did not take the early data. Nothing of it was looked at, so it can be sent again on a new stream
    /// of the same connection without the risk of a duplicate.
    #[error("the server did not take the early data; nothing of it was processed")]
    EarlyDataRefused,
    /// Nothing came for as long as the connection may be idle.
    #[error("the peer has gone silent")]
    Silent,
    /// The handshake failed.
    #[error(transparent)]
    Handshake(HandshakeError),
    /// The server has the other service only, or does not speak SMTP over QUIC at all.
    #[error(
        "the two sides have no application protocol in common (no_application_protocol): is this the other service, relay for submission or the \
         other way round, or no SMTP server?"
    )]
    Protocol,
    /// The two sides have no version of QUIC in common.
    #[error("the peer speaks no version of QUIC that is spoken here")]
    Version,
    /// QUIC itself broke down: the peer lost its state, or one side broke the protocol.
    #[error("QUIC: {0}")]
    Transport(String),
    /// The stream has been closed before.
    #[error("the stream is closed")]
    StreamClosed,
}

impl QuicError {
    /// The code that the peer gave, if it gave one.
    #[must_use]
    pub const fn code(&self) -> Option<CloseCode> {
        match self {
            Self::Reset(code) | Self::Stopped(code) | Self::Closed { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// True if the next try over QUIC will fail just the same.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Handshake(error) => error.is_permanent(),
            Self::Version | Self::Protocol => true,
            Self::Reset(code) | Self::Stopped(code) | Self::Closed { code, .. } => code::is_permanent(*code),
            _ => false,
        }
    }

    const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Reset(_) => io::ErrorKind::ConnectionReset,
            Self::Stopped(_) | Self::StreamClosed => io::ErrorKind::BrokenPipe,
            Self::Closed { .. } | Self::ClosedHere | Self::EarlyDataRefused | Self::Transport(_) => {
                io::ErrorKind::ConnectionAborted
            }
            Self::Silent => io::ErrorKind::TimedOut,
            Self::Handshake(error) if error.is_permanent() => io::ErrorKind::InvalidData,
            Self::Handshake(_) => io::ErrorKind::UnexpectedEof,
            Self::Version | Self::Protocol => io::ErrorKind::Unsupported,
        }
    }

    /// Reads how a connection ended, on the side that was `own` in the handshake.
    pub(crate) fn from_connection(error: ConnectionError, own: Role) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Self::Closed { code: code::from_wire(close.error_code), reason: printable(&close.reason) }
            }
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::Reset => Self::Transport("the peer has lost the connection's state".into()),
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
                Some(AlertDescription::NoApplicationProtocol) => Self::Protocol,
                Some(alert) => Self::Handshake(HandshakeError::from_rustls(rustls::Error::AlertReceived(alert), own)),
                None => Self::Transport(format!("{}: {}", close.error_code, printable(&close.reason))),
            },
            ConnectionError::TransportError(error) => match alert(error.code) {
                // What rustls had to say is a text by now.
                Some(AlertDescription::NoApplicationProtocol) => Self::Protocol,
                Some(_) => Self::Handshake(match error.reason.strip_prefix("invalid peer certificate: ") {
                    Some(reason) => certificate_fault(reason, own.peer()),
                    None => HandshakeError::Other(rustls::Error::General(error.reason)),
                }),
                None => Self::Transport(error.to_string()),
            },
            ConnectionError::CidsExhausted => Self::Transport(error.to_string()),
        }
    }

    pub(crate) fn from_read(error: ReadError, own: Role) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code::from_wire(code)),
            ReadError::ConnectionLost(error) => Self::from_connection(error, own),
            ReadError::ZeroRttRejected => Self::EarlyDataRefused,
            ReadError::ClosedStream | ReadError::IllegalOrderedRead => Self::StreamClosed,
        }
    }

    pub(crate) fn from_write(error: WriteError, own: Role) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code::from_wire(code)),
            WriteError::ConnectionLost(error) => Self::from_connection(error, own),
            WriteError::ZeroRttRejected => Self::EarlyDataRefused,
            WriteError::ClosedStream => Self::StreamClosed,
        }
    }

    /// How waiting for the peer to take all ended; `None` if it has, or can be relied on to have.
    pub(crate) fn from_stopped(result: Result<Option<VarInt>, StoppedError>, own: Role) -> Option<Self> {
        let error = match result {
            Ok(None) => return None,
            Ok(Some(code)) => Self::Stopped(code::from_wire(code)),
            Err(StoppedError::ConnectionLost(error)) => Self::from_connection(error, own),
            Err(StoppedError::ZeroRttRejected) => Self::EarlyDataRefused,
        };
        // A client that has the 221 closes, and may do so before it has acknowledged it.
        (error.code() != Some(CloseCode::NoError)).then_some(error)
    }
}

impl From<QuicError> for io::Error {
    fn from(error: QuicError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// What was wrong with the certificate of `peer`, from the text that QUIC leaves of it. A verifier's own error comes in the
/// clothes of the library that carried it.
fn certificate_fault(reason: &str, peer: Role) -> HandshakeError {
    let bare = reason.strip_prefix("Other(OtherError(").and_then(|rest| rest.strip_suffix("))")).unwrap_or(reason);
    match bare {
        "UnknownIssuer" => return HandshakeError::UnknownIssuer { peer },
        "BadSignature" => return HandshakeError::BadSignature { peer },
        "CaUsedAsEndEntity" => return HandshakeError::CaAsLeaf { peer },
        _ => {}
    }
    let pins: Vec<&str> = bare.split("Pin(").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let reason = match (bare.starts_with("WrongPin "), &*pins) {
        (true, [expected, presented]) => {
            format!("its key is not the pinned one: pinned is {expected}, the server shows {presented}")
        }
        _ => bare.to_owned(),
    };
    HandshakeError::BadCertificate { peer, reason }
}

/// The TLS alert that a QUIC error code stands for (RFC 9001 §4.8).
fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code);
    (0x100..0x200).contains(&code).then(|| AlertDescription::from(u8::try_from(code & 0xff).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_faults_are_told_from_their_texts() {
        let fault = |text: &str| certificate_fault(text, Role::Server);
        assert!(matches!(fault("UnknownIssuer"), HandshakeError::UnknownIssuer { peer: Role::Server }));
        assert!(matches!(fault("Other(OtherError(CaUsedAsEndEntity))"), HandshakeError::CaAsLeaf { .. }));
        let pins = fault("Other(OtherError(WrongPin { expected: Pin(00), presented: Pin(a1) }))").to_string();
        assert!(pins.ends_with("not the pinned one: pinned is 00, the server shows a1"), "{pins}");
        assert!(fault("something new").to_string().ends_with("does not hold: something new"));
    }
}
