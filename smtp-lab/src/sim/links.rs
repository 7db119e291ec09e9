//! Both directions of the simulated link, and a hash of all that went over them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smtp_netem::{Counters, Fate, Link, Shape, udp_packet};
use smtp_transport_quic::sim::Datagram;
use tokio::time::Instant;

use crate::record::difference;

/// From the client to the server.
pub(super) const OUT: usize = 0;
/// The other way.
pub(super) const BACK: usize = 1;
/// An IPv4 header and UDP's.
const UDP_HEADERS: usize = 28;
const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// The link. Clones are the same one.
#[derive(Clone)]
pub(super) struct Links(Arc<Mutex<Both>>);

struct Both {
    ways: [Link; 2],
    /// The link's own clock begins here.
    made: Instant,
    /// The measurement's begins here.
    start: Instant,
    /// What had gone through when the measurement began.
    before: [Counters; 2],
    digest: u64,
}

impl Links {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        // Each way has its own luck.
        let ways = [Link::new(shape, seed), Link::new(shape, !seed)];
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Both { ways, made: now, start: now, before: Default::default(), digest: FNV })))
    }

    fn lock(&self) -> MutexGuard<'_, Both> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is this link, and all that goes over it counts.
    pub(super) fn begin(&self, shape: Shape, seed: u64) {
        let mut both = self.lock();
        for (way, seed) in both.ways.iter_mut().zip([seed, !seed]) {
            way.set_shape(shape);
            way.reseed(seed);
        }
        both.before = [both.ways[OUT].counters(), both.ways[BACK].counters()];
        both.start = Instant::now();
        both.digest = FNV;
    }

    /// What went over it since then, each way, and its hash.
    pub(super) fn end(&self) -> ([Counters; 2], u64) {
        let both = self.lock();
        let counters = [OUT, BACK].map(|way| difference(both.ways[way].counters(), both.before[way]));
        (counters, both.digest)
    }

    /// How long a datagram takes, if it arrives.
    pub(super) fn datagram(&self, way: usize, datagram: &Datagram) -> Option<Duration> {
        let packet = udp_packet(datagram.payload.len() + UDP_HEADERS, datagram.from.port(), datagram.to.port());
        self.offer(way, &packet)
    }

    /// How long a segment of so many octets, headers included, takes, if it arrives.
    pub(super) fn segment(&self, way: usize, octets: usize) -> Option<Duration> {
        self.offer(way, &vec![0; octets])
    }

    fn offer(&self, way: usize, packet: &[u8]) -> Option<Duration> {
        let mut both = self.lock();
        let now = both.made.elapsed();
        let fate = both.ways[way].offer(now, packet);
        let delay = match fate {
            Fate::Arrives(at) => Some(at.saturating_sub(now)),
            Fate::Dropped(_) => None,
        };
        let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let arrives = delay.map_or(u64::MAX, nanoseconds);
        for number in [nanoseconds(both.start.elapsed()), way as u64, packet.len() as u64, arrives] {
            for octet in number.to_be_bytes() {
                both.digest = (both.digest ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3);
            }
        }
        delay
    }
}
