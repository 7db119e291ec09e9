//! The line law in content: every CR is followed by LF, every LF follows a CR, and no line is too long (RFC 5321 §2.3.8,
//! §4.5.3.1.6).

use memchr::{memchr2, memrchr};

/// What is wrong with a line of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// LF without CR before it.
    #[error("bare LF in the message: lines end with CRLF (RFC 5321 §2.3.8)")]
    BareLf,
    /// CR without LF behind it.
    #[error("bare CR in the message: lines end with CRLF (RFC 5321 §2.3.8)")]
    BareCr,
    /// A line longer than the limit.
    #[error("a line in the message is too long")]
    TooLong,
}

/// So many octets are looked at together: many vectors, and much less than a limit for lines.
const BLOCK: usize = 128;

/// Watches over the line law in content, dots removed. What it finds does not depend on how the octets were cut.
#[derive(Debug, Clone)]
pub struct LineLaw {
    /// The last octet was a CR.
    after_cr: bool,
    /// Octets since the last CRLF, without that CR.
    line_len: usize,
    line_max: usize,
}

impl LineLaw {
    /// `line_max` is the longest line that is fine, in octets, CRLF included.
    #[must_use]
    pub const fn new(line_max: usize) -> Self {
        Self { after_cr: false, line_len: 0, line_max }
    }

    /// Looks at the next octets.
    ///
    /// # Errors
    /// [`BadLine`], the first one.
    pub fn check(&mut self, octets: &[u8]) -> Result<(), BadLine> {
        let mut rest = octets;
        while !rest.is_empty() {
            rest = self.check_to_dot(rest)?;
        }
        Ok(())
    }

    /// Looks at octets up to the next line that starts with a dot; gives what is left.
    pub(super) fn check_to_dot<'a>(&mut self, octets: &'a [u8]) -> Result<&'a [u8], BadLine> {
        let mut rest = octets;
        while !rest.is_empty() {
            rest = self.skip_plain(rest);
            // Whatever it was that stopped it lies within the next block.
            let block_end = rest.len().saturating_sub(BLOCK);
            while rest.len() > block_end {
                rest = self.step(rest)?;
                if self.is_line_start() && rest.starts_with(b".") {
                    return Ok(rest);
                }
            }
        }
        Ok(rest)
    }

    const fn is_line_start(&self) -> bool {
        self.line_len == 0 && !self.after_cr
    }

    /// The content is over.
    ///
    /// # Errors
    /// [`BadLine::BareCr`] if its last octet was a CR.
    pub const fn finish(&self) -> Result<(), BadLine> {
        if self.after_cr { Err(BadLine::BareCr) } else { Ok(()) }
    }

    /// Goes on to the next CR or LF, or over the LF behind a CR; gives what is left. This is the whole law.
    fn step<'a>(&mut self, octets: &'a [u8]) -> Result<&'a [u8], BadLine> {
        if self.after_cr {
            let rest = octets.strip_prefix(b"\n").ok_or(BadLine::BareCr)?;
            if self.line_len + 2 > self.line_max {
                return Err(BadLine::TooLong);
            }
            self.after_cr = false;
            self.line_len = 0;
            return Ok(rest);
        }
        let (line, end) = octets.split_at(memchr2(b'\r', b'\n', octets).unwrap_or(octets.len()));
        self.line_len += line.len();
        if self.line_len > self.line_max {
            return Err(BadLine::TooLong);
        }
        match end {
            [] => Ok(end),
            [b'\r', rest @ ..] => {
                self.after_cr = true;
                Ok(rest)
            }
            _ => Err(BadLine::BareLf),
        }
    }

    /// Skips octets in which nothing can be wrong and no line starts with a dot; gives what is left. To find each end of
    /// line costs more than all else that is done with content; whether they are fine is told for many octets at once.
    fn skip_plain<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        if (octets.first() == Some(&b'\n')) != self.after_cr {
            return octets;
        }
        let (plain, rest) = octets.split_at(plain_len(octets, self.line_len, self.line_max));
        if let Some(last) = plain.last() {
            self.after_cr = *last == b'\r';
            let line_len = match memrchr(b'\n', plain) {
                Some(end) => plain.len() - end - 1,
                None => self.line_len + plain.len(),
            };
            self.line_len = line_len - usize::from(self.after_cr);
        }
        rest
    }
}

/// How many octets are plain: each CR has an LF behind it, each LF but a first octet has a CR before it, no dot stands
/// behind an LF, and no line is longer than `line_max`, the first of them having had `line_len` octets already.
///
/// With `std` there are two of it, one for processors with AVX2.
#[cfg_attr(feature = "std", multiversion::multiversion(targets("x86_64+avx2")))]
fn plain_len(octets: &[u8], line_len: usize, line_max: usize) -> usize {
    let Some(last) = octets.len().checked_sub(BLOCK + 1) else { return 0 };
    let mut plain = 0;
    // The line under way is at most so long.
    let mut longest = line_len;
    while longest + BLOCK < line_max
        // The last block may overlap with the one before it.
        && let Some(block) = octets.get(plain.min(last)..).and_then(<[u8]>::first_chunk)
    {
        let Ends { stop, any } = ends(block);
        if stop {
            break;
        }
        if plain >= last {
            return octets.len();
        }
        longest = if any { BLOCK } else { longest + BLOCK };
        plain += BLOCK;
    }
    plain
}

