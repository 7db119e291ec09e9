//! Frames over TCP: the transport that `docs/writing-a-transport.md` builds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::channel::{ChannelInfo, Peer, SessionInfo};
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{BoxError, Outcome, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{
    Address, ByteStream, ConnectError, ConnectStep, Connection, Connector, Listener, Plain, Single, Target, TlsMode,
    TlsPolicy,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The largest piece that is put into one frame, in octets.
const PIECE: usize = 16 * 1024;

/// The frame that ends a direction.
const END: [u8; 2] = [0, 0];

fn facts(peer: SocketAddr, local: Option<SocketAddr>) -> ChannelInfo {
    ChannelInfo { local, ..ChannelInfo::new("frames", Peer::Ip(peer)) }
}

/// A session's stream over any stream of octets.
struct Framed<S> {
    io: S,
    facts: ChannelInfo,
    /// The first octet of a length whose second has not come yet.
    high: Option<u8>,
    /// What is still to come of the present frame.
    rest: usize,
    incoming: Incoming,
    /// What still has to leave, in frames.
    unsent: Vec<u8>,
    finished: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Open,
    /// The peer has finished.
    Ended,
    /// The channel was cut.
    Broken,
}

impl<S> Framed<S> {
    const fn new(io: S, facts: ChannelInfo) -> Self {
        Self { io, facts, high: None, rest: 0, incoming: Incoming::Open, unsent: Vec::new(), finished: false }
    }
}

impl<S: AsyncRead + Unpin> Framed<S> {
    /// Reads until there is content, or the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest == 0 && self.incoming == Incoming::Open {
            let mut octet = [0];
            let mut room = ReadBuf::new(&mut octet);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut room))?;
            match (self.high.take(), room.filled()) {
                (_, []) => self.incoming = Incoming::Broken,
                (None, _) => self.high = Some(octet[0]),
                (Some(0), [0]) => self.incoming = Incoming::Ended,
                (Some(high), _) => self.rest = usize::from(u16::from_be_bytes([high, octet[0]])),
            }
        }
        match self.incoming {
            Incoming::Broken => Poll::Ready(Err(cut())),
            Incoming::Open | Incoming::Ended => Poll::Ready(Ok(())),
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer is gone without having finished")
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_frame(cx))?;
        if self.incoming == Incoming::Ended {
            return Poll::Ready(Ok(()));
        }
        // Straight into the caller's buffer, but not beyond the frame.
        let room = self.rest.min(buf.remaining());
        let mut within = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut within))?;
        let n = within.filled().len();
        if n == 0 {
            self.incoming = Incoming::Broken;
            return Poll::Ready(Err(cut()));
        }
        buf.advance(n);
        self.rest -= n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Framed<S> {
    /// Sends what is there to be sent.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => drop(self.unsent.drain(..n)),
            }
        }
        self.unsent = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.unsent.len() >= PIECE {
            ready!(self.poll_drain(cx))?;
        }
        // No frame for no octets: that would be the end.
        let n = octets.len().min(PIECE);
        if let (Ok(length @ 1..), Some(piece)) = (u16::try_from(n), octets.get(..n)) {
            self.unsent.extend_from_slice(&length.to_be_bytes());
            self.unsent.extend_from_slice(piece);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            self.unsent.extend_from_slice(&END);
        }
        self.poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for Framed<S> {
    fn info(&self) -> ChannelInfo {
        self.facts.clone()
    }
}

/// Accepts frames over TCP.
struct FramesListener(TcpListener);

