//! The client's side: octets by hand, so that every way says the same and waits for exactly what it has to.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use futures_util::future::try_join_all;
use smtp_core::stream::{ByteStream, Connection, Connector, Target, TlsMode, TlsPolicy, Verification};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::cell::Cell;
use crate::choice::{Dialogue, Resumption, Spread, Transfer, Transport, choice};

const EHLO: &[u8] = b"EHLO here.example\r\n";
const QUIT: &[u8] = b"QUIT\r\n";
/// The longest reply that is read, in octets.
const REPLY_MAX: usize = 64 << 10;

type Stream = Box<dyn ByteStream>;

choice! {
    /// What a session waits for, in its order. A step ends when its reply is there.
    Step, "step" {
        /// TCP's handshake, or QUIC's with that of TLS.
        Connect = "connect",
        /// The greeting.
        Greeting = "greeting",
        /// EHLO; after STARTTLS once more.
        Ehlo = "ehlo",
        /// STARTTLS.
        StartTls = "starttls",
        /// The handshake of TLS over TCP.
        Tls = "tls",
        /// MAIL.
        Mail = "mail",
        /// RCPT.
        Rcpt = "rcpt",
        /// DATA, up to the 354.
        Data = "data",
        /// The content, up to the reply that accepts it.
        Content = "content",
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The steps of the first mail, and when each was over.
    pub(crate) steps: Vec<(Step, Duration)>,
    /// When each mail was accepted, in the order in which they were.
    pub(crate) accepted: Vec<Duration>,
}

/// How to get to the server.
pub(crate) struct Client<'a> {
    pub(crate) connector: &'a dyn Connector,
    pub(crate) target: Target,
    pub(crate) verification: Verification,
    pub(crate) cell: Cell,
}

impl Client<'_> {
    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        // TLS over TCP is begun by hand, to be timed by itself.
        let mode = match self.cell.transport {
            Transport::Tcp => TlsMode::None,
            Transport::StartTls | Transport::Tls | Transport::Race => TlsMode::Required,
            Transport::Quic => TlsMode::Implicit,
        };
        let policy = TlsPolicy { mode, verification: self.verification.clone() };
        self.connector.connect(&self.target, &policy).await.map_err(io::Error::other)
    }

    /// A session without a mail that brings what is to be used of it. `gap` is long enough for everything to arrive.
    pub(crate) async fn prepare(&self, gap: Duration) -> io::Result<()> {
        if self.cell.resumption == Resumption::None {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        let stream = connection.open().await?;
        let transport = self.cell.over(&stream).transport;
        let mut talk = Talk::new(stream, Instant::now());
        talk.begin(transport).await?;
        if transport == Transport::Quic {
            talk.exchange(EHLO, &[(220, Step::Greeting), (250, Step::Ehlo)]).await?;
        } else {
            talk.exchange(EHLO, &[(250, Step::Ehlo)]).await?;
        }
        tokio::time::sleep(gap).await;
        talk.exchange(QUIT, &[]).await?;
        talk.leave().await?;
        drop(connection);
        tokio::time::sleep(gap).await;
        Ok(())
    }

    /// Sends the cell's mails.
    pub(crate) async fn send(&self) -> io::Result<Outcome> {
        let begin = Instant::now();
        let cell = self.cell;
        let sessions = match cell.spread {
            Spread::Session => {
                let (_connection, stream, connected) = self.first_stream(begin).await?;
                return cell.session((stream, connected), cell.mails, begin).await;
            }
            Spread::Streams => {
                let (mut connection, first, connected) = self.first_stream(begin).await?;
                let mut streams = vec![first];
                while streams.len() < cell.mails {
                    streams.push(connection.open().await?);
                }
                try_join_all(streams.into_iter().map(|stream| cell.session((stream, connected), 1, begin))).await?
            }
            // All at once: none waits for the handshake of another.
            Spread::Connections => {
                let each = (0..cell.mails).map(async |_| {
                    let (_connection, stream, connected) = self.first_stream(begin).await?;
                    cell.session((stream, connected), 1, begin).await
                });
                try_join_all(each).await?
            }
        };
        let mut all = Outcome::default();
        for Outcome { steps, accepted } in sessions {
            all.accepted.extend(accepted);
            if all.steps.last().is_none_or(|(_, last)| steps.last().is_some_and(|(_, own)| own < last)) {
                all.steps = steps;
            }
        }
        all.accepted.sort_unstable();
        Ok(all)
    }

    /// A new connection, its first stream, and when it was there.
    async fn first_stream(&self, begin: Instant) -> io::Result<(Box<dyn Connection>, Stream, Duration)> {
        let mut connection = self.connect().await?;
        let connected = begin.elapsed();
        if self.cell.resumption == Resumption::Early && connected > Duration::from_millis(1) {
            return Err(io::Error::other("there was no ticket, and so no early data"));
        }
        let stream = connection.open().await?;
        Ok((connection, stream, connected))
    }
}

