#![doc = include_str!("../README.md")]

mod client;
mod connection;
mod error;
mod observer;
mod racing;
pub mod sasl;
mod send;
mod step;
mod timeouts;
mod wire;

pub use client::{Client, Settings};
pub use connection::{Connection, Options};
pub use error::{Error, Local, Side, TlsError, Unanswered};
pub use observer::Observer;
pub use racing::{RacingConnector, RacingOptions};
pub use send::{SendOptions, Transfer};
pub use step::Step;
pub use timeouts::Timeouts;
