//! The server's side.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::stream::{ByteStream, Connection, Listener};

use crate::handshake;

/// Makes WebSockets of the streams that another listener accepts: TCP, TLS, or whatever else carries octets.
///
/// The handshake is part of [`Connection::accept`], and so under the server's deadline. Any path is taken; requests
/// that do not offer the subprotocol [`SUBPROTOCOL`](crate::SUBPROTOCOL) get 400.
pub struct WebSocketListener<L> {
    inner: L,
    origins: Arc<[String]>,
}

impl<L: Listener> WebSocketListener<L> {
    /// WebSockets on what `inner` accepts, for programs but not for pages in a browser.
    #[must_use]
    pub fn new(inner: L) -> Self {
        Self { inner, origins: Arc::from([]) }
    }

    /// Lets pages of these origins, such as `https://mail.example`, connect too. Requests with another `Origin` get
    /// 403. Default: none, since a browser connects for any page to any server its user can reach, this machine's
    /// included (RFC 6455 §10.2).
    #[must_use]
    pub fn with_origins(self, origins: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { origins: origins.into_iter().map(Into::into).collect(), ..self }
    }
}

#[async_trait]
impl<L: Listener> Listener for WebSocketListener<L> {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        let inner = self.inner.accept().await?;
        Ok(Box::new(Accepted { inner, origins: Arc::clone(&self.origins) }))
    }

    /// `smtp+ws://127.0.0.1:8080`, or `smtp+wss://…` over TLS.
    fn url(&self) -> String {
        let inner = self.inner.url();
        match inner.split_once(':') {
            Some(("smtp", rest)) => format!("smtp+ws:{rest}"),
            Some(("smtps", rest)) => format!("smtp+wss:{rest}"),
            _ => format!("ws+{inner}"),
        }
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

impl<L: fmt::Debug> fmt::Debug for WebSocketListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketListener").field("inner", &self.inner).field("origins", &self.origins).finish()
    }
}

/// A connection whose streams become WebSockets.
struct Accepted {
    inner: Box<dyn Connection>,
    origins: Arc<[String]>,
}

#[async_trait]
impl Connection for Accepted {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        match self.inner.accept().await? {
            Some(stream) => Ok(Some(Box::new(handshake::accept(stream, &self.origins).await?))),
            None => Ok(None),
        }
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only a client can ask for a WebSocket"))
    }

    fn max_parallel(&self) -> usize {
        self.inner.max_parallel()
    }
}
