//! The client against scripted servers: no socket, virtual time, every wait bounded.

#![allow(clippy::unwrap_used, reason = "a test's helper is a test")]

mod auth;
mod deadlines;
mod early;
mod extensions;
mod flight;
mod forward;
mod lmtp;
mod peer;
mod pool;
mod racing;
mod send;
mod server;
mod steps;
mod streaming;
mod tls;
mod waiting;
