//! The kit passes what is a byte stream, in all its moods, and names what is wrong with what is none.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smtp_core::channel::{ChannelInfo, Peer, TlsInfo};
use smtp_core::stream::{
    BoxFuture, ByteStream, CloseCode, Connector, Listener, Plain, Target, TlsMode, TlsPolicy, Verification,
};
use smtp_core::types::Host;
use smtp_test::kit::{Pair, check};
use smtp_test::memory::{Knobs, MemoryListener, MemoryStream, Pace, Tls, pair};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

async fn memory(knobs: &Knobs) -> io::Result<Pair> {
    let (client, server) = pair(knobs.clone());
    Ok(Pair::new(client, server))
}

#[tokio::test(start_paused = true)]
async fn memory_is_a_byte_stream_in_every_mood() {
    for (capacity, pace) in [
        (65_536, Pace::default()),
        (65_536, Pace::OCTET_BY_OCTET),
        (65_536, Pace::STORMY),
        (65_536, Pace::LAZY),
        (300, Pace::default()),
        (100, Pace { read: 7, write: 30, pending: 3, lazy: true }),
    ] {
        let knobs = Knobs { capacity, ..Knobs::starttls() }.paced(pace);
        let checked = check(async || memory(&knobs).await).await.unwrap_or_else(|e| panic!("{knobs:?}: {e}"));
        assert!(checked.left_out.is_empty(), "{checked}");
    }
    for knobs in [
        Knobs::default(),
        Knobs { tls: Tls::Implicit, ..Knobs::default() },
        Knobs { latency: Duration::from_millis(40), ..Knobs::starttls() },
        Knobs { harsh_close: true, ..Knobs::starttls() },
        Knobs { client_speaks_first: true, ..Knobs::default() },
    ] {
        check(async || memory(&knobs).await).await.unwrap_or_else(|e| panic!("{knobs:?}: {e}"));
    }
}

#[tokio::test(start_paused = true)]
async fn so_are_the_streams_of_memory_connections() {
    for knobs in [Knobs::starttls(), Knobs::streams()] {
        let mode = if knobs.tls == Tls::Implicit { TlsMode::Implicit } else { TlsMode::Opportunistic };
        let policy = TlsPolicy { mode, verification: Verification::None };
        let listener = MemoryListener::new(knobs);
        let target = Target::host(Host::Domain("mx.example".parse().unwrap()), 25);
        let make = async || {
            let client = listener.connector().connect(&target, &policy).await.map_err(io::Error::other)?;
            Pair::over(client, listener.accept().await?).await
        };
        check(make).await.unwrap_or_else(|e| panic!("{e}"));
    }
}

#[tokio::test]
async fn so_is_a_socket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let make = async || {
        let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (server, _) = accepted?;
        let plain = |io| Plain::new(io, ChannelInfo::new("tcp", Peer::Ip(address)));
        Ok(Pair::new(plain(client?), plain(server)))
    };
    let checked = check(make).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(checked.left_out.len(), 2, "{checked}");
}

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Writes go out when the stream is closed.
    HoldsBack,
    /// One octet is another one.
    Corrupts,
    /// Every 10,000th octet is missing.
    Loses,
    /// Closing one side closes the other.
    ClosesBoth,
    /// What was sent is gone when the stream is dropped.
    ForgetsWhenDropped,
    /// The end of the stream passes.
    EndPasses,
    /// Breaking off does nothing.
    AbortDoesNothing,
    /// A reader is not woken.
    Sleeps,
    /// Clear text that was received is read behind an upgrade.
    LeftoversCross,
    /// Under TLS, and not secure.
    Contradicts,
    /// Says after an upgrade what it said before.
    KeepsFacts,
}

struct Faulty {
    io: Option<Box<dyn ByteStream>>,
    fault: Fault,
    held: Vec<u8>,
    octets: usize,
    closed: bool,
    ends: u32,
    facts: ChannelInfo,
}

impl Faulty {
    fn new(io: MemoryStream, fault: Fault) -> Self {
        let facts = io.info();
        Self { io: Some(Box::new(io)), fault, held: Vec::new(), octets: 0, closed: false, ends: 0, facts }
    }

    fn io(&mut self) -> Pin<&mut Box<dyn ByteStream>> {
        Pin::new(self.io.as_mut().unwrap())
    }
}

