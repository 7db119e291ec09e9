//! The server's side: certificates, client certificates, tickets, reload.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::identity::{self, Identity, IdentityError, LoadedIdentity};
use crate::pin::Pin;
use crate::resolver::Identities;
use crate::sessions::Sessions;
use crate::settings::{self, SetupError, Versions};

/// Makes the ticketer of one listener; `rustls::crypto::aws_lc_rs::Ticketer::new` is one.
type TicketerFactory = fn() -> Result<Arc<dyn ProducesTickets>, rustls::Error>;

/// How many sessions a listener remembers for resumption unless told otherwise: about 1 MiB at most.
const SESSIONS: usize = 4096;

/// TLS for one listener. Cheap to clone; a clone is the same listener's. Another listener takes
/// [`ServerTls::for_listener`], so that a session from one does not resume on the other.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    config: Arc<ServerConfig>,
    identities: Arc<Identities>,
    resumption: Resumption,
}

impl ServerTls {
    /// Starts with: no certificate, TLS 1.2 and 1.3, no ALPN, no client certificates, resumption of 4,096 sessions
    /// from this process' memory, no key log, the program's cryptographic provider.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder {
            identities: Vec::new(),
            alpn: Vec::new(),
            client_ca: None,
            versions: Versions::default(),
            resumption: Resumption { sessions: SESSIONS, ticketer: None },
            key_log: false,
            provider: None,
        }
    }

    /// The configuration, for the TLS library of a transport. It stays valid over reloads.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.0.config
    }

    /// The same certificates, client CA and versions for another listener, which agrees on one of `alpn` (empty:
    /// no ALPN). Tickets and sessions are its own. A reload of either is a reload of both.
    ///
    /// # Errors
    /// If the ticketer cannot be made.
    pub fn for_listener(&self, alpn: &[&[u8]]) -> Result<Self, SetupError> {
        let mut config = ServerConfig::clone(&self.0.config);
        config.alpn_protocols = settings::alpn(alpn);
        self.0.resumption.apply(&mut config)?;
        Ok(Self(Arc::new(Inner {
            config: Arc::new(config),
            identities: Arc::clone(&self.0.identities),
            resumption: self.0.resumption,
        })))
    }

    /// The configuration for one connection, and what will tell which certificate it was shown: the TLS library does
    /// not, and the `tls-server-end-point` channel binding needs it. Costs a few small allocations.
    #[must_use]
    pub fn for_connection(&self) -> (Arc<ServerConfig>, Shown) {
        let shown = Shown(Arc::new(Showing { identities: Arc::clone(&self.0.identities), identity: OnceLock::new() }));
        let mut config = ServerConfig::clone(&self.0.config);
        config.cert_resolver = Arc::clone(&shown.0) as _;
        (Arc::new(config), shown)
    }

    /// Reads all certificates and keys again. Handshakes that begin after it use them; connections that are up go
    /// on. The client CA is not read again. Blocks for a few small files.
    ///
    /// # Errors
    /// If any of them cannot be used. Then nothing has changed.
    pub fn reload(&self) -> Result<(), IdentityError> {
        self.0.identities.reload()
    }

    /// The certificates served now, the default first.
    #[must_use]
    pub fn identities(&self) -> Vec<LoadedIdentity> {
        self.0.identities.all()
    }

    /// The pin of the default certificate; what to give a client that shall trust this server by its key.
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        self.0.identities.all().first().map(LoadedIdentity::pin)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("identities", &self.0.identities).finish_non_exhaustive()
    }
}

/// Which certificate a connection was shown, once its handshake has come that far.
#[derive(Clone)]
pub struct Shown(Arc<Showing>);

impl Shown {
    /// The `tls-server-end-point` channel binding of the certificate; `None` as well if that is undefined for it.
    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        self.0.identity.get()?.end_point()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.0.identity.get().is_some()).finish()
    }
}

/// Picks a certificate for one handshake, and remembers it.
#[derive(Debug)]
struct Showing {
    identities: Arc<Identities>,
    identity: OnceLock<Arc<LoadedIdentity>>,
}

impl ResolvesServerCert for Showing {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.identities.choose(&hello)?;
        Some(Arc::clone(self.identity.get_or_init(|| identity).certified_key()))
    }
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// A client may come without one; one that it shows must hold.
    Optional,
    /// No certificate, no session.
    Required,
}