#[async_trait]
impl Listener for FramesListener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        loop {
            match self.0.accept().await {
                Ok((socket, peer)) => {
                    // It fails on a connection that is dead already, which is no reason to stop listening.
                    let _ = socket.set_nodelay(true);
                    let facts = facts(peer, socket.local_addr().ok());
                    return Ok(Box::new(Single::new(Framed::new(socket, facts))));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn url(&self) -> String {
        self.0.local_addr().map_or_else(|_| "smtp+frames:".to_owned(), |local| format!("smtp+frames://{local}"))
    }

    fn is_local(&self) -> bool {
        self.0.local_addr().is_ok_and(|local| local.ip().is_loopback())
    }
}

fn unsupported(address: &Address, step: ConnectStep, why: &'static str) -> ConnectError {
    ConnectError::permanent(address, step, io::Error::new(io::ErrorKind::Unsupported, why))
}

fn refuse_tls(address: &Address, policy: &TlsPolicy) -> Result<(), ConnectError> {
    match policy.mode {
        TlsMode::None | TlsMode::Opportunistic => Ok(()),
        TlsMode::Required | TlsMode::Implicit => Err(unsupported(address, ConnectStep::Tls, "there is no TLS here")),
    }
}

/// Connects with frames over TCP.
struct FramesConnector;

#[async_trait]
impl Connector for FramesConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let address = &target.address;
        refuse_tls(address, policy)?;
        if matches!(address, Address::Path(_)) {
            return Err(unsupported(address, ConnectStep::Resolve, "not a host and a port"));
        }
        let connect = async {
            let socket = TcpStream::connect(address.to_string()).await?;
            socket.set_nodelay(true)?;
            let facts = facts(socket.peer_addr()?, socket.local_addr().ok());
            Ok(Single::new(Framed::new(socket, facts)))
        };
        let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
        match tokio::time::timeout(Duration::from_secs(30), connect).await.unwrap_or_else(late) {
            Ok(connection) => Ok(Box::new(connection)),
            Err(error) => Err(ConnectError::transient(address, ConnectStep::Connect, error)),
        }
    }
}

async fn serve_one(mut connection: Box<dyn Connection>) -> Result<(), BoxError> {
    let stream = connection.accept().await?.ok_or("no stream")?;
    let policy = tower::service_fn(async |_: Request| Ok::<_, BoxError>(Verdict::Proceed));
    let delivery = tower::service_fn(async |mut mail: Transaction| {
        let (content, complete) = mail.body.collect(1 << 20).await?;
        println!("{} octets for {:?}", content.len(), mail.envelope.recipients);
        Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), mail.envelope.recipients.len()))
    });
    let session = Arc::new(SessionInfo::new(1, stream.info()));
    let settings = Arc::new(Settings::new(Config::new("mx.example".parse()?)));
    serve(stream, session, policy, delivery, settings, Default::default()).await?;
    Ok(())
}

/// A pair of streams for `smtp_test::kit::check`.
async fn pair() -> io::Result<smtp_test::kit::Pair> {
    let listener = FramesListener(TcpListener::bind("127.0.0.1:0").await?);
    let target = Target::host("[127.0.0.1]".parse().map_err(io::Error::other)?, listener.0.local_addr()?.port());
    let client = FramesConnector.connect(&target, &TlsPolicy::NONE).await.map_err(io::Error::other)?;
    smtp_test::kit::Pair::over(client, listener.accept().await?).await
}

/// Connects to a service of this machine that hands over a pipe.
struct PipeConnector<F>(F);

#[async_trait]
impl<F: Fn() -> io::Result<tokio::io::DuplexStream> + Send + Sync + 'static> Connector for PipeConnector<F> {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        refuse_tls(&target.address, policy)?;
        let pipe = (self.0)().map_err(|error| ConnectError::transient(&target.address, ConnectStep::Connect, error))?;
        let facts = ChannelInfo { secure: true, ..ChannelInfo::new("pipe", Peer::Named("service".into())) };
        Ok(Box::new(Single::new(Plain::new(pipe, facts))))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = FramesListener(TcpListener::bind("127.0.0.1:0").await?);
    println!("listening on {}", listener.url());
    let target = Target::host("[127.0.0.1]".parse()?, listener.0.local_addr()?.port());
    let mut client = FramesConnector.connect(&target, &TlsPolicy::NONE).await?;
    tokio::try_join!(send(client.open().await?), serve_one(listener.accept().await?))?;

    let (one_end, other_end) = tokio::io::duplex(4096);
    let ends = Mutex::new(Some(one_end));
    let service = PipeConnector(move || ends.lock().ok().and_then(|mut end| end.take()).ok_or(cut()));
    let mut client = service.connect(&target, &TlsPolicy::NONE).await?;
    let server = Plain::new(other_end, ChannelInfo::memory("client"));
    tokio::try_join!(send(client.open().await?), serve_one(Box::new(Single::new(server))))?;

    print!("{}", smtp_test::kit::check(pair).await?);
    Ok(())
}

/// A whole conversation in one breath.
async fn send(mut io: Box<dyn ByteStream>) -> Result<(), BoxError> {
    io.write_all(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<jo@example.org>\r\nDATA\r\nHello\r\n.\r\nQUIT\r\n").await?;
    io.shutdown().await?;
    let mut said = String::new();
    io.read_to_string(&mut said).await?;
    print!("{said}");
    if said.contains("\r\n221 ") { Ok(()) } else { Err("the conversation was cut".into()) }
}
