//! Connections, a listener and a connector in memory.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::stream::{
    ByteStream, ConnectError, ConnectStep, Connection, Connector, Listener, Target, TlsMode, TlsPolicy,
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

use super::knobs::{Knobs, Tls};
use super::stream::MemoryStream;

/// How many connections wait to be accepted, at most; beyond that connecting waits.
const BACKLOG: usize = 128;

/// A listener in memory. [`MemoryListener::connector`] gives what connects to it.
#[derive(Debug)]
pub struct MemoryListener {
    knobs: Arc<Knobs>,
    incoming: Mutex<mpsc::Receiver<ServerConnection>>,
    queue: mpsc::Sender<ServerConnection>,
}

impl MemoryListener {
    /// A listener whose connections behave like this.
    #[must_use]
    pub fn new(knobs: Knobs) -> Self {
        let (queue, incoming) = mpsc::channel(BACKLOG);
        Self { knobs: Arc::new(knobs), incoming: Mutex::new(incoming), queue }
    }

    /// What connects to this listener. When the listener is dropped, connecting is refused.
    #[must_use]
    pub fn connector(&self) -> MemoryConnector {
        MemoryConnector { knobs: Arc::clone(&self.knobs), queue: self.queue.clone() }
    }
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self.incoming.lock().await.recv().await {
            Some(connection) => Ok(Box::new(connection)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// `memory:`: there is no way to get at it by name.
    fn url(&self) -> String {
        "memory:".to_owned()
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// Connects to a [`MemoryListener`], whatever the target. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryConnector {
    knobs: Arc<Knobs>,
    queue: mpsc::Sender<ServerConnection>,
}

#[async_trait]
impl Connector for MemoryConnector {
    /// # Errors
    /// `Connect` if the listener is gone; `Tls` if one side wants TLS from the first octet and the other does not.
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        if (policy.mode == TlsMode::Implicit) != (self.knobs.tls == Tls::Implicit) {
            let source = io::Error::new(io::ErrorKind::InvalidData, "only one side expects TLS from the first octet");
            return Err(ConnectError::permanent(&target.address, ConnectStep::Tls, source));
        }
        let (client, server) = connections(&self.knobs);
        self.queue.send(server).await.map_err(|_| {
            ConnectError::transient(&target.address, ConnectStep::Connect, io::ErrorKind::ConnectionRefused.into())
        })?;
        Ok(Box::new(client))
    }
}

/// Both ends of a connection.
fn connections(knobs: &Arc<Knobs>) -> (ClientConnection, ServerConnection) {
    let (opened, incoming) = mpsc::channel(knobs.max_parallel.max(1));
    let mut client = ClientConnection {
        knobs: Arc::clone(knobs),
        only: None,
        opened: Some(opened),
        places: Arc::new(Semaphore::new(knobs.max_parallel)),
    };
    if knobs.max_parallel <= 1 {
        // The connection is the stream: it is there without having been opened.
        client.only = client.opened.take().map(|opened| client.stream(opened, None));
    }
    (client, ServerConnection { knobs: Arc::clone(knobs), incoming })
}

/// The client's end of a connection.
struct ClientConnection {
    knobs: Arc<Knobs>,
    /// The one stream there is, until it is taken.
    only: Option<MemoryStream>,
    opened: Option<mpsc::Sender<MemoryStream>>,
    places: Arc<Semaphore>,
}

impl ClientConnection {
    /// A stream whose other end comes out of the server's connection: at once, or with the first octet where the
    /// client speaks first.
    fn stream(&self, opened: mpsc::Sender<MemoryStream>, place: Option<OwnedSemaphorePermit>) -> MemoryStream {
        let (mut client, mut server) = MemoryStream::both(&self.knobs);
        client.place = place.map(Arc::new);
        server.place = client.place.clone();
        let announcement = Announcement { opened, server: Box::new(server) };
        if self.knobs.client_speaks_first {
            client.announcement = Some(announcement);
        } else {
            announcement.make();
        }
        client
    }
}

/// The server's end of a stream that the server has not seen yet.
pub(super) struct Announcement {
    opened: mpsc::Sender<MemoryStream>,
    server: Box<MemoryStream>,
}

impl Announcement {
    pub(super) fn make(self) {
        // A stream keeps its place until both ends are gone, so there is room. A server that is gone sees nothing.
        let _ = self.opened.try_send(*self.server);
    }
}

#[async_trait]
impl Connection for ClientConnection {
    /// The server opens no streams.
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(None)
    }

    /// Waits while as many streams are open as there may be.
    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        if let Some(only) = self.only.take() {
            return Ok(Box::new(only));
        }
        let used = || io::Error::new(io::ErrorKind::NotConnected, "the connection's one stream is in use");
        let opened = self.opened.clone().ok_or_else(used)?;
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| used())?;
        if opened.is_closed() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(Box::new(self.stream(opened, Some(place))))
    }

    fn max_parallel(&self) -> usize {
        self.knobs.max_parallel.max(1)
    }
}

/// The server's end of a connection.
struct ServerConnection {
    knobs: Arc<Knobs>,
    incoming: mpsc::Receiver<MemoryStream>,
}

#[async_trait]
impl Connection for ServerConnection {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(self.incoming.recv().await.map(|stream| Box::new(stream) as Box<dyn ByteStream>))
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only the client opens streams"))
    }

    fn max_parallel(&self) -> usize {
        self.knobs.max_parallel.max(1)
    }
}

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection").finish_non_exhaustive()
    }
}
