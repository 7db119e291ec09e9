//! Who said what: a stream that keeps a transcript of both directions.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use smtp_core::channel::ChannelInfo;
use smtp_core::stream::{BoxFuture, ByteStream, CloseCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Side;
use crate::scenario::{escape, escape_pattern};

/// How many octets a transcript keeps unless told otherwise.
const KEPT: usize = 256 << 10;
/// A line without an end is cut into pieces of so many octets.
const LINE_MAX: usize = 8 << 10;

/// A stream that passes everything through and keeps a [`Transcript`] of it.
///
/// ```
/// use smtp_test::Side;
/// use smtp_test::memory::{Knobs, pair};
/// use smtp_test::recorder::Recorder;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (client, mut server) = pair(Knobs::default());
/// let (mut client, transcript) = Recorder::new(Box::new(client), Side::Client);
/// server.write_all(b"220 mx.example\r\n").await?;
/// client.read_exact(&mut [0; 16]).await?;
/// client.write_all(b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n").await?;
/// assert_eq!(transcript.to_string(), "S: 220 mx.example\nC: AUTH PLAIN [redacted]\n");
/// # Ok(())
/// # }
/// ```
pub struct Recorder {
    io: Box<dyn ByteStream>,
    side: Side,
    transcript: Transcript,
}

impl Recorder {
    /// Records `io`, which is the end of `side`.
    #[must_use]
    pub fn new(io: Box<dyn ByteStream>, side: Side) -> (Self, Transcript) {
        let transcript = Transcript::new(KEPT);
        (Self { io, side, transcript: transcript.clone() }, transcript)
    }

    /// Records `io` into a transcript that is there already.
    #[must_use]
    pub const fn onto(io: Box<dyn ByteStream>, side: Side, transcript: Transcript) -> Self {
        Self { io, side, transcript }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("side", &self.side).finish_non_exhaustive()
    }
}

impl AsyncRead for Recorder {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let from = self.side.other();
        match &buf.filled()[before..] {
            [] if room > 0 => self.transcript.end(from),
            octets => self.transcript.record(from, octets),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, octets))?;
        self.transcript.record(self.side, &octets[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        self.transcript.end(self.side);
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for Recorder {
    fn info(&self) -> ChannelInfo {
        self.io.info()
    }

    fn upgrade(self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let Self { io, side, transcript } = *self;
            let io = io.upgrade().await?;
            transcript.push(Entry::Upgrade);
            Ok(Box::new(Self { io, side, transcript }) as Box<dyn ByteStream>)
        })
    }

    fn abort(self: Box<Self>, code: CloseCode) {
        self.io.abort(code);
    }

    fn waits(&mut self) {
        self.io.waits();
    }

    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_confirmed(cx)
    }
}

/// What both sides have said, as far as it is kept: the last so many octets. Clones share one transcript.
///
/// It prints as the lines of a [scenario](crate::scenario), so a recorded conversation can be played again: `C:` and
/// `S:` with one line each, `C+:` and `S+:` with octets that are no plain line, `C!` and `S!` where a side closed,
/// `UPGRADE`. Lines stand in the order in which they were complete.
///
/// What may be a password is printed as `[redacted]`: what follows the mechanism of AUTH, and the client's line after
/// a 334. [`Transcript::revealed`] shows it.
#[derive(Clone)]
pub struct Transcript(Arc<Mutex<Log>>);

struct Log {
    limit: usize,
    entries: VecDeque<Entry>,
    octets: usize,
    /// Octets that are no longer there.
    dropped: u64,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    client_ended: bool,
    server_ended: bool,
    /// Octets of a chunk that are still to come from the client.
    chunk: usize,
}

enum Entry {
    Octets(Side, Vec<u8>),
    End(Side),
    Upgrade,
}

