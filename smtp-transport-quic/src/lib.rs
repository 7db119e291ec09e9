#![doc = include_str!("../README.md")]

mod code;
mod connection;
mod connector;
mod crypto;
mod error;
mod link;
mod listener;
mod observer;
mod options;
mod qlog;
#[cfg(feature = "sim")]
pub mod sim;
mod stream;
mod window;

pub use connection::QuicConnection;
pub use connector::QuicConnector;
pub use error::QuicError;
pub use listener::{ListenError, QuicListener};
pub use observer::{Event, Observer, Traffic};
pub use options::{Congestion, ConnectOptions, EarlyData, QuicOptions, Service, TransportOptions};
pub use stream::QuicStream;
