//! SMTP over WebSocket, over TCP, TLS and memory, with peers that are not ours.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]

mod clients;
mod independent;
mod servers;
mod streams;
mod support;
