//! Settings.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use smtp_core::stream::LocalAddresses;

use crate::observer::Observer;
use crate::window::{Completed, Roomy};

/// Which of the two protocols a listener or a connector speaks. They differ in the name that TLS agrees on, so that
/// neither is mistaken for the other, nor for anything else (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Service {
    /// Mail between servers: `smtp-quic-00`. The default.
    #[default]
    Relay,
    /// Mail from its author (RFC 6409): `submission-quic-00`.
    Submission,
}

impl Service {
    /// The application protocol's name in the handshake.
    //
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Relay => b"smtp-quic-00",
            Self::Submission => b"submission-quic-00",
        }
    }
}

/// Whether mail may travel in the first flight of a resumed connection (RFC 9001 §4.6.1), before the handshake has
/// shown that it is no replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EarlyData {
    /// No. The default.
    //
    #[default]
    Off,
    /// Yes; a server looks at nothing past the first EHLO until the handshake is complete
    /// ([`ByteStream::poll_confirmed`](smtp_core::stream::ByteStream::poll_confirmed)). Saves a round trip for a mail
    /// that is larger than the initial window; one that fits waits as long for the proof as for a handshake. What a
    /// client sends so early can be read by whoever steals the server's ticket store later: it has no forward
    /// secrecy (RFC 8446 §2.3), so no password and no mail that demands secrecy may go there.
    ///
    /// A client's initial window is ten packets larger then, so that early data leaves room for the handshake.
    Gated,
}

/// quinn's initial window: ten packets of 1,200 octets (RFC 9002 §7.2).
const DEFAULT_WINDOW: u64 = 12_000;

/// How fast a sender sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Congestion {
    /// RFC 9438. The default.
    #[default]
    Cubic,
    /// RFC 9002 §7.
    NewReno,
    /// Quicker under random loss, but quinn calls its own experimental and not maintained: it may cause excessive
    /// loss for others.
    Bbr,
}

/// Settings of the connection itself, the same on both sides.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// How many sessions a server lets one client have at a time, and at moments up to a seventh more; on a client, how
    /// many it wants. Default: 32.
    pub max_streams: u32,
    /// What may be on its way, or read by nobody yet, on one stream, in octets. Default: 512 KiB. (quinn: 1.25 MB.)
    pub stream_window: u32,
    /// The same for all streams of a connection together: this is what a peer can make this side hold, gaps
    /// included. Default: 4 MiB. (quinn: unlimited.)
    pub connection_window: u32,
    /// What this side keeps because the peer has not acknowledged it yet, in octets. Default: 4 MiB.
    pub send_window: u64,
    /// A connection on which nothing at all arrives for so long is given up; the lower of both sides' counts. Default:
    /// 660 s, which is above the 10 min that a client waits for the reply to its content (RFC 5321 §4.5.3.2.6).
    pub idle_timeout: Duration,
    /// How many octets are sent before the first acknowledgement is there. Default: none, which is the controller's
    /// own, about 12 KB (RFC 9002 §7.2), and 26 KB to a loopback address. 48 KB takes a typical mail in one flight.
    pub initial_window: Option<u64>,
    /// The largest UDP payload that is sent before a larger one has proved to get through, in octets. Default: 1,200, which
    /// every path for QUIC takes (RFC 9000 §14). Only for networks that are known: where 1,452 get through, which is
    /// Ethernet without tunnels, a mail has a fifth fewer packets; where they do not, it is lost until QUIC has found that
    /// out. Less than 1,200 counts as 1,200.
    pub initial_mtu: u16,
    /// The round trip time that is assumed until one is measured: a lost first packet is sent again after three times
    /// that. Default: none, which is 333 ms (RFC 9002 §6.2.2).
    pub initial_rtt: Option<Duration>,
    /// Default: CUBIC.
    pub congestion: Congestion,
    /// Whether many packets are handed to the system in one call where it can cut them (UDP segmentation offload). Default:
    /// true.
    pub segmentation_offload: bool,
    /// Whether the streams of a connection share what may be sent evenly. Every mail of a burst arrives with the last
    /// then; it is there to be measured. Default: false, earlier streams go first.
    pub share_evenly: bool,
    /// Where to write one qlog file per connection. Works only with this crate's feature `qlog`. Default: nowhere.
    pub qlog_dir: Option<PathBuf>,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            max_streams: 32,
            stream_window: 512 << 10,
            connection_window: 4 << 20,
            send_window: 4 << 20,
            idle_timeout: Duration::from_secs(660),
            initial_window: None,
            initial_mtu: 1200,
            initial_rtt: None,
            congestion: Congestion::default(),
            segmentation_offload: true,
            share_evenly: false,
            qlog_dir: None,
        }
    }
}

