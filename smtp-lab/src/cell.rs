//! One cell of a matrix: a way to send mail, and what it is sent over.

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};
use smtp_netem::{Loss, Shape};

use crate::choice::{
    Congestion, Dialogue, Ground, KeyExchange, Priority, Resumption, Spread, Transfer, Transport, Tuning,
};

/// What is between the two sides, the same each way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// The round trip time, in milliseconds.
    pub rtt: f64,
    /// How much longer a packet may take each way, evenly spread, in milliseconds.
    pub jitter: f64,
    /// The share of packets that is lost each way, in percent.
    pub loss: f64,
    /// How many are lost in a row on average; 1: each by itself.
    pub burst: f64,
    /// Mbit/s each way; 0: no limit.
    pub rate: f64,
    /// Octets that may wait where there is a rate.
    pub queue: usize,
    /// The largest packet that gets through, in octets.
    pub mtu: u16,
    /// Whether UDP vanishes.
    pub block_udp: bool,
    /// When the client's NAT forgets its ports, in milliseconds from the beginning; 0: never.
    #[serde(default)]
    pub rebind: f64,
}

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// What carries it.
    pub transport: Transport,
    /// What of an earlier session is used.
    pub resumption: Resumption,
    /// What waits for what.
    pub dialogue: Dialogue,
    /// DATA or BDAT.
    pub transfer: Transfer,
    /// How many mails are to be sent at once.
    pub mails: usize,
    /// What they share.
    pub spread: Spread,
    /// The octets of each.
    pub size: usize,
    /// How QUIC begins.
    pub tuning: Tuning,
    /// The congestion control.
    pub congestion: Congestion,
    /// Which stream goes first.
    pub priority: Priority,
    /// The key exchange.
    pub key_exchange: KeyExchange,
    /// What it is sent over.
    pub path: Path,
}

impl Cell {
    /// The same with the usual value wherever a choice is about something that this cell does not have: two that differ
    /// in nothing else are one.
    pub(crate) const fn normalised(mut self) -> Self {
        if self.mails == 1 {
            self.spread = Spread::Session;
        }
        if self.transport.is_tcp() {
            self.tuning = Tuning::Default;
        }
        if !matches!(self.transport, Transport::Race) && matches!(self.resumption, Resumption::Memory) {
            self.resumption = Resumption::None;
        }
        if !matches!(self.spread, Spread::Streams) {
            self.priority = Priority::Ordered;
        }
        if matches!(self.transport, Transport::Tcp) {
            self.key_exchange = KeyExchange::Hybrid;
        }
        self
    }

    /// The way that has to be there, and the other one if they race.
    pub(crate) const fn ways(self) -> (Self, Option<Self>) {
        match self.transport {
            Transport::Race => (self.taking(Transport::StartTls), Some(self.taking(Transport::Quic))),
            _ => (self, None),
        }
    }

    /// The same over `transport`, as far as that allows.
    pub(crate) const fn taking(mut self, transport: Transport) -> Self {
        self.transport = transport;
        if transport.is_tcp() && matches!(self.dialogue, Dialogue::Flight) {
            self.dialogue = Dialogue::Pipelined;
        }
        self.normalised()
    }

