//! What TLS has agreed on. quinn keeps cipher suite, group and resumption to itself, so they are read from the
//! ServerHello (RFC 8446 §4.1.3) as it passes by.

use std::any::Any;
use std::mem;
use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::crypto::{
    ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn::{ConnectError, ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::{CipherSuite, NamedGroup};

/// A ServerHello is not longer than this, in octets; the largest group's share has 1,120.
const HELLO_MAX: usize = 8 << 10;

/// A client's or a server's TLS settings, for sessions that tell more.
pub(crate) struct Watching<C>(pub(crate) Arc<C>);

/// What [`quinn::Connection::handshake_data`] gives for sessions of [`Watching`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Negotiated {
    pub(crate) protocol: Option<Vec<u8>>,
    pub(crate) server_name: Option<String>,
    pub(crate) hello: Option<ServerHello>,
}

/// What a ServerHello says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerHello {
    pub(crate) cipher: CipherSuite,
    pub(crate) group: Option<NamedGroup>,
    pub(crate) resumed: bool,
}

impl ClientConfig for Watching<QuicClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(Watched { inner, hello: Hello::default(), side: Side::Client }))
    }
}

impl ServerConfig for Watching<QuicServerConfig> {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let inner = Arc::clone(&self.0).start_session(version, params);
        Box::new(Watched { inner, hello: Hello::default(), side: Side::Server })
    }
}

/// A session whose ServerHello is read along.
struct Watched {
    inner: Box<dyn Session>,
    hello: Hello,
    side: Side,
}

impl Session for Watched {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if self.side.is_client() {
            self.hello.feed(buf);
        }
        self.inner.read_handshake(buf)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let before = buf.len();
        let keys = self.inner.write_handshake(buf);
        if self.side.is_server() {
            self.hello.feed(buf.get(before..).unwrap_or_default());
        }
        keys
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let HandshakeData { protocol, server_name, .. } = *self.inner.handshake_data()?.downcast().ok()?;
        let hello = if let Hello::Read(hello) = &self.hello { Some(*hello) } else { None };
        Some(Box::new(Negotiated { protocol, server_name, hello }))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// A server's messages, up to the ServerHello.
#[derive(Debug)]
enum Hello {
    Gathering(Vec<u8>),
    Read(ServerHello),
    /// It is none; TLS itself will say so.
    Unreadable,
}

impl Default for Hello {
    fn default() -> Self {
        Self::Gathering(Vec::new())
    }
}

impl Hello {
    fn feed(&mut self, octets: &[u8]) {
        let Self::Gathering(gathered) = self else { return };
        gathered.extend_from_slice(octets);
        let mut gathered = mem::take(gathered);
        *self = loop {
            let mut rest = Reader(&gathered);
            match rest.message() {
                None if gathered.len() > HELLO_MAX => break Self::Unreadable,
                None => break Self::Gathering(gathered),
                Some((SERVER_HELLO, body)) => match server_hello(body) {
                    // It comes again, after another ClientHello.
                    Some(Parsed::Retry) => {
                        let left = rest.0.len();
                        gathered.drain(..gathered.len() - left);
                    }
                    Some(Parsed::Hello(hello)) => break Self::Read(hello),
                    None => break Self::Unreadable,
                },
                Some(_) => break Self::Unreadable,
            }
        };
    }
}

const SERVER_HELLO: u8 = 2;
const PRE_SHARED_KEY: u16 = 41;
const KEY_SHARE: u16 = 51;
/// The random of a HelloRetryRequest (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

enum Parsed {
    Retry,
    Hello(ServerHello),
}

fn server_hello(body: &[u8]) -> Option<Parsed> {
    let mut body = Reader(body);
    body.u16()?;
    let is_retry = body.take(32)? == RETRY;
    let session_id = body.u8()?;
    body.take(session_id.into())?;
    let cipher = CipherSuite::from(body.u16()?);
    body.u8()?;
    if is_retry {
        return Some(Parsed::Retry);
    }
    let mut hello = ServerHello { cipher, group: None, resumed: false };
    let length = body.u16()?;
    let mut extensions = Reader(body.take(length.into())?);
    while !extensions.0.is_empty() {
        let (kind, length) = (extensions.u16()?, extensions.u16()?);
        let mut extension = Reader(extensions.take(length.into())?);
        match kind {
            KEY_SHARE => hello.group = Some(NamedGroup::from(extension.u16()?)),
            PRE_SHARED_KEY => hello.resumed = true,
            _ => {}
        }
    }
    Some(Parsed::Hello(hello))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A handshake message: its type, and what is in it.
    fn message(&mut self) -> Option<(u8, &'a [u8])> {
        let (kind, high, low) = (self.u8()?, self.u8()?, self.u16()?);
        Some((kind, self.take(usize::from(high) << 16 | usize::from(low))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(random: [u8; 32], extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&random);
        body.extend_from_slice(&[1, 0xaa, 0x13, 0x02, 0]);
        body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(extensions);
        let mut message = vec![SERVER_HELLO, 0];
        message.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&body);
        message
    }

    const EXTENSIONS: &[u8] = &[0, 43, 0, 2, 3, 4, 0, 51, 0, 5, 0x11, 0xec, 0, 1, 9, 0, 41, 0, 2, 0, 0];

    fn read(pieces: &[&[u8]]) -> Hello {
        let mut hello = Hello::default();
        pieces.iter().for_each(|piece| hello.feed(piece));
        hello
    }

    #[test]
    fn a_server_hello_is_read_however_it_is_cut() {
        let expected = ServerHello {
            cipher: CipherSuite::TLS13_AES_256_GCM_SHA384,
            group: Some(NamedGroup::X25519MLKEM768),
            resumed: true,
        };
        let retried = [message(RETRY, &[0, 51, 0, 2, 0x11, 0xec]), message([7; 32], EXTENSIONS)].concat();
        for whole in [message([7; 32], EXTENSIONS), retried] {
            for at in 0..whole.len() {
                let hello = read(&[&whole[..at], &whole[at..], b"more"]);
                assert!(matches!(hello, Hello::Read(hello) if hello == expected), "{at}: {hello:?}");
            }
        }
    }

    #[test]
    fn what_is_no_server_hello_is_left_alone() {
        assert!(matches!(read(&[&[1, 0, 0, 0]]), Hello::Unreadable));
        assert!(matches!(read(&[&message([7; 32], &[0, 51, 0, 9])]), Hello::Unreadable));
        assert!(matches!(read(&[&[2, 255, 255, 255], &[0; HELLO_MAX]]), Hello::Unreadable));
        assert!(matches!(read(&[b""]), Hello::Gathering(_)));
    }
}
