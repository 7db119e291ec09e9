//! Content: the dot rules of DATA (RFC 5321 §4.5.2), and the line law inside a message.

use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr2, memmem};

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

/// What [`DataDecoder::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// More octets are needed.
    Need,
    /// Octets of the message, dots removed; never empty.
    Data(Bytes),
    /// CRLF "." CRLF was read. The decoder is ready for the next message.
    End,
}

/// Takes the dots off (RFC 5321 §4.5.2) and finds the end of data: CRLF "." CRLF, the first CRLF being the one that
/// ends the message's last line or the DATA command itself. Nothing else ends data.
///
/// A bare CR or LF does not end a line here either; it is remembered in [`DataDecoder::bad_line`].
#[derive(Debug, Clone)]
pub struct DataDecoder {
    line_start: bool,
    line_len: usize,
    line_max: usize,
    bad: Option<BadLine>,
}

impl DataDecoder {
    /// A decoder that stands right behind the CRLF of the DATA command. `line_max` is the longest line that is fine,
    /// in octets, CRLF included.
    #[must_use]
    pub const fn new(line_max: usize) -> Self {
        Self { line_start: true, line_len: 0, line_max, bad: None }
    }

    /// The first line that broke the law, if one did.
    #[must_use]
    pub const fn bad_line(&self) -> Option<BadLine> {
        self.bad
    }

    /// The next piece of the message in `input`. What is given out is the buffer's own memory, not a copy.
    pub fn next(&mut self, input: &mut BytesMut) -> Content {
        if self.line_start {
            match input.as_ref() {
                [] | [b'.'] | [b'.', b'\r'] => return Content::Need,
                [b'.', b'\r', b'\n', ..] => {
                    input.advance(3);
                    return Content::End;
                }
                [b'.', ..] => input.advance(1),
                _ => {}
            }
            self.line_start = false;
        }
        let taken = self.scan(input);
        if taken == 0 { Content::Need } else { Content::Data(input.split_to(taken).freeze()) }
    }

    /// How many octets are the message's own: up to a line that starts with a dot, or one whose start is not to be
    /// told yet, or a CR whose LF has not come.
    fn scan(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(i) = input.get(at..).and_then(|rest| memchr2(b'\r', b'\n', rest)) {
            let (found, line) = (at + i, self.line_len + i);
            match (input.get(found), input.get(found + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    if line + 2 > self.line_max {
                        self.bad.get_or_insert(BadLine::TooLong);
                    }
                    self.line_len = 0;
                    at = found + 2;
                    match input.get(at) {
                        None | Some(b'.') => {
                            self.line_start = true;
                            return at;
                        }
                        Some(_) => {}
                    }
                }
                (Some(b'\r'), None) => {
                    self.line_len = line;
                    return found;
                }
                (first, _) => {
                    if line > self.line_max {
                        // It was too long before it came to this.
                        self.bad.get_or_insert(BadLine::TooLong);
                    }
                    self.bad.get_or_insert(if first == Some(&b'\r') { BadLine::BareCr } else { BadLine::BareLf });
                    self.line_len = line + 1;
                    at = found + 1;
                }
            }
        }
        self.line_len += input.len() - at;
        if self.line_len > self.line_max {
            self.bad.get_or_insert(BadLine::TooLong);
        }
        input.len()
    }
}

/// Watches over the line law in content that is not dot-stuffed: BDAT without BINARYMIME, and everything we send.
#[derive(Debug, Clone)]
pub struct LineLaw {
    after_cr: bool,
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
        let mut at = 0;
        if self.after_cr {
            match octets.first() {
                None => return Ok(()),
                Some(b'\n') => {
                    self.after_cr = false;
                    self.line_len = 0;
                    at = 1;
                }
                Some(_) => return Err(BadLine::BareCr),
            }
        }
        while let Some(i) = octets.get(at..).and_then(|rest| memchr2(b'\r', b'\n', rest)) {
            let found = at + i;
            if self.line_len + i + 2 > self.line_max {
                return Err(BadLine::TooLong);
            }
            match (octets.get(found), octets.get(found + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    self.line_len = 0;
                    at = found + 2;
                }
                (Some(b'\r'), None) => {
                    self.after_cr = true;
                    return Ok(());
                }
                (Some(b'\r'), Some(_)) => return Err(BadLine::BareCr),
                _ => return Err(BadLine::BareLf),
            }
        }
        self.line_len += octets.len() - at;
        if self.line_len > self.line_max { Err(BadLine::TooLong) } else { Ok(()) }
    }

    /// The content is over.
    ///
    /// # Errors
    /// [`BadLine::BareCr`] if its last octet was a CR.
    pub const fn finish(&self) -> Result<(), BadLine> {
        if self.after_cr { Err(BadLine::BareCr) } else { Ok(()) }
    }
}