impl AsyncRead for Faulty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.fault == Fault::ClosesBoth && self.closed {
            return Poll::Ready(Ok(()));
        }
        if self.fault == Fault::Sleeps {
            let waker = std::task::Waker::noop();
            return self.io().poll_read(&mut Context::from_waker(waker), buf);
        }
        let before = buf.filled().len();
        ready!(self.io().poll_read(cx, buf))?;
        if buf.filled().len() == before && self.fault == Fault::EndPasses && buf.remaining() > 0 {
            self.ends += 1;
            if self.ends.is_multiple_of(2) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.fault {
            Fault::HoldsBack => {
                self.held.extend_from_slice(octets);
                Poll::Ready(Ok(octets.len()))
            }
            Fault::Corrupts | Fault::Loses if !octets.is_empty() => {
                self.octets += 1;
                let odd = self.octets.is_multiple_of(10);
                if odd && self.fault == Fault::Loses {
                    return Poll::Ready(Ok(1));
                }
                let octet = octets[0] ^ u8::from(odd);
                self.io().poll_write(cx, &[octet])
            }
            _ => self.io().poll_write(cx, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let held = self.held.clone();
            let n = ready!(self.io().poll_write(cx, &held))?;
            self.held.drain(..n);
        }
        self.closed = true;
        self.io().poll_shutdown(cx)
    }
}

impl ByteStream for Faulty {
    fn info(&self) -> ChannelInfo {
        match self.fault {
            Fault::Contradicts => {
                ChannelInfo { tls: Some(TlsInfo::default().into()), secure: false, ..self.facts.clone() }
            }
            Fault::KeepsFacts | Fault::LeftoversCross => self.facts.clone(),
            _ => self.io.as_ref().map_or_else(|| self.facts.clone(), |io| io.info()),
        }
    }

    fn upgrade(mut self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            if self.fault == Fault::LeftoversCross {
                // As if TLS were up; nothing was read away.
                self.facts = ChannelInfo {
                    tls: Some(TlsInfo::default().into()),
                    can_upgrade: false,
                    secure: true,
                    ..self.facts.clone()
                };
                return Ok(self as Box<dyn ByteStream>);
            }
            let io = self.io.take().unwrap().upgrade().await?;
            self.io = Some(io);
            Ok(self as Box<dyn ByteStream>)
        })
    }

    fn abort(mut self: Box<Self>, code: CloseCode) {
        let io = self.io.take().unwrap();
        match self.fault {
            Fault::AbortDoesNothing => std::mem::forget(io),
            _ => io.abort(code),
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some(io) = self.io.take().filter(|_| self.fault == Fault::ForgetsWhenDropped) {
            io.abort(CloseCode::NoError);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_byte_stream_is_found_out() {
    for (fault, caught_by) in [
        (Fault::HoldsBack, "what is flushed arrives"),
        (Fault::Corrupts, "1 MiB both ways at once"),
        (Fault::Loses, "1 MiB both ways at once"),
        (Fault::ClosesBoth, "the client closes its side and reads on"),
        (Fault::ForgetsWhenDropped, "what was sent before the close survives it"),
        (Fault::EndPasses, "the end comes behind the last octet"),
        (Fault::AbortDoesNothing, "the server sees that the client breaks off"),
        (Fault::Sleeps, "a reader that waits is woken"),
        (Fault::LeftoversCross, "clear text does not cross an upgrade"),
        (Fault::Contradicts, "the facts agree with each other"),
        (Fault::KeepsFacts, "an upgrade changes the facts"),
    ] {
        let make = async || {
            let (client, server) = pair(Knobs::starttls());
            Ok(Pair::new(Faulty::new(client, fault), Faulty::new(server, fault)))
        };
        let failures = check(make).await.expect_err(&format!("{fault:?}"));
        assert!(failures.0.iter().any(|f| f.check == caught_by), "{fault:?} not caught by {caught_by}:\n{failures}");
    }
}

#[tokio::test(start_paused = true)]
async fn so_is_one_that_takes_everything_in() {
    let knobs = Knobs { capacity: usize::MAX, ..Knobs::default() };
    let failures = check(async || memory(&knobs).await).await.unwrap_err();
    assert_eq!(failures.0.len(), 1, "{failures}");
    assert_eq!(failures.0[0].check, "a writer waits for the reader");
}

#[tokio::test]
async fn a_transport_that_cannot_be_had_fails_every_check() {
    let failures = check(async || Err(io::ErrorKind::ConnectionRefused.into())).await.unwrap_err();
    assert!(failures.to_string().contains("no fresh pair: connection refused"), "{failures}");
}

#[tokio::test]
async fn a_stream_that_was_given_away_is_kept_open_by_nobody() {
    let (mut client, server) = pair(Knobs::default());
    drop(server);
    assert_eq!(client.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
