//! What the server's and the client's configuration share.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{KeyLog, SupportedProtocolVersion};

use crate::identity::IdentityError;

/// Which versions of TLS are spoken. RFC 8996 forbids those before 1.2, and there is no way to turn them on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Versions {
    /// TLS 1.2 and 1.3. The default: among mail servers 1.2 is still common (RFC 9325 §3.1.1).
    #[default]
    All,
    /// TLS 1.2 only; for tests and for finding out what a peer can do.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl Versions {
    pub(crate) const fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        let [tls13, tls12] = &BOTH;
        match self {
            Self::All => &BOTH,
            Self::Tls12 => std::slice::from_ref(tls12),
            Self::Tls13 => std::slice::from_ref(tls13),
        }
    }
}

/// Why a TLS configuration cannot be made. Every case is a fault on this side.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Nobody has chosen the cryptography.
    #[error(
        "no cryptographic provider: the program has to call rustls' CryptoProvider::install_default at its start, \
         or pass a provider to the builder"
    )]
    NoProvider,
    /// A server without a certificate.
    #[error("a TLS server needs a certificate: give it an identity")]
    NoIdentity,
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A CA file cannot be used.
    #[error("{file}: {reason}; expected the CA's certificates in PEM (-----BEGIN CERTIFICATE-----)")]
    CaFile {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine's trust anchors cannot be used.
    #[error(
        "this machine's trust anchors cannot be used ({0}): install them (Debian: ca-certificates), \
         or name a CA file (--tls-ca FILE)"
    )]
    PlatformAnchors(rustls::Error),
    /// A way of verifying that this crate does not know.
    #[error("this kind of certificate verification is not supported here")]
    UnsupportedVerification,
    /// rustls refuses the settings.
    #[error("TLS settings: {0}")]
    Rustls(#[from] rustls::Error),
}

/// `chosen`, or what the program installed.
pub(crate) fn provider(chosen: Option<Arc<CryptoProvider>>) -> Result<Arc<CryptoProvider>, SetupError> {
    chosen.or_else(|| CryptoProvider::get_default().cloned()).ok_or(SetupError::NoProvider)
}

/// The key log, if the program wants one. rustls reads `SSLKEYLOGFILE` and creates the file with mode 0600.
pub(crate) fn key_log(wanted: bool) -> Option<Arc<dyn KeyLog>> {
    wanted.then(|| Arc::new(rustls::KeyLogFile::new()) as Arc<dyn KeyLog>)
}

pub(crate) fn alpn(protocols: &[&[u8]]) -> Vec<Vec<u8>> {
    protocols.iter().map(|p| p.to_vec()).collect()
}
