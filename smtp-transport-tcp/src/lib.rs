#![doc = include_str!("../README.md")]

mod connector;
mod listener;
mod stream;

pub use connector::{ConnectOptions, TcpConnector};
pub use listener::{ListenError, ListenOptions, TcpListener, Tls};
