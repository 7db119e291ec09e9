//! Short-lived programs that speak SMTP: test clients other people wrote.
//!
//! Each runs to its end or is killed after [`LIMIT`], so none can hang a test.
//! `swaks` and Python's `smtplib` turn LF into CRLF by themselves; to send exact
//! octets, use a socket in a [`python`] script.

use super::Skip;
pub use super::process::Output;
use super::process::{locate, run};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a tool may run.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Runs [swaks], the Swiss army knife for SMTP, for example with `--server
/// 127.0.0.1:10025 --to alice@postfix.test --tls`.
///
/// # Errors
///
/// When it is not installed or cannot be run. That the server refused is in the
/// [`Output`], as is a run that was killed.
///
/// [swaks]: https://jetmore.org/john/code/swaks/
pub fn swaks<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output, Skip> {
    tool(&locate("swaks")?, args, b"")
}

/// Runs `gsasl`, GNU SASL's own client, for example with `--smtp --connect=127.0.0.1:10025 -m SCRAM-SHA-256`: an
/// independent SCRAM, with channel binding.
///
/// # Errors
///
/// When it is not installed or cannot be run. That the server refused is in the
/// [`Output`], as is a run that was killed.
pub fn gsasl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output, Skip> {
    tool(&locate("gsasl")?, args, b"")
}

/// Runs `saslpasswd2` to put a user into a `sasldb` file; `args` are its own, and the password comes on its standard
/// input (`-p`).
///
/// # Errors
///
/// When it is not installed or cannot be run.
pub fn saslpasswd<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, password: &str) -> Result<Output, Skip> {
    tool(&locate("saslpasswd2")?, args, password.as_bytes())
}

/// Runs `curl` to send a message; `url` is `smtp://host:port/ehlo-name` or
/// `smtps://…`, and `more` are further arguments such as `--ssl-reqd`,
/// `--insecure` or `--user name:password`.
///
/// # Errors
///
/// When it is not installed or cannot be run. That the server refused is in the
/// [`Output`], as is a run that was killed.
pub fn curl_smtp(url: &str, from: &str, to: &[&str], message: &[u8], more: &[&str]) -> Result<Output, Skip> {
    // A developer's own settings (--disable) and proxies must not get in the way;
    // curl wants --disable first.
    let mut args = vec!["--disable", "--silent", "--show-error", "--verbose"];
    args.extend(["--noproxy", "*", "--url", url, "--mail-from", from]);
    for recipient in to {
        args.extend(["--mail-rcpt", recipient]);
    }
    args.extend(["--upload-file", "-"]);
    args.extend(more);
    tool(&locate("curl")?, args, message)
}

/// Runs a Python script; `args` are its `sys.argv[1:]`.
///
/// # Errors
///
/// When Python is not installed or cannot be run. An exception is in the
/// [`Output`], as is a run that was killed.
pub fn python<S: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = S>) -> Result<Output, Skip> {
    // The system's own: another one earlier in `PATH` may be a slow wrapper.
    let system = PathBuf::from("/usr/bin/python3");
    let program = if system.exists() { system } else { locate("python3")? };
    let mut command = Command::new(&program);
    command.arg("-").args(args);
    finish(command, script.as_bytes())
}

/// Runs Postfix's load generator, `smtp-source`, for example with `-c -s 10
/// -m 1000 -f a@ours.test -t alice@postfix.test 127.0.0.1:10025`.
///
/// # Errors
///
/// When it is not installed or cannot be run. That the server refused is in the
/// [`Output`], as is a run that was killed.
pub fn smtp_source<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Output, Skip> {
    tool(&locate("smtp-source")?, args, b"")
}

pub(crate) fn tool<S: AsRef<OsStr>>(
    program: &Path,
    args: impl IntoIterator<Item = S>,
    stdin: &[u8],
) -> Result<Output, Skip> {
    let mut command = Command::new(program);
    command.args(args);
    finish(command, stdin)
}

fn finish(command: Command, stdin: &[u8]) -> Result<Output, Skip> {
    let program = command.get_program().to_string_lossy().into_owned();
    run(command, stdin, LIMIT).map_err(|error| Skip(format!("{program} cannot be run: {error}")))
}
