//! Real mail programs to test against, each started as an instance of its own.
//!
//! A peer here is a program from a Debian package: [`Postfix`] and [`Exim`] as
//! servers (and as clients that send to us), [`Nsd`] as a name server, [`Dovecot`] as an LMTP server, [`HaProxy`] in
//! front of us, [`Https`] as a web server, and the short-lived [`tools`]: `swaks`, `curl`, Python, `smtp-source`. For SMTP over QUIC there is
//! [`aioquic`], with our own scripts. `.ci/setup` installs them.
//!
//! Every instance has its own configuration, spool and mailboxes in a temporary
//! folder, listens on a free loopback port, never sends anything beyond
//! loopback, and is ended by its own process id when its value is dropped.
//!
//! | domain | who takes its mail |
//! |---|---|
//! | `postfix.test` | the [`Postfix`] instance, into one Maildir per user |
//! | `exim.test` | the [`Exim`] instance, into one Maildir per user |
//! | `dovecot.test` | the [`Dovecot`] instance, over LMTP, into one Maildir per user |
//! | `ours.test` | us: the peer's client sends it to [`PostfixOptions::next_hop`] or [`EximOptions::next_hop`] |
//! | any other | nobody: refused, or returned to the sender |
//!
//! A peer that cannot run gives a [`Skip`]; [`require`] turns it into a skipped
//! test on a developer's machine and into a failure in CI:
//!
//! ```no_run
//! use smtp_tests::peers::{Postfix, PostfixOptions, require, tools};
//! use std::time::Duration;
//!
//! # fn test() -> std::io::Result<()> {
//! let Some(postfix) = require(Postfix::start(PostfixOptions::default())) else {
//!     return Ok(());
//! };
//! let server = format!("127.0.0.1:{}", postfix.port());
//! let Some(sent) = require(tools::swaks(["--server", &server, "--to", "alice@postfix.test"])) else {
//!     return Ok(());
//! };
//! assert!(sent.success(), "{sent}");
//! postfix.wait_for_messages("alice", 1, Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything here blocks, for a bounded time. Inside an async test call it on
//! `tokio::task::spawn_blocking`, or use a multi-threaded runtime.

pub mod aioquic;
mod dovecot;
mod exim;
mod haproxy;
mod https;
mod mailbox;
mod nsd;
mod postfix;
mod process;
pub mod tools;

pub use dovecot::Dovecot;
pub use exim::{Exim, EximOptions};
pub use haproxy::HaProxy;
pub use https::Https;
pub use nsd::Nsd;
pub use postfix::{Postfix, PostfixOptions};

use std::fmt;

/// Why a peer or a tool cannot be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The value, or `None` after printing why the test is skipped.
///
/// # Panics
///
/// With the reason, when the environment variable `CI` is set and not empty:
/// there, everything the tests need is installed, and a skipped test would pass
/// for a green one.
#[must_use]
#[track_caller]
pub fn require<T>(result: Result<T, Skip>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(skip) if std::env::var_os("CI").is_some_and(|value| !value.is_empty()) => {
            panic!("CI must not skip this: {skip}")
        }
        Err(skip) => {
            println!("skipped: {skip}");
            None
        }
    }
}

/// What a peer's SMTP client does about TLS when it sends to us.
///
/// The peer verifies no certificate at any of these levels: tests use
/// self-signed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientTls {
    /// Never asks for STARTTLS.
    None,
    /// Asks when it is offered, and sends in clear when it is not.
    #[default]
    May,
    /// Keeps the message in its queue while there is no TLS.
    Encrypt,
}

/// The users each peer has a mailbox for, unless its options say otherwise.
const DEFAULT_USERS: [&str; 4] = ["alice", "bob", "carol", "postmaster"];

fn default_users() -> Vec<String> {
    DEFAULT_USERS.map(String::from).to_vec()
}

/// Starts a peer anew when another program took its port between the moment it
/// was found free and the moment the peer bound it.
fn with_free_port<T>(start: impl Fn(u16) -> Result<T, Skip>) -> Result<T, Skip> {
    const ATTEMPTS: usize = 3;
    const TAKEN: &str = "address already in use";
    let mut last = Skip("no attempt was made".to_owned());
    for _ in 0..ATTEMPTS {
        match start(process::free_port()?) {
            Err(skip) if skip.0.to_ascii_lowercase().contains(TAKEN) => last = skip,
            done => return done,
        }
    }
    Err(last)
}
