//! A message's content on its way through a stack.

use alloc::sync::Arc;
use core::fmt;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::acceptance::Complete;

/// A piece of content, or its end.
#[derive(Debug)]
pub enum Chunk {
    /// Some octets; never empty.
    Data(Bytes),
    /// All of it has been read. Comes once.
    End(Complete),
}

/// The content did not arrive whole: the channel broke, the sender aborted, or a limit was passed. What was read so
/// far must be thrown away; nobody waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content did not arrive whole: {0}")]
pub struct Truncated(pub &'static str);

/// Where the content of a [`Body`] that is not read from a session comes from.
pub trait Source: Send + 'static {
    /// The next octets; `None` at the end.
    ///
    /// # Errors
    /// When the content cannot be had whole.
    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;
}

/// A message's content: lines ended by CRLF, without dot-stuffing, read once, in pieces, with bounded memory.
///
/// Reading is what makes the content flow: a session answers 354 when its body is first read, and takes more octets
/// from its peer only as they are asked for. A body that is dropped unread is swallowed by the session.
///
/// Without BODY=BINARYMIME it holds no bare CR or LF.
pub struct Body {
    inner: Inner,
    size: Option<u64>,
}

enum Inner {
    Channel(Arc<Shared>),
    Source(Pin<Box<dyn Source>>),
    Bytes(Bytes),
    Mapped(Box<Mapped>),
    Done,
}

struct Mapped {
    inner: Body,
    prefix: Bytes,
    map: Map,
}

type Map = Box<dyn FnMut(Bytes) -> Result<Bytes, Truncated> + Send>;

impl Body {
    /// A body with the whole content at hand.
    ///
    /// The octets are sent as they are: lines must end with CRLF, see `wire::canonical`.
    #[must_use]
    pub fn from_bytes(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self { size: Some(content.len() as u64), inner: Inner::Bytes(content) }
    }

    /// A body read from `source`; `size` is its exact length if that is known.
    #[must_use]
    pub fn from_source(source: impl Source, size: Option<u64>) -> Self {
        Self { size, inner: Inner::Source(Box::pin(source)) }
    }

    /// The same with `prefix` before it, such as a `Received` field.
    #[must_use]
    pub fn prefixed(self, prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        let size = self.size.map(|size| size + prefix.len() as u64);
        Self::mapping(self, prefix, size, Box::new(Ok))
    }

    /// The same with each piece passed through `map`, for layers that change content. The pieces are cut anywhere. An
    /// empty result is skipped.
    #[must_use]
    pub fn map(self, mut map: impl FnMut(Bytes) -> Bytes + Send + 'static) -> Self {
        Self::mapping(self, Bytes::new(), None, Box::new(move |data| Ok(map(data))))
    }

    /// The same with each piece shown to `look`, for layers that watch content. An error ends the content there,
    /// truncated, so that nothing behind can take it for whole.
    #[must_use]
    pub fn inspect(self, mut look: impl FnMut(&[u8]) -> Result<(), Truncated> + Send + 'static) -> Self {
        let size = self.size;
        Self::mapping(self, Bytes::new(), size, Box::new(move |data| look(&data).map(|()| data)))
    }

    fn mapping(inner: Self, prefix: Bytes, size: Option<u64>, map: Map) -> Self {
        Self { size, inner: Inner::Mapped(Box::new(Mapped { inner, prefix, map })) }
    }

