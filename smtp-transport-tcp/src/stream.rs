//! One TCP connection as a byte stream: in clear, or under TLS as its server or its client.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use smtp_core::channel::{ChannelInfo, Peer};
use smtp_core::stream::{AcceptProxy, BoxFuture, ByteStream, CloseCode, ProxyInfo, Verification};
use smtp_tls::{HandshakeError, Role, ServerTls, Shown, client_info, server_info};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream as Socket;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// A session's stream. Plain ones are many and idle, so they hold neither TLS state nor buffers.
pub(crate) struct TcpStream {
    io: Io,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    upgrade: Upgrade,
    /// Something was read, and nothing was written since that an acknowledgement would have gone with. It is sent up to 40 ms
    /// late then: and a peer with Nagle's algorithm on, as Postfix and `smtp-source` have, keeps back what comes next for as long.
    unanswered: bool,
    /// What a proxy said before anything else.
    forwarded: Option<Box<ProxyInfo>>,
}

enum Io {
    Plain(Socket),
    Server(Box<ServerSide>),
    Client(Box<ClientSide>),
}

struct ServerSide {
    tls: server::TlsStream<Socket>,
    shown: Shown,
}

struct ClientSide {
    tls: client::TlsStream<Socket>,
    name: ServerName<'static>,
    verification: Verification,
}

/// What becomes of the stream when it is upgraded.
pub(crate) enum Upgrade {
    /// Nothing: there is no TLS to be had, or it is up already.
    None,
    /// The server of a handshake.
    Server(ServerTls),
    /// The client of one.
    Client(Box<ClientUpgrade>),
}

/// A TLS policy, made ready.
pub(crate) struct ClientUpgrade {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) verification: Verification,
}

impl TcpStream {
    /// Addresses that only look like IPv6, on a socket for both families, become IPv4: access lists and logs know
    /// them by that.
    pub(crate) fn new(socket: Socket, peer: SocketAddr, local: Option<SocketAddr>, upgrade: Upgrade) -> Self {
        let (peer, local) = (canonical(peer), local.map(canonical));
        Self { io: Io::Plain(socket), peer, local, upgrade, unanswered: false, forwarded: None }
    }

    /// Takes the header of a proxy off a stream on which nothing was read yet.
    pub(crate) async fn read_proxy_header(&mut self, proxies: &AcceptProxy) -> io::Result<()> {
        let peer = Peer::Ip(self.peer);
        let Io::Plain(socket) = &mut self.io else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a PROXY header comes before TLS"));
        };
        let forwarded = proxies.read(socket, &peer).await?;
        self.forwarded = Some(Box::new(forwarded));
        Ok(())
    }

    /// The handshake that was agreed on. TCP's own buffer is all there is underneath, so no clear text can be carried
    /// over into TLS: what a peer (or somebody in between) sent ahead is taken for handshake, and fails it.
    pub(crate) async fn start_tls(self) -> io::Result<Self> {
        let Self { io, peer, local, upgrade, unanswered, forwarded } = self;
        let io = match (io, upgrade) {
            (Io::Plain(socket), Upgrade::Server(tls)) => {
                let (config, shown) = tls.for_connection();
                let tls = TlsAcceptor::from(config)
                    .accept(socket)
                    .await
                    .map_err(|error| HandshakeError::from_io(error, Role::Server))?;
                Io::Server(Box::new(ServerSide { tls, shown }))
            }
            (Io::Plain(socket), Upgrade::Client(upgrade)) => {
                let ClientUpgrade { config, name, verification } = *upgrade;
                let tls = TlsConnector::from(config)
                    .connect(name.clone(), socket)
                    .await
                    .map_err(|error| HandshakeError::from_io(error, Role::Client))?;
                Io::Client(Box::new(ClientSide { tls, name, verification }))
            }
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "no TLS is set up for this connection")),
        };
        Ok(Self { io, peer, local, upgrade: Upgrade::None, unanswered, forwarded })
    }

    fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (poll, own) = match &mut self.io {
            Io::Plain(socket) => return Pin::new(socket).poll_read(cx, buf),
            Io::Server(side) => (Pin::new(&mut side.tls).poll_read(cx, buf), Role::Server),
            Io::Client(side) => (Pin::new(&mut side.tls).poll_read(cx, buf), Role::Client),
        };
        poll.map_err(|error| explain(error, own))
    }

    const fn wrote(&mut self) {
        self.unanswered = false;
    }

    pub(crate) fn socket(&self) -> &Socket {
        match &self.io {
            Io::Plain(socket) => socket,
            Io::Server(side) => side.tls.get_ref().0,
            Io::Client(side) => side.tls.get_ref().0,
        }
    }
}

