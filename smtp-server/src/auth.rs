//! AUTH: the server's side of SASL (RFC 4954, RFC 4422).
//!
//! [`AuthLayer`] answers AUTH and the responses that follow, out of a list of [`Mechanism`]s, and keeps guessers at
//! bay. A mechanism is one file: it makes an [`Exchange`] for each attempt, which knows the form of its messages and
//! whom to ask.
//!
//! | mechanism | asks | needs of the channel |
//! |---|---|---|
//! | [`Scram`]: SCRAM-SHA-256, SCRAM-SHA-1, each also as -PLUS | [`ScramUsers`] | nothing; -PLUS: TLS to bind to |
//! | [`Plain`], [`Login`] | [`Users`] | secrecy |
//! | [`OAuthBearer`], [`XOAuth2`] | [`TokenVerifier`] | secrecy |
//! | [`External`] | [`ExternalUsers`] | a client certificate, or a local peer's uid |
//! | [`CramMd5`], not offered unless asked for | [`SecretUsers`] | nothing |
//! | [`Anonymous`], not offered unless asked for | nobody | nothing; gives no rights |
//!
//! Each of the traits is a service that may live anywhere: a database, a directory, an issuer of tokens. [`UserList`] is
//! all of them, from a file or from memory; [`SharedUsers`] is one that can be exchanged while the server runs.
//! Whom a user may send mail as is a policy of its own, [`SenderLayer`], which asks [`Senders`].
//!
//! # What nobody learns here
//!
//! Whether a user exists: an unknown name costs the same work as a wrong password and gets the same replies, in SCRAM
//! with a salt that stays the same. Which part of a proof was wrong: one text for all. A password: none is in a log or
//! in `Debug`, and [`UserList`] keeps hashes.

mod anonymous;
mod bearer;
mod cram_md5;
mod exchange;
mod external;
mod login;
mod plain;
mod scram;
mod senders;
mod service;
mod shared;
#[cfg(test)]
mod testing;
mod throttle;
mod user;
mod user_file;
mod user_list;
mod users;

pub use anonymous::Anonymous;
pub use bearer::{OAuthBearer, XOAuth2};
pub use cram_md5::CramMd5;
pub use exchange::{Exchange, Mechanism, Step};
pub use external::External;
pub use login::Login;
pub use plain::Plain;
pub use scram::Scram;
pub use senders::{Sender, SenderFuture, SenderLayer};
pub use service::{Auth, AuthFuture, AuthLayer};
pub use shared::SharedUsers;
pub use smtp_sasl::scram::{Hash, Keys};
pub use throttle::Throttle;
pub use user::{SendAs, User, UserError, hash_password};
pub use user_file::UserFileError;
pub use user_list::UserList;
pub use users::{
    Bearer, Check, Credential, ExternalUsers, ScramUsers, SecretUsers, Senders, TokenCheck, TokenVerifier, Unavailable,
    Users,
};
