#![doc = include_str!("../README.md")]

mod backoff;
mod connector;
mod listener;
mod race;
mod resolve;
mod stream;

pub use connector::{ConnectOptions, TcpConnector};
pub use listener::{ListenError, ListenOptions, TcpListener, Tls};
pub use resolve::{Resolve, SystemResolver};
