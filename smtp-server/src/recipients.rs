//! Who gets mail here: the base of every policy stack.
//!
//! A stack needs one of these at its bottom, because there is no other base: a server cannot become an open relay by
//! leaving something out.

mod aliases;
mod any;
mod expand;
mod mailboxes;
mod quota;

pub use aliases::{AliasError, Aliases};
pub use any::AnyRecipient;
pub(crate) use expand::as_it_compares;
pub use expand::{Elsewhere, ExpandError};
pub use mailboxes::Mailboxes;
pub use quota::Quota;