impl Cell {
    /// The same over the way that `stream` goes: of those that raced, the winner's.
    fn over(self, stream: &Stream) -> Self {
        match self.ways() {
            (_, Some(other)) if stream.info().transport == "quic" => other,
            (usual, _) => usual,
        }
    }

    /// One session with so many mails, on a stream of a connection that was there at `connected`.
    async fn session(
        self,
        (stream, connected): (Stream, Duration),
        mails: usize,
        begin: Instant,
    ) -> io::Result<Outcome> {
        let cell = self.over(&stream);
        let mut talk = Talk::new(stream, begin);
        talk.outcome.steps.push((Step::Connect, connected));
        talk.begin(cell.transport).await?;
        let quic = cell.transport == Transport::Quic;
        let mut greeting: Vec<(u16, Step)> = Vec::new();
        if quic {
            greeting.push((220, Step::Greeting));
        }
        greeting.push((250, Step::Ehlo));
        let body = body(cell.size);
        let (mut first, mut replies) = (EHLO.to_vec(), greeting);
        if cell.dialogue != Dialogue::Flight {
            talk.exchange(&first, &replies).await?;
            (first, replies) = (Vec::new(), Vec::new());
        }
        match (cell.dialogue, cell.transfer) {
            (Dialogue::Lockstep, transfer) => {
                for _ in 0..mails {
                    talk.exchange(MAIL, &[(250, Step::Mail)]).await?;
                    talk.exchange(RCPT, &[(250, Step::Rcpt)]).await?;
                    if transfer == Transfer::Data {
                        talk.exchange(DATA, &[(354, Step::Data)]).await?;
                        talk.exchange(&[&body[..], b".\r\n"].concat(), &[(250, Step::Content)]).await?;
                    } else {
                        talk.exchange(&chunk(&body), &[(250, Step::Content)]).await?;
                    }
                }
                talk.exchange(QUIT, &[]).await?;
            }
            (_, Transfer::Data) => {
                for n in 1..=mails {
                    first.extend_from_slice(&[MAIL, RCPT, DATA].concat());
                    replies.extend([(250, Step::Mail), (250, Step::Rcpt), (354, Step::Data)]);
                    talk.exchange(&first, &replies).await?;
                    let quit = if n == mails { QUIT } else { b"" };
                    talk.exchange(&[&body[..], b".\r\n", quit].concat(), &[(250, Step::Content)]).await?;
                    (first, replies) = (Vec::new(), Vec::new());
                }
            }
            (_, Transfer::Bdat) => {
                for _ in 0..mails {
                    first.extend_from_slice(&[MAIL, RCPT].concat());
                    first.extend_from_slice(&chunk(&body));
                    replies.extend([(250, Step::Mail), (250, Step::Rcpt), (250, Step::Content)]);
                }
                first.extend_from_slice(QUIT);
                talk.exchange(&first, &replies).await?;
            }
        }
        let resumed = cell.resumption != Resumption::None;
        let (outcome, mut stream) = talk.leave().await?;
        poll_fn(|cx| stream.poll_confirmed(cx)).await?;
        if stream.info().tls.is_some_and(|tls| tls.resumed) != resumed {
            return Err(io::Error::other("the session was resumed where it should not, or the other way round"));
        }
        Ok(outcome)
    }
}

const MAIL: &[u8] = b"MAIL FROM:<me@here.example>\r\n";
const RCPT: &[u8] = b"RCPT TO:<you@there.example>\r\n";
const DATA: &[u8] = b"DATA\r\n";

fn chunk(body: &[u8]) -> Vec<u8> {
    let mut chunk = format!("BDAT {} LAST\r\n", body.len()).into_bytes();
    chunk.extend_from_slice(body);
    chunk
}

