//! CRLF on the wire, LF on disk.

/// Turns CRLF into LF, in pieces that are cut anywhere. A CR without LF, which content should not hold, stays.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The last piece ended with a CR that may belong to a CRLF.
    held: bool,
}

impl Lines {
    pub(crate) fn push(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        if data.is_empty() {
            return;
        }
        if std::mem::take(&mut self.held) && !data.starts_with(b"\n") {
            out.push(b'\r');
        }
        while let Some(cr) = memchr::memchr(b'\r', data) {
            let (line, rest) = data.split_at(cr);
            out.extend_from_slice(line);
            match rest {
                [_, b'\n', ..] => {}
                [_] => self.held = true,
                _ => out.push(b'\r'),
            }
            data = rest.get(1..).unwrap_or_default();
        }
        out.extend_from_slice(data);
    }

    pub(crate) fn finish(self, out: &mut Vec<u8>) {
        if self.held {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn converted(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        pieces.iter().for_each(|piece| lines.push(piece, &mut out));
        lines.finish(&mut out);
        out
    }

    #[test]
    fn crlf_becomes_lf_across_pieces() {
        assert_eq!(converted(&[b"a\r\nb\r\n"]), b"a\nb\n");
        assert_eq!(converted(&[b"a\r", b"\nb\r", b"", b"\n"]), b"a\nb\n");
        assert_eq!(converted(&[b"\r", b"\n", b"\r", b"\n"]), b"\n\n");
    }

    #[test]
    fn a_lone_cr_is_kept() {
        assert_eq!(converted(&[b"a\rb\r\r\n\r"]), b"a\rb\r\n\r");
        assert_eq!(converted(&[b"a\r", b"b"]), b"a\rb");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(
            content in prop::collection::vec(prop::sample::select(&b"\r\na"[..]), 0..40),
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|w| &content[w[0]..w[1]]).collect();
            let whole = String::from_utf8(content.clone()).unwrap().replace("\r\n", "\n");
            prop_assert_eq!(converted(&pieces), whole.into_bytes());
        }
    }
}
