//! Who we are to a server.

use std::io::IsTerminal;
use std::path::PathBuf;

use serde::Deserialize;
use smtp_client::sasl::{Credentials, Exposure};

use crate::connect::read_password;
use crate::exit::{Exit, Failure};
use crate::settings::group;

/// Authentication: what `send`, `shell` and `bench` take alike.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoginArguments {
    /// Authenticate by this SASL mechanism only. Default: the strongest that is offered.
    ///
    /// SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1-PLUS, SCRAM-SHA-1, PLAIN, LOGIN, CRAM-MD5; with OAUTHBEARER and
    /// XOAUTH2 the password is the token; EXTERNAL and ANONYMOUS need none, and --user is whom to act as, or what the
    /// log is to have.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) auth: Option<String>,

    /// Authenticate as this user.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// The password is the first line of this file. The variable SMTP_<SUBCOMMAND>_PASSWORD, such as
    /// SMTP_SEND_PASSWORD, may hold it instead; a terminal is asked.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

group!(LoginArguments { auth, user, password_file });

impl LoginArguments {
    /// True if there is somebody to authenticate as.
    pub(crate) const fn is_there(&self) -> bool {
        self.user.is_some() || self.auth.is_some()
    }

    /// Who we are, if it was said; the password comes from the file, from `variable` of the environment, or from whoever
    /// sits at the terminal. With `insecure` it is shown to anybody.
    ///
    /// # Errors
    /// If something is missing or cannot be used.
    pub(crate) fn credentials(&self, variable: &str, insecure: bool) -> Result<Option<Credentials>, Failure> {
        if !self.is_there() {
            return Ok(None);
        }
        let mechanism = self.auth.as_deref();
        if let Some(credentials) = without_password(mechanism, self.user.as_deref())? {
            return Ok(Some(credentials));
        }
        let user = self
            .user
            .as_deref()
            .ok_or_else(|| Failure::usage("--auth without --user").help("--user NAME says who authenticates"))?;
        let password = match self.known_password(variable)? {
            Some(password) => password,
            None if std::io::stdin().is_terminal() => {
                let prompt = format!("password of {}: ", smtp_core::types::printable(user.as_bytes()));
                rpassword::prompt_password(prompt)
                    .map_err(|error| Failure::new(Exit::Io, format!("cannot ask for the password: {error}")))?
            }
            None => {
                return Err(Failure::usage(format!("no password for {user}"))
                    .help("--password-file FILE names the file whose first line is the password"));
            }
        };
        with_password(mechanism, user, &password, insecure).map(Some)
    }

    /// The password from the file or from `variable`.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(crate) fn known_password(&self, variable: &str) -> Result<Option<String>, Failure> {
        self.password_file
            .as_deref()
            .map_or_else(|| Ok(std::env::var(variable).ok()), |file| read_password(file).map(Some))
    }
}

/// The credentials for a mechanism that needs no password: EXTERNAL, where the channel says who we are and `user` is
/// whom to act as, and ANONYMOUS, where `user` is for the server's log. `None` for all others.
///
/// # Errors
/// If `user` is not fit for it.
pub(crate) fn without_password(mechanism: Option<&str>, user: Option<&str>) -> Result<Option<Credentials>, Failure> {
    if is(mechanism, "EXTERNAL") {
        let external = Credentials::external();
        return match user {
            Some(user) => external.act_as(user).map(Some).map_err(Failure::config),
            None => Ok(Some(external)),
        };
    }
    if is(mechanism, "ANONYMOUS") {
        return Credentials::anonymous(user.unwrap_or_default()).map(Some).map_err(Failure::config);
    }
    Ok(None)
}

/// The credentials for every other mechanism, or for the strongest one; `password` is the token for OAUTHBEARER and
/// XOAUTH2. With `insecure` they are shown to anybody.
///
/// # Errors
/// If `user` or `password` cannot be one.
pub(crate) fn with_password(
    mechanism: Option<&str>,
    user: &str,
    password: &str,
    insecure: bool,
) -> Result<Credentials, Failure> {
    let bearer = is(mechanism, "OAUTHBEARER") || is(mechanism, "XOAUTH2");
    let make = if bearer { Credentials::bearer } else { Credentials::new };
    let credentials = make(user, password).map_err(Failure::config)?;
    let credentials = match mechanism {
        Some(mechanism) => credentials.pinned(mechanism),
        None => credentials,
    };
    Ok(credentials.exposed(Exposure { in_clear: insecure, to_unverified: insecure }))
}

fn is(mechanism: Option<&str>, name: &str) -> bool {
    mechanism.is_some_and(|mechanism| mechanism.eq_ignore_ascii_case(name))
}