    /// Whether it can be run on `ground`.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, ground: Ground) -> Result<(), &'static str> {
        let quic = self.transport == Transport::Quic;
        if self.transport == Transport::Race {
            if self.spread == Spread::Streams {
                return Err("TCP may win a race, and has no streams: take `session` or `connections`");
            }
            if self.path.rebind > 0.0 {
                return Err("TCP may win a race, and a NAT forgets the ports of UDP only: take `quic`");
            }
            if matches!(self.resumption, Resumption::Ticket | Resumption::Early) {
                return Err(
                    "a race has full handshakes: take `none` or `memory`; what a ticket saves, `starttls` and `quic` show",
                );
            }
        }
        if self.transport.is_tcp() && self.dialogue == Dialogue::Flight {
            return Err("over TCP the reply to EHLO has to be waited for (RFC 2920 §3.1): no flight");
        }
        if self.transport.is_tcp() && self.spread == Spread::Streams {
            return Err("TCP has no streams");
        }
        if self.transport == Transport::Tcp && self.resumption != Resumption::None {
            return Err("without TLS there is nothing to resume");
        }
        if self.resumption == Resumption::Early && (!quic || self.dialogue != Dialogue::Flight) {
            return Err("early data is QUIC's, and carries what waits for no reply");
        }
        if matches!(self.resumption, Resumption::Ticket | Resumption::Early) && self.spread == Spread::Connections {
            return Err("tickets are for one use: many connections at once have one only");
        }
        if self.path.rebind > 0.0 && (!quic || ground == Ground::Simulation) {
            return Err("a NAT that forgets is the emulated link's, and forgets the ports of UDP only");
        }
        if ground == Ground::Simulation && !quic {
            let Path { jitter, loss, rate, block_udp: _, .. } = self.path;
            if loss > 0.0 || jitter > 0.0 || rate > 0.0 {
                return Err(
                    "the simulated TCP, that of a race too, knows no loss, jitter or rate: what the kernel's does then is measured on the \
                     emulated link",
                );
            }
            if self.congestion != Congestion::Cubic {
                return Err(
                    "the simulated TCP, that of a race too, has slow start only, which is the same for all controllers",
                );
            }
        }
        Ok(())
    }

    /// The way, as tables and legends name it: only what is not the usual.
    #[must_use]
    pub fn way(&self) -> String {
        let mut words = vec![match self.transport {
            Transport::Tcp => "TCP",
            Transport::StartTls => "STARTTLS",
            Transport::Tls => "TLS",
            Transport::Quic => "QUIC",
            Transport::Race => "race",
        }];
        words.push(match (self.dialogue, self.transfer) {
            (Dialogue::Lockstep, Transfer::Data) => "DATA, lock-step",
            (Dialogue::Lockstep, Transfer::Bdat) => "BDAT, lock-step",
            (Dialogue::Pipelined, Transfer::Data) => "DATA, pipelined",
            (Dialogue::Pipelined, Transfer::Bdat) => "BDAT, pipelined",
            (Dialogue::Flight, Transfer::Data) => "DATA, in one flight",
            (Dialogue::Flight, Transfer::Bdat) => "one flight",
        });
        match self.spread {
            Spread::Session if self.mails > 1 && self.transport == Transport::Quic => words.push("one stream"),
            Spread::Session if self.mails > 1 => words.push("one connection"),
            Spread::Session => {}
            Spread::Streams => words.push("streams"),
            Spread::Connections => words.push("a connection each"),
        }
        match self.resumption {
            Resumption::None => {}
            Resumption::Memory => words.push("remembered"),
            Resumption::Ticket => words.push("ticket"),
            Resumption::Early => words.push("early data"),
        }
        if self.tuning == Tuning::Tuned {
            words.push("tuned");
        }
        match self.congestion {
            Congestion::Cubic => {}
            Congestion::Bbr => words.push("BBR"),
            Congestion::Reno => words.push("Reno"),
        }
        if self.priority == Priority::Fair {
            words.push("fair");
        }
        if self.key_exchange == KeyExchange::X25519 && self.transport != Transport::Tcp {
            words.push("X25519");
        }
        words.join(", ")
    }

    /// What is sent: `20 mails of 20000 octets`.
    #[must_use]
    pub fn load(&self) -> String {
        let s = if self.mails == 1 { "" } else { "s" };
        format!("{} mail{s} of {} octets", self.mails, self.size)
    }
}

impl Path {
    /// The same without loss and jitter, for what comes before a measurement.
    pub(crate) const fn calm(mut self) -> Self {
        self.loss = 0.0;
        self.jitter = 0.0;
        self
    }

    /// One direction, for the link.
    pub(crate) fn shape(&self) -> Shape {
        let milliseconds = |value: f64| Duration::from_secs_f64(value / 1000.0);
        let share = self.loss / 100.0;
        Shape {
            delay: milliseconds(self.rtt / 2.0),
            jitter: milliseconds(self.jitter),
            loss: match share {
                share if share <= 0.0 => Loss::None,
                rate if self.burst > 1.0 => Loss::Bursts { rate, mean: self.burst },
                share => Loss::Random(share),
            },
            rate: (self.rate > 0.0).then(|| crate::number::whole(self.rate * 1e6)),
            queue: self.queue,
            largest: (self.mtu < 1500).then_some(usize::from(self.mtu)),
            block_udp: self.block_udp,
        }
    }

    /// Long enough for all that is under way to arrive.
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_secs_f64((self.rtt * 2.0 + self.jitter * 2.0 + 50.0).ceil() / 1000.0)
    }
}

impl fmt::Display for Path {
    /// What is not the usual: `50 ms, 2 % lost, 100 Mbit/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.rtt)?;
        if self.jitter > 0.0 {
            write!(f, " + up to {} ms each way", self.jitter)?;
        }
        write!(f, ", {} % lost", self.loss)?;
        if self.burst > 1.0 && self.loss > 0.0 {
            write!(f, " in runs of {}", self.burst)?;
        }
        if self.rate > 0.0 {
            write!(f, ", {} Mbit/s, queue {} octets", self.rate, self.queue)?;
        }
        if self.mtu != 1500 {
            write!(f, ", MTU {}", self.mtu)?;
        }
        if self.block_udp {
            f.write_str(", UDP blocked")?;
        }
        if self.rebind > 0.0 {
            write!(f, ", NAT forgets after {} ms", self.rebind)?;
        }
        Ok(())
    }
}
