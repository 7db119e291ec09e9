//! TLS between the two sides that this crate configures, in memory: no socket, no clock.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]

mod client_certificates;
mod dane;
mod facts;
mod files;
mod pair;
mod pki;
mod serving;
mod verification;
