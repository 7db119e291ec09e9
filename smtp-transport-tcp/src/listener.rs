//! Listening.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use async_trait::async_trait;
use smtp_core::stream::{AcceptProxy, Backoff, ByteStream, Connection, Listener, Single};
use smtp_tls::ServerTls;
use socket2::{Domain, Protocol, Socket, Type};

use crate::stream::{TcpStream, Upgrade};

/// TLS on a listener.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// None. The default.
    #[default]
    None,
    /// A client can ask for it (RFC 3207).
    StartTls(ServerTls),
    /// From the first octet (RFC 8314 §3.3). The handshake is part of [`Connection::accept`], not of
    /// [`Listener::accept`].
    Implicit(ServerTls),
}

/// Settings of a [`TcpListener`].
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Default: no TLS.
    pub tls: Tls,
    /// How many connections the system queues until they are accepted; it may take less (Linux:
    /// `net.core.somaxconn`). Default: 1,024.
    pub backlog: u16,
    /// Whether an IPv6 socket takes IPv6 only. Set either way, whatever the system's default is. Default: true, so
    /// that `[::]:25` and `0.0.0.0:25` are two listeners, on every system.
    pub v6_only: bool,
    /// Lets several processes listen on the same address; the system spreads connections over them. Default: false.
    pub reuse_port: bool,
    /// The congestion control algorithm, such as `cubic` or `bbr`, on Linux and FreeBSD. Default: the system's.
    pub congestion: Option<String>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { tls: Tls::None, backlog: 1024, v6_only: true, reuse_port: false, congestion: None }
    }
}

/// A TCP socket that accepts SMTP sessions.
///
/// When file descriptors or memory run out, accepting waits, 5 ms at first and up to 1 s, and goes on by itself; one
/// warning is logged for each such episode.
#[derive(Debug)]
pub struct TcpListener {
    socket: tokio::net::TcpListener,
    local: SocketAddr,
    tls: Tls,
    proxies: Option<AcceptProxy>,
    backoff: Backoff,
}

impl TcpListener {
    /// Listens on `address`; port 0 is a free one.
    ///
    /// # Errors
    /// With a [`ListenError`] inside, which says what to do.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let explain = |source: io::Error| io::Error::new(source.kind(), ListenError { address, source });
        let socket = listening_socket(address, &options).map_err(explain)?;
        Self::from_std(socket, options.tls).map_err(explain)
    }

    /// Takes over a socket that listens already, as a service manager hands it down.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub fn from_std(socket: StdListener, tls: Tls) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local, tls, proxies: None, backoff: Backoff::new() })
    }

    /// The same behind `proxies`: every connection has to come from one of them and to begin with a PROXY header,
    /// before STARTTLS and before implicit TLS. The header is read in [`Connection::accept`], not in
    /// [`Listener::accept`]. It decides who the peer is; [`Listener::is_local`] stays what the socket is.
    #[must_use]
    pub fn behind(self, proxies: AcceptProxy) -> Self {
        Self { proxies: Some(proxies), ..self }
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn accept_stream(&self) -> io::Result<TcpStream> {
        loop {
            match self.socket.accept().await {
                Ok((socket, peer)) => {
                    self.backoff.succeeded();
                    match self.stream(socket, peer) {
                        Ok(stream) => return Ok(stream),
                        Err(error) => {
                            tracing::debug!(listener = %self.local, %peer, %error, "connection died in the queue");
                        }
                    }
                }
                Err(error) => self.backoff.after(&self.local, error).await?,
            }
        }
    }

    fn stream(&self, socket: tokio::net::TcpStream, peer: SocketAddr) -> io::Result<TcpStream> {
        socket.set_nodelay(true)?;
        // Only a listener on all addresses has to ask which one it was.
        let local = if self.local.ip().is_unspecified() { socket.local_addr()? } else { self.local };
        let upgrade = match &self.tls {
            Tls::None => Upgrade::None,
            Tls::StartTls(tls) | Tls::Implicit(tls) => Upgrade::Server(tls.clone()),
        };
        Ok(TcpStream::new(socket, peer, Some(local), upgrade))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        let stream = self.accept_stream().await?;
        let implicit_tls = matches!(self.tls, Tls::Implicit(_));
        Ok(match &self.proxies {
            None if !implicit_tls => Box::new(Single::new(stream)),
            proxies => Box::new(Arriving { stream: Some(Box::new(stream)), proxies: proxies.clone(), implicit_tls }),
        })
    }

    /// `smtp://192.0.2.1:25`, `smtps://[2001:db8::1]:465`.
    fn url(&self) -> String {
        match self.tls {
            Tls::None | Tls::StartTls(_) => format!("smtp://{}", self.local),
            Tls::Implicit(_) => format!("smtps://{}", self.local),
        }
    }

    fn is_local(&self) -> bool {
        self.local.ip().to_canonical().is_loopback()
    }
}

