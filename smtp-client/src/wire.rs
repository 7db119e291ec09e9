//! The one place that moves octets between a stream and a session, under deadlines.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use smtp_core::channel::ChannelInfo;
use smtp_core::session::client::{Event, Fault, Session};
use smtp_core::stream::{ByteStream, CloseCode};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use crate::Observer;
use crate::observer::LineTap;

/// How much is read at a time, in octets. Replies are short.
const READ: usize = 4096;
/// How many pieces go into one vectored write.
const SLICES: usize = 16;

/// Why no more octets move.
#[derive(Debug)]
pub(crate) enum Broken {
    Closed(Option<io::Error>),
    Fault(Fault),
    Timeout(Duration),
}

/// A stream, the session on it, and what was read and not understood yet.
pub(crate) struct Wire {
    io: Option<Box<dyn ByteStream>>,
    pub(crate) session: Session,
    input: BytesMut,
    /// One timer for the life of the session, set again for each wait that does not end at once.
    timer: Option<Pin<Box<Sleep>>>,
    unflushed: bool,
    /// Writing has failed. Reading goes on: a server that gives up often says why before it closes.
    write_error: Option<io::Error>,
    /// The end of the stream, which is not told before it is known whether the handshake was complete.
    ended: Option<Option<io::Error>>,
    /// The handshake of a stream that was in use already has failed: nothing that was sent was acted on.
    unseen: bool,
    observer: Option<(Arc<dyn Observer>, LineTap)>,
}

