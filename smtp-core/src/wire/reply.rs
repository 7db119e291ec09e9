//! Replies (RFC 5321 §4.2).

use alloc::string::String;

use bytes::{BufMut, BytesMut};

use super::{LineDecoder, LineError, LineStep};
use crate::types::{Code, EnhancedCode, Reply, plain, printable};

/// The longest reply line that is taken, CRLF included. RFC 5321 §4.5.3.1.5 has 512; servers in the field write more.
const LINE_MAX: usize = 4096;
/// What a line has beside its text, in octets: two codes, what parts them, and CRLF.
const OVERHEAD: usize = 4 + 10 + 2;
/// Room for the text of a reply of several lines, in octets: the one to EHLO seldom has more.
const MANY_LINES: usize = 256;
/// The most octets a reply may have.
const REPLY_MAX: usize = 64 * 1024;

/// Writes a reply with its CRLFs. The enhanced code, if there is one, stands on every line (RFC 2034 §4). Without
/// `utf8` everything beyond US-ASCII becomes `?` (RFC 6531 §3.7.4.2 wants SMTPUTF8 for it).
pub fn encode_reply(reply: &Reply, utf8: bool, out: &mut BytesMut) {
    // So that the buffer grows at most once.
    out.reserve(reply.lines().map(|line| line.len() + OVERHEAD).sum());
    let mut lines = reply.lines().peekable();
    while let Some(line) = lines.next() {
        put_number(reply.code().get(), out);
        out.put_u8(if lines.peek().is_some() { b'-' } else { b' ' });
        if let Some(enhanced) = reply.enhanced() {
            put_number(enhanced.class().into(), out);
            for number in [enhanced.subject(), enhanced.detail()] {
                out.put_u8(b'.');
                put_number(number, out);
            }
            out.put_u8(b' ');
        }
        if utf8 || line.is_ascii() {
            out.put_slice(line.as_bytes());
        } else {
            for c in line.chars() {
                match c {
                    // Our own texts name their source.
                    '§' => out.put_slice(b"section "),
                    c => out.put_u8(if c.is_ascii() { c as u8 } else { b'?' }),
                }
            }
        }
        out.put_slice(b"\r\n");
    }
}

/// A number of up to three digits. Formatting would cost more than all the rest of a reply.
fn put_number(number: u16, out: &mut BytesMut) {
    for (least, digit) in [(100, number / 100), (10, number / 10), (0, number)] {
        if number >= least {
            out.put_u8(b'0' + u8::try_from(digit % 10).unwrap_or(0));
        }
    }
}

/// How a server broke the reply grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The line law.
    #[error(transparent)]
    Line(#[from] LineError),
    /// No three digits at the start of a line, or something other than a blank or `-` behind them.
    #[error("not a reply: three digits, then ' ' or '-' (RFC 5321 §4.2)")]
    NotAReply,
    /// The lines of one reply carry different codes.
    #[error("the lines of one reply carry different codes (RFC 5321 §4.2.1)")]
    MixedCodes,
    /// More than 64 KiB.
    #[error("a reply of more than 64 KiB")]
    TooLong,
}

/// Puts the lines of replies together.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    lines: LineDecoder,
    code: Option<Code>,
    enhanced: Option<EnhancedCode>,
    text: String,
}