impl ByteStream for TcpStream {
    fn info(&self) -> ChannelInfo {
        let tls = match &self.io {
            Io::Plain(_) => None,
            Io::Server(side) => Some(server_info(side.tls.get_ref().1, &side.shown)),
            Io::Client(side) => Some(client_info(side.tls.get_ref().1, &side.name, &side.verification)),
        };
        let mut info = ChannelInfo {
            local: self.local,
            secure: tls.is_some(),
            tls: tls.map(Box::new),
            can_upgrade: matches!((&self.io, &self.upgrade), (Io::Plain(_), Upgrade::Server(_) | Upgrade::Client(_))),
            ..ChannelInfo::new("tcp", Peer::Ip(self.peer))
        };
        if let Some(forwarded) = &self.forwarded {
            forwarded.apply(&mut info);
        }
        info
    }

    fn upgrade(self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move { Ok(Box::new(self.start_tls().await?) as Box<dyn ByteStream>) })
    }

    fn waits(&mut self) {
        if self.unanswered {
            self.unanswered = false;
            acknowledge(self.socket());
        }
    }

    /// TCP has no codes: a reset says it all. Without it, closing would go on sending what is queued.
    fn abort(self: Box<Self>, _: CloseCode) {
        // It can only fail on a socket that is dead already.
        let _ = self.socket().set_zero_linger();
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = self.poll_io(cx, buf);
        self.unanswered |= buf.filled().len() > before;
        poll
    }
}

/// Has the kernel acknowledge what was read, and not wait for something to send with it.
#[cfg(target_os = "linux")]
fn acknowledge(socket: &Socket) {
    // Without it, it is only later.
    let _ = SockRef::from(socket).set_tcp_quickack(true);
}

/// Others cannot be asked.
#[cfg(not(target_os = "linux"))]
const fn acknowledge(_: &Socket) {}

/// Passes a write on to whatever the stream is.
macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.io {
            Io::Plain(socket) => {
                let $io = Pin::new(socket);
                $call
            }
            Io::Server(side) => {
                let $io = Pin::new(&mut side.tls);
                $call
            }
            Io::Client(side) => {
                let $io = Pin::new(&mut side.tls);
                $call
            }
        }
    };
}

impl AsyncWrite for TcpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wrote();
        delegate!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wrote();
        delegate!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        // All three are; tokio and tokio-rustls say so of theirs.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_flush(cx))
    }

    /// Under TLS, `close_notify` first (RFC 8446 §6.1). Then FIN: the kernel delivers what is queued before it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_shutdown(cx))
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = !matches!(self.io, Io::Plain(_));
        f.debug_struct("TcpStream").field("peer", &self.peer).field("tls", &tls).finish_non_exhaustive()
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        // Only a mapped one is rebuilt: a link-local address needs its scope.
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
    }
}

/// A read error under TLS, in words. A client learns of a refused certificate only here, with TLS 1.3.
fn explain(error: io::Error, own: Role) -> io::Error {
    match error.kind() {
        // Somebody in between could have cut the stream there (RFC 8446 §6.1).
        io::ErrorKind::UnexpectedEof => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the {} closed the connection without ending TLS: something may be missing", own.peer()),
        ),
        io::ErrorKind::InvalidData => HandshakeError::from_io(error, own).into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_is_small() {
        // Two addresses of 32 octets, the socket's registration, three pointers, two of them tagged, what was done last.
        assert!(size_of::<TcpStream>() <= 136, "{}", size_of::<TcpStream>());
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let canonical = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("[::ffff:192.0.2.1]:25"), "192.0.2.1:25");
        assert_eq!(canonical("[fe80::1%3]:25"), "[fe80::1%3]:25");
        assert_eq!(canonical("[::1]:25"), "[::1]:25");
    }

    /// Polls a read until it has to wait, and waits: the first look may find that something came and went.
    #[cfg(target_os = "linux")]
    fn waits(stream: &mut TcpStream) -> bool {
        let mut octets = [0; 8];
        let mut look = || {
            let mut buf = ReadBuf::new(&mut octets);
            Pin::new(&mut *stream).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut buf).is_pending()
        };
        let pending = look() || look();
        stream.waits();
        pending
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_waits_for_the_rest_acknowledges_what_is_there() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let socket = Socket::connect(peer).await.unwrap();
        let mut client = TcpStream::new(socket, peer, None, Upgrade::None);
        let (mut server, _) = listener.accept().await.unwrap();
        let mut octets = [0; 8];
        // Question and answer: nothing is asked of the kernel, and it comes to expect that a question goes with it.
        for _ in 0..20 {
            client.write_all(b"MAIL").await.unwrap();
            server.read_exact(&mut octets[..4]).await.unwrap();
            server.write_all(b"250").await.unwrap();
            client.read_exact(&mut octets[..3]).await.unwrap();
            assert!(client.unanswered);
        }
        let at_once = |client: &TcpStream| SockRef::from(client.socket()).tcp_quickack().unwrap();
        assert!(!at_once(&client));
        client.write_all(b"RCPT").await.unwrap();
        assert!(waits(&mut client));
        assert!(!at_once(&client), "it has read nothing");
        server.write_all(b"250").await.unwrap();
        client.read_exact(&mut octets[..3]).await.unwrap();
        assert!(!at_once(&client));
        assert!(waits(&mut client));
        assert!(at_once(&client), "what it has read is acknowledged late");
    }
}
