//! Listening on a Unix socket.

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use smtp_core::channel::ChannelInfo;
use smtp_core::stream::{AcceptProxy, Backoff, ByteStream, Connection, Listener, Plain, Single};
use tokio::net::UnixStream;

use crate::bind::{ListenOptions, SocketFile, bind};
use crate::{peer, url};

/// A Unix socket that accepts SMTP sessions.
///
/// Every session's peer is the process that connected, from the socket's credentials (`SO_PEERCRED`, `getpeereid`):
/// [`Peer::Process`](smtp_core::channel::Peer::Process). A user without a number in this process's user namespace is
/// nobody in particular, not the user `nobody`.
///
/// When file descriptors or memory run out, accepting waits, 5 ms at first and up to 1 s, and goes on by itself; one
/// warning is logged for each such episode.
#[derive(Debug)]
pub struct UnixListener {
    /// Dropped before the socket is closed: as long as that is open, no other file can get its inode's number, so it
    /// is certain whose file is removed.
    _file: Option<SocketFile>,
    socket: tokio::net::UnixListener,
    path: Option<PathBuf>,
    proxies: Option<AcceptProxy>,
    backoff: Backoff,
}

impl UnixListener {
    /// Listens at `path`. Has to be called in a tokio runtime.
    ///
    /// A socket that is there already is replaced if nobody listens on it any more; anything else is left alone. The
    /// folder has to exist, and nobody but root and this process's user may be able to replace entries of it or of
    /// those above it. Dropping the listener removes the socket.
    ///
    /// On systems that refuse connections while a server's queue is full (Linux does not), a very busy server can be
    /// taken for a stale socket.
    ///
    /// # Errors
    /// With a [`ListenError`] inside, which says what to do.
    pub fn bind(path: impl AsRef<Path>, options: &ListenOptions) -> io::Result<Self> {
        let path = path.as_ref();
        let explain = |source: io::Error| io::Error::new(source.kind(), ListenError { path: path.to_owned(), source });
        let (socket, file) = bind(path, options).map_err(explain)?;
        let listener = Self::from_std(socket).map_err(explain)?;
        Ok(Self { path: Some(file.path.clone()), _file: Some(file), ..listener })
    }

    /// Takes over a socket that listens already, as a service manager hands it down; see
    /// [`inherited`](crate::inherited). It is not removed in the end. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn from_std(socket: StdListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
        let socket = tokio::net::UnixListener::from_std(socket)?;
        Ok(Self { socket, path, proxies: None, _file: None, backoff: Backoff::new() })
    }

    /// The same behind `proxies`, which are listed by user (`uid:1000`): every connection has to come from one of them
    /// and to begin with a PROXY header. The header is read in [`Connection::accept`], not in [`Listener::accept`]. It
    /// decides who the peer is, and the channel no longer counts as one that does not leave the machine.
    #[must_use]
    pub fn behind(self, proxies: AcceptProxy) -> Self {
        Self { proxies: Some(proxies), ..self }
    }

    /// Where it listens; `None` for a socket without a name in the file system.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    async fn accept_stream(&self) -> io::Result<UnixStream> {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    self.backoff.succeeded();
                    return Ok(stream);
                }
                Err(error) => self.backoff.after(&self.url(), error).await?,
            }
        }
    }
}

#[async_trait]
impl Listener for UnixListener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        let stream = self.accept_stream().await?;
        let facts = peer::facts("unix", stream.peer_cred());
        Ok(match &self.proxies {
            None => Box::new(Single::new(Plain::new(stream, facts))),
            Some(proxies) => Box::new(Arriving { stream: Some(stream), facts, proxies: proxies.clone() }),
        })
    }

    /// `smtp+unix:///run/smtp.sock`.
    fn url(&self) -> String {
        url::unix(self.path().unwrap_or(Path::new("")))
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// A connection whose proxy's header is still to come.
struct Arriving {
    stream: Option<UnixStream>,
    facts: ChannelInfo,
    proxies: AcceptProxy,
}

#[async_trait]
impl Connection for Arriving {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        let Some(mut stream) = self.stream.take() else { return Ok(None) };
        let forwarded = self.proxies.read(&mut stream, &self.facts.peer).await?;
        forwarded.apply(&mut self.facts);
        Ok(Some(Box::new(Plain::new(stream, self.facts.clone()))))
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the client opens the one stream of a connection"))
    }
}

/// Why a listener cannot listen, and what to do. Found inside the [`io::Error`] of [`UnixListener::bind`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenError {
    /// Where it was meant to listen.
    pub path: PathBuf,
    /// What is wrong.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.path.display(), self.source)?;
        match self.source.kind() {
            io::ErrorKind::NotFound => f.write_str("; make the folder first"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
