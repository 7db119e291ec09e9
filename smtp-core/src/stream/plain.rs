//! The two adapters that turn a plain pipe into a transport.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io::{self, IoSlice};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ByteStream, Connection};
use crate::channel::ChannelInfo;

/// Any `AsyncRead + AsyncWrite` with facts beside it: a [`ByteStream`] that cannot be upgraded.
#[derive(Debug)]
pub struct Plain<S> {
    io: S,
    info: ChannelInfo,
}

impl<S> Plain<S> {
    /// Puts `info` beside `io`.
    pub const fn new(io: S, info: ChannelInfo) -> Self {
        Self { io, info }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for Plain<S> {
    fn info(&self) -> ChannelInfo {
        self.info.clone()
    }
}

/// A [`Connection`] that is one stream and then over.
pub struct Single(Option<Box<dyn ByteStream>>);

impl Single {
    /// The connection that `stream` is.
    #[must_use]
    pub fn new(stream: impl ByteStream) -> Self {
        Self(Some(Box::new(stream)))
    }
}

impl core::fmt::Debug for Single {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Single").field("used", &self.0.is_none()).finish()
    }
}

#[async_trait]
impl Connection for Single {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(self.0.take())
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        self.0
            .take()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection's one stream is in use"))
    }
}
