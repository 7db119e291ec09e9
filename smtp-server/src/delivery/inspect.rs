//! Looking at content on its way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smtp_core::service::{Body, Chunk, Source};

/// `body`, each piece of which `look` is shown. When `look` gives an error, the content ends there, truncated.
pub(crate) fn inspect<F>(body: Body, look: F) -> Body
where
    F: FnMut(&[u8]) -> Result<(), &'static str> + Send + Unpin + 'static,
{
    let size = body.size();
    Body::from_source(Inspected { body, look }, size)
}

struct Inspected<F> {
    body: Body,
    look: F,
}

impl<F> Source for Inspected<F>
where
    F: FnMut(&[u8]) -> Result<(), &'static str> + Send + Unpin + 'static,
{
    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let this = self.get_mut();
        Poll::Ready(match ready!(this.body.poll_next(cx)) {
            Ok(Chunk::Data(data)) => (this.look)(&data).map(|()| Some(data)).map_err(io::Error::other),
            Ok(Chunk::End(_)) => Ok(None),
            Err(truncated) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated)),
        })
    }
}
