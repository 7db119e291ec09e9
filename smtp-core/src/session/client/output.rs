//! What waits to be written.

use alloc::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Pieces up to this size, in octets, are copied together, so that a group of commands and a small message are one
/// write even on a stream without vectored writes. Larger ones are passed on without a copy.
const COPY_MAX: usize = 16 * 1024;
/// A buffer that has grown beyond this, in octets, is given back once it is empty.
const KEEP_MAX: usize = 64 * 1024;

/// What a session wants written, as a [`Buf`]: commands copied together, large content by reference.
#[derive(Debug, Default)]
pub struct Output {
    /// Goes first.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// In `pieces`, in octets.
    ahead: usize,
    written: u64,
}

impl Output {
    /// True if there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_remaining()
    }

    /// Where lines are appended.
    pub(super) const fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() <= COPY_MAX {
            self.tail.extend_from_slice(&piece);
            return;
        }
        if !self.tail.is_empty() {
            self.ahead += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.ahead += piece.len();
        self.pieces.push_back(piece);
    }

    /// How many octets were ever written.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// How many octets were ever queued.
    pub(super) fn queued(&self) -> u64 {
        self.written + self.remaining() as u64
    }

    pub(super) fn clear(&mut self) {
        *self = Self { written: self.written, ..Self::default() };
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.ahead + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.tail[..], |piece| &piece[..])
    }

    #[cfg(feature = "std")]
    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let all = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
        let mut n = 0;
        for (slice, piece) in slices.iter_mut().zip(all.filter(|piece| !piece.is_empty())) {
            *slice = std::io::IoSlice::new(piece);
            n += 1;
        }
        n
    }

    /// Takes note that `octets` have been written; no more than [`Buf::remaining`] count.
    fn advance(&mut self, octets: usize) {
        let mut left = octets.min(self.remaining());
        self.written += left as u64;
        while let Some(piece) = self.pieces.front_mut() {
            let taken = left.min(piece.len());
            piece.advance(taken);
            self.ahead -= taken;
            left -= taken;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.tail.advance(left);
        if self.tail.is_empty() && self.tail.capacity() > KEEP_MAX {
            self.tail = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_order_is_kept_and_large_pieces_are_not_copied() {
        let mut output = Output::default();
        output.tail().extend_from_slice(b"MAIL\r\n");
        output.push(Bytes::from_static(b"small"));
        let large = Bytes::from(alloc::vec![b'x'; COPY_MAX + 1]);
        output.push(large.clone());
        output.tail().extend_from_slice(b".\r\n");
        assert_eq!(output.queued(), 6 + 5 + large.len() as u64 + 3);
        assert_eq!(output.pieces[1].as_ptr(), large.as_ptr());

        let mut slices = [std::io::IoSlice::new(&[]); 8];
        assert_eq!(output.chunks_vectored(&mut slices), 3);

        let mut all = Vec::new();
        while output.has_remaining() {
            let n = output.chunk().len().min(7_000);
            all.extend_from_slice(&output.chunk()[..n]);
            output.advance(n);
        }
        assert_eq!(output.written(), all.len() as u64);
        assert!(all.starts_with(b"MAIL\r\nsmallxxx") && all.ends_with(b"xxx.\r\n"));
    }

    #[test]
    fn a_buffer_that_has_grown_is_given_back() {
        let mut output = Output::default();
        output.tail().extend_from_slice(&[b'x'; KEEP_MAX * 2]);
        output.advance(usize::MAX);
        assert!(output.is_empty() && output.tail.capacity() == 0);
    }
}