impl ReplyDecoder {
    /// The next whole reply in `input`; `None` if more octets are needed.
    ///
    /// An enhanced code is taken off the text if its class agrees with the code. Control characters in the text
    /// become `?`.
    ///
    /// # Errors
    /// [`ReplyError`]: the peer speaks no SMTP, and the connection is of no more use.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
        loop {
            let len = match self.lines.next(input, LINE_MAX) {
                LineStep::Need => return Ok(None),
                LineStep::Bad(error) => return Err(error.into()),
                LineStep::Line(len) => len,
            };
            let last = self.line(input.get(..len).unwrap_or_default())?;
            self.lines.consume(input, len);
            if !last {
                continue;
            }
            if let Some(code) = self.code.take() {
                return Ok(Some(Reply::of(code, self.enhanced.take(), core::mem::take(&mut self.text))));
            }
        }
    }

    /// True if part of a reply has been read, so that an end of file cuts it short.
    #[must_use]
    pub const fn is_midway(&self) -> bool {
        self.code.is_some()
    }

    /// Takes in one line; true if it is the reply's last.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::NotAReply)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(ReplyError::NotAReply);
        }
        let number = digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0'));
        let code = Code::new(number).map_err(|_| ReplyError::NotAReply)?;
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::NotAReply),
        };
        let (enhanced, rest) = split_enhanced(code, text);
        match self.code {
            None => {
                self.code = Some(code);
                self.enhanced = enhanced;
                self.text = String::with_capacity(if last { rest.len() } else { rest.len().max(MANY_LINES) });
                self.push(rest);
            }
            Some(first) if first != code => return Err(ReplyError::MixedCodes),
            Some(_) => {
                self.text.push('\n');
                self.push(if enhanced == self.enhanced { rest } else { text });
            }
        }
        if self.text.len() > REPLY_MAX {
            return Err(ReplyError::TooLong);
        }
        Ok(last)
    }

    fn push(&mut self, text: &[u8]) {
        match plain(text) {
            Some(text) => self.text.push_str(text),
            None => self.text.push_str(&printable(text)),
        }
    }
}

/// Takes an enhanced code of the class of `code` off the text.
fn split_enhanced(code: Code, text: &[u8]) -> (Option<EnhancedCode>, &[u8]) {
    match EnhancedCode::split(text) {
        Some((enhanced, [])) if u16::from(enhanced.class()) == code.get() / 100 => (Some(enhanced), &[]),
        Some((enhanced, [b' ', rest @ ..])) if u16::from(enhanced.class()) == code.get() / 100 => {
            (Some(enhanced), rest)
        }
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn decode(wire: &[u8]) -> Result<Vec<Reply>, ReplyError> {
        let (mut decoder, mut input, mut out) = (ReplyDecoder::default(), BytesMut::new(), Vec::new());
        for byte in wire {
            input.extend_from_slice(&[*byte]);
            while let Some(reply) = decoder.next(&mut input)? {
                out.push(reply);
            }
        }
        Ok(out)
    }

    #[test]
    fn replies_in_all_their_forms() {
        let replies =
            decode(b"220 mx ESMTP\r\n250-2.1.0 a\r\n250 2.1.0 b\r\n250\r\n550 5.1.1\r\n250-x\r\n250 SIZE 1\r\n")
                .unwrap();
        assert_eq!(replies[0], Reply::fixed(220, (0, 0, 0), "mx ESMTP"));
        assert_eq!(replies[1], Reply::fixed(250, (2, 1, 0), "a\nb"));
        assert_eq!(replies[2], Reply::fixed(250, (0, 0, 0), ""));
        assert_eq!(replies[3], Reply::fixed(550, (5, 1, 1), ""));
        assert_eq!(replies[4], Reply::fixed(250, (0, 0, 0), "x\nSIZE 1"));
    }

    #[test]
    fn an_enhanced_code_of_another_class_is_text() {
        assert_eq!(decode(b"250 5.1.1 odd\r\n").unwrap()[0], Reply::fixed(250, (0, 0, 0), "5.1.1 odd"));
    }

    #[test]
    fn broken_replies() {
        assert_eq!(decode(b"25\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(decode(b"HTTP/1.1 400\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(decode(b"250_x\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(decode(b"150 x\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(decode(b"250-a\r\n251 b\r\n"), Err(ReplyError::MixedCodes));
        assert_eq!(decode(b"250 a\n250 b\r\n"), Err(ReplyError::Line(LineError::BareLf)));
        let endless: Vec<u8> = b"250-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(2000);
        assert_eq!(decode(&endless), Err(ReplyError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(code in 200u16..600, detail in 0u16..99, text in "[ -~\n]{0,80}") {
            let code = Code::new(code).unwrap();
            let class = u8::try_from(code.get() / 100).unwrap();
            let reply = Reply::new(code, EnhancedCode::new(class, 1, detail).ok(), text);
            // Without an enhanced code a text that looks like one cannot be told from one.
            prop_assume!(reply.enhanced().is_some());
            let mut wire = BytesMut::new();
            encode_reply(&reply, true, &mut wire);
            prop_assert_eq!(decode(&wire).unwrap(), [reply]);
        }
    }
}
