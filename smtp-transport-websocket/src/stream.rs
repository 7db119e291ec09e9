//! A WebSocket as a byte stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use smtp_core::channel::ChannelInfo;
use smtp_core::stream::{ByteStream, CloseCode, Plain};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as Code;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::MAX_SENT;

/// The WebSocket that lies on a stream of another transport.
pub(crate) type Socket = tokio_tungstenite::WebSocketStream<Box<dyn ByteStream>>;

/// A session's stream: binary messages, of which an empty one is the end of its direction.
pub(crate) struct WebSocket {
    socket: Socket,
    info: ChannelInfo,
    /// The rest of the message that is being read.
    message: Bytes,
    read: Reading,
    written: Writing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// The peer has ended its direction.
    Ended,
    /// The channel has failed, which does not become a clean end by asking again.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    /// The end of this direction is queued, if it could be.
    Ending,
    /// It has left.
    Ended,
    /// A close frame is queued. Whether it arrives does not matter.
    Closed,
}

impl WebSocket {
    pub(crate) fn new(socket: Socket) -> Self {
        let info = ChannelInfo {
            transport: "websocket",
            // TLS is underneath or not at all, and the handshake has made the stream visible to both sides.
            can_upgrade: false,
            client_speaks_first: false,
            implied: &[],
            ..socket.get_ref().info()
        };
        Self { socket, info, message: Bytes::new(), read: Reading::Open, written: Writing::Open }
    }

    /// The next message that is not empty; empty at the end.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.message.is_empty() && self.read == Reading::Open {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) if message.is_empty() => {
                    self.read = Reading::Ended;
                    self.close_if_over(cx);
                }
                Some(Ok(Message::Binary(message))) => self.message = message,
                Some(Ok(Message::Close(frame))) => {
                    // The reply is queued already (RFC 6455 §5.5.1). If it cannot leave now, the peer is not worse off
                    // than without it.
                    let _ = Pin::new(&mut self.socket).poll_flush(cx);
                    self.closed(frame)?;
                }
                Some(Ok(Message::Text(_))) => {
                    let text = "a text message; SMTP takes binary ones only";
                    return Poll::Ready(Err(self.refuse(Code::Unsupported, text.into(), cx)));
                }
                // Pings are answered underneath.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                None => self.read = Reading::Ended,
                Some(Err(error)) => return Poll::Ready(Err(self.failed(error, cx))),
            }
        }
        if self.read == Reading::Failed {
            let text = "the channel has failed already";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, text)));
        }
        Poll::Ready(Ok(()))
    }

    /// A close frame ends both directions: in order with 1000 or without a code, by force with any other.
    fn closed(&mut self, frame: Option<CloseFrame>) -> io::Result<()> {
        match frame {
            None | Some(CloseFrame { code: Code::Normal, .. }) => {
                self.read = Reading::Ended;
                Ok(())
            }
            Some(CloseFrame { code, reason }) => {
                self.read = Reading::Failed;
                let text = format!("the peer broke off with code {} {:?}", u16::from(code), reason.as_str());
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, text))
            }
        }
    }

    fn failed(&mut self, error: Error, cx: &mut Context<'_>) -> io::Error {
        self.read = Reading::Failed;
        match error {
            Error::Io(error) => error,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                let text = "the peer is gone without having ended the stream: something may be missing";
                io::Error::new(io::ErrorKind::UnexpectedEof, text)
            }
            Error::Capacity(error @ CapacityError::MessageTooLong { .. }) => {
                self.refuse(Code::Size, error.to_string(), cx)
            }
            error => self.refuse(Code::Protocol, error.to_string(), cx),
        }
    }

    /// Tells the peer what it did wrong, if it can be told at once.
    fn refuse(&mut self, code: Code, text: String, cx: &mut Context<'_>) -> io::Error {
        self.read = Reading::Failed;
        self.close(code, cx);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Once both directions have ended, a close frame says so to those who look at WebSockets from outside.
    fn close_if_over(&mut self, cx: &mut Context<'_>) {
        if self.read == Reading::Ended && self.written == Writing::Ended {
            self.close(Code::Normal, cx);
        }
    }

    /// A courtesy: nothing depends on it.
    fn close(&mut self, code: Code, cx: &mut Context<'_>) {
        self.written = Writing::Closed;
        let frame = CloseFrame { code, reason: Utf8Bytes::default() };
        if Pin::new(&mut self.socket).start_send(Message::Close(Some(frame))).is_ok() {
            let _ = Pin::new(&mut self.socket).poll_flush(cx);
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_message(cx))?;
        let n = self.message.len().min(buf.remaining());
        buf.put_slice(self.message.get(..n).unwrap_or_default());
        self.message.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if self.written != Writing::Open {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "this side has finished")));
        }
        // An empty message would be the end.
        if octets.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
        let piece = octets.get(..MAX_SENT).unwrap_or(octets);
        Pin::new(&mut self.socket).start_send(Message::Binary(Bytes::copy_from_slice(piece))).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.written {
            Writing::Open | Writing::Ending => Pin::new(&mut self.socket).poll_flush(cx).map_err(broken),
            Writing::Ended | Writing::Closed => Poll::Ready(Ok(())),
        }
    }

    /// The empty message stands behind all others; when it has left, so have they.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written == Writing::Open {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
            self.written = Writing::Ending;
            match Pin::new(&mut self.socket).start_send(Message::Binary(Bytes::new())) {
                // The peer has closed both directions, so it knows.
                Err(error) if is_closed(&error) => {}
                sent => sent.map_err(broken)?,
            }
        }
        if self.written == Writing::Ending {
            match ready!(Pin::new(&mut self.socket).poll_flush(cx)) {
                Err(error) if !is_closed(&error) => return Poll::Ready(Err(broken(error))),
                Ok(()) | Err(_) => self.written = Writing::Ended,
            }
            self.close_if_over(cx);
        }
        Poll::Ready(Ok(()))
    }
}

fn is_closed(error: &Error) -> bool {
    matches!(error, Error::AlreadyClosed | Error::ConnectionClosed | Error::Protocol(ProtocolError::SendAfterClosing))
}

/// Why octets cannot be sent.
fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error if is_closed(&error) => io::Error::new(io::ErrorKind::BrokenPipe, "the peer has closed the WebSocket"),
        error => io::Error::other(error),
    }
}

impl ByteStream for WebSocket {
    fn info(&self) -> ChannelInfo {
        self.info.clone()
    }

    /// By the means of the stream underneath. The peer sees no close frame, and so no end.
    fn abort(mut self: Box<Self>, code: CloseCode) {
        let nothing = Box::new(Plain::new(tokio::io::empty(), self.info.clone()));
        let stream = std::mem::replace(self.socket.get_mut(), nothing as Box<dyn ByteStream>);
        stream.abort(code);
    }

    fn waits(&mut self) {
        self.socket.get_mut().waits();
    }

    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.get_mut().poll_confirmed(cx)
    }
}

impl Drop for WebSocket {
    /// Whoever has finished and goes without having read to the end, as a server does after QUIT, has nothing against
    /// the peer: a close frame tells it so. Without one, it looks like an accident to WebSocket libraries.
    fn drop(&mut self) {
        if self.written == Writing::Ended && self.read != Reading::Failed {
            self.close(Code::Normal, &mut Context::from_waker(Waker::noop()));
        }
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("peer", &self.info.peer).finish_non_exhaustive()
    }
}