/// A message of so many octets; 100 at least.
fn body(size: usize) -> Vec<u8> {
    const LINE: usize = 72;
    let mut body = b"Subject: measured\r\n\r\n".to_vec();
    while body.len() < size {
        let left = size - body.len();
        // The last line takes what a whole one would leave, or it might be too short for its end.
        let line = if left >= 2 * LINE { LINE } else { left };
        body.resize(body.len() + line.saturating_sub(2), b'x');
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// A session that is read and written at the same time.
struct Talk {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    unread: Vec<u8>,
    begin: Instant,
    outcome: Outcome,
}

impl Talk {
    fn new(stream: Stream, begin: Instant) -> Self {
        let (from, to) = tokio::io::split(stream);
        Self { from, to, unread: Vec::new(), begin, outcome: Outcome::default() }
    }

    /// Up to where EHLO can be said for good: TLS, the greeting, STARTTLS.
    async fn begin(&mut self, transport: Transport) -> io::Result<()> {
        match transport {
            Transport::Quic => {}
            Transport::Race => return Err(io::Error::other("a session on two ways at once")),
            Transport::Tcp => self.exchange(b"", &[(220, Step::Greeting)]).await?,
            Transport::Tls => {
                self.upgrade().await?;
                self.exchange(b"", &[(220, Step::Greeting)]).await?;
            }
            Transport::StartTls => {
                self.exchange(b"", &[(220, Step::Greeting)]).await?;
                self.exchange(EHLO, &[(250, Step::Ehlo)]).await?;
                self.exchange(b"STARTTLS\r\n", &[(220, Step::StartTls)]).await?;
                self.upgrade().await?;
            }
        }
        Ok(())
    }

    async fn upgrade(&mut self) -> io::Result<()> {
        // A stand-in while the stream is away: the upgrade takes the whole of it.
        let (stand_in, _) = tokio::io::duplex(1);
        let info = smtp_core::channel::ChannelInfo::memory("upgrading");
        let stand_in: Stream = Box::new(smtp_core::stream::Plain::new(stand_in, info));
        let (from, to) = tokio::io::split(stand_in);
        let (from, to) = (std::mem::replace(&mut self.from, from), std::mem::replace(&mut self.to, to));
        let stream = from.unsplit(to).upgrade().await?;
        (self.from, self.to) = tokio::io::split(stream);
        self.outcome.steps.push((Step::Tls, self.begin.elapsed()));
        Ok(())
    }

    /// Sends `octets` and reads these replies, both at once: a long flight is answered before it is all sent.
    async fn exchange(&mut self, octets: &[u8], replies: &[(u16, Step)]) -> io::Result<()> {
        let Self { from, to, unread, begin, outcome } = self;
        let write = async {
            to.write_all(octets).await?;
            to.flush().await
        };
        let read = async {
            for (code, step) in replies {
                expect(from, unread, *code).await?;
                let at = begin.elapsed();
                if outcome.accepted.is_empty() {
                    outcome.steps.push((*step, at));
                }
                if *step == Step::Content {
                    outcome.accepted.push(at);
                }
            }
            Ok(())
        };
        tokio::try_join!(write, read).map(|_| ())
    }

    /// Waits for the reply to QUIT, which has been sent.
    async fn leave(mut self) -> io::Result<(Outcome, Stream)> {
        expect(&mut self.from, &mut self.unread, 221).await?;
        self.to.shutdown().await?;
        Ok((self.outcome, self.from.unsplit(self.to)))
    }
}

/// Reads one whole reply, which has to have this code.
async fn expect(from: &mut ReadHalf<Stream>, unread: &mut Vec<u8>, code: u16) -> io::Result<()> {
    loop {
        while let Some(end) = unread.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if line.get(..3) != Some(code.to_string().as_str()) {
                return Err(io::Error::other(format!("not {code}: {}", line.trim())));
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(());
            }
        }
        if unread.len() > REPLY_MAX {
            return Err(io::Error::other("a reply without end"));
        }
        if from.read_buf(unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_it_is_said_to_be() {
        for size in (100..400).chain([20_000, 65_537]) {
            let body = body(size);
            assert_eq!(body.len(), size);
            assert!(body.ends_with(b"\r\n"));
            for line in body.split_inclusive(|octet| *octet == b'\n') {
                assert!(line.len() <= 146 && line.ends_with(b"\r\n") && !line.starts_with(b"."), "{size}");
            }
        }
    }
}
