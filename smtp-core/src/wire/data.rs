//! Content: the dot rules of DATA (RFC 5321 §4.5.2).

use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr2, memmem};

use super::{BadLine, LineLaw};

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
    law: LineLaw,
    bad: Option<BadLine>,
}

impl DataDecoder {
    /// A decoder that stands right behind the CRLF of the DATA command. `line_max` is the longest line that is fine,
    /// in octets, CRLF included.
    #[must_use]
    pub const fn new(line_max: usize) -> Self {
        Self { line_start: true, law: LineLaw::new(line_max), bad: None }
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
        }
        let taken = self.scan(input);
        if taken == 0 { Content::Need } else { Content::Data(input.split_to(taken).freeze()) }
    }

    /// How many octets are the message's own: up to a line that starts with a dot, or one whose start is not to be
    /// told yet, or a CR whose LF has not come.
    fn scan(&mut self, input: &[u8]) -> usize {
        let input = input.strip_suffix(b"\r").unwrap_or(input);
        if self.bad.is_none() {
            match self.law.check_to_dot(input) {
                Ok(rest) => return self.take(input, input.len() - rest.len()),
                Err(bad) => self.bad = Some(bad),
            }
        }
        // What breaks the law breaks it for good; only its end matters now.
        self.take(input, memmem::find(input, b"\r\n.").map_or(input.len(), |line_end| line_end + 2))
    }

    fn take(&mut self, input: &[u8], len: usize) -> usize {
        self.line_start = len < input.len() || input.ends_with(b"\r\n");
        len
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

    /// What came of some octets: the message, how many octets were left behind its end, and the first bad line.
    type Decoded = (Vec<u8>, usize, Option<BadLine>);

    /// What the decoder makes of octets that come in pieces cut at `cuts`. `None` if there was no end.
    fn decode(octets: &[u8], cuts: &[usize], line_max: usize) -> Option<Decoded> {
        let (mut decoder, mut input, mut message) = (DataDecoder::new(line_max), BytesMut::new(), Vec::new());
        let mut from = 0;
        for to in cuts.iter().copied().chain([octets.len()]) {
            input.extend_from_slice(&octets[from..to]);
            from = to;
            loop {
                match decoder.next(&mut input) {
                    Content::Need => break,
                    Content::Data(data) => {
                        assert!(!data.is_empty());
                        message.extend_from_slice(&data);
                    }
                    Content::End => return Some((message, input.len() + octets.len() - from, decoder.bad_line())),
                }
            }
        }
        None
    }

    /// RFC 5321 §4.5.2 and the line law said as plainly as possible: octet by octet.
    fn reference(octets: &[u8], line_max: usize) -> Option<Decoded> {
        let (mut message, mut bad) = (Vec::new(), None);
        let (mut i, mut line_len, mut start) = (0, 0, true);
        while i < octets.len() {
            let rest = &octets[i..];
            if start && rest.starts_with(b".\r\n") {
                return Some((message, rest.len() - 3, bad));
            }
            if start && rest[0] == b'.' {
                i += 1;
                start = false;
                continue;
            }
            start = rest.starts_with(b"\r\n");
            let len = if start { 2 } else { 1 };
            line_len += len;
            message.extend_from_slice(&rest[..len]);
            i += len;
            let broken = match rest[0] {
                b'\r' if !start => Some(BadLine::BareCr),
                b'\n' => Some(BadLine::BareLf),
                _ if line_len > line_max => Some(BadLine::TooLong),
                _ => None,
            };
            bad = bad.or(broken);
            if start {
                line_len = 0;
            }
        }
        None
    }

    #[test]
    fn all_strings_of_seven_at_every_split_are_what_they_are_to_the_reference() {
        let alphabet = *b"\r\n.\0x";
        let mut ended = 0u32;
        for n in 0..5usize.pow(7) {
            let octets: [u8; 7] = core::array::from_fn(|i| alphabet[n / 5usize.pow(u32::try_from(i).unwrap()) % 5]);
            let expected = reference(&octets, 3);
            for cut in 0..=octets.len() {
                assert_eq!(decode(&octets, &[cut], 3), expected, "{octets:?} cut at {cut}");
            }
            ended += u32::from(expected.is_some());
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
            let (message, rest, bad) = decode(&octets, &[], MAX).unwrap();
            assert_eq!(rest, b"QUIT\r\n".len(), "{smuggled:?}");
            assert!(memmem::find(&message, b"evil").is_some());
            assert_eq!(bad.is_some(), !smuggled.contains(&0), "{smuggled:?}");
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

    /// Long lines and short ones, dots, a few bad ends, an end of data somewhere, and something behind it.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let end = prop_oneof![
            60 => Just("\r\n"), 1 => Just("\r"), 1 => Just("\n"), 4 => Just("\r\n."), 1 => Just("\r\n.\r\n")
        ];
        let len = prop_oneof![0..4_usize, 60..90_usize, 100..400_usize];
        proptest::collection::vec((len, end), 0..12).prop_map(|lines| {
            let octets = |(len, end): (usize, &str)| [&[b'x'].repeat(len), end.as_bytes()].concat();
            let mut octets: Vec<u8> = lines.into_iter().flat_map(octets).collect();
            octets.extend_from_slice(b"\r\n.\r\nQUIT\r\n\n\r");
            octets
        })
    }

    proptest! {
        #[test]
        fn content_is_what_it_is_to_the_reference_at_every_split(octets in content(), line_max in 1..700_usize) {
            let expected = reference(&octets, line_max);
            prop_assert!(expected.is_some());
            for cut in 0..=octets.len() {
                prop_assert_eq!(&decode(&octets, &[cut], line_max), &expected, "cut at {}", cut);
            }
        }

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
            let (message, rest, _) = decode(&wire, &splits, MAX).unwrap();
            let mut expected = octets.clone();
            if !octets.is_empty() && !octets.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(message, expected);
            prop_assert_eq!(rest, 0);
        }
    }
}
