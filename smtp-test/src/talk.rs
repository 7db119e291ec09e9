//! What both players of a scenario need of a stream: to send and read at the same time, and never to wait for ever.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use smtp_core::stream::{ByteStream, CloseCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::scenario::{Got, is_reply};

/// How much is read ahead while something is being sent, in octets.
const AHEAD_MAX: usize = 4 << 20;
/// The longest line that is waited for, in octets.
const LINE_MAX: usize = 64 << 10;

/// A stream, what was read from it, and how long to wait.
pub(crate) struct Talk {
    io: Option<Box<dyn ByteStream>>,
    input: BytesMut,
    end: Option<Ending>,
    wait: Duration,
}

/// How the other side's words ended.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Closed,
    Broken(io::ErrorKind),
}

impl Talk {
    pub(crate) fn new(io: Box<dyn ByteStream>, wait: Duration) -> Self {
        Self { io: Some(io), input: BytesMut::new(), end: None, wait }
    }

    /// Reads what is there, once. Ready at the end, too.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(io) = self.io.as_mut().filter(|_| self.end.is_none()) else { return Poll::Ready(()) };
        let mut space = [0; 4096];
        let mut buf = ReadBuf::new(&mut space);
        match ready!(Pin::new(io).poll_read(cx, &mut buf)) {
            Ok(()) if buf.filled().is_empty() => self.end = Some(Ending::Closed),
            Ok(()) => self.input.extend_from_slice(buf.filled()),
            Err(error) => self.end = Some(Ending::Broken(error.kind())),
        }
        Poll::Ready(())
    }

    /// Sends all of `octets` and reads meanwhile, since the other side may have to get rid of replies first. If it
    /// does not want the rest, its words say why, so that is no error here.
    pub(crate) async fn send(&mut self, octets: &[u8]) -> Result<(), Got> {
        let (mut rest, wait) = (octets, self.wait);
        let sending = poll_fn(|cx| {
            loop {
                let Some(io) = self.io.as_mut() else { return Poll::Ready(()) };
                let written = if rest.is_empty() {
                    Pin::new(io).poll_flush(cx).map_ok(|()| 0)
                } else {
                    Pin::new(io).poll_write(cx, rest)
                };
                match written {
                    Poll::Ready(Ok(0)) if rest.is_empty() => return Poll::Ready(()),
                    Poll::Ready(Ok(n)) => rest = &rest[n..],
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending if self.input.len() > AHEAD_MAX || self.end.is_some() => return Poll::Pending,
                    Poll::Pending => ready!(self.poll_fill(cx)),
                }
            }
        });
        bounded(wait, sending).await.ok_or_else(|| self.silence())
    }

    /// Waits until what is sent cannot be replayed. If the handshake fails, the stream is dead, and tells so when it is
    /// used.
    pub(crate) async fn confirmed(&mut self) -> Result<(), Got> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        bounded(self.wait, poll_fn(|cx| io.poll_confirmed(cx).map(drop))).await.ok_or_else(|| self.silence())
    }

    /// The next line, without its CRLF.
    pub(crate) async fn line(&mut self) -> Result<Vec<u8>, Got> {
        let mut scanned = 0;
        loop {
            let line_end = self.input[scanned..].iter().position(|octet| *octet == b'\n').map(|i| i + scanned + 1);
            if let Some(len) = line_end {
                let line = self.input.split_to(len);
                return match line.strip_suffix(b"\r\n") {
                    Some(text) if !text.contains(&b'\r') => Ok(text.to_vec()),
                    // A bare CR or LF is no line end (RFC 5321 §2.3.8).
                    _ => Err(Got::Octets(line.to_vec())),
                };
            }
            scanned = self.input.len();
            if scanned > LINE_MAX {
                return Err(Got::Octets(self.input.split().to_vec()));
            }
            self.fill().await?;
        }
    }

    /// The next so many octets.
    pub(crate) async fn exact(&mut self, len: usize) -> Result<Vec<u8>, Got> {
        while self.input.len() < len {
            self.fill().await?;
        }
        Ok(self.input.split_to(len).to_vec())
    }

    /// Waits for the other side to close, with nothing said before.
    pub(crate) async fn end(&mut self) -> Result<(), Got> {
        while self.input.is_empty() {
            // A reset is an end, too: it is what TCP makes of a close with unread input.
            if self.end.is_some() {
                return Ok(());
            }
            bounded(self.wait, poll_fn(|cx| self.poll_fill(cx))).await.ok_or_else(|| self.silence())?;
        }
        Err(Got::Octets(self.input.split().to_vec()))
    }

    /// Waits for the other side to close, in whatever words, but without a reply.
    pub(crate) async fn end_without_reply(&mut self) -> Result<(), Got> {
        while self.end.is_none() {
            if self.input.len() > LINE_MAX {
                return Err(Got::Octets(self.input.split().to_vec()));
            }
            bounded(self.wait, poll_fn(|cx| self.poll_fill(cx))).await.ok_or_else(|| self.silence())?;
        }
        let said = self.input.split().to_vec();
        let mut lines = said.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        match lines.find(|line| is_reply(line)) {
            Some(reply) => Err(Got::Octets(reply.to_vec())),
            None => Ok(()),
        }
    }

    async fn fill(&mut self) -> Result<(), Got> {
        match self.end {
            Some(Ending::Closed) => return Err(Got::Closed(self.input.to_vec())),
            Some(Ending::Broken(kind)) => return Err(Got::Broken(kind.into())),
            None => {}
        }
        bounded(self.wait, poll_fn(|cx| self.poll_fill(cx))).await.ok_or_else(|| self.silence())
    }

    /// Closes this side. A channel that is broken is closed already.
    pub(crate) async fn finish(&mut self) -> Result<(), Got> {
        let Some(io) = self.io.as_mut() else { return Ok(()) };
        let finishing = poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx).map(drop));
        bounded(self.wait, finishing).await.ok_or_else(|| self.silence())
    }

    /// Turns the stream into a TLS one. Clear text that was read already must not be there.
    pub(crate) async fn upgrade(&mut self) -> Result<(), Got> {
        if !self.input.is_empty() {
            return Err(Got::Octets(self.input.split().to_vec()));
        }
        let Some(io) = self.io.take() else { return Err(Got::Closed(Vec::new())) };
        let upgraded = bounded(self.wait, io.upgrade()).await.ok_or_else(|| self.silence())?;
        self.io = Some(upgraded.map_err(Got::Broken)?);
        Ok(())
    }

    pub(crate) fn abort(&mut self) {
        if let Some(io) = self.io.take() {
            io.abort(CloseCode::Cancelled);
        }
    }

    fn silence(&self) -> Got {
        Got::Silence(self.wait, self.input.to_vec())
    }
}

async fn bounded<T>(wait: Duration, future: impl Future<Output = T>) -> Option<T> {
    timeout(wait, future).await.ok()
}
