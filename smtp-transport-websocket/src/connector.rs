//! The client's side.

use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::stream::{ByteStream, ConnectError, ConnectStep, Connection, Connector, Target, TlsMode, TlsPolicy};
use tokio::time::timeout;

use crate::handshake::{Ask, Refused};

/// Makes WebSockets of what another connector connects to.
///
/// TLS is a matter of that one: [`TlsMode::Implicit`] gives what a browser calls `wss`. There is no STARTTLS within a
/// WebSocket, so [`TlsMode::Required`] is a permanent failure, and [`TlsMode::Opportunistic`] stays in clear. A server
/// that answers with an HTTP error of the 400s, or does not know the subprotocol, has failed permanently.
pub struct WebSocketConnector<C> {
    inner: C,
    path: String,
    timeout: Duration,
}

impl<C: Connector> WebSocketConnector<C> {
    /// WebSockets on what `inner` connects to, at the path `/`, with 30 s for the handshake.
    #[must_use]
    pub fn new(inner: C) -> Self {
        Self { inner, path: "/".to_owned(), timeout: Duration::from_secs(30) }
    }

    /// The same at another path, which may have a query.
    #[must_use]
    pub fn with_path(self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self }
    }

    /// The same with another time for the handshake.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

#[async_trait]
impl<C: Connector> Connector for WebSocketConnector<C> {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let address = &target.address;
        let policy = match policy.mode {
            TlsMode::None | TlsMode::Opportunistic => &TlsPolicy::NONE,
            TlsMode::Implicit => policy,
            TlsMode::Required => {
                let error = io::Error::new(io::ErrorKind::Unsupported, "no STARTTLS in a WebSocket; use implicit TLS");
                return Err(ConnectError::permanent(address, ConnectStep::Tls, error));
            }
        };
        let Some(ask) = Ask::new(target, &self.path) else {
            let text = format!("no URL can have this server and the path {:?}", self.path);
            let error = io::Error::new(io::ErrorKind::InvalidInput, text);
            return Err(ConnectError::permanent(address, ConnectStep::Resolve, error));
        };
        let inner = self.inner.connect(target, policy).await?;
        let mut connected = Connected { inner, ask, timeout: self.timeout, first: None };
        match connected.open_stream().await {
            Ok(stream) => connected.first = Some(stream),
            Err(Refused { error, permanent: true }) => {
                return Err(ConnectError::permanent(address, ConnectStep::Connect, error));
            }
            Err(Refused { error, permanent: false }) => {
                return Err(ConnectError::transient(address, ConnectStep::Connect, error));
            }
        }
        Ok(Box::new(connected))
    }
}

impl<C: fmt::Debug> fmt::Debug for WebSocketConnector<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketConnector")
            .field("inner", &self.inner)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A connection whose streams become WebSockets. The first is made at once, so that a server that does not speak
/// WebSocket is found out while connecting.
struct Connected {
    inner: Box<dyn Connection>,
    ask: Ask,
    timeout: Duration,
    first: Option<Box<dyn ByteStream>>,
}

impl Connected {
    async fn open_stream(&mut self) -> Result<Box<dyn ByteStream>, Refused> {
        let transient = |error| Refused { error, permanent: false };
        let stream = self.inner.open().await.map_err(transient)?;
        match timeout(self.timeout, self.ask.on(stream)).await {
            Ok(asked) => Ok(Box::new(asked?)),
            Err(_) => {
                let text = format!("no WebSocket handshake within {:?}", self.timeout);
                Err(transient(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }
}

#[async_trait]
impl Connection for Connected {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        // A server cannot ask for a WebSocket.
        Ok(None)
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        match self.first.take() {
            Some(stream) => Ok(stream),
            None => self.open_stream().await.map_err(|refused| refused.error),
        }
    }

    fn max_parallel(&self) -> usize {
        self.inner.max_parallel()
    }
}
