//! What the queue promises, from outside.

#![allow(clippy::unwrap_used, reason = "a test's helper is a test")]

mod client;
mod conformance;
mod damage;
mod faults;
mod flow;
mod kill;
mod large;
mod lease;
mod model;
#[cfg(feature = "postgres")]
mod pg_server;
#[cfg(feature = "postgres")]
mod postgres;
mod rig;
mod system;
mod week;