impl Wire {
    pub(crate) fn new(io: Box<dyn ByteStream>, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            session: Session::new(&io.info()),
            io: Some(io),
            input: BytesMut::new(),
            timer: None,
            unflushed: false,
            write_error: None,
            ended: None,
            unseen: false,
            observer: observer.map(|observer| (observer, LineTap::default())),
        }
    }

    /// True if the stream is there and nothing is under way on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.io.is_some() && self.write_error.is_none() && self.session.is_idle() && self.input.is_empty()
    }

    /// The facts of the stream as they are now, if it is there.
    pub(crate) fn info(&self) -> Option<ChannelInfo> {
        self.io.as_ref().map(|io| io.info())
    }

    /// True if something can still be said or heard.
    pub(crate) fn is_open(&self) -> bool {
        self.io.is_some() && !self.session.is_over()
    }

    /// The next reply. What waits to be written is written meanwhile.
    pub(crate) async fn event(&mut self, after: Duration) -> Result<Event, Broken> {
        self.within(after, Self::poll_event).await
    }

    /// Writes all that waits to be written; ends early if a reply comes while the channel does not take more.
    pub(crate) async fn flush(&mut self, after: Duration) -> Result<Option<Event>, Broken> {
        self.within(after, |wire, cx| match wire.poll_write(cx) {
            Poll::Ready(true) => Poll::Ready(Ok(None)),
            Poll::Ready(false) | Poll::Pending => wire.poll_event(cx).map_ok(Some),
        })
        .await
    }

    /// A reply, if one is there already.
    pub(crate) async fn event_now(&mut self) -> Result<Option<Event>, Broken> {
        poll_fn(|cx| match self.poll_event(cx) {
            Poll::Ready(event) => Poll::Ready(event.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        })
        .await
    }

    /// Runs `poll` to its end, or to the end of the wait.
    pub(crate) async fn within<T>(
        &mut self,
        after: Duration,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<T, Broken>>,
    ) -> Result<T, Broken> {
        let mut armed = false;
        poll_fn(|cx| {
            if let Poll::Ready(result) = poll(self, cx) {
                return Poll::Ready(result);
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
            if !armed {
                // A wait too long for the clock is one without end.
                let end = Instant::now().checked_add(after);
                timer.as_mut().reset(end.unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30)));
                armed = true;
            }
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken::Timeout(after)));
            }
            if let Some(io) = &mut self.io {
                io.waits();
            }
            Poll::Pending
        })
        .await
    }

    /// The next reply, writing meanwhile.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
        loop {
            if let Some(event) = self.session.input(&mut self.input).map_err(Broken::Fault)? {
                return Poll::Ready(Ok(event));
            }
            if self.session.is_over() {
                return Poll::Ready(Err(Broken::Closed(None)));
            }
            let _ = self.poll_write(cx);
            ready!(self.poll_read(cx))?;
        }
    }

    /// Ready when all is written: true if it was, false if writing failed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(io) = &mut self.io else { return Poll::Ready(false) };
        if self.write_error.is_some() {
            return Poll::Ready(false);
        }
        let result = loop {
            let output = self.session.output();
            if output.is_empty() {
                break if self.unflushed { ready!(Pin::new(&mut **io).poll_flush(cx)) } else { Ok(()) };
            }
            let written = if io.is_write_vectored() {
                let mut slices = [io::IoSlice::new(&[]); SLICES];
                let n = output.chunks_vectored(&mut slices);
                Pin::new(&mut **io).poll_write_vectored(cx, slices.get(..n).unwrap_or_default())
            } else {
                Pin::new(&mut **io).poll_write(cx, output.chunk())
            };
            match ready!(written) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    output.advance(n);
                    self.unflushed = true;
                }
                Err(error) => break Err(error),
            }
        };
        match result {
            Ok(()) => self.unflushed = false,
            Err(error) => self.write_error = Some(error),
        }
        Poll::Ready(self.write_error.is_none())
    }

    /// True if the stream broke before its handshake was complete, so that nothing that was sent was acted on.
    pub(crate) const fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// Waits until what is sent from now on is no early data. A handshake that fails ends the stream, as the next read
    /// will tell.
    pub(crate) async fn confirmed(&mut self, after: Duration) -> Result<(), Broken> {
        self.within(after, |wire, cx| {
            let Some(io) = &mut wire.io else { return Poll::Ready(Ok(())) };
            let confirmed = ready!(io.poll_confirmed(cx));
            wire.unseen = confirmed.is_err();
            Poll::Ready(confirmed.map_err(|error| Broken::Closed(Some(error))))
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(Broken::Closed(None))) };
        if self.ended.is_some() {
            self.unseen = ready!(io.poll_confirmed(cx)).is_err();
            return Poll::Ready(Err(Broken::Closed(self.ended.take().flatten())));
        }
        let before = self.input.len();
        if self.input.capacity() - before < READ / 4 {
            self.input.reserve(READ);
        }
        match ready!(poll_read_buf(Pin::new(&mut **io), cx, &mut self.input)) {
            Ok(0) => {
                self.ended = Some(self.write_error.take());
                self.poll_read(cx)
            }
            Ok(_) => {
                if let Some((observer, tap)) = &mut self.observer {
                    tap.read(self.input.get(before..).unwrap_or_default(), |line| observer.received(line));
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.ended = Some(Some(error));
                self.poll_read(cx)
            }
        }
    }

    /// True if the stream is as it was left: idle, open, and nothing has come on it. A look, not a wait. A reader that
    /// is idle keeps no buffer.
    pub(crate) async fn is_undisturbed(&mut self) -> bool {
        self.is_idle() && poll_fn(|cx| Poll::Ready(self.poll_read(cx).is_pending() && self.ended.is_none())).await
    }

    /// Gives the read buffer back while nothing is expected.
    pub(crate) fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Swaps the stream for its TLS form, after the 220 to STARTTLS.
    pub(crate) async fn upgrade(&mut self, after: Duration) -> Result<ChannelInfo, Upgrade> {
        let Some(io) = self.io.take() else { return Err(Upgrade::Broken(Broken::Closed(None))) };
        let upgraded = match tokio::time::timeout(after, io.upgrade()).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(error)) => return Err(Upgrade::Failed(error)),
            Err(_) => return Err(Upgrade::Broken(Broken::Timeout(after))),
        };
        let info = upgraded.info();
        self.io = Some(upgraded);
        // The session has made sure of it (`Fault::Injected`); clear text must not cross the upgrade.
        self.input.clear();
        if self.session.upgraded(&info).is_err() {
            return Err(Upgrade::Failed(io::ErrorKind::InvalidInput.into()));
        }
        Ok(info)
    }

    /// Closes in an orderly way: what was written arrives, and the peer reads an end of file.
    pub(crate) async fn close(&mut self, after: Duration) {
        if let Some(mut io) = self.io.take() {
            let shutdown = poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx));
            let _ = tokio::time::timeout(after, shutdown).await;
        }
    }

    /// Ends the stream at once.
    pub(crate) fn abort(&mut self, code: CloseCode) {
        if let Some(io) = self.io.take() {
            io.abort(code);
        }
    }
}

impl Drop for Wire {
    /// A session that is dropped in the midst of something is cut off, so that a half message cannot be taken for a
    /// whole one.
    fn drop(&mut self) {
        if !self.is_idle() {
            self.abort(CloseCode::Cancelled);
        }
    }
}

/// Why there is no TLS after a 220.
#[derive(Debug)]
pub(crate) enum Upgrade {
    Failed(io::Error),
    Broken(Broken),
}
