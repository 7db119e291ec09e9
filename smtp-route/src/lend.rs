//! A body that several servers can be offered, until one begins to read it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smtp_core::service::{Body, Chunk, Source};

/// A body that is lent out.
pub(crate) struct Lend {
    shared: Arc<Shared>,
    size: Option<u64>,
}

struct Shared {
    body: Mutex<Body>,
    read: AtomicBool,
}

impl Lend {
    pub(crate) fn new(body: Body) -> Self {
        let size = body.size();
        Self { shared: Arc::new(Shared { body: Mutex::new(body), read: AtomicBool::new(false) }), size }
    }

    /// The body, for one server.
    pub(crate) fn body(&self) -> Body {
        Body::from_source(Loan(Arc::clone(&self.shared)), self.size)
    }

    /// True once somebody has begun to read it: it cannot be given to anyone else.
    pub(crate) fn is_read(&self) -> bool {
        self.shared.read.load(Ordering::Acquire)
    }
}

struct Loan(Arc<Shared>);

impl Source for Loan {
    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.0.read.store(true, Ordering::Release);
        let chunk = ready!(self.0.lock().poll_next(cx));
        Poll::Ready(match chunk {
            Ok(Chunk::Data(data)) => Ok(Some(data)),
            Ok(Chunk::End(_)) => Ok(None),
            Err(truncated) => Err(io::Error::other(truncated)),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