/// The largest UDP payload that is looked for towards this machine itself, in octets, and that is taken: its own
/// interface has room for ten times as much.
const NEAR: u16 = 6_500;

/// quinn hands over up to ten packets at once, which the system cuts; what is larger than it takes would be lost silently.
const _: () = assert!(NEAR as u32 * 10 + 48 <= u16::MAX as u32);

/// The first congestion window towards this machine: four packets. With quinn's own, which is of small packets, one leaves
/// alone, and one that comes alone is acknowledged 25 ms later.
const NEAR_WINDOW: u64 = 4 * NEAR as u64;

/// Whether packets to this address stay on this machine.
pub(crate) const fn is_near(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// An endpoint on a socket of the system's.
pub(crate) fn endpoint_on(socket: UdpSocket) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(NEAR).map_err(io::Error::other)?;
    Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
}

/// Which end a configuration is for.
#[derive(Debug)]
pub(crate) enum Side {
    Server,
    /// With the end of its handshake, if it sends early data.
    Client {
        keep_alive: Duration,
        early: Option<Completed>,
    },
}

impl TransportOptions {
    /// quinn's configuration, for a peer that is near if that is said.
    ///
    /// # Errors
    /// If a number is beyond what QUIC can express, 2^62 - 1.
    pub(crate) fn config(&self, side: &Side, near: bool) -> io::Result<TransportConfig> {
        let mut config = TransportConfig::default();
        let early = match side {
            // A server's replies to EHLO are small.
            Side::Server => None,
            Side::Client { early, .. } => early.as_ref(),
        };
        let idle = IdleTimeout::try_from(self.idle_timeout)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the idle timeout is too long for QUIC"))?;
        config
            // No stream that this mapping has no use for can be opened at all.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            //
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(self.send_window)
            .initial_mtu(self.initial_mtu)
            .enable_segmentation_offload(self.segmentation_offload)
            //
            .max_idle_timeout(Some(idle))
            .congestion_controller_factory(self.controller(early, near));
        match side {
            //
            Side::Server => config.max_concurrent_bidi_streams(Self::granted(self.max_streams)),
            //
            Side::Client { keep_alive, .. } => config.keep_alive_interval(Some(*keep_alive)),
        };
        if near {
            let mut discovery = MtuDiscoveryConfig::default();
            // It gets through, or packets stay as they are: so large a step has it tried at once, three times at most, where
            // halves would take eight packets of each connection.
            discovery.upper_bound(NEAR).minimum_change(NEAR / 2);
            config.mtu_discovery_config(Some(discovery));
        }
        if let Some(rtt) = self.initial_rtt {
            config.initial_rtt(rtt);
        }
        Ok(config)
    }

    /// quinn gives credit for new streams back in batches of an eighth. A client with all but one of its sessions at
    /// rest would wait for ever for the one; a seventh more makes sure that so many always find a place.
    //
    pub(crate) const fn granted(streams: u32) -> VarInt {
        VarInt::from_u32(streams.saturating_add(streams.div_ceil(7)))
    }

    /// How many octets of early data a client sends before the handshake is complete: what the initial window was set
    /// to, less a packet for the handshake.
    //
    pub(crate) fn early_data_max(&self) -> usize {
        const PACKET: u64 = 1_200;
        let window = self.initial_window.unwrap_or(DEFAULT_WINDOW);
        usize::try_from(window.saturating_sub(PACKET)).unwrap_or(usize::MAX)
    }

    /// The controller. A client with early data has a window that is larger than what may be sent early, by what slow start
    /// adds in the round trip that the handshake takes, and that keeps this room until the handshake is over.
    //
    fn controller(&self, early: Option<&Completed>, near: bool) -> Arc<dyn ControllerFactory + Send + Sync> {
        let window = self.initial_window.or(near.then_some(NEAR_WINDOW));
        let window = match early {
            None => window,
            Some(_) => {
                let room = self.initial_window.unwrap_or(DEFAULT_WINDOW).saturating_add(DEFAULT_WINDOW);
                Some(room.max(window.unwrap_or_default()))
            }
        };
        /// The default of a controller with the initial window, if there is one to set.
        macro_rules! controller {
            ($config:ty) => {{
                let mut config = <$config>::default();
                if let Some(window) = window {
                    config.initial_window(window);
                }
                let inner = Arc::new(config);
                match early {
                    None => inner,
                    Some(completed) => Arc::new(Roomy { inner, completed: completed.clone() }),
                }
            }};
        }
        match self.congestion {
            Congestion::Cubic => controller!(CubicConfig),
            Congestion::NewReno => controller!(NewRenoConfig),
            Congestion::Bbr => controller!(BbrConfig),
        }
    }
}

