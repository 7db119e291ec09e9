//! Content on its way out: the dots of DATA, the count of BDAT, the line law in both.

use bytes::Bytes;

use super::{ContentError, NotNow, Session, What};
use crate::session::State;
use crate::types::Command;
use crate::wire::{BadLine, DataEncoder, LineLaw, encode_command};

/// What content is open.
#[derive(Debug)]
pub(super) enum Sending {
    Nothing,
    Data(DataEncoder),
    Chunk { left: u64, last: bool },
}

impl Session {
    /// Queues a piece of content: after a 354, or for the chunk that BDAT announced. Dots are put on where DATA wants
    /// them; large pieces are not copied.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn content(&mut self, piece: Bytes) -> Result<(), ContentError> {
        let size = piece.len() as u64;
        match &self.sending {
            Sending::Nothing => return Err(ContentError::NotWanted),
            Sending::Chunk { left, .. } if size > *left => return Err(ContentError::TooMuch { left: *left }),
            Sending::Chunk { .. } | Sending::Data(_) => {}
        }
        self.check(|law| law.check(&piece))?;
        match &mut self.sending {
            Sending::Nothing => {}
            Sending::Data(encoder) => encoder.encode(piece, |piece| self.output.push(piece)),
            Sending::Chunk { left, last } => {
                *left -= size;
                let ends = *left == 0 && *last;
                if *left == 0 {
                    self.sending = Sending::Nothing;
                }
                if ends {
                    self.check(|law| law.finish())?;
                }
                self.output.push(piece);
            }
        }
        Ok(())
    }

    /// Ends the content of DATA. Content that does not end with CRLF gets one (RFC 5321 §4.1.1.4). A chunk of BDAT
    /// ends by itself.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn end_content(&mut self) -> Result<(), ContentError> {
        if !matches!(self.sending, Sending::Data(_)) {
            return Err(ContentError::NotWanted);
        }
        self.check(|law| law.finish())?;
        if let Sending::Data(encoder) = core::mem::replace(&mut self.sending, Sending::Nothing) {
            self.output.tail().extend_from_slice(encoder.finish());
            self.ask(What::EndOfData { prdr: self.prdr });
        }
        Ok(())
    }

    /// Opens a chunk behind `state`.
    pub(super) fn chunk(&mut self, size: u64, last: bool, state: State) -> Result<(), NotNow> {
        if !self.offers("CHUNKING") {
            return Err(NotNow::NoChunking);
        }
        if state != State::Chunks {
            self.line_law = LineLaw::new(self.line_max);
        }
        if size == 0 && last && !self.binary {
            self.line_law.finish().map_err(NotNow::BadLine)?;
        }
        encode_command(&Command::Bdat { size, last }, self.output.tail());
        self.ask(What::Chunk { last, prdr: self.prdr });
        if size > 0 {
            self.sending = Sending::Chunk { left: size, last };
            // The reply is due only after the octets.
            if let Some(asked) = self.waiting.back_mut() {
                asked.end = asked.end.saturating_add(size);
            }
        }
        Ok(())
    }

    /// Opens the content of DATA, after the 354.
    pub(super) fn open_data(&mut self) {
        self.line_law = LineLaw::new(self.line_max);
        self.sending = Sending::Data(DataEncoder::default());
    }

    /// The one thing to say after a 354 that nobody can receive: a lone dot (RFC 2920 §3.1).
    pub(super) fn end_void_data(&mut self) {
        self.output.tail().extend_from_slice(b".\r\n");
        self.ask(What::EndOfData { prdr: false });
    }

    /// How many octets of the open chunk are wanted still.
    #[must_use]
    pub const fn chunk_left(&self) -> u64 {
        match self.sending {
            Sending::Chunk { left, .. } => left,
            Sending::Nothing | Sending::Data(_) => 0,
        }
    }

    fn check(&mut self, rule: impl FnOnce(&mut LineLaw) -> Result<(), BadLine>) -> Result<(), ContentError> {
        if self.binary {
            return Ok(());
        }
        rule(&mut self.line_law).map_err(|bad| {
            self.end();
            ContentError::BadLine(bad)
        })
    }
}
