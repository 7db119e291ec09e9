//! A network to simulate: datagrams in memory, fates from a seed, time that only passes when nobody has anything to do.
//!
//! Run it on tokio's current-thread runtime with paused time (`#[tokio::test(start_paused = true)]`). Two runs with
//! one seed then send the same datagrams at the same instants, which [`Network::digest`] shows; without loss the times
//! are whole round trips. Certificates have to be of one length from run to run: signed by Ed25519 (ECDSA's signatures
//! vary) and with a serial number that was set (one made from the key may begin with a zero octet, which DER drops). The
//! key exchange has to be named too: which one is preferred, and so the size of the first flight, is a cargo feature of
//! rustls that any crate of the build can switch on.
//!
//! There is no limit on the rate, and no queue.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

/// What happens to datagrams on their way, the same in both directions. The default delivers all of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path {
    /// How long each takes.
    pub delay: Duration,
    /// How much longer it may take: they overtake each other then.
    pub jitter: Duration,
    /// How many of a thousand are lost.
    pub loss: u16,
    /// How many of a thousand arrive twice.
    pub duplicate: u16,
}

/// A datagram on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// What a tap wants done with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// What the path has for it.
    Path,
    /// To be lost.
    Lost,
    /// To arrive after so long, whatever the path is like: for a tap that is a path itself.
    After(Duration),
}

type Tap = Box<dyn FnMut(&Datagram) -> Fate + Send>;

/// A network. Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    path: Path,
    random: u64,
    seed: u64,
    start: Instant,
    cut_at: Option<Instant>,
    tap: Option<Tap>,
    inboxes: HashMap<SocketAddr, Inbox>,
    sent: u64,
    digest: u64,
}

#[derive(Default)]
struct Inbox {
    /// By the instant of arrival, and by the order of sending where that is the same.
    arriving: BTreeMap<(Instant, u64), Datagram>,
    reader: Option<Waker>,
}

impl Network {
    /// A network whose chance is `seed`'s.
    #[must_use]
    pub fn new(seed: u64, path: Path) -> Self {
        Self(Arc::new(Mutex::new(State {
            path,
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            seed,
            start: Instant::now(),
            cut_at: None,
            tap: None,
            inboxes: HashMap::new(),
            sent: 0,
            digest: 0xcbf2_9ce4_8422_2325,
        })))
    }

    /// An endpoint at `address`, for [`QuicListener::from_endpoint`](crate::QuicListener::from_endpoint) or
    /// [`QuicConnector::from_endpoint`](crate::QuicConnector::from_endpoint).
    ///
    /// # Errors
    /// If the address is taken, or this is not in a tokio runtime.
    pub fn endpoint(&self, address: SocketAddr) -> io::Result<Endpoint> {
        let mut config = EndpointConfig::default();
        {
            let mut state = self.lock();
            if state.inboxes.contains_key(&address) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            state.inboxes.insert(address, Inbox::default());
            let mut seed = [0; 32];
            for (octet, source) in seed.iter_mut().zip(state.seed.to_be_bytes().into_iter().cycle()) {
                *octet = source ^ u8::try_from(state.inboxes.len() & 0x7f).unwrap_or_default();
            }
            config.rng_seed(Some(seed));
        }
        let socket = Arc::new(SimSocket { network: self.clone(), address, timer: Mutex::new(None) });
        Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime))
    }

    /// Moves an endpoint of this network to another address; its peers find out with the next datagram.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn rebind(&self, endpoint: &Endpoint, address: SocketAddr) -> io::Result<()> {
        match self.lock().inboxes.entry(address) {
            Entry::Occupied(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Entry::Vacant(place) => place.insert(Inbox::default()),
        };
        endpoint.rebind_abstract(Arc::new(SimSocket { network: self.clone(), address, timer: Mutex::new(None) }))
    }

    /// From now on datagrams fare like this.
    pub fn set_path(&self, path: Path) {
        self.lock().path = path;
    }

    /// From `instant` on nothing arrives any more, in either direction.
    pub fn cut_at(&self, instant: Instant) {
        self.lock().cut_at = Some(instant);
    }

    /// Shows every datagram to `tap` before it is sent, and asks what to do with it.
    pub fn tap(&self, tap: impl FnMut(&Datagram) -> Fate + Send + 'static) {
        self.lock().tap = Some(Box::new(tap));
    }

    /// Sends a datagram as if its `from` had.
    pub fn inject(&self, datagram: Datagram) {
        self.lock().carry(datagram);
    }

    /// How many datagrams were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// A hash of everything that was sent: when, from where to where, how much of it, and whether it arrived.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.lock().digest
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Network").field("seed", &state.seed).field("sent", &state.sent).finish_non_exhaustive()
    }
}

