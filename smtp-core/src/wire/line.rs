//! The line law: a line ends with CRLF, and with nothing else (RFC 5321 §2.3.8).

use bytes::{Buf, BytesMut};
use memchr::memchr2;

/// How many octets of a line that was refused are swallowed before the session is given up, in octets.
const SWALLOW_MAX: usize = 1 << 20;

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// LF without CR before it.
    #[error("bare LF: a line ends with CRLF (RFC 5321 §2.3.8)")]
    BareLf,
    /// CR without LF behind it.
    #[error("bare CR: a line ends with CRLF (RFC 5321 §2.3.8)")]
    BareCr,
    /// No CRLF within the limit.
    #[error("line longer than {limit} octets")]
    TooLong {
        /// The limit in octets, CRLF included.
        limit: usize,
    },
    /// A refused line went on for more than 1 MiB.
    #[error("no end of line within 1 MiB")]
    Endless,
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStep {
    /// No whole line yet.
    Need,
    /// A line of so many octets stands at the start of the buffer, its CRLF right behind it. Take it with
    /// [`LineDecoder::consume`].
    Line(usize),
    /// The line is refused. Reported once; what remains of it is swallowed.
    Bad(LineError),
}

/// Finds lines. The answer does not depend on how the octets were cut into reads.
#[derive(Debug, Clone, Default)]
pub struct LineDecoder {
    /// So many octets at the start of the buffer hold neither CR nor LF.
    scanned: usize,
    swallowing: bool,
    swallowed: usize,
}

impl LineDecoder {
    /// Looks for a line of at most `limit` octets, CRLF included. A bare CR or LF is reported as soon as it is seen.
    #[inline]
    pub fn next(&mut self, input: &mut BytesMut, limit: usize) -> LineStep {
        self.next_by(input, |_| limit)
    }

    /// As [`LineDecoder::next`], with a limit that depends on how the line begins. What is left of a refused line is
    /// gone by then.
    #[inline]
    pub fn next_by(&mut self, input: &mut BytesMut, limit: impl FnOnce(&[u8]) -> usize) -> LineStep {
        if self.swallowing {
            let found = self.swallow(input);
            if self.swallowed > SWALLOW_MAX {
                return LineStep::Bad(LineError::Endless);
            }
            if !found {
                return LineStep::Need;
            }
        }
        let limit = limit(input);
        // A line that ends within the limit has its CR at `limit - 2` at the latest.
        let last_cr = limit.saturating_sub(2);
        let Some(end) = input.get(self.scanned..).and_then(|rest| memchr2(b'\r', b'\n', rest)) else {
            if input.len() > last_cr {
                return self.refuse(input, 0, LineError::TooLong { limit });
            }
            self.scanned = input.len();
            return LineStep::Need;
        };
        let len = self.scanned + end;
        if len > last_cr {
            return self.refuse(input, 0, LineError::TooLong { limit });
        }
        match input.get(len..) {
            Some([b'\r', b'\n', ..]) => LineStep::Line(len),
            Some([b'\r']) => {
                self.scanned = len;
                LineStep::Need
            }
            Some([b'\r', ..]) => self.refuse(input, len + 1, LineError::BareCr),
            _ => self.refuse(input, len + 1, LineError::BareLf),
        }
    }

    /// Takes the line of `len` octets that [`LineStep::Line`] reported, and its CRLF.
    pub fn consume(&mut self, input: &mut BytesMut, len: usize) {
        self.scanned = 0;
        input.advance((len + 2).min(input.len()));
    }

    fn refuse(&mut self, input: &mut BytesMut, drop: usize, error: LineError) -> LineStep {
        input.advance(drop);
        self.scanned = 0;
        self.swallowing = true;
        self.swallowed = 0;
        LineStep::Bad(error)
    }

    /// Drops octets up to and with the next CRLF; true once it was found.
    fn swallow(&mut self, input: &mut BytesMut) -> bool {
        if let Some(i) = memchr::memmem::find(input, b"\r\n") {
            input.advance(i + 2);
            self.swallowed += i;
            self.swallowing = false;
            return true;
        }
        let keep = usize::from(input.last() == Some(&b'\r'));
        let drop = input.len() - keep;
        self.swallowed += drop;
        input.advance(drop);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Every line and error that comes out when `octets` arrive in two pieces, cut at `cut`.
    fn run(octets: &[u8], cut: usize, limit: usize) -> Vec<Result<Vec<u8>, LineError>> {
        let (mut decoder, mut input, mut out) = (LineDecoder::default(), BytesMut::new(), Vec::new());
        for piece in [&octets[..cut], &octets[cut..]] {
            input.extend_from_slice(piece);
            loop {
                match decoder.next(&mut input, limit) {
                    LineStep::Need => break,
                    LineStep::Line(len) => {
                        out.push(Ok(input[..len].to_vec()));
                        decoder.consume(&mut input, len);
                    }
                    LineStep::Bad(error) => out.push(Err(error)),
                }
            }
        }
        out
    }

    #[test]
    fn only_crlf_ends_a_line() {
        let lf = Err(LineError::BareLf);
        let cr = Err(LineError::BareCr);
        assert_eq!(run(b"a\nb\r\nc\r\n", 0, 99), [lf.clone(), Ok(b"c".to_vec())]);
        assert_eq!(run(b"a\rb\r\nc\r\n", 0, 99), [cr.clone(), Ok(b"c".to_vec())]);
        assert_eq!(run(b"a\r\r\nc\r\n", 0, 99), [cr, Ok(b"c".to_vec())]);
        assert_eq!(run(b"\n\n\nx\r\n\r\n", 0, 99), [lf, Ok(b"".to_vec())]);
    }

    #[test]
    fn the_limit_counts_the_crlf() {
        assert_eq!(run(b"abc\r\n", 0, 5), [Ok(b"abc".to_vec())]);
        assert_eq!(run(b"abcd\r\nx\r\n", 0, 5), [Err(LineError::TooLong { limit: 5 }), Ok(b"x".to_vec())]);
    }

    #[test]
    fn the_cut_does_not_matter() {
        let alphabet = [b'\r', b'\n', b'x'];
        for n in 0..3usize.pow(7) {
            let mut octets: Vec<u8> = (0..7).map(|i| alphabet[n / 3usize.pow(i) % 3]).collect();
            octets.extend_from_slice(b"\r\nend\r\n");
            let whole = run(&octets, 0, 6);
            for cut in 1..octets.len() {
                assert_eq!(run(&octets, cut, 6), whole, "{octets:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory_and_ends() {
        let (mut decoder, mut input) = (LineDecoder::default(), BytesMut::new());
        let mut ended = false;
        for _ in 0..2_000 {
            input.extend_from_slice(&[b'x'; 1024]);
            ended |= decoder.next(&mut input, 2048) == LineStep::Bad(LineError::Endless);
            assert!(input.len() <= 4096);
        }
        assert!(ended);
    }
}
