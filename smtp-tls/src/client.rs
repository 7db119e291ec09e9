//! The client's side: trust anchors, pins, client certificate, one configuration for each way of verifying.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, KeyLog, RootCertStore};
use rustls_pki_types::ServerName;
use smtp_core::stream::Verification;
use smtp_core::types::{AddressLiteral, Host};

use crate::identity::{Identity, LoadedIdentity};
use crate::pin::Pin;
use crate::server::roots;
use crate::settings::{self, SetupError, Versions};
use crate::verify::KeyVerifier;

/// How many sessions are remembered for resumption, for each way of verifying, unless told otherwise.
const SESSIONS: usize = 1024;

/// How many configurations are kept. Only pins and TLSA records make more than two; a client with more of them than this
/// just resumes less often.
const MAX_CONFIGS: usize = 64;

/// TLS for clients. Cheap to clone; clones share their sessions.
#[derive(Clone)]
pub struct ClientTls(Arc<Inner>);

struct Inner {
    recipe: Recipe,
    configs: Mutex<HashMap<Verification, Arc<ClientConfig>>>,
}

#[derive(Clone)]
struct Recipe {
    provider: Arc<CryptoProvider>,
    anchors: Anchors,
    identity: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
    versions: Versions,
    sessions: usize,
    key_log: Option<Arc<dyn KeyLog>>,
}

impl ClientTls {
    /// Starts with: the platform's trust anchors, no client certificate, no ALPN, TLS 1.2 and 1.3, resumption of
    /// 1,024 sessions, no key log, the program's cryptographic provider.
    pub fn builder() -> ClientTlsBuilder {
        ClientTlsBuilder {
            ca_file: None,
            identity: None,
            alpn: Vec::new(),
            versions: Versions::default(),
            sessions: SESSIONS,
            key_log: false,
            provider: None,
        }
    }

    /// The configuration that holds certificates against `verification`. The same one each time, so that sessions
    /// resume; sessions never cross from one way of verifying to another.
    ///
    /// The platform's trust anchors are read when [`Verification::Pkix`] is first asked for, which blocks for some
    /// milliseconds; the others read nothing.
    ///
    /// # Errors
    /// [`SetupError`], for instance because this machine has no trust anchors.
    pub fn config(&self, verification: &Verification) -> Result<Arc<ClientConfig>, SetupError> {
        let mut configs = self.0.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(verification) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.0.recipe.config(verification)?);
        if configs.len() >= MAX_CONFIGS {
            configs.retain(|kind, _| matches!(kind, Verification::None | Verification::Pkix));
        }
        configs.insert(verification.clone(), Arc::clone(&config));
        Ok(config)
    }

    /// The same settings with other application protocols, for another transport. Sessions are its own.
    #[must_use]
    pub fn with_alpn(&self, alpn: &[&[u8]]) -> Self {
        let recipe = Recipe { alpn: settings::alpn(alpn), ..self.0.recipe.clone() };
        Self(Arc::new(Inner { recipe, configs: Mutex::default() }))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("anchors", &self.0.recipe.anchors).finish_non_exhaustive()
    }
}

impl Recipe {
    fn config(&self, verification: &Verification) -> Result<ClientConfig, SetupError> {
        let verifier: Arc<dyn ServerCertVerifier> = match verification {
            Verification::None => Arc::new(KeyVerifier::any(&self.provider)),
            Verification::Pin(hash) => Arc::new(KeyVerifier::pinned(Pin::new(*hash), &self.provider)),
            Verification::Dane(dane) => Arc::new(KeyVerifier::dane(dane, &self.provider)),
            Verification::Pkix => self.anchors.verifier(&self.provider)?,
            _ => return Err(SetupError::UnsupportedVerification),
        };
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.versions.supported())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(identity)))),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = match self.sessions {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        if let Some(log) = &self.key_log {
            config.key_log = Arc::clone(log);
        }
        Ok(config)
    }
}

/// What [`Verification::Pkix`] ends at.
#[derive(Clone)]
enum Anchors {
    /// The platform's; loaded when first needed and then shared.
    Platform(Arc<Mutex<Option<Arc<dyn ServerCertVerifier>>>>),
    /// Those of a CA file.
    Roots(Arc<RootCertStore>),
}

impl Anchors {
    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, SetupError> {
        match self {
            Self::Roots(roots) => WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
                .build()
                .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
                .map_err(|error| rustls::Error::General(error.to_string()).into()),
            Self::Platform(loaded) => {
                let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(verifier) = &*loaded {
                    return Ok(Arc::clone(verifier));
                }
                let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider))
                    .map_err(SetupError::PlatformAnchors)?;
                Ok(Arc::clone(loaded.insert(Arc::new(verifier))))
            }
        }
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform(_) => f.write_str("Platform"),
            Self::Roots(roots) => write!(f, "Roots({})", roots.len()),
        }
    }
}

