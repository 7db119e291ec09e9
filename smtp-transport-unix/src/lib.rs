#![cfg(unix)]
#![doc = include_str!("../README.md")]

mod activation;
mod bind;
mod connector;
mod listener;
mod peer;
mod pipe;
mod stdio;
mod url;

pub use activation::{Inherited, Socket, inherited};
pub use bind::ListenOptions;
pub use connector::UnixConnector;
pub use listener::{ListenError, UnixListener};
pub use pipe::PipeConnector;
pub use stdio::Stdio;
pub use url::{UrlError, unix_target};
