//! Connections: on the server's side a source of streams that the client opens, on the client's a place to open them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use quinn::{Connecting, Incoming};
use smtp_core::stream::{BoxFuture, ByteStream, CloseCode, Connection};
use smtp_tls::Role;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::QuicError;
use crate::link::{Facts, Link};
use crate::options::{EarlyData, QuicOptions, TransportOptions};
use crate::stream::QuicStream;

/// One QUIC connection.
///
/// A server accepts its streams, each of which is a session; a client opens them. The connection lives as long as it
/// or any of its streams, and is closed with NO_ERROR when the last of them goes, or with SHUTDOWN if the listener has
/// gone before.
pub struct QuicConnection(Kind);

enum Kind {
    Handshake(Option<Box<Opening>>),
    Server(Serving),
    Client { link: Arc<Link>, max_parallel: usize },
}

/// A client's connection attempt, on the server's side.
pub(crate) struct Opening {
    pub(crate) attempt: Attempt,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) options: Arc<QuicOptions>,
    pub(crate) server: Option<Arc<quinn::ServerConfig>>,
    pub(crate) draining: CancellationToken,
    /// Held until the handshake is complete.
    pub(crate) half_open: Option<HalfOpen>,
}

/// How far it is.
pub(crate) enum Attempt {
    New(Box<Incoming>),
    /// Under way until the instant.
    Connecting(Connecting, Instant),
    /// It was used up by a step that did not come to its end.
    Lost,
}

struct Serving {
    link: Arc<Link>,
    options: Arc<QuicOptions>,
}

/// Counts a handshake for as long as it is under way.
pub(crate) struct HalfOpen(Arc<AtomicUsize>);

impl HalfOpen {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets a client have more streams if it has shown a certificate, which is known at the end of the handshake.
//
struct Certified {
    quic: quinn::Connection,
    streams: u32,
    others: u32,
}

impl Drop for Certified {
    fn drop(&mut self) {
        // One that does not hold never gets through the handshake.
        if self.streams > self.others && self.quic.peer_identity().is_some() {
            self.quic.set_max_concurrent_bi_streams(TransportOptions::granted(self.streams));
        }
    }
}

impl QuicConnection {
    pub(crate) fn opening(opening: Opening) -> Self {
        Self(Kind::Handshake(Some(Box::new(opening))))
    }

    pub(crate) const fn client(link: Arc<Link>, max_parallel: usize) -> Self {
        Self(Kind::Client { link, max_parallel })
    }

    fn link(&self) -> Option<&Arc<Link>> {
        match &self.0 {
            Kind::Handshake(_) => None,
            Kind::Server(serving) => Some(&serving.link),
            Kind::Client { link, .. } => Some(link),
        }
    }

    /// The connection itself, for what these traits have no words for: statistics, the round trip time. `None` while
    /// the handshake is under way on the server's side.
    #[must_use]
    pub fn quic(&self) -> Option<&quinn::Connection> {
        self.link().map(|link| &link.quic)
    }

    /// Closes the connection and all of its streams at once; what is under way is lost.
    pub fn close(&self, code: CloseCode, reason: &str) {
        if let Some(link) = self.link() {
            link.close(code, reason);
        }
    }
}

impl Opening {
    /// To be dropped at the end of the handshake.
    fn certified(&self, quic: &quinn::Connection) -> Certified {
        let QuicOptions { transport, max_streams_certified, .. } = &*self.options;
        Certified { quic: quic.clone(), streams: *max_streams_certified, others: transport.max_streams }
    }

