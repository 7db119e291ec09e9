//! The content, by DATA or by BDAT, with back-pressure and bounded memory.

use core::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use smtp_core::service::{Outcome, Truncated};
use smtp_core::session::client::{Event, NotNow};
use smtp_core::stream::CloseCode;
use smtp_core::types::Command;

use super::outgoing::{Outgoing, Piece};
use super::{Attempt, Connection};
use crate::wire::Broken;
use crate::{Error, Step};

/// A block of DATA, in octets: so much is queued before the channel has to take it.
const BLOCK: usize = 64 * 1024;
/// Pieces below this, in octets, are copied together, so that a chunk of many small ones does not cost more than its
/// octets.
const SMALL: usize = 4096;

/// What comes first while content is waited for.
enum First {
    Piece(Piece),
    Reply(Event),
}

impl Connection {
    /// The content after a 354 that came outside [`Connection::send`], for so many `recipients`.
    pub(crate) async fn send_data(&mut self, content: &mut Outgoing, recipients: usize) -> Result<Outcome, Error> {
        let mut attempt = Attempt::of_accepted(recipients, self.options.lmtp);
        if self.wire.session.wants_content() {
            self.stream_data(content, &mut attempt).await?;
        }
        while self.awaits_something() {
            let event = self.next().await?;
            attempt.record(event);
        }
        Ok(attempt.outcome(|reply| content.accepted(reply)))
    }

    /// Streams the content of DATA. If it does not come whole, or cannot be sent, the connection is cut off: there is
    /// no other way to take DATA back.
    pub(super) async fn stream_data(&mut self, content: &mut Outgoing, attempt: &mut Attempt) -> Result<(), Error> {
        let result = self.data_blocks(content, attempt).await;
        if matches!(result, Err(Error::Local { .. })) {
            self.wire.abort(CloseCode::Cancelled);
        }
        result
    }

    async fn data_blocks(&mut self, content: &mut Outgoing, attempt: &mut Attempt) -> Result<(), Error> {
        // What stands behind the 354 already cannot be about content that has not been sent.
        if self.take_replies(attempt).await? {
            return Ok(());
        }
        loop {
            match self.first(content).await? {
                First::Reply(event) => {
                    attempt.record(event);
                    return Ok(());
                }
                First::Piece(Piece::End) => break,
                First::Piece(Piece::Data(mut data)) => {
                    self.show_content(data.len());
                    while !data.is_empty() {
                        let block = data.split_to(data.len().min(BLOCK));
                        self.wire.session.content(block).map_err(|why| Error::local(Step::Content, why))?;
                        if self.wire.session.output().remaining() >= BLOCK && self.flush_block(attempt).await? {
                            return Ok(());
                        }
                    }
                }
            }
        }
        self.wire.session.end_content().map_err(|why| Error::local(Step::Content, why))?;
        attempt.ended = true;
        self.messages += 1;
        self.flush_block(attempt).await?;
        Ok(())
    }

    /// Sends the content in chunks. If it does not come whole, the chunks that were sent are taken back with RSET.
    pub(super) async fn send_chunks(
        &mut self,
        content: &mut Outgoing,
        chunk_size: usize,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        let result = self.chunks(content, chunk_size.max(1), attempt).await;
        if matches!(result, Err(Error::Local { .. })) {
            while self.awaits_something() {
                let _ = self.next().await?;
            }
            let _ = self.rset().await;
        }
        result
    }

    async fn chunks(&mut self, content: &mut Outgoing, chunk_size: usize, attempt: &mut Attempt) -> Result<(), Error> {
        let mut gathered = Gathered::default();
        loop {
            let mut last = false;
            // Up to the piece that is too much: it may turn out that there is none, and the chunk is the last.
            while gathered.octets <= chunk_size && !last {
                match self.first(content).await? {
                    First::Piece(Piece::Data(data)) => gathered.push(data),
                    First::Piece(Piece::End) => last = true,
                    First::Reply(event) => attempt.record(event),
                }
                if attempt.is_stopped() {
                    return Ok(());
                }
            }
            let pieces = gathered.take(chunk_size);
            last &= gathered.octets == 0;
            if !self.chunk(pieces, last, attempt).await? || last {
                return Ok(());
            }
        }
    }

