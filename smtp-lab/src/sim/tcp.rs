//! TCP as far as a path without loss shows it, in virtual time.
//!
//! What is modelled: the three-way handshake, segments of 1,448 octets (timestamps on), an initial window of ten segments
//! (RFC 6928), slow start without end (RFC 5681 §3.1: the window grows by what is acknowledged, if it was needed), an
//! acknowledgement for every second segment and for the last of those that arrive at the same instant, FIN. What is not:
//! loss and recovery, congestion avoidance, receive windows, delayed acknowledgements, connections that remember. A
//! segment that the link does not deliver breaks the connection, so that nothing is measured that was not modelled.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use smtp_core::stream::{
    ByteStream, ConnectError, ConnectStep, Connection, Connector, Listener, Single, Target, TlsMode, TlsPolicy,
};
use smtp_tls::{ClientTls, ServerTls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::links::{BACK, Links, OUT};
use super::stream::{SimStream, Upgrade};
use crate::cell::Cell;
use crate::choice::Transport;

/// IPv4 and TCP headers with timestamps, and those of a SYN with its options.
const HEADERS: usize = 52;
const SYN: usize = 60;
/// RFC 6928 §2.
const INITIAL_SEGMENTS: u64 = 10;
/// What a program may write ahead of the window.
const SEND_BUFFER: usize = 1 << 20;

/// A listener and what connects to it.
pub(super) fn network(links: &Links, cell: &Cell, server: ServerTls, client: ClientTls) -> (SimListener, SimConnector) {
    let (arrived, incoming) = mpsc::unbounded_channel();
    let upgrade = (cell.transport != Transport::Tcp).then_some(server);
    let listener = SimListener { incoming: incoming.into(), upgrade, implicit: cell.transport == Transport::Tls };
    let segment = usize::from(cell.path.mtu) - HEADERS;
    (listener, SimConnector { links: links.clone(), segment, client, arrived })
}

pub(super) struct SimConnector {
    links: Links,
    segment: usize,
    client: ClientTls,
    arrived: mpsc::UnboundedSender<Socket>,
}

#[async_trait]
impl Connector for SimConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let fail = |error| ConnectError::transient(&target.address, ConnectStep::Connect, error);
        for way in [OUT, BACK] {
            let delay = self.links.segment(way, SYN).ok_or_else(|| fail(not_modelled()))?;
            sleep(delay).await;
        }
        let (near, far) = Socket::pair(&self.links, self.segment);
        // The server learns of it with the last of three.
        let delay = self.links.segment(OUT, HEADERS).ok_or_else(|| fail(not_modelled()))?;
        let arrived = self.arrived.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            // A server that is gone hears nothing.
            let _ = arrived.send(far);
        });
        let upgrade = match policy.mode {
            TlsMode::None => Upgrade::None,
            _ => Upgrade::client(&self.client, target, policy).map_err(fail)?,
        };
        Ok(Box::new(Single::new(SimStream::plain(near, upgrade))))
    }
}

