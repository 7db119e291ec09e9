//! What a link does to packets.

use std::time::Duration;

/// What happens to packets in one direction. The default delivers all of them at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// How long each is under way once it has left the queue. Default: nothing.
    pub delay: Duration,
    /// How much longer it may take, evenly spread; packets overtake each other then. Default: nothing.
    pub jitter: Duration,
    /// Which packets are lost after they have left the queue. Default: none.
    pub loss: Loss,
    /// Bits per second, IP headers included. Default: no limit.
    pub rate: Option<u64>,
    /// How many octets may wait for their turn when there is a rate; what comes on top is dropped. Default: 625,000,
    /// which is 50 ms at 100 Mbit/s.
    pub queue: usize,
    /// Larger packets vanish without a word, as behind a router whose ICMP is filtered. Default: all get through.
    pub largest: Option<usize>,
    /// UDP vanishes. Default: it does not.
    pub block_udp: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::None,
            rate: None,
            queue: 625_000,
            largest: None,
            block_udp: false,
        }
    }
}

/// Which packets are lost. Rates are shares of 1; what lies outside of 0 to 1 counts as the nearer end.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// None. The default.
    #[default]
    None,
    /// Each with this probability, whatever happened to the others.
    Random(f64),
    /// In runs, as Gilbert's model has them: a link is good and loses nothing, or bad and loses all.
    Bursts {
        /// The share that is lost in the long run.
        rate: f64,
        /// How many in a row are lost on average, at least 1.
        mean: f64,
    },
}

impl Loss {
    /// The probability that a packet is lost, `after_loss` or not.
    pub(crate) fn probability(self, after_loss: bool) -> f64 {
        let share = |rate: f64| if rate.is_nan() { 0.0 } else { rate.clamp(0.0, 1.0) };
        match self {
            Self::None => 0.0,
            Self::Random(rate) => share(rate),
            Self::Bursts { rate, .. } if share(rate) >= 1.0 => 1.0,
            Self::Bursts { rate, mean } => {
                let leave = 1.0 / mean.max(1.0);
                let rate = share(rate);
                // The share of bad packets is enter / (enter + leave).
                if after_loss { 1.0 - leave } else { share(rate * leave / (1.0 - rate)) }
            }
        }
    }
}
