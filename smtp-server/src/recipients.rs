//! Who gets mail here: the base of every policy stack.
//!
//! A stack needs one of these at its bottom, because there is no other base: a server cannot become an open relay by
//! leaving something out.

mod any;
mod mailboxes;

pub use any::AnyRecipient;
pub use mailboxes::Mailboxes;
