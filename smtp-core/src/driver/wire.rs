//! Octets in and out of a stream, with buffers that exist only while they hold something.

use core::cell::Cell;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use bytes::{Buf, BytesMut};
use tokio_util::io::poll_read_buf;

use crate::channel::{ChannelInfo, Peer};
use crate::stream::ByteStream;

/// How much is read at once while commands are expected, in octets.
const READ_COMMANDS: usize = 16 << 10;
/// How much is read at once while content flows, in octets.
const READ_CONTENT: usize = 64 << 10;
/// What the replies to a group of commands usually take, in octets.
const OUTPUT: usize = 512;

thread_local! {
    /// A read buffer that no session needs now. Sessions of one thread take turns with it, so that an idle session
    /// owns none and a busy one does not visit the allocator.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
    /// An output buffer, likewise.
    static SPARE_OUTPUT: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Memory for what is going to be said.
pub(super) fn lend_output(output: &mut BytesMut) {
    if output.capacity() == 0 {
        *output = SPARE_OUTPUT.take().unwrap_or_else(|| BytesMut::with_capacity(OUTPUT));
    }
}

/// Takes the memory back once all was said, so that an idle session holds none. What grew for a long reply is let go.
pub(super) fn take_output(output: &mut BytesMut) {
    if output.is_empty() && output.capacity() > 0 {
        let mut memory = core::mem::take(output);
        if memory.try_reclaim(OUTPUT) && memory.capacity() <= 4 * OUTPUT {
            SPARE_OUTPUT.set(Some(memory));
        }
    }
}

/// A stream and what was read from it.
pub(super) struct Wire {
    io: Option<Box<dyn ByteStream>>,
    /// What was read and not yet understood.
    pub(super) input: BytesMut,
    /// The peer will send no more.
    pub(super) eof: bool,
    /// Something was written and may not have left.
    pub(super) unflushed: bool,
}

impl Wire {
    pub(super) fn new(io: Box<dyn ByteStream>) -> Self {
        Self { io: Some(io), input: BytesMut::new(), eof: false, unflushed: false }
    }

    fn io(&mut self) -> io::Result<&mut Box<dyn ByteStream>> {
        self.io.as_mut().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the stream was given up"))
    }

    /// Gives the stream away, to be upgraded or aborted.
    pub(super) fn take(&mut self) -> io::Result<Box<dyn ByteStream>> {
        self.io.take().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the stream was given up"))
    }

    /// Takes the stream back.
    pub(super) fn put(&mut self, io: Box<dyn ByteStream>) {
        self.io = Some(io);
    }

    /// Reads some octets behind those that are there; 0 at the end of the stream.
    pub(super) fn poll_read(&mut self, content: bool, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            self.input = SPARE.take().unwrap_or_default();
        }
        let room = if content { READ_CONTENT } else { READ_COMMANDS };
        if self.input.capacity() - self.input.len() < room / 2 {
            self.input.reserve(room);
        }
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        match poll_read_buf(Pin::new(io.as_mut()), cx, &mut self.input) {
            Poll::Pending => {
                self.release();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.eof = true;
                Poll::Ready(Ok(0))
            }
            other @ Poll::Ready(_) => other,
        }
    }

    /// Gives an empty buffer back. One whose memory is still lent out, to a message's chunks, is simply forgotten.
    fn release(&mut self) {
        if self.input.is_empty() {
            let mut input = core::mem::take(&mut self.input);
            if input.try_reclaim(READ_COMMANDS) {
                SPARE.set(Some(input));
            }
        }
    }

    /// Sends all of `output` and flushes it.
    pub(super) fn poll_send(&mut self, output: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if output.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        self.unflushed = true;
        let mut io = Pin::new(self.io()?.as_mut());
        while !output.is_empty() {
            let n = ready!(io.as_mut().poll_write(cx, output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.advance(n);
        }
        take_output(output);
        ready!(io.poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io()?.as_mut()).poll_shutdown(cx)
    }

    /// What makes the peer go on is not to be kept back.
    pub(super) fn waits(&mut self) {
        if let Some(io) = &mut self.io {
            io.waits();
        }
    }

    /// The channel's facts as they are now.
    pub(super) fn info(&self) -> Option<ChannelInfo> {
        self.io.as_ref().map(|io| io.info())
    }

    /// Where the peer is now, if it has moved.
    pub(super) fn moved(&self) -> Option<Peer> {
        self.io.as_ref().and_then(|io| io.moved())
    }

    /// True if what was received is no early data, as on most transports.
    pub(super) async fn is_confirmed(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(matches!(self.poll_confirmed(cx), Poll::Ready(Ok(()))))).await
    }

    pub(super) fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_confirmed(cx)
    }
}

impl core::fmt::Debug for Wire {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Wire").field("input", &self.input.len()).field("eof", &self.eof).finish_non_exhaustive()
    }
}
