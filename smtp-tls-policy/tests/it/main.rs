//! Policies over time, and bindings, with a DNS and a web from tables.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]

mod bindings;
mod policies;
