//! The binary `smtp`, as its users run it.
//!
//! Everything happens on the loopback interface, on ports that the system picks, in folders of its own, and within
//! bounded time; a test ends no process but those it started.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]

mod aliases;
#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "postgres")]
mod cluster;
mod drain;
mod errors;
#[cfg(feature = "postgres")]
mod failover;
mod faults;
#[cfg(feature = "lab")]
mod lab;
mod ledger;
mod listeners;
mod local;
mod login;
mod manual;
mod operating;
#[cfg(feature = "postgres")]
#[path = "../../../smtp-queue/tests/it/pg_server.rs"]
mod pg_server;
#[cfg(feature = "postgres")]
mod pg_tls;
mod play;
mod promises;
mod relay;
mod replay;
#[cfg(feature = "s3")]
mod s3;
mod send;
mod sendmail;
mod serve;
mod settings;
mod shell;
mod sink;
mod source;
mod transports;
mod user;