/// Settings of a [`ServerTls`].
#[must_use]
pub struct ServerTlsBuilder {
    identities: Vec<Identity>,
    alpn: Vec<Vec<u8>>,
    client_ca: Option<(PathBuf, ClientCertificates)>,
    versions: Versions,
    resumption: Resumption,
    key_log: bool,
    provider: Option<Arc<CryptoProvider>>,
}

impl ServerTlsBuilder {
    /// Adds a certificate. The first is the default, for clients that ask for no name or an unknown one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// The application protocols to agree on (RFC 7301), preferred first. A client that offers others only is
    /// refused; one that offers none is not. Default: none, ALPN is ignored.
    pub fn alpn(mut self, protocols: &[&[u8]]) -> Self {
        self.alpn = settings::alpn(protocols);
        self
    }

    /// Asks clients for a certificate that was issued by a CA in the PEM file. Default: does not ask.
    ///
    /// Use a CA that issues for this purpose only: everything it ever signed for client authentication is let in.
    pub fn client_ca(mut self, file: impl Into<PathBuf>, certificates: ClientCertificates) -> Self {
        self.client_ca = Some((file.into(), certificates));
        self
    }

    /// Which versions are spoken. Default: 1.2 and 1.3.
    pub const fn versions(mut self, versions: Versions) -> Self {
        self.versions = versions;
        self
    }

    /// How many sessions are remembered for resumption; 0 turns it off. Default: 4,096. Each handshake takes one.
    pub const fn sessions(mut self, sessions: usize) -> Self {
        self.resumption.sessions = sessions;
        self
    }

    /// Keeps sessions in encrypted tickets at the client instead of in this process' memory; `make` is called
    /// once per listener, so that each has a key of its own. Costs no memory, but a stolen ticket key opens
    /// recorded TLS 1.2 sessions. Default: memory.
    pub const fn ticketer(mut self, make: TicketerFactory) -> Self {
        self.resumption.ticketer = Some(make);
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

    /// Reads the files and makes the configuration.
    ///
    /// # Errors
    /// [`SetupError`] says which setting or file is at fault.
    pub fn build(self) -> Result<ServerTls, SetupError> {
        if self.identities.is_empty() {
            return Err(SetupError::NoIdentity);
        }
        let provider = settings::provider(self.provider)?;
        let identities = Arc::new(Identities::load(self.identities, Arc::clone(&provider))?);
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.versions.supported())?;
        let config = match self.client_ca {
            None => config.with_no_client_auth(),
            Some((file, certificates)) => {
                let roots = Arc::new(roots(&file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match certificates {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    ClientCertificates::Required => verifier,
                };
                let verifier = verifier.build().map_err(|error| SetupError::CaFile {
                    file: file.display().to_string(),
                    reason: error.to_string(),
                })?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let mut config = config.with_cert_resolver(Arc::clone(&identities) as _);
        config.alpn_protocols = self.alpn;
        if let Some(log) = settings::key_log(self.key_log) {
            config.key_log = log;
        }
        self.resumption.apply(&mut config)?;
        Ok(ServerTls(Arc::new(Inner { config: Arc::new(config), identities, resumption: self.resumption })))
    }
}

impl fmt::Debug for ServerTlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTlsBuilder").field("identities", &self.identities).finish_non_exhaustive()
    }
}

/// How a listener resumes sessions; applied to each listener's configuration anew.
#[derive(Clone, Copy)]
struct Resumption {
    sessions: usize,
    ticketer: Option<TicketerFactory>,
}

impl Resumption {
    /// Gives `config` a memory and a ticketer that no other configuration has.
    fn apply(self, config: &mut ServerConfig) -> Result<(), SetupError> {
        let storage: Arc<dyn StoresServerSessions> = if self.sessions == 0 {
            config.send_tls13_tickets = 0;
            Arc::new(NoServerSessionStorage {})
        } else {
            // A session is used up by being resumed, and brings the next, so a client has as many as it has had
            // connections at a time. With two of each this memory would hold half as many clients.
            config.send_tls13_tickets = 1;
            Arc::new(Sessions::new(self.sessions))
        };
        config.session_storage = storage;
        if let (Some(make), true) = (self.ticketer, self.sessions > 0) {
            config.ticketer = make()?;
        }
        Ok(())
    }
}

/// The trust anchors in the PEM file.
pub(crate) fn roots(file: &std::path::Path) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in identity::read_ca(file)? {
        roots
            .add(certificate)
            .map_err(|error| SetupError::CaFile { file: file.display().to_string(), reason: error.to_string() })?;
    }
    Ok(roots)
}
