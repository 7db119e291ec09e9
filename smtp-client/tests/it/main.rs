//! The client against scripted servers: no socket, virtual time, every wait bounded.

mod auth;
mod deadlines;
mod lmtp;
mod peer;
mod pool;
mod send;
mod steps;
mod streaming;
mod tls;