/// Settings of a [`ClientTls`].
#[must_use]
pub struct ClientTlsBuilder {
    ca_file: Option<PathBuf>,
    identity: Option<Identity>,
    alpn: Vec<Vec<u8>>,
    versions: Versions,
    sessions: usize,
    key_log: bool,
    provider: Option<Arc<CryptoProvider>>,
}

impl ClientTlsBuilder {
    /// Trusts the CAs in this PEM file instead of the platform's. Default: the platform's.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// The certificate to show to servers that ask for one. Default: none.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The application protocols to offer (RFC 7301). Default: none, no ALPN.
    pub fn alpn(mut self, protocols: &[&[u8]]) -> Self {
        self.alpn = settings::alpn(protocols);
        self
    }

    /// Which versions are spoken. Default: 1.2 and 1.3.
    pub const fn versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// How many sessions are remembered for resumption, for each way of verifying; 0 turns it off. Default: 1,024,
    /// which is 128 servers with up to 8 tickets each.
    pub const fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions;
        self
    }

    /// Writes the keys of all sessions into the file named by `SSLKEYLOGFILE`. Whoever reads the file reads the mail:
    /// for debugging only. Default: off, whatever the environment says.
    pub const fn key_log(mut self, on: bool) -> Self {
        self.key_log = on;
        self
    }

    /// The cryptographic provider. Default: the one that the program installed.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Reads the CA file and the client certificate, if any, and makes the client.
    ///
    /// # Errors
    /// [`SetupError`] says which setting or file is at fault.
    pub fn build(self) -> Result<ClientTls, SetupError> {
        let provider = settings::provider(self.provider)?;
        let anchors = match self.ca_file {
            None => Anchors::Platform(Arc::default()),
            Some(file) => Anchors::Roots(Arc::new(roots(&file)?)),
        };
        let identity = self.identity.map(|identity| identity.load(&provider)).transpose()?;
        let recipe = Recipe {
            provider,
            anchors,
            identity: identity.as_ref().map(LoadedIdentity::certified_key).cloned(),
            alpn: self.alpn,
            versions: self.versions,
            sessions: self.sessions,
            key_log: settings::key_log(self.key_log),
        };
        Ok(ClientTls(Arc::new(Inner { recipe, configs: Mutex::default() })))
    }
}

impl fmt::Debug for ClientTlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTlsBuilder").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

/// A host that cannot stand in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name or address that a certificate can show (international names: in their xn-- form)")]
#[non_exhaustive]
pub struct InvalidServerName;

/// The name that a server's certificate must show, from the target's host. SNI carries it if it is a DNS name.
///
/// # Errors
/// For address literals that are neither IPv4 nor IPv6, and for names that are not ASCII.
pub fn server_name(host: &Host) -> Result<ServerName<'static>, InvalidServerName> {
    match host {
        Host::Domain(domain) => ServerName::try_from(domain.as_str().to_owned()).map_err(|_| InvalidServerName),
        Host::Literal(AddressLiteral::V4(ip)) => Ok(ServerName::from(IpAddr::V4(*ip))),
        Host::Literal(AddressLiteral::V6(ip)) => Ok(ServerName::from(IpAddr::V6(*ip))),
        Host::Literal(AddressLiteral::General(_)) => Err(InvalidServerName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_certificates() {
        let name = |text: &str| server_name(&text.parse().unwrap()).map(|name| name.to_str().into_owned());
        assert_eq!(name("mx.example").as_deref(), Ok("mx.example"));
        assert_eq!(name("[192.0.2.1]").as_deref(), Ok("192.0.2.1"));
        assert_eq!(name("[IPv6:2001:db8::1]").as_deref(), Ok("2001:db8::1"));
        assert_eq!(name("[x400:c=de]"), Err(InvalidServerName));
        assert_eq!(name("bücher.example"), Err(InvalidServerName));
    }

    #[test]
    fn configurations_are_kept_and_bounded() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientTls::builder().provider(provider).build().unwrap();
        let none = tls.config(&Verification::None).unwrap();
        for byte in 0..=255 {
            let pin = Verification::Pin([byte; 32]);
            let config = tls.config(&pin).unwrap();
            assert!(Arc::ptr_eq(&config, &tls.config(&pin).unwrap()));
            assert!(tls.0.configs.lock().unwrap().len() <= MAX_CONFIGS);
        }
        assert!(Arc::ptr_eq(&none, &tls.config(&Verification::None).unwrap()));
    }
}
