//! A certificate for trying out, made by this program itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::identity::Identity;
use crate::pin::Pin;
use crate::x509;

/// How long a new certificate is valid.
const VALIDITY: Duration = Duration::from_secs(365 * DAY);

/// A certificate with less time left is made anew: the program may run for a while.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY);

/// How far back a new certificate is dated, for clients whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(DAY);

const DAY: u64 = 24 * 60 * 60;

/// Key and certificate, in one file so that they change together.
const IDENTITY_FILE: &str = "identity.pem";

/// The certificate alone, for handing out.
const CERTIFICATE_FILE: &str = "certificate.pem";

/// A self-signed certificate with an ECDSA P-256 key, kept in a folder. For trying out and for closed groups: nobody
/// else vouches for it, so a client needs its [pin](SelfSigned::pin) or its [file](SelfSigned::certificate_file).
///
/// The folder (mode 0700 if it is made here) holds `identity.pem` (mode 0600), key and certificate, and
/// `certificate.pem` (mode 0600), the certificate alone.
#[derive(Debug, Clone)]
pub struct SelfSigned {
    identity_file: PathBuf,
    certificate_file: PathBuf,
    pin: Pin,
    not_after: SystemTime,
    created: bool,
}

impl SelfSigned {
    /// Uses the certificate in `dir`, or makes one on the first run. It is for `localhost`, `127.0.0.1`, `::1` and
    /// `names`, which may be DNS names and addresses, and is valid for a year.
    ///
    /// A certificate that has less than 30 days left, or lacks one of the names, is made anew **with the same key**:
    /// pins stay good.
    ///
    /// # Errors
    /// [`SelfSignedError`] names the file and what to do.
    pub fn load_or_create(dir: &Path, names: &[&str]) -> Result<Self, SelfSignedError> {
        Self::load_or_create_at(dir, names, SystemTime::now())
    }

    /// The certificate with its key, for a server. A reload reads the file again.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::from_files(&self.identity_file, &self.identity_file)
    }

    /// The file with the certificate alone, which clients can take as their CA file.
    #[must_use]
    pub fn certificate_file(&self) -> &Path {
        &self.certificate_file
    }

    /// What a client can trust the server by.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// Until when the certificate is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// True if there was no key in the folder before.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.created
    }

    fn load_or_create_at(dir: &Path, names: &[&str], now: SystemTime) -> Result<Self, SelfSignedError> {
        make_dir(dir).map_err(|error| fault(dir, error))?;
        let file = dir.join(IDENTITY_FILE);
        let mut created = false;
        match Kept::read(&file)? {
            None => {
                let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
                let pem = issue(&key, names, now)?;
                // Whoever comes second takes what the first has made, hence the read below.
                created = publish(&file, pem.as_bytes(), Publish::IfMissing).map_err(|e| fault(&file, e))?;
            }
            Some(kept) if !kept.is_good(names, now) => {
                let mut all: Vec<&str> = kept.names.iter().map(String::as_str).collect();
                all.extend(names);
                let pem = issue(&kept.key, &all, now)?;
                publish(&file, pem.as_bytes(), Publish::Replace).map_err(|e| fault(&file, e))?;
            }
            Some(_) => {}
        }
        let Some(kept) = Kept::read(&file)? else {
            return Err(fault(&file, io::ErrorKind::NotFound.into()));
        };
        let certificate_file = dir.join(CERTIFICATE_FILE);
        if fs::read_to_string(&certificate_file).ok().as_deref() != Some(&*kept.certificate_pem) {
            publish(&certificate_file, kept.certificate_pem.as_bytes(), Publish::Replace)
                .map_err(|e| fault(&certificate_file, e))?;
        }
        Ok(Self { identity_file: file, certificate_file, pin: kept.pin, not_after: kept.not_after, created })
    }
}

/// Why there is no self-signed certificate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SelfSignedError {
    /// The folder or a file in it cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The folder or file.
        path: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file with the key is not one that this program wrote.
    #[error("{path}: {reason}; remove it to get a new certificate, which will have another pin")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Others can read the key.
    #[error("{path}: others can read this private key (mode {mode:03o}); chmod 600 it, or remove it to get a new one")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A name cannot stand in a certificate, or the system gives no random numbers.
    #[error("a certificate cannot be made: {0}; names are DNS names (international ones as xn--) or addresses")]
    Issue(#[from] rcgen::Error),
}

