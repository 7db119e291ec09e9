//! What a mechanism that was asked for by its name needs: what `send --auth` and the shell's `auth` have in common.

use smtp_client::sasl::{Credentials, Exposure};

use crate::exit::Failure;

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
