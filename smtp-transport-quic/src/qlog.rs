//! One qlog file per connection, where the feature is on.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "qlog")]
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::{ServerConfig, TransportConfig};

use crate::options::{QuicOptions, Side};

/// Where the files go.
#[derive(Debug)]
pub(crate) struct Qlog {
    dir: Option<PathBuf>,
}

/// The number of the next file of this process: listeners and connectors may share a directory.
#[cfg(feature = "qlog")]
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How many names are tried: an earlier process may have had the same number, as in a container.
#[cfg(feature = "qlog")]
const TRIES: usize = 10_000;

impl Qlog {
    /// # Errors
    /// If a directory is given and this crate was built without the feature.
    pub(crate) fn new(dir: Option<&Path>) -> io::Result<Self> {
        if dir.is_some() && cfg!(not(feature = "qlog")) {
            let text = "no qlog here: smtp-transport-quic was built without its feature qlog";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(Self { dir: dir.map(Path::to_owned) })
    }

    /// A configuration for one connection alone, if its events are wanted. A file that cannot be written costs the
    /// log, not the connection.
    pub(crate) fn server_config(
        &self,
        server: &ServerConfig,
        options: &QuicOptions,
        peer: SocketAddr,
        near: bool,
    ) -> Option<Arc<ServerConfig>> {
        self.dir.as_ref()?;
        let mut transport = options.transport.config(&Side::Server, near).ok()?;
        self.attach(&mut transport, "server", peer);
        let mut server = server.clone();
        server.transport_config(Arc::new(transport));
        Some(Arc::new(server))
    }

    /// Lets a connection write its events.
    #[cfg(feature = "qlog")]
    pub(crate) fn attach(&self, transport: &mut TransportConfig, side: &str, peer: SocketAddr) {
        let Some(dir) = &self.dir else { return };
        let mut made = Err(io::ErrorKind::AlreadyExists.into());
        for _ in 0..TRIES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{side}-{number}.sqlog", std::process::id());
            made = std::fs::OpenOptions::new().write(true).create_new(true).open(dir.join(name));
            if !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
                break;
            }
        }
        match made {
            Ok(file) => {
                let mut config = quinn::QlogConfig::default();
                config.writer(Box::new(io::BufWriter::new(file))).title(Some(format!("SMTP over QUIC with {peer}")));
                transport.qlog_stream(config.into_stream());
            }
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "cannot write a qlog file"),
        }
    }

    /// There is nothing to write with.
    #[cfg(not(feature = "qlog"))]
    pub(crate) fn attach(&self, _: &mut TransportConfig, side: &str, peer: SocketAddr) {
        tracing::trace!(qlog = ?self, side, %peer, "no qlog");
    }
}
