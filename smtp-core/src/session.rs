//! The session, written once: two state machines without I/O, clock or runtime, and the table both obey.

pub mod client;
pub mod server;
mod table;

pub use table::{Law, State, diagram, law};
