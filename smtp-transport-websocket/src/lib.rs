#![doc = include_str!("../README.md")]

mod connector;
mod handshake;
mod listener;
mod stream;

pub use connector::WebSocketConnector;
pub use listener::WebSocketListener;

/// The subprotocol that both sides agree on (RFC 6455 §1.9): octets of an SMTP session in binary messages.
pub const SUBPROTOCOL: &str = "smtp";

/// The largest message that is sent, in octets: 64 KiB.
pub const MAX_SENT: usize = 64 << 10;

/// The largest message that is taken, in octets: 1 MiB. It is held until it is there as a whole.
pub const MAX_RECEIVED: usize = 1 << 20;
