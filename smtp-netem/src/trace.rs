//! What happened to each packet, for whoever wants to know why a figure is what it is.

use std::fmt;
use std::time::Duration;

use crate::link::Fate;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From side A, which is behind the NAT, to side B.
    AToB,
    /// The other one.
    BToA,
}

/// A packet on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it was sent, since the network began.
    pub at: Duration,
    /// Which way.
    pub direction: Direction,
    /// Its octets, IP header included.
    pub octets: usize,
    /// `udp 50000 > 443`, `tcp 50000 > 25 SA`: as it looks between the NAT and side B.
    pub what: String,
    /// What became of it.
    pub fate: Fate,
}

impl fmt::Display for Event {
    /// One line: seconds, direction, octets, what, and for how long it was under way in ms, or why it was dropped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::AToB => "A>B",
            Direction::BToA => "B>A",
        };
        write!(f, "{:.6} {direction} {:5} {:26} ", self.at.as_secs_f64(), self.octets, self.what)?;
        match self.fate {
            Fate::Arrives(at) => write!(f, "{:.1}", at.saturating_sub(self.at).as_secs_f64() * 1e3),
            Fate::Dropped(why) => write!(f, "{why:?}"),
        }
    }
}