impl State {
    fn send(&mut self, datagram: Datagram) {
        let fate = self.tap.as_mut().map_or(Fate::Path, |tap| tap(&datagram));
        // Drawn for each, whatever becomes of it, so that one fate does not change the others'.
        let (lost, twice) = (self.draw(1000) < self.path.loss.into(), self.draw(1000) < self.path.duplicate.into());
        let (lost, twice) = match fate {
            Fate::Path => (lost, twice),
            Fate::Lost => (true, false),
            Fate::After(_) => (false, false),
        };
        let lost = lost || self.cut_at.is_some_and(|cut| Instant::now() >= cut);
        self.note(&datagram, lost, twice);
        if lost {
            return;
        }
        if let Fate::After(delay) = fate {
            return self.deliver(datagram, delay);
        }
        if twice {
            self.carry(datagram.clone());
        }
        self.carry(datagram);
    }

    fn carry(&mut self, datagram: Datagram) {
        let jitter = u64::try_from(self.path.jitter.as_micros()).unwrap_or(u64::MAX);
        let late = if jitter == 0 { 0 } else { self.draw(jitter) };
        self.deliver(datagram, self.path.delay + Duration::from_micros(late));
    }

    fn deliver(&mut self, datagram: Datagram, delay: Duration) {
        let arrival = Instant::now() + delay;
        self.sent += 1;
        let order = self.sent;
        // Nobody there: it is lost, as on any network.
        let Some(inbox) = self.inboxes.get_mut(&datagram.to) else { return };
        inbox.arriving.insert((arrival, order), datagram);
        if let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }

    /// splitmix64: small, and good enough to roll dice.
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    /// FNV-1a over what a rerun must have in common; the payload is encrypted with new keys each time.
    fn note(&mut self, datagram: &Datagram, lost: bool, twice: bool) {
        let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let fate = u64::from(lost) | u64::from(twice) << 1;
        let way = u64::from(datagram.from.port()) << 16 | u64::from(datagram.to.port());
        for number in [at, datagram.payload.len() as u64, fate, way] {
            for octet in number.to_be_bytes() {
                self.digest = (self.digest ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
}

struct SimSocket {
    network: Network,
    address: SocketAddr,
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.network.lock();
        for payload in transmit.contents.chunks(transmit.segment_size.unwrap_or(usize::MAX).max(1)) {
            state.send(Datagram { from: self.address, to: transmit.destination, payload: payload.to_vec() });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.network.lock();
        let Some(inbox) = state.inboxes.get_mut(&self.address) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut filled = 0;
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(first) = inbox.arriving.first_entry() else { break };
            if first.key().0 > Instant::now() {
                break;
            }
            let datagram = first.remove();
            let len = datagram.payload.len().min(buf.len());
            let Some((to, from)) = buf.get_mut(..len).zip(datagram.payload.get(..len)) else { break };
            to.copy_from_slice(from);
            *meta = RecvMeta { addr: datagram.from, len, stride: len, ecn: None, dst_ip: None };
            filled += 1;
        }
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        inbox.reader = Some(cx.waker().clone());
        if let Some((at, _)) = inbox.arriving.keys().next() {
            let sleep = timer.insert(Box::pin(sleep_until(*at)));
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.lock().inboxes.remove(&self.address);
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
