//! DANE for mail (RFC 7672): what a mail host's TLSA records ask for.

use smtp_core::stream::{Dane, Tlsa};
use smtp_core::types::Domain;
use smtp_dns::{Dns, LookupError, Name, Security};

/// What TLSA records bind a host to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: there are none, or they are not secure.
    Free,
    /// TLS, with any certificate: there are secure ones, and none of them can be used (RFC 7672 §2.2).
    Encrypted,
    /// TLS, with a certificate that fits one of them.
    Authenticated {
        /// What the certificate is held against.
        dane: Dane,
        /// The TLSA base domain: what SNI carries, and for DANE-TA what the certificate shows (RFC 7672 §2.2.3).
        base: Domain,
    },
}

/// The binding of `host`, whose addresses are secure and stand at `alias` if they do not at its own name; `port` is where
/// its mail goes, and `domain` the one whose mail it is.
///
/// The records are looked for where aliases lead, and then at the host's own name. Whoever asks has made sure that the
/// addresses, and the MX record that names the host, are secure: without that there is no DANE.
///
/// # Errors
/// If it could not be found out: the host must not be used now (RFC 7672 §2.1.2, §2.2).
//
pub async fn binding(
    dns: &dyn Dns,
    host: &Domain,
    alias: Option<&Name>,
    port: u16,
    domain: &Domain,
) -> Result<Binding, LookupError> {
    let alias = alias.and_then(|alias| Domain::new(alias.as_str()).ok());
    for base in alias.iter().chain([host]) {
        // A name that is too long has no records.
        let Ok(name) = Name::below(&[&format!("_{port}"), "_tcp"], base) else { continue };
        let answer = match dns.tlsa(&name).await {
            Ok(answer) => answer,
            Err(error) if error.is_certain() => continue,
            Err(error) => return Err(error),
        };
        if answer.security != Security::Secure {
            tracing::debug!(%name, "its TLSA records are not secure, and do not count");
            continue;
        }
        let records: Vec<_> = answer.records.into_iter().filter(Tlsa::is_usable).collect();
        if records.is_empty() {
            return Ok(Binding::Encrypted);
        }
        let mut names = vec![domain.clone()];
        if base != host {
            names.push(host.clone());
        }
        return Ok(Binding::Authenticated { dane: Dane { records, names }, base: base.clone() });
    }
    Ok(Binding::Free)
}
