//! What the queue promises, from outside.

#![allow(clippy::unwrap_used, reason = "a test's helper is a test")]

mod awake;
mod client;
mod conformance;
mod damage;
mod fairness;
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
mod promises;
mod rig;
mod system;
mod week;
