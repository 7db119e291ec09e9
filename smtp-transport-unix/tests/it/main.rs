//! Unix sockets, standard input and output, and child programs: here the system is the subject.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod activation;
mod binding;
mod children;
mod connecting;
mod credentials;
mod guide;
mod proxies;
mod sessions;
mod stdio;
mod support;
