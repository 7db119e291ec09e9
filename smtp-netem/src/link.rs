//! One direction of a link: which packet arrives when. No clock, no socket: the time is the caller's.

use std::collections::VecDeque;
use std::time::Duration;

use crate::packet::Layout;
use crate::shape::Shape;

/// One direction, with its queue and its chance.
#[derive(Debug, Clone)]
pub struct Link {
    shape: Shape,
    random: fastrand::Rng,
    last_was_lost: bool,
    /// When the last packet of the queue will have left it.
    free_at: Duration,
    /// Packets that have not left yet: when they will, and their octets.
    waiting: VecDeque<(Duration, usize)>,
    waiting_octets: usize,
    counters: Counters,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It comes out at the other end at this time.
    Arrives(Duration),
    /// It does not.
    Dropped(DropReason),
}

/// Why a packet does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// By chance: [`Shape::loss`].
    Lost,
    /// [`Shape::queue`] was full.
    QueueFull,
    /// Above [`Shape::largest`].
    TooLarge,
    /// [`Shape::block_udp`].
    UdpBlocked,
    /// The NAT knows nobody who would want it.
    NoSuchPort,
    /// The system did not take it at the other end.
    NotTaken,
}

/// What has gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets that were offered.
    pub packets: u64,
    /// Their octets, IP headers included.
    pub octets: u64,
    /// Packets that arrive.
    pub arrived: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped at the end of a full queue.
    pub queue_full: u64,
    /// Dropped for any other reason.
    pub refused: u64,
}

impl Link {
    /// A link whose chance is `seed`'s. Two draws are made for each packet whatever becomes of it, so that packet
    /// number n meets the same luck in every run.
    #[must_use]
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: fastrand::Rng::with_seed(seed),
            last_was_lost: false,
            free_at: Duration::ZERO,
            waiting: VecDeque::new(),
            waiting_octets: 0,
            counters: Counters::default(),
        }
    }

    /// Another shape from now on. What is under way stays so.
    pub const fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// The chance of a new link with this seed from now on: the next packet is number 0.
    pub fn reseed(&mut self, seed: u64) {
        self.random = fastrand::Rng::with_seed(seed);
        self.last_was_lost = false;
    }

    /// What has gone through until now.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// A packet is put on the link at `now`, which never goes back.
    pub fn offer(&mut self, now: Duration, packet: &[u8]) -> Fate {
        let (luck, lateness) = (self.random.f64(), self.random.f64());
        self.counters.packets += 1;
        self.counters.octets += packet.len() as u64;
        match self.accept(now, packet, luck) {
            Ok(leaves) => {
                self.counters.arrived += 1;
                Fate::Arrives(leaves + self.shape.delay + self.shape.jitter.mul_f64(lateness))
            }
            Err(why) => self.drop(why),
        }
    }

    /// A packet that was to arrive does not, for a reason that is not the link's.
    #[cfg(target_os = "linux")]
    pub(crate) const fn take_back(&mut self, why: DropReason) -> Fate {
        self.counters.arrived -= 1;
        self.drop(why)
    }

    const fn drop(&mut self, why: DropReason) -> Fate {
        match why {
            DropReason::Lost => self.counters.lost += 1,
            DropReason::QueueFull => self.counters.queue_full += 1,
            DropReason::TooLarge | DropReason::UdpBlocked | DropReason::NoSuchPort | DropReason::NotTaken => {
                self.counters.refused += 1;
            }
        }
        Fate::Dropped(why)
    }

    /// When it has left the queue.
    fn accept(&mut self, now: Duration, packet: &[u8], luck: f64) -> Result<Duration, DropReason> {
        if self.shape.largest.is_some_and(|largest| packet.len() > largest) {
            return Err(DropReason::TooLarge);
        }
        if self.shape.block_udp && Layout::of(packet).is_some_and(|layout| layout.is_udp()) {
            return Err(DropReason::UdpBlocked);
        }
        let leaves = self.queue(now, packet.len())?;
        self.last_was_lost = luck < self.shape.loss.probability(self.last_was_lost);
        if self.last_was_lost { Err(DropReason::Lost) } else { Ok(leaves) }
    }

    fn queue(&mut self, now: Duration, octets: usize) -> Result<Duration, DropReason> {
        while let Some((_, gone)) = self.waiting.front().copied().filter(|(leaves, _)| *leaves <= now) {
            self.waiting.pop_front();
            self.waiting_octets -= gone;
        }
        let Some(rate) = self.shape.rate.filter(|rate| *rate > 0) else { return Ok(now) };
        // One is always taken: it is being sent, and does not wait.
        if !self.waiting.is_empty() && self.waiting_octets + octets > self.shape.queue {
            return Err(DropReason::QueueFull);
        }
        let nanoseconds = u128::try_from(octets).unwrap_or(u128::MAX) * 8_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let leaves = self.free_at.max(now).saturating_add(takes);
        self.free_at = leaves;
        self.waiting.push_back((leaves, octets));
        self.waiting_octets += octets;
        Ok(leaves)
    }
}

#[cfg(test)]
mod tests;
