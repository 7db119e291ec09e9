//! Connecting to a Unix socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::stream::{
    Address, ConnectError, ConnectStep, Connection, Connector, Plain, ProxyHeader, Single, Target, TlsMode, TlsPolicy,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::peer;

/// Makes connections to Unix sockets: [`Address::Path`].
///
/// There is no TLS on them, and no need for it: a policy that asks for TLS is a permanent failure, before anything is
/// connected. So is a path that no socket can have. Everything else may pass: the server may be starting, or being
/// installed, or its socket may not have its mode yet.
#[derive(Debug, Clone)]
pub struct UnixConnector {
    timeout: Duration,
    proxy: Option<ProxyHeader>,
}

impl UnixConnector {
    /// A connector that waits 30 s for a server whose queue is full.
    #[must_use]
    pub const fn new() -> Self {
        Self { timeout: Duration::from_secs(30), proxy: None }
    }

    /// The same with another time to wait for a server whose queue is full.
    #[must_use]
    pub const fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same, beginning each connection with a PROXY header, for a client that speaks for another one. Only a
    /// server that expects one can do with it.
    #[must_use]
    pub const fn with_proxy_header(self, header: ProxyHeader) -> Self {
        Self { proxy: Some(header), ..self }
    }
}

impl Default for UnixConnector {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Connector for UnixConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let address = &target.address;
        refuse_tls(address, policy)?;
        let Address::Path(path) = address else {
            let error = io::Error::new(io::ErrorKind::Unsupported, "not the path of a socket");
            return Err(ConnectError::permanent(address, ConnectStep::Resolve, error));
        };
        let stream = timeout(self.timeout, self.stream(path)).await.unwrap_or_else(|_| {
            let text = format!("the server has accepted nobody for {:?}", self.timeout);
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        });
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => ConnectError::permanent(address, ConnectStep::Connect, error),
            _ => ConnectError::transient(address, ConnectStep::Connect, error),
        })?;
        let facts = peer::facts("unix", stream.peer_cred());
        Ok(Box::new(Single::new(Plain::new(stream, facts))))
    }
}

impl UnixConnector {
    async fn stream(&self, path: &Path) -> io::Result<UnixStream> {
        let mut stream = connect(path).await?;
        if let Some(header) = &self.proxy {
            stream.write_all(&header.encode()).await?;
        }
        Ok(stream)
    }
}

/// A policy that cannot be met costs no connection.
pub(crate) fn refuse_tls(address: &Address, policy: &TlsPolicy) -> Result<(), ConnectError> {
    match policy.mode {
        TlsMode::None | TlsMode::Opportunistic => Ok(()),
        TlsMode::Required | TlsMode::Implicit => {
            let error = io::Error::new(io::ErrorKind::Unsupported, "there is no TLS on a local channel");
            Err(ConnectError::permanent(address, ConnectStep::Tls, error))
        }
    }
}

/// A socket whose queue is full has no way to tell when there is room again: EAGAIN means to try again later.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let mut wait = Duration::from_millis(5);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(wait).await,
            other => return other,
        }
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}
