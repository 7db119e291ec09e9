//! A certificate chain and the key that belongs to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pin::Pin;
use crate::settings::SetupError;
use crate::x509;

/// Where a certificate chain and its key come from. Naming one reads nothing yet; [`Identity::load`] does, and so do
/// `ServerTls::builder().build()` and every reload.
#[derive(Clone)]
pub struct Identity {
    source: Source,
    names: Vec<String>,
}

#[derive(Clone)]
enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Memory { chain: Vec<CertificateDer<'static>>, key: Arc<PrivateKeyDer<'static>> },
}

impl Identity {
    /// PEM files: the chain with the server's own certificate first, and the key in PKCS #8, PKCS #1 or SEC1 form,
    /// not encrypted. Both may be the same file. They are read again at each reload.
    #[must_use]
    pub fn from_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { source: Source::Files { certificate: certificate.into(), key: key.into() }, names: Vec::new() }
    }

    /// DER in memory, leaf first; a reload changes nothing about it.
    #[must_use]
    pub fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { source: Source::Memory { chain, key: Arc::new(key) }, names: Vec::new() }
    }

    /// Answers for `name` (SNI, RFC 6066 §3) too, or for `*.example` one label below `example`. Without this it
    /// answers for the DNS names in its certificate.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.names.push(name.to_ascii_lowercase());
        self
    }

    /// Reads the certificate and the key and checks that they belong together. Blocks for two small files.
    ///
    /// # Errors
    /// [`IdentityError`] names the file, what is wrong with it, and what to do.
    pub fn load(&self, provider: &CryptoProvider) -> Result<LoadedIdentity, IdentityError> {
        let (chain, key, certificate_file, key_file) = match &self.source {
            Source::Memory { chain, key } => (chain.clone(), key.clone_key(), IN_MEMORY.into(), IN_MEMORY.into()),
            Source::Files { certificate, key } => {
                (read_chain(certificate)?, read_key(key)?, show(certificate), show(key))
            }
        };
        let Some(leaf) = chain.first() else {
            return Err(IdentityError::NoCertificate { file: certificate_file });
        };
        let facts = x509::read(leaf).map_err(|error| IdentityError::BadCertificate {
            file: certificate_file.clone(),
            reason: error.to_string(),
        })?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                IdentityError::Mismatch { certificate: certificate_file.clone(), key: key_file.clone() }
            }
            rustls::Error::InvalidCertificate(reason) => {
                IdentityError::BadCertificate { file: certificate_file.clone(), reason: reason.to_string() }
            }
            other => IdentityError::BadKey { file: key_file.clone(), reason: other.to_string() },
        })?;
        let end_point = certified.cert.first().and_then(|leaf| x509::end_point(leaf));
        let names = if self.names.is_empty() { facts.dns_names } else { self.names.clone() };
        Ok(LoadedIdentity {
            certified: Arc::new(certified),
            end_point,
            names,
            pin: Pin::of_spki(&facts.spki),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }
}

impl fmt::Debug for Identity {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Identity");
        match &self.source {
            Source::Files { certificate, key } => out.field("certificate", certificate).field("key", key),
            Source::Memory { chain, .. } => out.field("chain", &chain.len()),
        };
        out.field("names", &self.names).finish_non_exhaustive()
    }
}

/// A certificate chain and a key that belong together.
#[derive(Debug, Clone)]
pub struct LoadedIdentity {
    certified: Arc<CertifiedKey>,
    end_point: Option<Box<[u8]>>,
    names: Vec<String>,
    pin: Pin,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl LoadedIdentity {
    /// Chain and key, as rustls takes them.
    #[must_use]
    pub const fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The `tls-server-end-point` channel binding of its certificate, which is the same for each connection.
    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// The DNS names it answers for, in lower case; wildcards start with `*.`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The pin of its key.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// From when its certificate is valid.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when its certificate is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// Why a certificate and key cannot be used. Every case is a fault on this side.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("{file}: {source}; {}", way_out(source.kind()))]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file is not well-formed PEM.
    #[error("{file}: damaged PEM ({reason}); write the file again")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no certificate.
    #[error("{file}: no certificate in it; expected PEM (-----BEGIN CERTIFICATE-----), the server's own first")]
    NoCertificate {
        /// The file.
        file: String,
    },
    /// There is no private key.
    #[error("{file}: no private key in it; expected PEM (-----BEGIN PRIVATE KEY-----)")]
    NoKey {
        /// The file.
        file: String,
    },
    /// The private key is encrypted.
    #[error("{file}: the private key is encrypted; decrypt it first (openssl pkey -in OLD -out NEW)")]
    EncryptedKey {
        /// The file.
        file: String,
    },
    /// The certificate cannot be parsed.
    #[error("{file}: the first certificate cannot be used: {reason}")]
    BadCertificate {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The key cannot be used.
    #[error("{file}: the private key cannot be used: {reason}; RSA (2048 bits or more), ECDSA or Ed25519 is expected")]
    BadKey {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The key is that of another certificate.
    #[error(
        "the key in {key} does not belong to the first certificate in {certificate}; put the server's own certificate \
         first, or name the key that it was issued for"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
    },
}

/// The certificates in the PEM file `path`, at least one.
pub(crate) fn read_ca(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let fault = |reason: String| SetupError::CaFile { file: show(path), reason };
    let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fault(format!("damaged PEM ({})", pem_reason(&error))))?;
    if certificates.is_empty() { Err(fault("no certificate in it".into())) } else { Ok(certificates) }
}

const IN_MEMORY: &str = "(in memory)";

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|error| IdentityError::Read { file: show(path), source: Arc::new(error) })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| IdentityError::Damaged { file: show(path), reason: pem_reason(&error) })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let bytes = read(path)?;
    let encrypted = || {
        let text = String::from_utf8_lossy(&bytes);
        // PKCS #8 says so in its label, the older forms in a header line.
        text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
    };
    if encrypted() {
        return Err(IdentityError::EncryptedKey { file: show(path) });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => IdentityError::NoKey { file: show(path) },
        other => IdentityError::Damaged { file: show(path), reason: pem_reason(&other) },
    })
}

/// What a PEM error says, without the line it quotes: that may be part of a key.
fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section without its END line".into(),
        pem::Error::IllegalSectionStart { .. } => "a malformed BEGIN line".into(),
        pem::Error::Base64Decode(_) => "not base64".into(),
        other => other.to_string(),
    }
}

fn way_out(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "let the user that this program runs as read it",
        _ => "check the file",
    }
}