/// A connection whose beginning is still to come: a proxy's header, a handshake.
struct Arriving {
    /// In a box of its own, since this stays for as long as the session.
    stream: Option<Box<TcpStream>>,
    proxies: Option<AcceptProxy>,
    implicit_tls: bool,
}

#[async_trait]
impl Connection for Arriving {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        let Some(mut stream) = self.stream.take() else { return Ok(None) };
        if let Some(proxies) = &self.proxies {
            stream.read_proxy_header(proxies).await?;
        }
        if self.implicit_tls {
            *stream = stream.start_tls().await?;
        }
        Ok(Some(stream))
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the client opens the one stream of a TCP connection"))
    }
}

/// Why a listener cannot listen, and what to do. Found inside the [`io::Error`] of [`TcpListener::bind`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenError {
    /// Where it was meant to listen.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.source)?;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; another program listens there: stop it or take another port"),
            io::ErrorKind::PermissionDenied if self.address.port() < 1024 => f.write_str(
                "; ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket from the service manager: \
                 or take a port above, such as 2525",
            ),
            io::ErrorKind::AddrNotAvailable => f.write_str("; this machine has no such address"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn listening_socket(address: SocketAddr, options: &ListenOptions) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restarted server listen while connections of the old one are in TIME_WAIT. On Windows it would let
    // another program take the port over.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    #[cfg(unix)]
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if let Some(algorithm) = &options.congestion {
        crate::connector::set_congestion(socket2::SockRef::from(&socket), algorithm)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::from(options.backlog))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[tokio::test]
    async fn accepted_sockets_do_not_delay() {
        let listener = TcpListener::bind(loopback(), ListenOptions::default()).unwrap();
        let client = tokio::net::TcpStream::connect(listener.local).await.unwrap();
        let stream = listener.accept_stream().await.unwrap();
        assert!(stream.socket().nodelay().unwrap());
        let info = stream.info();
        assert_eq!(info.peer, smtp_core::channel::Peer::Ip(client.local_addr().unwrap()));
        assert_eq!(info.local, Some(client.peer_addr().unwrap()));
        assert_eq!((info.transport, info.secure, info.can_upgrade, info.tls), ("tcp", false, false, None));
    }

    #[tokio::test]
    async fn a_listener_on_all_addresses_knows_the_one_that_was_used() {
        let listener = TcpListener::bind("0.0.0.0:0".parse().unwrap(), ListenOptions::default()).unwrap();
        assert!(!listener.is_local());
        let address = SocketAddr::new("127.0.0.1".parse().unwrap(), listener.local.port());
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        assert_eq!(listener.accept_stream().await.unwrap().info().local, Some(address));
    }

    #[tokio::test]
    async fn a_socket_for_both_families_shows_ipv4_clients_as_such() {
        let options = ListenOptions { v6_only: false, ..ListenOptions::default() };
        let Ok(listener) = TcpListener::bind("[::]:0".parse().unwrap(), options) else {
            println!("skipped: no IPv6 here");
            return;
        };
        let address = SocketAddr::new("127.0.0.1".parse().unwrap(), listener.local.port());
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let info = listener.accept_stream().await.unwrap().info();
        assert_eq!(info.peer, smtp_core::channel::Peer::Ip(client.local_addr().unwrap()));
        assert_eq!(info.local, Some(address));
    }
}
