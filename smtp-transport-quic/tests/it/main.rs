//! The transport with the driver on top: on loopback sockets, and on a simulated network in virtual time.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]

mod chaos;
mod client;
mod closing;
mod crowd;
mod early;
mod gaps;
mod hostile;
mod loopback;
mod moving;
mod racing;
mod rounds;
mod support;
mod tags;