/// The ends of lines in a block.
struct Ends {
    /// A CR has no LF behind it, an LF no CR before it, or a line starts with a dot.
    stop: bool,
    /// There are any.
    any: bool,
}

/// Compares a block with what stands one octet further on. It has no branches, so that it becomes vector instructions.
#[inline(always)]
fn ends(block: &[u8; BLOCK + 1]) -> Ends {
    let (mut stop, mut any) = (0, 0);
    for i in 0..BLOCK {
        let (this, next) = (block[i], block[i + 1]);
        let (cr, lf) = (u8::from(this == b'\r'), u8::from(next == b'\n'));
        let dot = u8::from(this == b'\n') & u8::from(next == b'.');
        stop |= (cr ^ lf) | dot;
        any |= lf;
    }
    Ends { stop: stop != 0, any: any != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// The law said as plainly as possible: octet by octet.
    fn reference(octets: &[u8], line_max: usize) -> Result<(), BadLine> {
        let (mut i, mut line_len) = (0, 0);
        while let Some(octet) = octets.get(i) {
            match (octet, octets.get(i + 1)) {
                (b'\r', Some(b'\n')) if line_len + 2 > line_max => return Err(BadLine::TooLong),
                (b'\r', Some(b'\n')) => {
                    line_len = 0;
                    i += 1;
                }
                (b'\r', _) => return Err(BadLine::BareCr),
                (b'\n', _) => return Err(BadLine::BareLf),
                _ if line_len + 1 > line_max => return Err(BadLine::TooLong),
                _ => line_len += 1,
            }
            i += 1;
        }
        Ok(())
    }

    fn judge(pieces: &[&[u8]], line_max: usize) -> Result<(), BadLine> {
        let mut law = LineLaw::new(line_max);
        pieces.iter().try_for_each(|piece| law.check(piece)).and_then(|()| law.finish())
    }

    #[test]
    fn all_strings_of_six_across_the_end_of_a_block_are_judged_as_by_the_reference() {
        let alphabet = *b"\r\n.x";
        let mut fine = 0;
        for n in 0..4usize.pow(6) {
            let string: [u8; 6] = core::array::from_fn(|i| alphabet[n >> (2 * i) & 3]);
            for before in BLOCK - 6..=BLOCK + 1 {
                let mut octets = Vec::from([b'a'; BLOCK + 1]);
                octets.truncate(before);
                octets.extend_from_slice(&string);
                octets.extend_from_slice(&b"bc\r\n".repeat(BLOCK / 2));
                let expected = reference(&octets, 1_000);
                fine += u32::from(expected.is_ok());
                assert_eq!(judge(&[&octets], 1_000), expected, "{before} {string:?}");
                for cut in before..before + 6 {
                    let (start, end) = octets.split_at(cut);
                    assert_eq!(judge(&[start, end], 1_000), expected, "{before} {string:?} cut at {cut}");
                }
            }
        }
        assert!(fine > 1_000 && fine < 20_000, "{fine}");
    }

    #[test]
    fn the_limit_holds_wherever_a_line_stands_in_its_blocks() {
        for line_max in [1, 2, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 1_000] {
            for before in 0..BLOCK {
                let mut octets = b"\r\n".repeat(before / 2);
                octets.extend_from_slice(&b"-\r\n"[..3 * (before % 2)]);
                for len in [line_max.saturating_sub(2), line_max - 1, line_max] {
                    let mut octets = octets.clone();
                    octets.resize(octets.len() + len, b'x');
                    octets.extend_from_slice(&b"\r\n".repeat(BLOCK));
                    assert_eq!(judge(&[&octets], line_max), reference(&octets, line_max), "{line_max} {before} {len}");
                }
            }
        }
    }

    /// Lines of all lengths, most of them fine.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let end = prop_oneof![60 => Just("\r\n"), 1 => Just("\r"), 1 => Just("\n"), 2 => Just("\r\n.")];
        let len = prop_oneof![0..4_usize, 60..90_usize, 100..400_usize];
        proptest::collection::vec((len, end), 0..12).prop_map(|lines| {
            let octets = |(len, end): (usize, &str)| [&[b'x'].repeat(len), end.as_bytes()].concat();
            lines.into_iter().flat_map(octets).collect()
        })
    }

    proptest! {
        #[test]
        fn content_is_judged_as_by_the_reference_at_every_split(octets in content(), line_max in 1..700_usize) {
            let expected = reference(&octets, line_max);
            for cut in 0..=octets.len() {
                let (start, end) = octets.split_at(cut);
                prop_assert_eq!(judge(&[start, end], line_max), expected, "cut at {}", cut);
            }
        }

        #[test]
        fn the_line_law_does_not_depend_on_the_cuts(
            octets in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'x')], 0..24),
            len in 1..9_usize,
        ) {
            prop_assert_eq!(judge(&octets.chunks(len).collect::<Vec<_>>(), 8), reference(&octets, 8));
        }
    }
}
