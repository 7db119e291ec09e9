//! One end of an in-memory channel.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use smtp_core::channel::{ChannelInfo, Peer, TlsInfo};
use smtp_core::stream::{BoxFuture, ByteStream, CloseCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep_until};

use super::connect::Announcement;
use super::knobs::{Knobs, Pace, Tls};
use super::link::{Found, Link};
use crate::Side;

/// How many octets a lazy stream keeps back, at most.
const LAZY_MAX: usize = 4096;
/// What each side says first in a handshake; never the start of an SMTP command or reply.
const HANDSHAKE: [u8; 16] = *b"\x16\x03\x03 pseudo-TLS\r\n";
/// What every octet is masked with afterwards, so that one read in clear is not taken for text.
const MASK: u8 = 0xA5;

/// One end of an in-memory channel.
pub struct MemoryStream {
    link: Arc<Link>,
    side: Side,
    pace: Pace,
    tls: Tls,
    info: ChannelInfo,
    /// Octets are masked: TLS is up.
    masked: bool,
    polls: Polls,
    unflushed: Vec<u8>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The other end, until the first octet makes it visible.
    pub(super) announcement: Option<Announcement>,
    /// The stream's place among those of its connection; free when both ends are gone.
    pub(super) place: Option<Arc<OwnedSemaphorePermit>>,
}

/// Polls so far, each kind by itself: one counter for all could resonate with a caller that polls several things in
/// turn, and let the same one be in vain for ever.
#[derive(Debug, Default)]
struct Polls {
    read: u32,
    write: u32,
    flush: u32,
}

/// True if this poll is to be in vain.
fn is_in_vain(polls: &mut u32, pace: Pace, cx: &Context<'_>) -> bool {
    if pace.pending < 2 {
        return false;
    }
    *polls = polls.wrapping_add(1);
    let vain = polls.is_multiple_of(pace.pending);
    if vain {
        cx.waker().wake_by_ref();
    }
    vain
}

impl MemoryStream {
    /// Both ends of a channel: the client's and the server's.
    pub(super) fn both(knobs: &Knobs) -> (Self, Self) {
        let link = Arc::new(Link::new(knobs));
        (Self::end(knobs, &link, Side::Client), Self::end(knobs, &link, Side::Server))
    }

    fn end(knobs: &Knobs, link: &Arc<Link>, side: Side) -> Self {
        let implicit = knobs.tls == Tls::Implicit;
        let (peer, pace) = match side {
            Side::Client => (Peer::Named("server".into()), knobs.client),
            Side::Server => (knobs.peer.clone(), knobs.server),
        };
        let info = ChannelInfo {
            secure: knobs.secure || implicit,
            tls: implicit.then(established),
            can_upgrade: matches!(knobs.tls, Tls::StartTls | Tls::Broken),
            client_speaks_first: knobs.client_speaks_first,
            ..ChannelInfo::new("memory", peer)
        };
        Self {
            link: Arc::clone(link),
            side,
            pace,
            tls: knobs.tls,
            info,
            masked: implicit,
            polls: Polls::default(),
            unflushed: Vec::new(),
            sleep: None,
            announcement: None,
            place: None,
        }
    }

    fn send(&mut self, octets: &[u8], cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(announcement) = self.announcement.take() {
            announcement.make();
        }
        self.link.poll_write(self.side, octets, cx)
    }

    /// Sends what a lazy stream has kept back.
    fn poll_drain(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        while !self.unflushed.is_empty() {
            let octets = std::mem::take(&mut self.unflushed);
            let sent = self.send(&octets, cx);
            self.unflushed = octets;
            let n = ready!(sent)?;
            self.unflushed.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    /// Each side says its word and hears the other's; the client begins, as in TLS. Anything else in between is clear
    /// text that was left over, and fails.
    async fn handshake(&mut self) -> io::Result<()> {
        let mut heard = [0; HANDSHAKE.len()];
        if self.side == Side::Client {
            self.say_handshake().await?;
        }
        for (octet, expected) in heard.iter_mut().zip(HANDSHAKE) {
            *octet = self.read_u8().await?;
            if *octet != expected {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "clear text where the handshake should be"));
            }
        }
        if self.side == Side::Server {
            self.say_handshake().await?;
        }
        Ok(())
    }

    async fn say_handshake(&mut self) -> io::Result<()> {
        self.write_all(&HANDSHAKE).await?;
        self.flush().await
    }
}

/// What a channel under pseudo-TLS says of it.
fn established() -> Box<TlsInfo> {
    Box::new(TlsInfo { version: "pseudo-TLS", cipher: "none".into(), ..TlsInfo::default() })
}

impl AsyncRead for MemoryStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if is_in_vain(&mut this.polls.read, this.pace, cx) {
            return Poll::Pending;
        }
        let room = buf.remaining().min(self.pace.read);
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let before = buf.filled().len();
            match self.link.read(self.side, buf, room, cx)? {
                Found::Octets => {
                    if self.masked {
                        mask(&mut buf.filled_mut()[before..]);
                    }
                    return Poll::Ready(Ok(()));
                }
                Found::End { clean } if self.masked && !clean => {
                    let text = "the channel ended without TLS saying so";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                Found::End { .. } => return Poll::Ready(Ok(())),
                Found::At(at) => {
                    let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if sleep.deadline() != at {
                        sleep.as_mut().reset(at);
                    }
                    ready!(sleep.as_mut().poll(cx));
                }
                Found::Nothing => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if is_in_vain(&mut this.polls.write, this.pace, cx) {
            return Poll::Pending;
        }
        let n = octets.len().min(self.pace.write);
        let mut octets = octets[..n].to_vec();
        if self.masked {
            mask(&mut octets);
        }
        if !self.pace.lazy {
            return self.send(&octets, cx);
        }
        if self.unflushed.len() >= LAZY_MAX {
            ready!(self.poll_drain(cx))?;
        }
        octets.truncate(LAZY_MAX - self.unflushed.len());
        self.unflushed.extend_from_slice(&octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if is_in_vain(&mut this.polls.flush, this.pace, cx) {
            return Poll::Pending;
        }
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if is_in_vain(&mut this.polls.flush, this.pace, cx) {
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        if let Some(announcement) = self.announcement.take() {
            announcement.make();
        }
        self.link.finish(self.side);
        Poll::Ready(Ok(()))
    }
}

fn mask(octets: &mut [u8]) {
    octets.iter_mut().for_each(|octet| *octet ^= MASK);
}

impl ByteStream for MemoryStream {
    fn info(&self) -> ChannelInfo {
        self.info.clone()
    }

    fn upgrade(mut self: Box<Self>) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            if !self.info.can_upgrade {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "this stream cannot be upgraded to TLS"));
            }
            self.handshake().await?;
            if self.tls == Tls::Broken {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the certificate does not hold"));
            }
            self.masked = true;
            self.info.secure = true;
            self.info.can_upgrade = false;
            self.info.tls = Some(established());
            Ok(self as Box<dyn ByteStream>)
        })
    }

    fn abort(self: Box<Self>, _: CloseCode) {
        self.link.abort(self.side);
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.link.leave(self.side);
    }
}

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStream").field("side", &self.side).field("info", &self.info).finish_non_exhaustive()
    }
}
