//! The content on its way to the wire.

use core::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use smtp_core::service::{Body, Chunk, Complete, Receipt, Truncated};
use smtp_core::types::AcceptedReply;

/// A body, and what was read of it ahead of time.
#[derive(Debug)]
pub(crate) struct Outgoing {
    body: Body,
    /// All of it, if it was small enough to be read at once.
    whole: Option<Bytes>,
    /// `whole` was given out.
    given: bool,
    complete: Option<Complete>,
    /// What the first acceptance was made into: there is one proof for one content.
    receipt: Option<Receipt>,
    touched: bool,
}

/// A piece of content, or its end.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

impl Outgoing {
    pub(crate) const fn new(body: Body) -> Self {
        Self { body, whole: None, given: false, complete: None, receipt: None, touched: false }
    }

    /// The exact size, if it is known.
    pub(crate) const fn size(&self) -> Option<u64> {
        self.body.size()
    }

    /// Reads all of it into memory, if its size is known and within `limit`.
    pub(crate) async fn hold(&mut self, limit: usize) -> Result<(), Truncated> {
        let fits = |size: u64| usize::try_from(size).ok().filter(|size| *size <= limit);
        let Some(size) = self.size().and_then(fits) else { return Ok(()) };
        if limit == 0 || self.touched {
            return Ok(());
        }
        self.touched = true;
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        loop {
            match self.body.next().await? {
                Chunk::Data(data) if first.len() + all.len() + data.len() > size => {
                    return Err(Truncated("it is longer than announced"));
                }
                // Mostly it comes in one piece, which is not copied.
                Chunk::Data(data) if first.is_empty() && all.is_empty() => first = data,
                Chunk::Data(data) => {
                    if all.is_empty() {
                        all.reserve(size);
                        all.extend_from_slice(&core::mem::take(&mut first));
                    }
                    all.extend_from_slice(&data);
                }
                Chunk::End(complete) => {
                    let whole = if all.is_empty() { first } else { all.freeze() };
                    if whole.len() != size {
                        return Err(Truncated("it is shorter than announced"));
                    }
                    self.complete = Some(complete);
                    self.whole = Some(whole);
                    return Ok(());
                }
            }
        }
    }

    /// All of it, if it is in memory.
    pub(crate) const fn whole(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }

    /// All of it, given out at once.
    pub(crate) fn give_whole(&mut self) -> Option<Bytes> {
        self.given = true;
        self.whole.clone()
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Truncated>> {
        if let Some(whole) = &self.whole {
            let first = !self.given && !whole.is_empty();
            self.given = true;
            return Poll::Ready(Ok(if first { Piece::Data(whole.clone()) } else { Piece::End }));
        }
        self.touched = true;
        Poll::Ready(Ok(match ready!(self.body.poll_next(cx))? {
            Chunk::Data(data) => Piece::Data(data),
            Chunk::End(complete) => {
                self.complete = Some(complete);
                Piece::End
            }
        }))
    }

    /// Puts it back to its start for another try; false if that cannot be done.
    pub(crate) const fn rewind(&mut self) -> bool {
        self.given = false;
        !self.touched || self.whole.is_some()
    }

    /// The receipt for a recipient whom the server took with `reply`; `None` if the content was not read to its end.
    pub(crate) fn accepted(&mut self, reply: AcceptedReply) -> Option<Receipt> {
        match (&self.receipt, self.complete.take()) {
            (Some(receipt), _) => Some(receipt.relayed_too(reply)),
            (None, Some(complete)) => {
                let receipt = Receipt::relayed(complete, reply);
                self.receipt = Some(receipt.clone());
                Some(receipt)
            }
            (None, None) => None,
        }
    }
}