    /// Completes the handshake, or with early data as much of it as the first streams need. Can be dropped and called
    /// again.
    async fn run(&mut self) -> io::Result<Serving> {
        if let Attempt::New(_) = &self.attempt
            && let Attempt::New(incoming) = std::mem::replace(&mut self.attempt, Attempt::Lost)
        {
            let connecting = match self.server.take() {
                Some(config) => incoming.accept_with(config),
                None => incoming.accept(),
            };
            let connecting = connecting.map_err(|error| QuicError::from_connection(error, Role::Server))?;
            self.attempt = Attempt::Connecting(connecting, Instant::now() + self.options.handshake_timeout);
        }
        let gated = self.options.early_data == EarlyData::Gated;
        let facts = Facts {
            role: Role::Server,
            local: self.local,
            sni: None,
            verifies: false,
            draining: self.draining.clone(),
            churn: self.options.churn,
            share_evenly: self.options.transport.share_evenly,
            // A server answers EHLO and no more.
            early: usize::MAX,
            observer: None,
        };
        let link = if gated {
            let Attempt::Connecting(connecting, deadline) = std::mem::replace(&mut self.attempt, Attempt::Lost) else {
                return Err(QuicError::StreamClosed.into());
            };
            match connecting.into_0rtt() {
                Ok((quic, done)) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let meanwhile = (self.half_open.take(), self.certified(&quic));
                    let handshake = Link::watch(quic.clone(), done, left, meanwhile);
                    Link::new(quic, facts, handshake)
                }
                // A server's always can.
                Err(_) => return Err(QuicError::StreamClosed.into()),
            }
        } else {
            let Attempt::Connecting(connecting, deadline) = &mut self.attempt else {
                return Err(QuicError::StreamClosed.into());
            };
            let late = || io::Error::new(io::ErrorKind::TimedOut, "no QUIC handshake in time");
            let quic = tokio::time::timeout_at(*deadline, connecting).await.map_err(|_| late())?;
            let quic = quic.map_err(|error| QuicError::from_connection(error, Role::Server))?;
            drop(self.certified(&quic));
            Link::new(quic, facts, Link::complete())
        };
        Ok(Serving { link: Arc::new(link), options: Arc::clone(&self.options) })
    }
}

impl Serving {
    /// The next stream; `None` when the connection has come to its end.
    async fn next(&self) -> io::Result<Option<QuicStream>> {
        let link = &self.link;
        let QuicOptions { quiet_timeout, drain_grace, .. } = *self.options;
        tokio::select! {
            biased;
            //
            stream = link.quic.accept_bi() => match stream {
                Ok(halves) => {
                    link.moved();
                    Ok(Some(QuicStream::new(Arc::clone(link), halves)))
                }
                Err(error) => match link.error(error) {
                    QuicError::ClosedHere | QuicError::Closed { code: CloseCode::NoError, .. } => Ok(None),
                    error => Err(error.into()),
                },
            },
            //
            code = link.quiet(quiet_timeout, drain_grace) => {
                link.close(code, "");
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl Connection for QuicConnection {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        if let Kind::Handshake(opening) = &mut self.0 {
            let Some(waiting) = opening else { return Ok(None) };
            let result = waiting.run().await;
            *opening = None;
            self.0 = Kind::Server(result?);
        }
        match &self.0 {
            Kind::Server(serving) => Ok(serving.next().await?.map(|stream| Box::new(stream) as Box<dyn ByteStream>)),
            Kind::Handshake(_) => Ok(None),
            //
            Kind::Client { .. } => Err(io::Error::new(io::ErrorKind::Unsupported, "a server opens no streams")),
        }
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        let Kind::Client { link, .. } = &self.0 else {
            // And a stream opened before the handshake is complete could hang for ever in quinn 0.11.
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the client opens the streams of a connection"));
        };
        let halves = link.quic.open_bi().await.map_err(|error| link.error(error))?;
        Ok(Box::new(QuicStream::new(Arc::clone(link), halves)))
    }

    fn confirmed(&self) -> BoxFuture<'static, io::Result<()>> {
        match &self.0 {
            Kind::Client { link, .. } => Box::pin(link.confirmed()),
            Kind::Handshake(_) | Kind::Server(_) => Box::pin(std::future::ready(Ok(()))),
        }
    }

    /// How many sessions are worth having at a time: as many as this side would allow a client itself. The server's
    /// own limit may be lower; then [`Connection::open`] waits for a place.
    fn max_parallel(&self) -> usize {
        match &self.0 {
            Kind::Client { max_parallel, .. } => *max_parallel,
            Kind::Server(serving) => serving.options.transport.max_streams as usize,
            Kind::Handshake(opening) => opening.as_ref().map_or(0, |o| o.options.transport.max_streams as usize),
        }
    }
}

impl fmt::Debug for QuicConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuicConnection").field(&self.link()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_open_connections_are_counted_while_they_are() {
        let count = Arc::new(AtomicUsize::new(0));
        let one = HalfOpen::new(&count);
        let two = HalfOpen::new(&count);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        drop((one, two));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