fn fault(path: &Path, error: io::Error) -> SelfSignedError {
    SelfSignedError::Io { path: path.display().to_string(), source: Arc::new(error) }
}

/// What an identity file holds.
struct Kept {
    key: KeyPair,
    certificate_pem: String,
    names: Vec<String>,
    pin: Pin,
    not_after: SystemTime,
}

impl Kept {
    /// `None` if there is no such file.
    fn read(path: &Path) -> Result<Option<Self>, SelfSignedError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(path, error)),
        };
        check_private(path)?;
        let damaged =
            |reason: &str| SelfSignedError::Damaged { path: path.display().to_string(), reason: reason.into() };
        let key = KeyPair::from_pem(&text).map_err(|_| damaged("no private key in it"))?;
        let certificate =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| damaged("no certificate in it"))?;
        let start = text.find("-----BEGIN CERTIFICATE-----").ok_or_else(|| damaged("no certificate in it"))?;
        let facts = x509::read(&certificate).map_err(|error| damaged(&error.to_string()))?;
        if facts.spki != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(damaged("key and certificate do not belong together"));
        }
        let mut names = facts.dns_names;
        names.extend(facts.addresses.iter().map(ToString::to_string));
        Ok(Some(Self {
            key,
            certificate_pem: text.get(start..).unwrap_or_default().to_owned(),
            names,
            pin: Pin::of_spki(&facts.spki),
            not_after: facts.not_after,
        }))
    }

    fn is_good(&self, names: &[&str], now: SystemTime) -> bool {
        let covered = |name: &&str| self.names.iter().any(|own| own.eq_ignore_ascii_case(&canonical(name)));
        self.not_after > now + RENEW_BEFORE && names.iter().all(covered)
    }
}

/// Addresses have several spellings, `::1` and `0:0::1`; certificates keep only the value.
fn canonical(name: &str) -> String {
    name.parse::<std::net::IpAddr>().map_or_else(|_| name.to_owned(), |ip| ip.to_string())
}

/// Key and certificate in PEM, the key first.
fn issue(key: &KeyPair, names: &[&str], now: SystemTime) -> Result<String, rcgen::Error> {
    let mut all: Vec<String> = Vec::new();
    for name in ["localhost", "127.0.0.1", "::1"].iter().chain(names).map(|name| canonical(name)) {
        if !all.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            all.push(name);
        }
    }
    // The subject is for people who look at it; verifiers go by the names above (RFC 9525 §2).
    let subject = names.first().map_or("localhost", |name| name);
    let mut params = CertificateParams::new(all.clone())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{subject} (self-signed)"));
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + VALIDITY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Publish {
    IfMissing,
    Replace,
}

/// Writes `path`, readable by its owner only, so that it is there in full or not at all, even after a power cut: a
/// temporary file, fsync, then link or rename, then fsync of the folder. False if it was there already and was to be
/// left alone.
fn publish(path: &Path, bytes: &[u8], how: Publish) -> io::Result<bool> {
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
    set_private(file.as_file())?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    let done = match how {
        Publish::Replace => file.persist(path).map(|_| true),
        Publish::IfMissing => match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // Some file systems can do neither. What is lost is only that two first runs at once agree.
            Err(error) if !path.exists() => error.file.persist(path).map(|_| true),
            Err(error) => Err(error),
        },
    };
    let done = done.map_err(|error| error.error)?;
    sync_dir(path)?;
    Ok(done)
}

/// The umask can only have taken rights away; the owner must have them back.
#[cfg(unix)]
fn set_private(file: &File) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(not(unix))]
fn set_private(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn check_private(path: &Path) -> Result<(), SelfSignedError> {
    let metadata = fs::metadata(path).map_err(|error| fault(path, error))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(SelfSignedError::Exposed { path: path.display().to_string(), mode }) }
}

#[cfg(not(unix))]
fn check_private(_: &Path) -> Result<(), SelfSignedError> {
    Ok(())
}

/// Makes `dir` and what leads to it, mode 0700; leaves one that is there as it is.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    #[cfg(unix)]
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[path = "self_signed_tests.rs"]
mod tests;