    /// The exact number of octets, if it is known before the end. What a sender *declares* is MAIL's SIZE parameter.
    #[must_use]
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next piece, or the end.
    ///
    /// # Errors
    /// [`Truncated`] if the content did not arrive whole, and when it is called again after the end.
    pub async fn next(&mut self) -> Result<Chunk, Truncated> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Body::next`].
    ///
    /// # Errors
    /// As [`Body::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Truncated>> {
        let result = match &mut self.inner {
            Inner::Channel(shared) => std::task::ready!(shared.poll_take(cx)),
            Inner::Bytes(bytes) if bytes.is_empty() => Ok(Chunk::End(Complete::new())),
            Inner::Bytes(bytes) => Ok(Chunk::Data(core::mem::take(bytes))),
            Inner::Source(source) => match std::task::ready!(source.as_mut().poll_chunk(cx)) {
                Ok(Some(data)) => Ok(Chunk::Data(data)),
                Ok(None) => Ok(Chunk::End(Complete::new())),
                Err(_) => Err(Truncated("it could not be read")),
            },
            Inner::Mapped(mapped) => std::task::ready!(mapped.poll_next(cx)),
            Inner::Done => Err(Truncated("it was read before")),
        };
        if !matches!(result, Ok(Chunk::Data(_))) {
            self.inner = Inner::Done;
        }
        Poll::Ready(result)
    }

    /// Reads all of it into memory, up to `limit` octets.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn collect(&mut self, limit: usize) -> Result<(Bytes, Complete), CollectError> {
        let mut all = BytesMut::new();
        loop {
            match self.next().await? {
                Chunk::Data(data) if all.len() + data.len() > limit => return Err(CollectError::TooLarge { limit }),
                Chunk::Data(data) => all.extend_from_slice(&data),
                Chunk::End(complete) => return Ok((all.freeze(), complete)),
            }
        }
    }

    /// A body that the driver feeds, and the driver's end of it.
    pub(crate) fn channel(size: Option<u64>) -> (Feed, Self) {
        let shared = Arc::new(Shared(Mutex::new(State {
            slot: Slot::Empty,
            wanted: false,
            gone: false,
            reader: None,
            driver: None,
        })));
        (Feed(Arc::clone(&shared)), Self { inner: Inner::Channel(shared), size })
    }
}

