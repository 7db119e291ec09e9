//! What there is to see of a client's connection beside the octets of its sessions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The connection can be used: the handshake is complete, or what is sent now is early data.
    Connected {
        /// The round trip time, as far as it has been measured.
        rtt: Duration,
        /// What is sent now leaves before the handshake is complete.
        early: bool,
    },
    /// The server's word on early data is there. What it refused was not looked at.
    EarlyData {
        /// True if it took them.
        accepted: bool,
    },
    /// A session begins.
    StreamOpened {
        /// The number of its stream on the connection.
        id: u64,
    },
    /// A session has ended.
    StreamEnded {
        /// The number of its stream.
        id: u64,
        /// The octets that were given to QUIC for it.
        sent: u64,
        /// The octets that were read from it.
        received: u64,
    },
    /// The connection has come to its end.
    Closed(Traffic),
}

/// What a connection has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// The round trip time, as it was estimated last.
    pub rtt: Duration,
    /// UDP datagrams that were sent.
    pub datagrams_sent: u64,
    /// Octets in them.
    pub octets_sent: u64,
    /// UDP datagrams that were received.
    pub datagrams_received: u64,
    /// Octets in them.
    pub octets_received: u64,
    /// Packets that were sent and got lost.
    pub packets_lost: u64,
}

impl Traffic {
    pub(crate) fn of(quic: &quinn::Connection) -> Self {
        let stats = quic.stats();
        Self {
            rtt: quic.rtt(),
            datagrams_sent: stats.udp_tx.datagrams,
            octets_sent: stats.udp_tx.bytes,
            datagrams_received: stats.udp_rx.datagrams,
            octets_received: stats.udp_rx.bytes,
            packets_lost: stats.path.lost_packets,
        }
    }
}

impl fmt::Display for Event {
    /// For a transcript: `QUICv1, round trip 0.4 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        match self {
            Self::Connected { rtt, early: false } => {
                write!(f, "QUICv1, handshake complete, round trip {:.1} ms", ms(rtt))
            }
            Self::Connected { early: true, .. } => f.write_str("QUICv1, resumed: what follows is sent as early data"),
            Self::EarlyData { accepted: true } => f.write_str("handshake complete, early data accepted"),
            Self::EarlyData { accepted: false } => f.write_str("handshake complete, early data refused"),
            Self::StreamOpened { id } => write!(f, "stream {id} opened"),
            Self::StreamEnded { id, sent, received } => {
                write!(f, "stream {id} ended: {sent} octets sent, {received} received")
            }
            Self::Closed(t) => write!(
                f,
                "QUIC closed: {} datagrams with {} octets sent, {} with {} received, {} lost, round trip {:.1} ms",
                t.datagrams_sent,
                t.octets_sent,
                t.datagrams_received,
                t.octets_received,
                t.packets_lost,
                ms(&t.rtt)
            ),
        }
    }
}

/// Who is told of a client's connections, for a transcript or for measurements. It is called in the midst of things:
/// it must not block, and must not call the connection.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&Event) + Send + Sync>);

impl Observer {
    /// An observer that is `told`.
    pub fn new(told: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, event: &Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}
