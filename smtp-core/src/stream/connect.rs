//! Where to connect to, under which TLS policy, and how it fails.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use std::io;
use std::path::PathBuf;

use crate::types::{Domain, Host};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host, by name or address, and a port.
    Host {
        /// The name or address.
        host: Host,
        /// The port.
        port: u16,
    },
    /// A socket in the file system.
    Path(PathBuf),
}

impl fmt::Display for Address {
    /// `mx.example:25`, `192.0.2.1:25`, `[2001:db8::1]:25`, `/run/lmtp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::types::AddressLiteral;
        match self {
            Self::Host { host: Host::Literal(AddressLiteral::V4(ip)), port } => write!(f, "{ip}:{port}"),
            Self::Host { host: Host::Literal(AddressLiteral::V6(ip)), port } => write!(f, "[{ip}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One server to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where it is.
    pub address: Address,
    /// The name its certificate must show, and SNI carries, if it is not the host of the address.
    pub server_name: Option<Domain>,
}

impl Target {
    /// The server at `host` and `port`.
    #[must_use]
    pub const fn host(host: Host, port: u16) -> Self {
        Self { address: Address::Host { host, port }, server_name: None }
    }

    /// The name or address that a certificate must show; `None` for a path without a name.
    #[must_use]
    pub fn reference_identity(&self) -> Option<Host> {
        match (&self.server_name, &self.address) {
            (Some(name), _) => Some(Host::Domain(name.clone())),
            (None, Address::Host { host, .. }) => Some(host.clone()),
            (None, Address::Path(_)) => None,
        }
    }
}

/// When TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Never, even if it is offered.
    None,
    /// STARTTLS if the server offers it; in clear otherwise (RFC 3207; RFC 7435 for what that protects against).
    Opportunistic,
    /// STARTTLS, or no mail.
    Required,
    /// TLS from the first octet (RFC 8314 §3.3).
    Implicit,
}

/// What the server's certificate is held against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verification {
    /// Nothing: encrypts against eavesdroppers, does not keep an active attacker out.
    None,
    /// The connector's trust anchors, and the target's name (RFC 5280, RFC 9525).
    Pkix,
    /// The SHA-256 of the leaf certificate's SubjectPublicKeyInfo; names and anchors do not matter then.
    Pin([u8; 32]),
    /// What the server's owner has published under DNSSEC (RFC 7672 §3).
    Dane(Arc<Dane>),
}

/// The usable TLSA records of a server, and the names that its certificate may show.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dane {
    /// The records. One that fits is enough; those that are not [usable](Tlsa::is_usable) fit nothing.
    pub records: Vec<Tlsa>,
    /// For DANE-TA, beside the target's own name: the domain whose mail it is (RFC 7672 §3.2.2). DANE-EE asks for no
    /// name (§3.1.1).
    pub names: Vec<Domain>,
}

/// A certificate association (RFC 6698 §2.1), with the registry's numbers as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// The certificate usage: 3 is DANE-EE, 2 DANE-TA (RFC 7672 §3.1).
    pub usage: u8,
    /// 0: the certificate, 1: its SubjectPublicKeyInfo.
    pub selector: u8,
    /// 0: as it is, 1: SHA-256, 2: SHA-512.
    pub matching: u8,
    /// The data.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// Whether mail can go by it: DANE-EE or DANE-TA (RFC 7672 §3.1.3 leaves the PKIX usages out), a selector and a
    /// matching type that are known, and data as long as that needs.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let fits = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        fits && matches!(self.usage, 2 | 3) && self.selector <= 1
    }
}

/// TLS for one target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsPolicy {
    /// When TLS is used.
    pub mode: TlsMode,
    /// What the server's certificate is held against.
    pub verification: Verification,
}

impl TlsPolicy {
    /// No TLS.
    pub const NONE: Self = Self { mode: TlsMode::None, verification: Verification::None };
    /// TLS if offered, unverified: the common ground of mail between strangers.
    pub const OPPORTUNISTIC: Self = Self { mode: TlsMode::Opportunistic, verification: Verification::None };
    /// Verified STARTTLS or no mail.
    pub const REQUIRED: Self = Self { mode: TlsMode::Required, verification: Verification::Pkix };
    /// Verified TLS from the first octet.
    pub const IMPLICIT: Self = Self { mode: TlsMode::Implicit, verification: Verification::Pkix };
}

/// How far a connection attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectStep {
    /// Finding addresses for the name.
    Resolve,
    /// Reaching one of them.
    Connect,
    /// The TLS handshake, certificate check included.
    Tls,
}

impl fmt::Display for ConnectStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "looking up the name",
            Self::Connect => "connecting",
            Self::Tls => "TLS handshake",
        })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{target}: {step}: {source}")]
#[non_exhaustive]
pub struct ConnectError {
    /// Whom it was meant for, in the form of [`Address`].
    pub target: String,
    /// How far it came.
    pub step: ConnectStep,
    /// False if trying again cannot help: no such host, a certificate that does not hold, a policy that cannot be met.
    pub transient: bool,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

impl ConnectError {
    /// An error at `step` that may pass.
    #[must_use]
    pub fn transient(address: &Address, step: ConnectStep, source: io::Error) -> Self {
        Self { target: address.to_string(), step, transient: true, source }
    }

    /// An error at `step` that will not pass by itself.
    #[must_use]
    pub fn permanent(address: &Address, step: ConnectStep, source: io::Error) -> Self {
        Self { target: address.to_string(), step, transient: false, source }
    }
}
