//! placeholder

#[cfg(test)]
#[macro_use]
mod testing;

pub mod auth;
pub mod delivery;
#[cfg(unix)]
pub mod maildir;
mod name;
mod peer;
pub mod policy;
pub mod recipients;
pub use recipients::{AnyRecipient, Mailboxes};