/// Puts the dots on (RFC 5321 §4.5.2).
#[derive(Debug, Clone)]
pub struct DataEncoder {
    at: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    AfterCr,
    Inside,
}

impl Default for DataEncoder {
    fn default() -> Self {
        Self { at: Place::LineStart }
    }
}

impl DataEncoder {
    /// Passes `data` to `out` in pieces, with a dot before each line that starts with one. Mostly that is `data` itself.
    pub fn encode(&mut self, mut data: Bytes, mut out: impl FnMut(Bytes)) {
        const DOT: Bytes = Bytes::from_static(b".");
        // The first octets belong to a line start that the last piece left open.
        let open = match (self.at, data.as_ref()) {
            (Place::LineStart, [b'.', ..]) => Some(0),
            (Place::AfterCr, [b'\n', b'.', ..]) => Some(1),
            _ => None,
        };
        if let Some(n) = open {
            if n > 0 {
                out(data.split_to(n));
            }
            out(DOT);
        }
        self.at = match (self.at, data.as_ref()) {
            (at, []) => at,
            (Place::AfterCr, [b'\n']) | (_, [.., b'\r', b'\n']) => Place::LineStart,
            (_, [.., b'\r']) => Place::AfterCr,
            _ => Place::Inside,
        };
        while let Some(i) = memmem::find(&data, b"\r\n.") {
            out(data.split_to(i + 2));
            out(DOT);
            // The dot itself goes out with what follows it; it cannot start the next match.
        }
        if !data.is_empty() {
            out(data);
        }
    }