    /// Sends one chunk; false if no other may follow.
    async fn chunk(&mut self, pieces: Vec<Bytes>, last: bool, attempt: &mut Attempt) -> Result<bool, Error> {
        let step = if last { Step::EndOfContent } else { Step::Content };
        let size: usize = pieces.iter().map(Bytes::len).sum();
        let command = Command::Bdat { size: size as u64, last };
        loop {
            match self.queue(&command) {
                Ok(()) => break,
                // Without PIPELINING each chunk has to be answered first.
                Err(NotNow::Outstanding(_)) => {
                    let event = self.next().await?;
                    attempt.record(event);
                }
                Err(why) => return Err(Error::local(step, why)),
            }
            // RFC 3030 §2: no more chunks after one that was refused.
            if attempt.is_stopped() {
                return Ok(false);
            }
        }
        self.show_content(size);
        for piece in pieces {
            self.wire.session.content(piece).map_err(|why| Error::local(step, why))?;
        }
        if last {
            attempt.ended = true;
            self.messages += 1;
        }
        // A chunk that was announced is sent to its end, even if the one before it was refused meanwhile.
        self.flush_block(attempt).await?;
        Ok(!attempt.is_stopped())
    }

    /// The next piece of the content, or a reply if one comes first. What is queued is written meanwhile, as long as
    /// the content is slower than the channel.
    async fn first(&mut self, content: &mut Outgoing) -> Result<First, Error> {
        let mut truncated: Option<Truncated> = None;
        let result = self
            .wire
            .within(self.options.timeouts.source, |wire, cx| match content.poll_next(cx) {
                Poll::Ready(Ok(piece)) => Poll::Ready(Ok(Some(First::Piece(piece)))),
                Poll::Ready(Err(why)) => {
                    truncated = Some(why);
                    Poll::Ready(Ok(None))
                }
                Poll::Pending => wire.poll_event(cx).map_ok(|event| Some(First::Reply(event))),
            })
            .await;
        match result {
            Ok(Some(first)) => Ok(first),
            Ok(None) => Err(Error::local(Step::Content, truncated.unwrap_or(Truncated("it could not be read")))),
            // The local side was too slow, not the peer.
            Err(Broken::Timeout(_)) => Err(Error::local(Step::Content, Truncated("no more of it came in time"))),
            Err(broken) => Err(self.broken(Step::Content, broken)),
        }
    }

    /// Writes all that is queued, and takes in the replies that are there; true if one of them ends the content.
    async fn flush_block(&mut self, attempt: &mut Attempt) -> Result<bool, Error> {
        let after = self.options.timeouts.block;
        loop {
            match self.wire.flush(after).await {
                Ok(Some(event)) => attempt.record(event),
                Ok(None) => break,
                Err(broken) => return Err(self.broken(self.content_step(attempt), broken)),
            }
        }
        self.take_replies(attempt).await
    }

    /// Takes in the replies that are there; true if one of them ends the content.
    async fn take_replies(&mut self, attempt: &mut Attempt) -> Result<bool, Error> {
        while self.wire.is_open() {
            match self.wire.event_now().await {
                Ok(Some(event)) => attempt.record(event),
                Ok(None) => break,
                Err(broken) => return Err(self.broken(self.content_step(attempt), broken)),
            }
            if self.wire.session.awaits().is_none() {
                break;
            }
        }
        Ok(attempt.is_stopped())
    }

    const fn content_step(&self, attempt: &Attempt) -> Step {
        if attempt.ended { Step::EndOfContent } else { Step::Content }
    }

    pub(super) fn show_content(&self, octets: usize) {
        if let Some(observer) = &self.options.observer {
            observer.content(octets);
        }
    }
}

/// Pieces on their way to become a chunk.
#[derive(Debug, Default)]
struct Gathered {
    pieces: Vec<Bytes>,
    small: BytesMut,
    octets: usize,
}

impl Gathered {
    fn push(&mut self, piece: Bytes) {
        self.octets += piece.len();
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
            return;
        }
        self.settle();
        self.pieces.push(piece);
    }

    fn settle(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    /// Up to `octets` from the start.
    fn take(&mut self, octets: usize) -> Vec<Bytes> {
        self.settle();
        let (mut taken, mut left) = (Vec::new(), octets);
        while left > 0 && !self.pieces.is_empty() {
            let Some(first) = self.pieces.first_mut() else { break };
            let piece = first.split_to(left.min(first.len()));
            left -= piece.len();
            self.octets -= piece.len();
            if first.is_empty() {
                self.pieces.remove(0);
            }
            taken.push(piece);
        }
        taken
    }
}
