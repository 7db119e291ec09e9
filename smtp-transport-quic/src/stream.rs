//! One QUIC stream as the byte stream of one session.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::{RecvStream, SendStream, StoppedError, VarInt};
use smtp_core::channel::{ChannelInfo, Peer};
use smtp_core::stream::{BoxFuture, ByteStream, CloseCode};
use smtp_tls::Role;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::code;
use crate::error::QuicError;
use crate::link::{Handshake, Link};
use crate::observer::Event;

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// A session's stream.
///
/// Shutting it down sends FIN; on a server's side it then waits until the client has acknowledged all, or has closed
/// the connection as clients do after the 221. A stream that is dropped without having been shut down is reset.
pub struct QuicStream {
    send: SendStream,
    recv: RecvStream,
    state: State,
    /// The peer has sent something.
    used: bool,
    confirming: Option<BoxFuture<'static, Handshake>>,
    /// The same for a writer that has sent all it may before.
    holding: Option<BoxFuture<'static, Handshake>>,
    /// Octets that were given to QUIC, and taken from it.
    sent: u64,
    received: u64,
    /// Last, so that the connection outlives the halves.
    link: Arc<Link>,
}

/// What this side still sends.
enum State {
    Open,
    /// FIN has been sent; the peer may not have all yet.
    Finished(Option<Stopped>),
    /// All is with the peer.
    Done,
    /// Given up.
    Aborted,
}

impl QuicStream {
    /// A stream that has just been opened, by either side.
    pub(crate) fn new(link: Arc<Link>, (send, recv): (SendStream, RecvStream)) -> Self {
        // It fails only on a stream that is over already.
        let _ = send.set_priority(link.begin());
        let state = State::Open;
        let stream =
            Self { send, recv, state, used: false, confirming: None, holding: None, sent: 0, received: 0, link };
        stream.link.tell(|_| Event::StreamOpened { id: stream.id() });
        stream
    }

    /// The number of the stream on its connection: 0, 4, 8 … (RFC 9000 §2.1).
    #[must_use]
    pub fn id(&self) -> u64 {
        VarInt::from(self.send.id()).into_inner()
    }

    /// Ends both directions at once.
    fn give_up(&mut self, code: CloseCode) {
        let wire = code::to_wire(code);
        if !matches!(self.state, State::Done) {
            // A stream that is over already needs neither.
            let _ = self.send.reset(wire);
            self.state = State::Aborted;
        }
        //
        let _ = self.recv.stop(wire);
    }
}

impl ByteStream for QuicStream {
    fn info(&self) -> ChannelInfo {
        self.link.info()
    }

    //
    fn moved(&self) -> Option<Peer> {
        self.link.moved().map(Peer::Ip)
    }

    // The other streams of the connection go on.
    fn abort(mut self: Box<Self>, code: CloseCode) {
        self.give_up(code);
    }

    // The driver looks at nothing past the first EHLO before this is ready.
    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let handshake = ready!(poll_handshake(&self.link, &mut self.confirming, cx));
        Poll::Ready(match handshake {
            // The server closed an idle connection, or went away, in the moment of the first octets.
            Handshake::Done | Handshake::EarlyDataRefused if self.received == 0 && self.link.was_left() => {
                Err(self.link.why_closed().into())
            }
            Handshake::Done | Handshake::Pending => Ok(()),
            // Only a stream that was opened early is lost; those opened afterwards are like any other.
            Handshake::EarlyDataRefused if self.recv.is_0rtt() => Err(QuicError::EarlyDataRefused.into()),
            Handshake::EarlyDataRefused => Ok(()),
            // What this side sent after its handshake may have been acted on.
            Handshake::Failed if self.link.role == Role::Client && !self.recv.is_0rtt() => Ok(()),
            Handshake::Failed => Err(self.link.why_closed().into()),
        })
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let role = self.link.role;
        let result = ready!(self.recv.poll_read_buf(cx, buf)).map_err(|error| QuicError::from_read(error, role));
        self.received += (buf.filled().len() - before) as u64;
        self.used |= self.received > 0;
        Poll::Ready(result.map_err(Into::into))
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut room = this.link.early_room();
        if room == 0 {
            // However it ends, what comes then is no early data.
            ready!(poll_handshake(&this.link, &mut this.holding, cx));
            room = usize::MAX;
        }
        let result = ready!(Pin::new(&mut this.send).poll_write(cx, &buf[..buf.len().min(room)]));
        if let Ok(n) = result {
            this.link.sent_early(n);
            this.sent += n as u64;
        }
        Poll::Ready(result.map_err(|error| QuicError::from_write(error, this.link.role).into()))
    }

    /// quinn sends by itself; there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.state, State::Open) {
            let finished = this.send.finish().is_ok();
            this.state = match this.link.role {
                _ if !finished => State::Aborted,
                // FIN alone promises nothing: a CONNECTION_CLOSE would overtake what is under way.
                Role::Server => State::Finished(Some(Box::pin(this.send.stopped()))),
                // A client waits for replies, which is better.
                Role::Client => State::Finished(None),
            };
        }
        let error = match &mut this.state {
            State::Finished(Some(stopped)) => {
                let result = ready!(stopped.as_mut().poll(cx));
                QuicError::from_stopped(result, this.link.role)
            }
            State::Finished(None) | State::Done => return Poll::Ready(Ok(())),
            State::Open | State::Aborted => Some(QuicError::StreamClosed),
        };
        this.state = if error.is_none() { State::Done } else { State::Aborted };
        Poll::Ready(error.map_or(Ok(()), |error| Err(error.into())))
    }
}

/// Ready when the handshake is over, one way or the other. `waiting` is the caller's own: each has another waker.
fn poll_handshake(
    link: &Link,
    waiting: &mut Option<BoxFuture<'static, Handshake>>,
    cx: &mut Context<'_>,
) -> Poll<Handshake> {
    let now = *link.handshake.borrow();
    let handshake = match now {
        Handshake::Pending => {
            let waiting = waiting.get_or_insert_with(|| {
                let mut handshake = link.handshake.clone();
                Box::pin(async move {
                    let done = handshake.wait_for(|handshake| *handshake != Handshake::Pending).await;
                    done.map_or(Handshake::Failed, |handshake| *handshake)
                })
            });
            ready!(waiting.as_mut().poll(cx))
        }
        other => other,
    };
    *waiting = None;
    Poll::Ready(handshake)
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        let orderly = self.used && matches!(self.state, State::Done | State::Finished(None));
        match self.state {
            // quinn would send FIN, which says that nothing is missing.
            State::Open => self.give_up(CloseCode::Cancelled),
            // A client that still sends after the last reply is told that nobody listens.
            State::Finished(_) | State::Done | State::Aborted => {
                let _ = self.recv.stop(code::to_wire(CloseCode::NoError));
            }
        }
        self.link.tell(|_| Event::StreamEnded { id: self.id(), sent: self.sent, received: self.received });
        self.link.end(orderly);
    }
}

impl fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicStream").field("id", &self.id()).field("link", &self.link).finish_non_exhaustive()
    }
}