impl Transcript {
    /// An empty transcript that keeps at most the last `limit` octets.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Log {
            limit,
            entries: VecDeque::new(),
            octets: 0,
            dropped: 0,
            from_client: Vec::new(),
            from_server: Vec::new(),
            client_ended: false,
            server_ended: false,
            chunk: 0,
        })))
    }

    /// The same text with passwords in it.
    #[must_use]
    pub fn revealed(&self) -> String {
        self.text(false)
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, from: Side, mut octets: &[u8]) {
        let mut log = self.lock();
        while !octets.is_empty() {
            // A chunk (RFC 3030) is no line, and what follows it is a new one.
            let chunk = if from == Side::Client { log.chunk } else { 0 };
            let here = if chunk > 0 { octets.get(..chunk).unwrap_or(octets) } else { octets };
            // Wherever it was cut on its way, a line looks the same.
            let here = here.get(..LINE_MAX - log.open(from).len()).unwrap_or(here);
            let len = here.iter().position(|octet| *octet == b'\n').map_or(here.len(), |at| at + 1);
            let (piece, rest) = octets.split_at(len);
            octets = rest;
            let open = log.open(from);
            open.extend_from_slice(piece);
            let whole = open.ends_with(b"\n");
            if chunk > 0 {
                log.chunk -= len;
            } else if whole && from == Side::Client {
                log.chunk = chunk_size(&log.from_client);
            }
            if whole || log.open(from).len() >= LINE_MAX || (chunk > 0 && chunk == len) {
                log.close_line(from);
            }
        }
    }

    fn end(&self, from: Side) {
        let mut log = self.lock();
        let ended = match from {
            Side::Client => &mut log.client_ended,
            Side::Server => &mut log.server_ended,
        };
        if !std::mem::replace(ended, true) {
            log.close_line(from);
            log.push(Entry::End(from));
        }
    }

    fn push(&self, entry: Entry) {
        let mut log = self.lock();
        log.close_line(Side::Client);
        log.close_line(Side::Server);
        log.push(entry);
    }

    fn text(&self, redact: bool) -> String {
        let log = self.lock();
        let mut text = String::new();
        if log.dropped > 0 {
            text.push_str(&format!("# {} octets before this were not kept\n", log.dropped));
        }
        let mut answers_challenge = false;
        for entry in &log.entries {
            match entry {
                Entry::Octets(from, octets) => {
                    write_octets(&mut text, *from, octets, redact, answers_challenge);
                    answers_challenge = match from {
                        Side::Server => octets.starts_with(b"334"),
                        Side::Client => answers_challenge && !octets.ends_with(b"\n"),
                    };
                }
                Entry::End(side) => text.push_str(&format!("{}!\n", side.letter())),
                Entry::Upgrade => text.push_str("UPGRADE\n"),
            }
        }
        for (from, octets) in [(Side::Client, &log.from_client), (Side::Server, &log.from_server)] {
            if !octets.is_empty() {
                write_octets(&mut text, from, octets, redact, answers_challenge);
            }
        }
        text
    }
}

impl Log {
    const fn open(&mut self, from: Side) -> &mut Vec<u8> {
        match from {
            Side::Client => &mut self.from_client,
            Side::Server => &mut self.from_server,
        }
    }

    /// What there is of a line will not be continued.
    fn close_line(&mut self, from: Side) {
        let line = std::mem::take(self.open(from));
        if !line.is_empty() {
            self.push(Entry::Octets(from, line));
        }
    }

    fn push(&mut self, entry: Entry) {
        if let Entry::Octets(_, octets) = &entry {
            self.octets += octets.len();
        }
        self.entries.push_back(entry);
        while self.octets > self.limit || self.entries.len() > self.limit {
            if let Some(Entry::Octets(_, octets)) = self.entries.pop_front() {
                self.octets -= octets.len();
                self.dropped += octets.len() as u64;
            }
        }
    }
}

