//! The byte stream and what makes one: the whole of what a transport has to provide.
//!
//! SMTP needs "a reliable ordered data stream channel" (RFC 5321 §2.1). [`ByteStream`] is that channel for one
//! session; a [`Connection`] carries one or many of them; a [`Listener`] or a [`Connector`] makes connections. A
//! transport is a crate that implements these; nothing above knows which.

mod backoff;
mod connect;
mod local;
mod plain;
mod proxy;
mod race;
mod resolve;

pub use backoff::Backoff;
pub use connect::{Address, ConnectError, ConnectStep, Dane, Target, TlsMode, TlsPolicy, Tlsa, Verification};
pub use local::LocalAddresses;
pub use plain::{Plain, Single};
pub use proxy::{AcceptProxy, ProxyError, ProxyFault, ProxyHeader, ProxyInfo, ProxyVersion};
pub use race::race;
pub use resolve::{Discover, Resolve, SystemResolver, socket_addresses};

use alloc::sync::Arc;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::channel::{ChannelInfo, Peer};

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a stream is closed, for transports that can say so (QUIC application error codes; TCP has only the reset).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 0: nothing is wrong.
    NoError,
    /// 1: a fault of this side.
    Internal,
    /// 2: the peer broke the protocol.
    Protocol,
    /// 3: no longer wanted.
    Cancelled,
    /// 4: too busy.
    ExcessiveLoad,
    /// 5: no particular reason.
    Unspecified,
    /// 6: the server is going down.
    Shutdown,
    /// 7: a deadline passed.
    Timeout,
    /// 8: early data was refused.
    EarlyDataRefused,
    /// 9: policy forbids it.
    Policy,
}

/// A reliable, ordered stream of octets in both directions that carries one SMTP session.
///
/// Half close: after `poll_shutdown` the other side reads end of file, and reading here must go on. `poll_shutdown`
/// is complete when the peer can be relied on to get everything that was written.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The channel's facts as they are now; read again after [`ByteStream::upgrade`], and when
    /// [`ByteStream::poll_confirmed`] is ready: what a handshake proves is no fact before its end.
    fn info(&self) -> ChannelInfo;

    /// Where the peer is now, if that is no longer what [`ByteStream::info`] says, which stays what it was: a channel that
    /// lets its peer go on from another address (RFC 9000 §9). Such a peer is admitted anew before its next MAIL.
    fn moved(&self) -> Option<Peer> {
        None
    }

    /// Turns the stream into a TLS one, as STARTTLS asks (RFC 3207 §4). The caller holds no unread input: clear text
    /// never crosses the upgrade.
    ///
    /// The default refuses, as do streams whose [`ChannelInfo::can_upgrade`] is false.
    fn upgrade(self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async { Err(io::Error::new(io::ErrorKind::Unsupported, "this stream cannot be upgraded to TLS")) })
    }

    /// What was read is a part, and the session waits for the rest: a client for more replies when it has nothing more to
    /// write, a server for more content. Where the channel would keep back until later what makes the peer go on, such as TCP its
    /// acknowledgements, it is to be sent now. Streams around another one pass it on.
    ///
    /// The default does nothing.
    fn waits(&mut self) {}

    /// Ends the stream at once, in both directions; what is under way may be lost. The default drops it.
    fn abort(self: Box<Self>, code: CloseCode) {
        let _ = code;
    }

    /// Ready once what was received cannot have been replayed by a third party: at once, except on transports with
    /// early data, where it waits for the handshake. Nothing past the first EHLO is looked at before.
    ///
    /// On a client's side it is ready once what was sent cannot be replayed either.
    ///
    /// # Errors
    /// When the handshake fails, or early data was refused. On a client's side an error says that nothing which was
    /// sent on this stream was acted on, so that all of it can be sent again without the risk of a duplicate.
    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }
}

/// A connection: a source of byte streams, one or many.
#[async_trait]
pub trait Connection: Send + 'static {
    /// The next stream that the peer opened; `None` when there will be no more. Handshakes and proxy headers run
    /// here, in the connection's own task and under the caller's deadline.
    ///
    /// # Errors
    /// When the connection is of no more use.
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>>;

    /// Opens a stream to the peer.
    ///
    /// # Errors
    /// When the connection is of no more use, or has no stream to give.
    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>>;

    /// Ready once the handshake is complete: at once, except on a client's connection that is in use before, to carry
    /// early data.
    ///
    /// # Errors
    /// The handshake failed. Nothing that was sent on the connection was acted on, then.
    fn confirmed(&self) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(core::future::ready(Ok(())))
    }

    /// How many streams can be open at the same time. 1 for everything that is itself a byte stream.
    fn max_parallel(&self) -> usize {
        1
    }
}

/// Where connections come from, on the server's side.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// Takes one connection off the queue, and no more: nothing in here may wait for the peer.
    ///
    /// # Errors
    /// Only when the listener can accept no more at all. Errors that pass, such as EMFILE, are waited out inside.
    async fn accept(&self) -> io::Result<Box<dyn Connection>>;

    /// Where it listens, as a URL that a client can be given: `smtp://127.0.0.1:2525`. Port 0 has become the real one.
    fn url(&self) -> String;

    /// False if somebody on another machine can reach it.
    fn is_local(&self) -> bool;
}

#[async_trait]
impl Listener for Box<dyn Listener> {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        (**self).accept().await
    }

    fn url(&self) -> String {
        (**self).url()
    }

    fn is_local(&self) -> bool {
        (**self).is_local()
    }
}

/// Where connections come from, on the client's side.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects to `target` under the TLS `policy`. With [`TlsMode::Implicit`] the handshake is part of it; with
    /// STARTTLS the policy is kept for the stream's [`ByteStream::upgrade`].
    ///
    /// # Errors
    /// [`ConnectError`] names the step that failed.
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError>;
}

#[async_trait]
impl Connector for Arc<dyn Connector> {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        (**self).connect(target, policy).await
    }
}

#[async_trait]
impl Connector for Box<dyn Connector> {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        (**self).connect(target, policy).await
    }
}
