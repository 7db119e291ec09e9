//! A peer that fills a stream with single octets and gaps between them: each costs its receiver far more than an octet,
//! and none can be handed on.
//!
//! No well-behaved QUIC library sends such a thing. This one is made to by a key that writes other frames into the
//! packet before it encrypts it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn::{ConnectError, ConnectionError, ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use smtp_core::stream::Verification;
use smtp_transport_quic::Service;
use tokio::time::timeout;

use crate::support::*;

const STRANGER: &str = "198.51.100.7:40000";

/// Octets of payload from which on a packet is forged: those that carry stream data, and no others.
const LARGE: usize = 1_000;

/// Where the next octet goes, and how much of the packet is filled.
struct Forgery {
    next: AtomicU32,
    frames: usize,
}

impl Forgery {
    fn write(&self, payload: &mut [u8]) {
        if payload.len() < LARGE {
            return;
        }
        // PADDING, unless there is a frame.
        payload.fill(0);
        for frame in payload.chunks_exact_mut(8).take(self.frames) {
            let offset = self.next.fetch_add(2, Ordering::Relaxed);
            // STREAM with an offset, a length, no FIN (RFC 9000 §19.8); stream 0; an offset of four octets; one octet.
            frame[..2].copy_from_slice(&[0x0e, 0]);
            frame[2..6].copy_from_slice(&(0x8000_0000 | offset).to_be_bytes());
            frame[6..].copy_from_slice(b"\x01x");
        }
    }
}

struct ForgingKey(Box<dyn PacketKey>, Arc<Forgery>);

impl PacketKey for ForgingKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.0.tag_len();
        self.1.write(&mut buf[header_len..end]);
        self.0.encrypt(packet, buf, header_len);
    }
    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)
    }
    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }
    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }
    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

struct ForgingConfig(Arc<QuicClientConfig>, Arc<Forgery>);

impl ClientConfig for ForgingConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, name, parameters)?;
        Ok(Box::new(ForgingSession(inner, Arc::clone(&self.1), 0)))
    }
}

/// With how many keys it has given out: those of the handshake come first, and are left as they are.
struct ForgingSession(Box<dyn Session>, Arc<Forgery>, u8);

impl Session for ForgingSession {
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Keys { header, packet } = self.0.write_handshake(buf)?;
        self.2 += 1;
        if self.2 == 1 {
            return Some(Keys { header, packet });
        }
        let local = Box::new(ForgingKey(packet.local, Arc::clone(&self.1)));
        Some(Keys { header, packet: KeyPair { local, remote: packet.remote } })
    }
    fn initial_keys(&self, cid: &ConnectionId, side: Side) -> Keys {
        self.0.initial_keys(cid, side)
    }
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }
    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }
    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }
    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(buf)
    }
    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.0.transport_parameters()
    }
    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys()
    }
    fn is_valid_retry(&self, cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(cid, header, payload)
    }
    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}

/// Sends up to 400,000 octets of the kind, `frames` to a packet; how many gaps it made, and how the connection ended.
async fn attack(sim: &Sim, frames: usize) -> (u32, Option<ConnectionError>) {
    // Offset 0 stays open, so that nothing can be handed on.
    let forgery = Arc::new(Forgery { next: AtomicU32::new(1), frames });
    let tls = client_tls().with_alpn(&[Service::Relay.alpn()]).config(&Verification::None).unwrap();
    let crypto = Arc::new(QuicClientConfig::try_from(tls).unwrap());
    let config = quinn::ClientConfig::new(Arc::new(ForgingConfig(crypto, Arc::clone(&forgery))));
    let endpoint = sim.network.endpoint(STRANGER.parse().unwrap()).unwrap();
    let connection = endpoint.connect_with(config, SERVER.parse().unwrap(), "mx.example").unwrap().await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let _ = timeout(Duration::from_secs(60), send.write_all(&vec![b'x'; 400_000])).await;
    let ended = timeout(Duration::from_secs(10), connection.closed()).await.ok();
    (forgery.next.load(Ordering::Relaxed) / 2, ended)
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_gaps_ends_its_connection_long_before_the_window_does() {
    let sim = Sim::new(1, path());
    let mut other = sim.connect().await.open().await.unwrap();
    let (gaps, ended) = attack(&sim, 100).await;
    assert!(matches!(ended, Some(ConnectionError::ConnectionClosed(_))), "{gaps} gaps: {ended:?}");
    // quinn gives up when more than 2,048 pieces of a stream are left to be put together; the rest is what was on its
    // way. The window alone would have let 256 Ki of them come, and eight times as many on a connection.
    assert!((2_048..8_000).contains(&gaps), "{gaps}: {ended:?}");
    let said = talk(&mut other, &flight(1, 500)).await.unwrap();
    assert_eq!(codes(&said), FLIGHT_CODES, "the others do not notice");
}

#[tokio::test(start_paused = true)]
async fn a_few_gaps_are_borne() {
    let sim = Sim::new(1, path());
    let (gaps, ended) = attack(&sim, 1).await;
    assert!((150..1_000).contains(&gaps), "{gaps}: {ended:?}");
    assert!(ended.is_none(), "{ended:?}");
}