impl Mapped {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Truncated>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(Chunk::Data(core::mem::take(&mut self.prefix))));
        }
        loop {
            match std::task::ready!(self.inner.poll_next(cx))? {
                Chunk::Data(data) => {
                    let data = (self.map)(data)?;
                    if !data.is_empty() {
                        return Poll::Ready(Ok(Chunk::Data(data)));
                    }
                }
                end @ Chunk::End(_) => return Poll::Ready(Ok(end)),
            }
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Inner::Channel(shared) = &self.inner {
            let mut state = shared.lock();
            state.gone = true;
            state.slot = Slot::Empty;
            if let Some(driver) = state.driver.take() {
                driver.wake();
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Why [`Body::collect`] gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    /// The content did not arrive whole.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// There was more than the caller wanted to hold.
    #[error("the content is larger than {limit} octets")]
    TooLarge {
        /// What the caller allowed.
        limit: usize,
    },
}

/// One slot between the driver and the reader of a body. They are mostly polled in one task, one after the other; the
/// lock is never contended then, and a wake for the task that is running anyway is left out.
struct Shared(Mutex<State>);

struct State {
    slot: Slot,
    wanted: bool,
    gone: bool,
    reader: Option<Waker>,
    driver: Option<Waker>,
}

enum Slot {
    Empty,
    Data(Bytes),
    End,
    Truncated(Truncated),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Truncated>> {
        let mut state = self.lock();
        match core::mem::replace(&mut state.slot, Slot::Empty) {
            Slot::Data(data) => Poll::Ready(Ok(Chunk::Data(data))),
            Slot::End => Poll::Ready(Ok(Chunk::End(Complete::new()))),
            Slot::Truncated(why) => Poll::Ready(Err(why)),
            Slot::Empty => {
                state.wanted = true;
                register(&mut state.reader, cx);
                wake_other(&mut state.driver, cx);
                Poll::Pending
            }
        }
    }
}

fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Wakes whoever stands in `place`, unless that is the task that is running now and will look again by itself.
fn wake_other(place: &mut Option<Waker>, cx: &Context<'_>) {
    if let Some(waker) = place.take() {
        if waker.will_wake(cx.waker()) {
            *place = Some(waker);
        } else {
            waker.wake();
        }
    }
}

/// The driver's end of a body. Dropping it without [`Feed::end`] truncates the body.
pub(crate) struct Feed(Arc<Shared>);

/// What a body's reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// It has read all there was and waits.
    More,
    /// It has dropped the body.
    Nothing,
}

impl Feed {
    /// What the reader wants, once it wants something. The driver calls it after polling the delivery.
    pub(crate) fn poll_want(&self, cx: &mut Context<'_>) -> Poll<Want> {
        let mut state = self.0.lock();
        if state.gone {
            return Poll::Ready(Want::Nothing);
        }
        if state.wanted {
            return Poll::Ready(Want::More);
        }
        register(&mut state.driver, cx);
        Poll::Pending
    }

    /// Gives the reader what it waits for. The driver polls the delivery again afterwards.
    pub(crate) fn put(&self, data: Bytes, cx: &Context<'_>) {
        self.fill(Slot::Data(data), cx);
    }

    /// Tells the reader that this was all.
    pub(crate) fn end(&self, cx: &Context<'_>) {
        self.fill(Slot::End, cx);
    }

    fn fill(&self, slot: Slot, cx: &Context<'_>) {
        let mut state = self.0.lock();
        state.slot = slot;
        state.wanted = false;
        wake_other(&mut state.reader, cx);
    }

    /// Tells the reader that no more will come, though this was not all.
    pub(crate) fn truncate(&self, why: Truncated) {
        let mut state = self.0.lock();
        if !matches!(state.slot, Slot::End) {
            state.slot = Slot::Truncated(why);
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(state.slot, Slot::Empty | Slot::Data(_)) {
            state.slot = Slot::Truncated(Truncated("the session ended"));
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with_context(mut f: impl FnMut(&Context<'_>)) {
        poll_fn(|cx| {
            f(cx);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn bytes_come_whole_and_end_once() {
        let mut body = Body::from_bytes(&b"a\r\n"[..]);
        assert_eq!(body.size(), Some(3));
        let (bytes, _complete) = body.collect(10).await.unwrap();
        assert_eq!(&bytes[..], b"a\r\n");
        assert_eq!(body.next().await.unwrap_err(), Truncated("it was read before"));
        assert_eq!(Body::from_bytes(&b"abc"[..]).collect(2).await.unwrap_err(), CollectError::TooLarge { limit: 2 });
    }

    #[tokio::test]
    async fn a_prefix_and_a_map_pass_the_end_on() {
        let mut body = Body::from_bytes(&b"abc"[..]).map(|b| b.to_ascii_uppercase().into()).prefixed(&b"X: y\r\n"[..]);
        let (bytes, _complete) = body.collect(100).await.unwrap();
        assert_eq!(&bytes[..], b"X: y\r\nABC");
    }

    #[tokio::test]
    async fn a_dropped_feed_truncates() {
        let (feed, mut body) = Body::channel(None);
        with_context(|cx| feed.put(Bytes::from_static(b"x"), cx)).await;
        drop(feed);
        assert!(matches!(body.next().await, Err(Truncated(_))));
    }

    #[tokio::test]
    async fn the_feed_learns_what_the_reader_wants() {
        let (feed, mut body) = Body::channel(None);
        poll_fn(|cx| {
            assert!(feed.poll_want(cx).is_pending());
            assert!(body.poll_next(cx).is_pending());
            assert_eq!(feed.poll_want(cx), Poll::Ready(Want::More));
            feed.end(cx);
            assert!(matches!(body.poll_next(cx), Poll::Ready(Ok(Chunk::End(_)))));
            Poll::Ready(())
        })
        .await;
        drop(body);
    }

    #[tokio::test]
    async fn a_body_read_in_another_task_is_woken() {
        let (feed, mut body) = Body::channel(None);
        let reader = tokio::spawn(async move { body.collect(10).await.unwrap().0 });
        assert_eq!(poll_fn(|cx| feed.poll_want(cx)).await, Want::More);
        with_context(|cx| feed.put(Bytes::from_static(b"hi"), cx)).await;
        assert_eq!(poll_fn(|cx| feed.poll_want(cx)).await, Want::More);
        with_context(|cx| feed.end(cx)).await;
        assert_eq!(&reader.await.unwrap()[..], b"hi");
    }
}