/// How many octets follow a line that is no line themselves: those of BDAT.
fn chunk_size(line: &[u8]) -> usize {
    let Some((verb, rest)) = line.split_at_checked(5) else { return 0 };
    if !verb.eq_ignore_ascii_case(b"BDAT ") {
        return 0;
    }
    let digits = rest.split(|octet| !octet.is_ascii_digit()).next().unwrap_or_default();
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// One line of a scenario for `octets`.
fn write_octets(text: &mut String, from: Side, octets: &[u8], redact: bool, answers_challenge: bool) {
    let letter = from.letter();
    if redact && answers_challenge && from == Side::Client {
        text.push_str("C: [redacted]\n");
        return;
    }
    let Some(line) = plain_line(octets) else {
        text.push_str(&format!("{letter}+: {}\n", escape(octets)));
        return;
    };
    let line = match from {
        Side::Client if redact => redacted(line),
        Side::Client => Cow::Borrowed(line),
        Side::Server => Cow::Owned(escape_pattern(line)),
    };
    text.push_str(&format!("{letter}:{}{line}\n", if line.is_empty() { "" } else { " " }));
}

/// The text of a line that can stand in a scenario as it is. One with blanks at its end cannot: editors take them off.
fn plain_line(octets: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(octets.strip_suffix(b"\r\n")?).ok()?;
    let awkward = line.chars().any(char::is_control) || line.ends_with(char::is_whitespace) || line.starts_with("...");
    (!awkward).then_some(line)
}

/// AUTH without its initial response.
fn redacted(line: &str) -> Cow<'_, str> {
    match line.split_at_checked(5) {
        Some((verb, rest)) if verb.eq_ignore_ascii_case("AUTH ") => match rest.split_once(' ') {
            Some((mechanism, _)) => Cow::Owned(format!("{verb}{mechanism} [redacted]")),
            None => Cow::Borrowed(line),
        },
        _ => Cow::Borrowed(line),
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(true))
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcript").field("octets", &self.lock().octets).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Knobs, Pace, pair};
    use crate::scenario::Scenario;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn lines_come_together_whatever_the_pieces() {
        let (client, mut server) = pair(Knobs::default().paced(Pace::OCTET_BY_OCTET));
        let (mut client, transcript) = Recorder::new(Box::new(client), Side::Client);
        server.write_all(b"220 * \\ \r\n334 \r\n").await.unwrap();
        client.read_exact(&mut [0; 16]).await.unwrap();
        client.write_all(b"c2VjcmV0\r\n\r\nbare\nend").await.unwrap();
        client.shutdown().await.unwrap();
        let text = "S+: 220 * \\\\\\x20\\r\\n\nS+: 334\\x20\\r\\n\nC: [redacted]\nC:\nC+: bare\\n\nC+: end\nC!\n";
        assert_eq!(transcript.to_string(), text);
        assert!(transcript.revealed().contains("C: c2VjcmV0\n"));
    }

    #[tokio::test]
    async fn an_upgrade_is_seen_and_recorded_through() {
        let (client, server) = pair(Knobs::starttls());
        let (client, transcript) = Recorder::new(Box::new(client), Side::Client);
        let (client, server) = tokio::join!(Box::new(client).upgrade(), Box::new(server).upgrade());
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        assert!(client.info().tls.is_some());
        client.write_all(b"NOOP\r\n").await.unwrap();
        server.read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!(transcript.to_string(), "UPGRADE\nC: NOOP\n");
    }

    #[test]
    fn only_the_last_octets_are_kept() {
        let transcript = Transcript::new(100);
        for n in 0..1_000 {
            transcript.record(Side::Client, format!("NOOP {n}\r\n").as_bytes());
        }
        transcript.record(Side::Server, &[b'x'; 100_000]);
        let text = transcript.to_string();
        assert!(text.starts_with("# "), "{text}");
        assert!(text.len() < LINE_MAX + 100, "{}", text.len());
    }

    #[test]
    fn chunks_are_told_from_lines() {
        let transcript = Transcript::new(10_000);
        for octet in b"BDAT 4\r\none\rbdat 7 LAST\r\nx\r\nNOOPNOOP\r\n" {
            transcript.record(Side::Client, &[*octet]);
        }
        assert_eq!(transcript.to_string(), "C: BDAT 4\nC+: one\\r\nC: bdat 7 LAST\nC: x\nC+: NOOP\nC: NOOP\n");
    }

    #[test]
    fn a_transcript_is_a_scenario() {
        let transcript = Transcript::new(10_000);
        transcript.record(Side::Server, b"220 mx * \\o/\r\n");
        transcript.record(Side::Client, b"RCPT TO:<\"a\\\"b\"@x>\r\n\0\r\n");
        transcript.record(Side::Server, b"...\r\n");
        transcript.end(Side::Server);
        let scenario = Scenario::parse("transcript", &transcript.to_string()).unwrap();
        assert_eq!(scenario.client_octets(), b"RCPT TO:<\"a\\\"b\"@x>\r\n\0\r\n");
    }
}
