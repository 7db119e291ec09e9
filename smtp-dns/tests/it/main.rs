//! Lookups from memory, and what is made of them.

#![allow(clippy::unwrap_used, reason = "a test's helper is a test")]

mod discovery;
mod lookups;
mod lying;
