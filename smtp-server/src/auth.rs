//! AUTH: the server's side of SASL (RFC 4954, RFC 4422).
//!
//! [`AuthLayer`] answers AUTH and the responses that follow, out of a list of [`Mechanism`]s, and keeps guessers at
//! bay. A mechanism is one file: it makes an [`Exchange`] for each attempt, which knows the form of its messages and
//! whom to ask. [`Plain`] and [`Login`] ask [`Users`]; [`UserList`] is users from a file or from memory.

mod exchange;
mod login;
mod plain;
mod service;
#[cfg(test)]
mod testing;
mod throttle;
mod user_file;
mod user_list;
mod users;

pub use exchange::{Exchange, Mechanism, Step};
pub use login::Login;
pub use plain::Plain;
pub use service::{Auth, AuthFuture, AuthLayer};
pub use throttle::Throttle;
pub use user_file::UserFileError;
pub use user_list::{UserError, UserList, hash_password};
pub use users::{Check, Users};