pub(super) struct SimListener {
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<Socket>>,
    upgrade: Option<ServerTls>,
    implicit: bool,
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        let socket = self.incoming.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        let upgrade = self.upgrade.clone().map_or(Upgrade::None, Upgrade::Server);
        let stream = Some(SimStream::plain(socket, upgrade));
        Ok(Box::new(Arriving { stream, implicit: self.implicit }))
    }

    fn url(&self) -> String {
        "simulated:".to_owned()
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// A connection whose handshake is still to come.
struct Arriving {
    stream: Option<SimStream>,
    implicit: bool,
}

#[async_trait]
impl Connection for Arriving {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        let Some(stream) = self.stream.take() else { return Ok(None) };
        if self.implicit {
            return Box::new(stream).upgrade().await.map(Some);
        }
        Ok(Some(Box::new(stream)))
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn not_modelled() -> io::Error {
    io::Error::other("the link dropped a segment, and the simulated TCP has no recovery")
}

/// One end of a connection.
pub(super) struct Socket {
    shared: Arc<Shared>,
    /// The direction in which it sends.
    way: usize,
}

struct Shared {
    both: Mutex<Both>,
    /// Somebody wrote, or ended.
    changed: Notify,
}

/// Both directions, and what is under way.
struct Both {
    lanes: [Lane; 2],
    events: BTreeMap<(Instant, u64), Event>,
    order: u64,
    broken: bool,
}

/// One direction.
struct Lane {
    segment: usize,
    unsent: BytesMut,
    ended: bool,
    end_sent: bool,
    /// The congestion window, what of it is used, and the most that was used in the last round trip.
    window: u64,
    in_flight: u64,
    used: u64,
    sent: u64,
    acknowledged: u64,
    used_until: u64,
    arrived: BytesMut,
    end_arrived: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Event {
    Segment {
        way: usize,
        octets: Bytes,
        end: bool,
    },
    /// Of what was sent `way`.
    Acknowledged {
        way: usize,
        octets: u64,
    },
}

impl Socket {
    fn pair(links: &Links, segment: usize) -> (Self, Self) {
        let both =
            Both { lanes: [Lane::new(segment), Lane::new(segment)], events: BTreeMap::new(), order: 0, broken: false };
        let shared = Arc::new(Shared { both: Mutex::new(both), changed: Notify::new() });
        tokio::spawn(run(Arc::clone(&shared), links.clone()));
        (Self { shared: Arc::clone(&shared), way: OUT }, Self { shared, way: BACK })
    }

    fn end(&self) {
        self.shared.lock().lanes[self.way].ended = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Both> {
        self.both.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves segments until both ends have said that there will be no more, and all has arrived.
async fn run(shared: Arc<Shared>, links: Links) {
    loop {
        let next = {
            let mut both = shared.lock();
            both.pump(&links);
            if both.broken || both.is_over() {
                return;
            }
            both.events.keys().next().map(|(at, _)| *at)
        };
        match next {
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = shared.changed.notified() => {}
            },
            None => shared.changed.notified().await,
        }
    }
}

impl Both {
    fn is_over(&self) -> bool {
        self.events.is_empty() && self.lanes.iter().all(|lane| lane.end_sent)
    }

    /// All that is due now: arrivals, what they set free, and what is to be sent.
    fn pump(&mut self, links: &Links) {
        let now = Instant::now();
        let mut to_acknowledge = [(0, 0); 2];
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Event::Acknowledged { way, octets } => self.lanes[way].acknowledged(octets),
                Event::Segment { way, octets, end } => {
                    let (segments, pending) = &mut to_acknowledge[way];
                    *segments += 1;
                    *pending += octets.len() as u64;
                    let lane = &mut self.lanes[way];
                    lane.arrived.extend_from_slice(&octets);
                    lane.end_arrived |= end;
                    wake(&mut lane.reader);
                    if *segments == 2 {
                        let octets = std::mem::take(pending);
                        *segments = 0;
                        self.put(links, way ^ 1, HEADERS, Event::Acknowledged { way, octets });
                    }
                }
            }
        }
        for (way, (segments, octets)) in to_acknowledge.into_iter().enumerate() {
            if segments > 0 {
                self.put(links, way ^ 1, HEADERS, Event::Acknowledged { way, octets });
            }
        }
        for way in [OUT, BACK] {
            while let Some((octets, end)) = self.lanes[way].next_segment() {
                self.put(links, way, HEADERS + octets.len(), Event::Segment { way, octets, end });
            }
            let lane = &mut self.lanes[way];
            if lane.unsent.len() < SEND_BUFFER {
                wake(&mut lane.writer);
            }
        }
    }

    fn put(&mut self, links: &Links, way: usize, octets: usize, event: Event) {
        let Some(delay) = links.segment(way, octets) else {
            self.broken = true;
            for lane in &mut self.lanes {
                wake(&mut lane.reader);
                wake(&mut lane.writer);
            }
            return;
        };
        self.order += 1;
        self.events.insert((Instant::now() + delay, self.order), event);
    }
}

impl Lane {
    fn new(segment: usize) -> Self {
        Self {
            segment,
            unsent: BytesMut::new(),
            ended: false,
            end_sent: false,
            window: INITIAL_SEGMENTS * segment as u64,
            in_flight: 0,
            used: 0,
            sent: 0,
            acknowledged: 0,
            used_until: 0,
            arrived: BytesMut::new(),
            end_arrived: false,
            reader: None,
            writer: None,
        }
    }

    /// What the window lets out, and whether it is the end.
    fn next_segment(&mut self) -> Option<(Bytes, bool)> {
        if self.unsent.is_empty() {
            let end = self.ended && !self.end_sent;
            self.end_sent |= end;
            return end.then(|| (Bytes::new(), true));
        }
        let octets = self.unsent.len().min(self.segment);
        if self.in_flight + octets as u64 > self.window {
            return None;
        }
        self.in_flight += octets as u64;
        self.sent += octets as u64;
        if self.in_flight >= self.used || self.acknowledged >= self.used_until {
            (self.used, self.used_until) = (self.in_flight, self.sent);
        }
        Some((self.unsent.split_to(octets).freeze(), false))
    }

    /// The window grows only where it was in the way, or nearly (RFC 7661, as Linux has it in slow start).
    fn acknowledged(&mut self, octets: u64) {
        self.in_flight -= octets;
        self.acknowledged += octets;
        if self.window < 2 * self.used {
            self.window += octets;
        }
    }
}

fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut both = self.shared.lock();
        let broken = both.broken;
        let lane = &mut both.lanes[self.way ^ 1];
        if lane.arrived.is_empty() {
            if broken {
                return Poll::Ready(Err(not_modelled()));
            }
            if !lane.end_arrived {
                lane.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let octets = lane.arrived.len().min(buf.remaining());
        buf.put_slice(&lane.arrived[..octets]);
        lane.arrived.advance(octets);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut both = self.shared.lock();
        if both.broken {
            return Poll::Ready(Err(not_modelled()));
        }
        let lane = &mut both.lanes[self.way];
        if lane.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = octets.len().min(SEND_BUFFER.saturating_sub(lane.unsent.len()));
        if taken == 0 && !octets.is_empty() {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        lane.unsent.extend_from_slice(&octets[..taken]);
        drop(both);
        self.shared.changed.notify_one();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}