/// Settings of a [`QuicListener`](crate::QuicListener).
#[derive(Debug, Clone)]
pub struct QuicOptions {
    /// Default: relay.
    pub service: Service,
    /// Limits, windows, timers.
    pub transport: TransportOptions,
    /// How many sessions a client may have at a time that has shown a certificate by the client CA, if that is more than
    /// [`TransportOptions::max_streams`]. Default: 128.
    pub max_streams_certified: u32,
    /// Default: off.
    pub early_data: EarlyData,
    /// Whether a client may go on from another address (RFC 9000 §9). What its sessions know is the address that the
    /// handshake proved, all the same; the policy is asked about the new one before the next MAIL. Default: what suits
    /// the service: not for mail between servers, and for submission, whose clients change networks.
    pub migration: Option<bool>,
    /// With more unfinished handshakes than this, a client has to prove its address first, which costs it a round
    /// trip (RFC 9000 §8.1.2). Default: 64; 0 asks everybody.
    pub retry_above: usize,
    /// With this many unfinished handshakes, further clients are refused. Default: 1,024.
    pub max_half_open: usize,
    /// The time for a handshake. Default: 10 s.
    pub handshake_timeout: Duration,
    /// A connection without a session is closed after this. Default: 30 s.
    pub quiet_timeout: Duration,
    /// When the listener is gone and a connection has no session any more, it is left open for this long, so that the
    /// last replies are not only acknowledged by the peer's QUIC, but read. Default: 1 s.
    pub drain_grace: Duration,
    /// How many streams a client may open and throw away: one that ends without an orderly end of its session takes
    /// one from the account, an orderly one puts one back, up to this number. At nothing the connection is closed.
    /// Default: 100.
    pub churn: u32,
    /// Whether an IPv6 socket takes IPv6 only. Default: true, on every system.
    pub v6_only: bool,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            service: Service::default(),
            transport: TransportOptions::default(),
            max_streams_certified: 128,
            early_data: EarlyData::default(),
            migration: None,
            retry_above: 64,
            max_half_open: 1024,
            handshake_timeout: Duration::from_secs(10),
            quiet_timeout: Duration::from_secs(30),
            drain_grace: Duration::from_secs(1),
            churn: 100,
            v6_only: true,
        }
    }
}

/// Settings of a [`QuicConnector`](crate::QuicConnector).
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Default: relay.
    pub service: Service,
    /// Limits, windows, timers.
    pub transport: TransportOptions,
    /// Default: off.
    pub early_data: EarlyData,
    /// How often a sign of life is sent, so that routers on the way do not forget the connection (they do after some
    /// 30 s without a packet, RFC 4787 §4.3 notwithstanding). Default: 20 s.
    pub keep_alive: Duration,
    /// The time for one address, handshake included. Default: 30 s.
    pub attempt_timeout: Duration,
    /// The time for all of it: name, addresses, handshake. Default: 5 min.
    pub timeout: Duration,
    /// How long an address may stay silent until the next one is tried beside it. Default: 250 ms (RFC 8305 §8).
    pub stagger: Duration,
    /// The addresses to connect from. Default: the system's choice.
    pub local: LocalAddresses,
    /// Who is told of the connections. Default: nobody.
    pub observer: Option<Observer>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            service: Service::default(),
            transport: TransportOptions::default(),
            early_data: EarlyData::default(),
            keep_alive: Duration::from_secs(20),
            attempt_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(5 * 60),
            stagger: Duration::from_millis(250),
            local: LocalAddresses::default(),
            observer: None,
        }
    }
}

impl ConnectOptions {
    /// This side of a connection whose handshake has its end in `completed`.
    pub(crate) fn side(&self, completed: &Completed) -> Side {
        let early = (self.early_data == EarlyData::Gated).then(|| completed.clone());
        Side::Client { keep_alive: self.keep_alive, early }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_is_near_however_it_is_written() {
        for (peer, near) in [
            ("127.0.0.1:25", true),
            ("127.8.9.10:25", true),
            ("[::1]:25", true),
            ("[::ffff:127.0.0.1]:25", true),
            ("0.0.0.0:25", false),
            ("192.0.2.1:25", false),
            ("[::ffff:192.0.2.1]:25", false),
            ("[2001:db8::1]:25", false),
        ] {
            assert_eq!(is_near(peer.parse().unwrap()), near, "{peer}");
        }
    }
}
