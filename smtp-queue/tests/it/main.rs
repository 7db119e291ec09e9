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
mod model;
mod promises;
mod rig;
mod system;
mod week;