    /// What ends the data. A message that does not end with CRLF gets one.
    #[must_use]
    pub fn finish(self) -> &'static [u8] {
        if self.at == Place::LineStart { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

/// Content with every line ended by CRLF: a bare LF and a bare CR each become one. For text from files and programs
/// of this machine; never for mail from the wire, which is refused instead.
#[must_use]
pub fn canonical(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32 + 2);
    let mut rest = text;
    while let Some(i) = memchr2(b'\r', b'\n', rest) {
        let (line, end) = rest.split_at(i);
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        rest = end.strip_prefix(b"\r\n").or_else(|| end.get(1..)).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 16;

    /// The decoder's message, what is left behind the end, and whether a line was bad, for octets that come in pieces
    /// cut at `cuts`. `None` if there was no end.
    fn decode(octets: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<Vec<u8>>, bool) {
        let (mut decoder, mut input, mut message) = (DataDecoder::new(MAX), BytesMut::new(), Vec::new());
        let mut from = 0;
        for to in cuts.iter().copied().chain([octets.len()]) {
            input.extend_from_slice(&octets[from..to]);
            from = to;
            loop {
                match decoder.next(&mut input) {
                    Content::Need => break,
                    Content::Data(data) => message.extend_from_slice(&data),
                    Content::End => {
                        let mut rest = input.to_vec();
                        rest.extend_from_slice(&octets[from..]);
                        return (message, Some(rest), decoder.bad_line().is_some());
                    }
                }
            }
        }
        (message, None, decoder.bad_line().is_some())
    }

    /// RFC 5321 §4.5.2 said as plainly as possible: octet by octet.
    fn reference(octets: &[u8]) -> (Vec<u8>, Option<usize>) {
        let (mut message, mut i, mut start) = (Vec::new(), 0, true);
        while i < octets.len() {
            if start && octets[i..].starts_with(b".\r\n") {
                return (message, Some(i + 3));
            }
            if start && octets[i] == b'.' {
                i += 1;
                start = false;
                continue;
            }
            start = octets[i..].starts_with(b"\r\n");
            if start {
                message.push(b'\r');
                i += 1;
            }
            message.push(octets[i]);
            i += 1;
        }
        (message, None)
    }

    #[test]
    fn all_strings_of_seven_at_every_split_end_where_the_reference_does() {
        let alphabet = *b"\r\n.\0x";
        let mut ended = 0u32;
        for n in 0..5usize.pow(7) {
            let octets: [u8; 7] = core::array::from_fn(|i| alphabet[n / 5usize.pow(u32::try_from(i).unwrap()) % 5]);
            let (message, end) = reference(&octets);
            for cut in 0..=octets.len() {
                let (got, rest, _) = decode(&octets, &[cut]);
                assert_eq!(rest.as_ref().map(|r| octets.len() - r.len()), end, "{octets:?} cut at {cut}");
                if end.is_some() {
                    assert_eq!(got, message, "{octets:?} cut at {cut}");
                }
            }
            ended += u32::from(end.is_some());
        }
        // Exactly the strings with "." CRLF at the start or behind the first CRLF of a line: a decoder that never
        // ends, or ends always, does not pass.
        assert!(ended > 500 && ended < 5_000, "{ended}");
    }

    #[test]
    fn smuggled_ends_are_content_and_are_reported() {
        for smuggled in [
            &b"\n.\n"[..],
            b"\r.\r",
            b"\r.\n",
            b"\n.\r",
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r\n",
            b"\r\n.\r",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
        ] {
            let mut octets = b"body".to_vec();
            octets.extend_from_slice(smuggled);
            octets.extend_from_slice(b"MAIL FROM:<evil@x>\r\n.\r\nQUIT\r\n");
            let (message, rest, bad) = decode(&octets, &[]);
            assert_eq!(rest.as_deref(), Some(&b"QUIT\r\n"[..]), "{smuggled:?}");
            assert!(memmem::find(&message, b"evil").is_some());
            assert_eq!(bad, !smuggled.contains(&0), "{smuggled:?}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_reported_at_every_cut() {
        let octets = b"12345\r\n1234567\r\n.\r\n";
        for max in 5..12 {
            for cut in 0..octets.len() {
                let mut decoder = DataDecoder::new(max);
                let mut input = BytesMut::from(&octets[..cut]);
                while matches!(decoder.next(&mut input), Content::Data(_)) {}
                input.extend_from_slice(&octets[cut..]);
                while decoder.next(&mut input) != Content::End {}
                assert_eq!(decoder.bad_line().is_some(), max < 9, "max {max} cut {cut}");
            }
        }
    }

    #[test]
    fn canonical_text() {
        assert_eq!(canonical(b"a\nb\r\nc\rd\r\r\n\n"), b"a\r\nb\r\nc\r\nd\r\n\r\n\r\n");
    }

    fn pieces(octets: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (octets.len() + 1)).collect();
        cuts.extend([0, octets.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|w| Bytes::copy_from_slice(&octets[w[0]..w[1]])).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(
            octets in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()], 0..64),
            cuts in proptest::collection::vec(any::<usize>(), 0..6),
            splits in proptest::collection::vec(any::<usize>(), 0..6),
        ) {
            let (mut encoder, mut wire) = (DataEncoder::default(), Vec::new());
            for piece in pieces(&octets, &cuts) {
                encoder.encode(piece, |b| wire.extend_from_slice(&b));
            }
            wire.extend_from_slice(encoder.finish());
            let mut splits: Vec<usize> = splits.iter().map(|s| s % wire.len()).collect();
            splits.sort_unstable();
            let (message, rest, _) = decode(&wire, &splits);
            let mut expected = octets.clone();
            if !octets.is_empty() && !octets.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(message, expected);
            prop_assert_eq!(rest, Some(Vec::new()));
        }

        #[test]
        fn the_line_law_does_not_depend_on_the_cuts(
            octets in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'x')], 0..24),
            cuts in proptest::collection::vec(any::<usize>(), 0..6),
        ) {
            let judge = |pieces: Vec<Bytes>| {
                let mut law = LineLaw::new(8);
                pieces.iter().all(|p| law.check(p).is_ok()) && law.finish().is_ok()
            };
            prop_assert_eq!(judge(pieces(&octets, &cuts)), judge(pieces(&octets, &[])));
        }
    }
}
