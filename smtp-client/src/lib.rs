#![doc = include_str!("../README.md")]

mod client;
mod connection;
mod error;
#[cfg(feature = "lettre")]
mod lettre_transport;
mod observer;
mod racing;
pub mod sasl;
mod send;
mod step;
mod timeouts;
mod wire;

pub use client::{Client, PassOn, Settings};
pub use connection::{Connection, Options};
pub use error::{Error, Local, Side, TlsError, Unanswered};
#[cfg(feature = "lettre")]
pub use lettre_transport::SendError;
pub use observer::Observer;
pub use racing::{RacingConnector, RacingOptions};
pub use send::{SendOptions, Transfer};
pub use step::Step;
pub use timeouts::Timeouts;
