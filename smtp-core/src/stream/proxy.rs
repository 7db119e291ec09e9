//! The PROXY protocol, versions 1 and 2: what a proxy says of the client before the client's own octets
//! (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>).
//!
//! A transport reads the header from its raw stream, before TLS, with [`AcceptProxy::read`], which takes not one octet
//! more than the header has; and it writes one with [`ProxyHeader::encode`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;

use ppp::v2::{Builder, Command, Protocol, Version as Two};
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::channel::{ChannelInfo, Peer, PeerList};

/// The longest header of version 1, in octets, CRLF included (§2.1).
const V1_MAX: usize = 107;
/// The shortest one: `PROXY UNKNOWN` and CRLF. Nothing shorter than this is a header of either version.
const V1_MIN: usize = 15;
/// The longest header of version 2 that is read, in octets: what §2.2 says a receiver has to have room for.
const V2_MAX: usize = 536;
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// Proxies that are believed. On a listener with this every connection has to come from one of them and to begin with
/// a header; everything else is closed without a word.
///
/// What is in the header's TLVs is not looked at: a client is never `secure`, or known by a certificate, because a
/// proxy says so. TLS that ends here does.
#[derive(Debug, Clone)]
pub struct AcceptProxy {
    trusted: Arc<PeerList>,
    timeout: Duration,
}

impl AcceptProxy {
    /// Believes `trusted`, which have 5 s for the header.
    #[must_use]
    pub fn from(trusted: PeerList) -> Self {
        Self { trusted: Arc::new(trusted), timeout: Duration::from_secs(5) }
    }

    /// The same with another time for the header.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Reads the header from `io`, which comes from `peer`, by the socket's own address.
    ///
    /// # Errors
    /// With a [`ProxyError`] inside; the connection is of no use then. What the channel gives.
    pub async fn read(&self, io: &mut (impl AsyncRead + Unpin), peer: &Peer) -> io::Result<ProxyInfo> {
        let fail = |kind, why| io::Error::new(kind, ProxyError { peer: peer.clone(), why });
        if !self.trusted.contains(peer) {
            return Err(fail(io::ErrorKind::PermissionDenied, ProxyFault::Stranger));
        }
        match tokio::time::timeout(self.timeout, read(io)).await {
            Ok(Ok(forwarded)) => Ok(forwarded),
            Ok(Err(Broken::Fault(why))) => Err(fail(io::ErrorKind::InvalidData, why)),
            Ok(Err(Broken::Io(error))) => Err(error),
            Err(_) => Err(fail(io::ErrorKind::TimedOut, ProxyFault::Late(self.timeout))),
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyInfo {
    /// The proxy speaks for itself, as when it looks whether the server is alive (LOCAL): the socket's addresses hold.
    Local,
    /// It speaks for a client.
    Client {
        /// The client's address; `None` if the proxy does not know it, or it is no IP address.
        source: Option<SocketAddr>,
        /// The address that the client connected to.
        destination: Option<SocketAddr>,
    },
}

impl ProxyInfo {
    /// Puts the client into the facts of the channel that leads to the proxy.
    ///
    /// The way between client and proxy is not this machine's, so only TLS makes the channel secure.
    pub fn apply(&self, info: &mut ChannelInfo) {
        let Self::Client { source, destination } = *self else { return };
        let proxy = core::mem::replace(&mut info.peer, Peer::Named("".into()));
        info.peer = Peer::Forwarded { address: source, proxy: Box::new(proxy) };
        info.local = destination;
        info.secure = info.tls.is_some();
    }
}

/// Why a connection to a listener behind proxies is closed. Found inside the [`io::Error`] of [`AcceptProxy::read`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connection from {peer}: {why}")]
pub struct ProxyError {
    /// Who connected, by the socket's own address.
    pub peer: Peer,
    /// What is wrong.
    pub why: ProxyFault,
}

/// What is wrong with a PROXY header, or with who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyFault {
    /// The peer is not on the list.
    #[error("not a listed proxy; clients have to come through the proxy, and the proxy has to be on the list")]
    Stranger,
    /// What it began with is something else.
    #[error("no PROXY header; is the proxy told to send one (send-proxy, send-proxy-v2)?")]
    Missing,
    /// The header is longer than any can be.
    #[error("the PROXY header is over {0} octets")]
    TooLong(usize),
    /// The header breaks its grammar.
    #[error("bad PROXY header: {0}")]
    Bad(Box<str>),
    /// The connection ended within the header.
    #[error("closed within the PROXY header")]
    Closed,
    /// The header did not come in time.
    #[error("no whole PROXY header within {0:?}")]
    Late(Duration),
}

enum Broken {
    Fault(ProxyFault),
    Io(io::Error),
}

impl From<ProxyFault> for Broken {
    fn from(fault: ProxyFault) -> Self {
        Self::Fault(fault)
    }
}

async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<ProxyInfo, Broken> {
    let mut header = Vec::new();
    loop {
        let Some(more) = missing(&header)? else { return Ok(parse(&header)?) };
        // Never more than the header can still have: what follows is the client's, and may be TLS.
        let read = (&mut *io).take(more as u64).read_buf(&mut header).await.map_err(Broken::Io)?;
        if read == 0 {
            return Err(ProxyFault::Closed.into());
        }
    }
}

/// How many octets can be read without reading beyond the header; `None` if it is there.
fn missing(header: &[u8]) -> Result<Option<usize>, ProxyFault> {
    let has_start = |start: &[u8]| header.iter().zip(start).all(|(a, b)| a == b);
    if has_start(v2::PROTOCOL_PREFIX) {
        let Some([high, low]) = header.get(V2_FIXED - 2..V2_FIXED) else {
            // An empty one may still become the other version.
            return Ok(Some(if header.is_empty() { V1_MIN } else { V2_FIXED - header.len() }));
        };
        let whole = V2_FIXED + usize::from(u16::from_be_bytes([*high, *low]));
        return match whole - header.len() {
            _ if whole > V2_MAX => Err(ProxyFault::TooLong(V2_MAX)),
            0 => Ok(None),
            more => Ok(Some(more)),
        };
    }
    match header.len() {
        _ if !has_start(b"PROXY ") => Err(ProxyFault::Missing),
        _ if header.contains(&b'\n') => Ok(None),
        len if len >= V1_MAX => Err(ProxyFault::TooLong(V1_MAX)),
        len => Ok(Some(V1_MIN.saturating_sub(len).max(1))),
    }
}

/// Reads a header that is there as a whole.
fn parse(header: &[u8]) -> Result<ProxyInfo, ProxyFault> {
    let bad = |error: &dyn core::fmt::Display| ProxyFault::Bad(alloc::format!("{error}").into());
    if header.starts_with(b"PROXY ") {
        let parsed = v1::Header::try_from(header).map_err(|error| bad(&error))?;
        let client = |source, destination| ProxyInfo::Client { source: Some(source), destination: Some(destination) };
        return Ok(match parsed.addresses {
            v1::Addresses::Tcp4(a) => client(
                SocketAddr::from((a.source_address, a.source_port)),
                SocketAddr::from((a.destination_address, a.destination_port)),
            ),
            v1::Addresses::Tcp6(a) => client(
                canonical(SocketAddr::from((a.source_address, a.source_port))),
                canonical(SocketAddr::from((a.destination_address, a.destination_port))),
            ),
            v1::Addresses::Unknown => ProxyInfo::Client { source: None, destination: None },
        });
    }
    let parsed = v2::Header::try_from(header).map_err(|error| bad(&error))?;
    Ok(match (parsed.command, parsed.addresses) {
        // §2.2: whatever else is said then is not looked at.
        (Command::Local, _) => ProxyInfo::Local,
        (Command::Proxy, _) if parsed.protocol == Protocol::Datagram => {
            return Err(bad(&"it is about datagrams, and this is a stream"));
        }
        (Command::Proxy, v2::Addresses::IPv4(a)) => ProxyInfo::Client {
            source: Some(SocketAddr::from((a.source_address, a.source_port))),
            destination: Some(SocketAddr::from((a.destination_address, a.destination_port))),
        },
        (Command::Proxy, v2::Addresses::IPv6(a)) => ProxyInfo::Client {
            source: Some(canonical(SocketAddr::from((a.source_address, a.source_port)))),
            destination: Some(canonical(SocketAddr::from((a.destination_address, a.destination_port)))),
        },
        (Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => {
            ProxyInfo::Client { source: None, destination: None }
        }
    })
}

/// Addresses that only look like IPv6 become IPv4: access lists and logs know them by that.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Which form a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A header to begin a connection with, for a client that speaks for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its form.
    pub version: ProxyVersion,
    /// The client's address and the one it connected to; `None` where there is no client to speak for: LOCAL in
    /// version 2, UNKNOWN in version 1, which has no LOCAL.
    pub client: Option<(SocketAddr, SocketAddr)>,
}

impl ProxyHeader {
    /// A header that speaks for the client at `source`, which connected to `destination`.
    #[must_use]
    pub const fn new(version: ProxyVersion, source: SocketAddr, destination: SocketAddr) -> Self {
        Self { version, client: Some((source, destination)) }
    }

    /// A header that speaks for nobody.
    #[must_use]
    pub const fn local(version: ProxyVersion) -> Self {
        Self { version, client: None }
    }

    /// As it goes over the wire. Where the two addresses are of different families, the IPv4 one is sent as IPv6.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let client = self.client.map(|(source, destination)| alike(canonical(source), canonical(destination)));
        match (self.version, client) {
            (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (ProxyVersion::V1, Some((source, destination))) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (source.ip(), destination.ip());
                alloc::format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
            }
            (ProxyVersion::V2, None) => binary(Command::Local, Protocol::Unspecified, v2::Addresses::Unspecified),
            (ProxyVersion::V2, Some(client)) => binary(Command::Proxy, Protocol::Stream, client.into()),
        }
    }
}

/// A header of version 2. Without TLVs it is far shorter than what cannot be written.
fn binary(command: Command, protocol: Protocol, addresses: v2::Addresses) -> Vec<u8> {
    Builder::with_addresses(Two::Two | command, protocol, addresses).build().unwrap_or_default()
}

/// Both of one family.
fn alike(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let six = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 @ SocketAddr::V6(_) => v6,
    };
    (six(source), six(destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    fn listed() -> Peer {
        Peer::Ip("192.0.2.1:4000".parse().unwrap())
    }

    fn accept() -> AcceptProxy {
        AcceptProxy::from("192.0.2.1".parse().unwrap())
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn client(source: &str, destination: &str) -> ProxyInfo {
        ProxyInfo::Client { source: Some(address(source)), destination: Some(address(destination)) }
    }

    const UNKNOWN: ProxyInfo = ProxyInfo::Client { source: None, destination: None };

    /// Headers and what they say, the longest among them.
    fn headers() -> Vec<(Vec<u8>, ProxyInfo)> {
        let two = |rest: &[u8]| [v2::PROTOCOL_PREFIX, rest].concat();
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let six = &[&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat();
        vec![
            (
                b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 25\r\n".to_vec(),
                client("198.51.100.7:4711", "203.0.113.9:25"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::ffff:203.0.113.9 4711 25\r\n".to_vec(),
                client("[2001:db8::1]:4711", "203.0.113.9:25"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), UNKNOWN),
            (format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n").into_bytes(), UNKNOWN),
            (
                two(&[&[0x21, 0x11, 0, 12][..], &[198, 51, 100, 7, 203, 0, 113, 9, 0x12, 0x67, 0, 25]].concat()),
                client("198.51.100.7:4711", "203.0.113.9:25"),
            ),
            // With TLVs: ALPN, and TLS on the way to the proxy.
            (
                two(&[
                    &[0x21, 0x11, 0, 27][..],
                    &[
                        127, 0, 0, 1, 203, 0, 113, 9, 0x12, 0x67, 0, 25, 1, 0, 4, 115, 109, 116, 112, 0x20, 0, 5, 7, 0,
                        0, 0, 0,
                    ],
                ]
                .concat()),
                client("127.0.0.1:4711", "203.0.113.9:25"),
            ),
            (
                two(&[&[0x21, 0x21, 0, 36][..], six, six, &[0x12, 0x67, 0, 25]].concat()),
                client("[2001:db8::1]:4711", "[2001:db8::1]:25"),
            ),
            // LOCAL, with and without addresses; UNSPEC; a Unix socket.
            (two(&[0x20, 0, 0, 0]), ProxyInfo::Local),
            (two(&[&[0x20, 0x11, 0, 12][..], &[1; 12]].concat()), ProxyInfo::Local),
            (two(&[0x21, 0, 0, 0]), UNKNOWN),
            (two(&[&[0x21, 0x31, 0, 216][..], &[b'x'; 216]].concat()), UNKNOWN),
            // As long as it may be.
            (two(&[&[0x21, 0, 2, 8][..], &[4, 2, 5], &[0; 517]].concat()), UNKNOWN),
        ]
    }

    #[tokio::test]
    async fn every_header_cut_at_every_octet_and_not_one_octet_more() {
        for (header, expected) in headers() {
            for cut in 1..=header.len() {
                let (mut proxy, mut ours) = tokio::io::duplex(1024);
                let (first, second) = header.split_at(cut);
                let (first, second) = (first.to_vec(), [second, b"EHLO x\r\n"].concat());
                let writing = tokio::spawn(async move {
                    proxy.write_all(&first).await.unwrap();
                    tokio::task::yield_now().await;
                    proxy.write_all(&second).await.unwrap();
                });
                assert_eq!(accept().read(&mut ours, &listed()).await.unwrap(), expected, "{header:?}");
                writing.await.unwrap();
                let mut rest = Vec::new();
                ours.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"EHLO x\r\n", "{header:?}, {cut}");
            }
        }
    }

    async fn fault(octets: &[u8], peer: &Peer) -> (ProxyFault, usize) {
        let (mut proxy, mut ours) = tokio::io::duplex(70_000);
        proxy.write_all(octets).await.unwrap();
        let error = accept().read(&mut ours, peer).await.unwrap_err();
        // What is still there was not read.
        drop(proxy);
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        let error = error.into_inner().unwrap().downcast::<ProxyError>().unwrap();
        (error.why, octets.len() - rest.len())
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_else_comes_is_closed_for_a_reason() {
        let good = b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 25\r\n";
        for stranger in ["192.0.2.2:4000", "127.0.0.1:1", "[::1]:1"] {
            assert_eq!(fault(good, &Peer::Ip(address(stranger))).await, (ProxyFault::Stranger, 0));
        }
        // One whose forwarded address is on the list is a stranger all the same.
        let behind = Peer::Forwarded {
            address: Some(address("192.0.2.1:1")),
            proxy: Box::new(Peer::Ip(address("192.0.2.9:1"))),
        };
        assert_eq!(fault(good, &behind).await.0, ProxyFault::Stranger);

        for other in [
            &b"EHLO client.example\r\n"[..],
            b"\x16\x03\x01\x02\0\x01",
            b"GET / HTTP/1.1\r\n\r\n",
            b"proxy TCP4",
            b"\r\n\r\n\0\r\nQUIX\n",
            b"\r\n",
            b" ",
        ] {
            let (why, read) = fault(other, &listed()).await;
            let expected =
                if other == b"\r\n" { ProxyFault::Late(Duration::from_secs(5)) } else { ProxyFault::Missing };
            assert_eq!(why, expected, "{other:?}");
            assert!(read <= V2_FIXED);
        }
        // Endless ones are read up to their limit and no further.
        assert_eq!(
            fault(&[b"PROXY ".to_vec(), vec![b'x'; 60_000]].concat(), &listed()).await,
            (ProxyFault::TooLong(107), 107)
        );
        let two = |rest: &[u8]| [v2::PROTOCOL_PREFIX, rest].concat();
        for length in [521_u16, u16::MAX] {
            let [high, low] = length.to_be_bytes();
            let header = [two(&[0x21, 0x11, high, low]), vec![0; 60_000]].concat();
            assert_eq!(fault(&header, &listed()).await, (ProxyFault::TooLong(536), 16));
        }
        // Never whole.
        for half in [&good[..good.len() - 1], &two(&[0x21, 0x11, 0, 12, 1, 2, 3]), b"P", b"\r"] {
            assert_eq!(fault(half, &listed()).await.0, ProxyFault::Late(Duration::from_secs(5)));
        }
        let bad = [
            b"PROXY TCP4 198.51.100.7 203.0.113.9 4711\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 65536\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 25\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 25 \r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 203.0.113.9 4711 25\r\n".to_vec(),
            b"PROXY TCP5 198.51.100.7 203.0.113.9 4711 25\r\n".to_vec(),
            b"PROXY UDP4 198.51.100.7 203.0.113.9 4711 25\r\n".to_vec(),
            b"PROXY \xff\r\n      ".to_vec(),
            b"PROXY \n          ".to_vec(),
            two(&[0x31, 0x11, 0, 0]),
            two(&[0x22, 0x11, 0, 0]),
            two(&[0x21, 0x41, 0, 0]),
            two(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]),
            two(&[&[0x21, 0x12, 0, 12][..], &[1; 12]].concat()),
        ];
        for header in bad {
            let (why, _) = fault(&header, &listed()).await;
            assert!(matches!(why, ProxyFault::Bad(_)), "{:?}: {why:?}", String::from_utf8_lossy(&header));
        }
    }

    #[tokio::test]
    async fn a_channel_that_ends_within_the_header_says_so() {
        let (mut proxy, mut ours) = tokio::io::duplex(64);
        proxy.write_all(b"PROXY TCP4").await.unwrap();
        drop(proxy);
        let error = accept().read(&mut ours, &listed()).await.unwrap_err();
        assert_eq!(error.to_string(), "connection from 192.0.2.1:4000: closed within the PROXY header");
    }

    #[test]
    fn the_facts_are_the_clients_and_never_local_or_secure_by_word() {
        let mut info =
            ChannelInfo { secure: true, local: Some(address("10.0.0.1:25")), ..ChannelInfo::new("unix", listed()) };
        let before = info.clone();
        ProxyInfo::Local.apply(&mut info);
        assert_eq!(info, before);
        client("127.0.0.1:4711", "203.0.113.9:25").apply(&mut info);
        assert!(!info.peer.is_local() && !info.secure);
        assert_eq!(info.peer.to_string(), "127.0.0.1:4711");
        assert_eq!(info.local, Some(address("203.0.113.9:25")));
        assert_eq!(info.peer.of_channel(), &listed());
        let mut info = ChannelInfo { secure: true, tls: Some(Default::default()), ..before };
        UNKNOWN.apply(&mut info);
        assert!(info.secure && !info.peer.is_local() && info.peer.ip().is_none() && info.local.is_none());
        assert_eq!(info.peer.to_string(), "somebody behind 192.0.2.1:4000");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(source: SocketAddr, destination: SocketAddr, two: bool) {
            let version = if two { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let header = ProxyHeader::new(version, source, destination).encode();
            prop_assert_eq!(missing(&header), Ok(None));
            let forwarded = ProxyInfo::Client { source: Some(canonical(source)), destination: Some(canonical(destination)) };
            prop_assert_eq!(parse(&header), Ok(forwarded));
        }

        #[test]
        fn no_octets_do_harm(octets in proptest::collection::vec(any::<u8>(), 0..600), start in 0..4_usize) {
            let start = [&b""[..], b"PROXY ", b"PROXY TCP4 ", v2::PROTOCOL_PREFIX][start];
            let header = [start, &octets].concat();
            for end in 0..=header.len() {
                if let Ok(None) = missing(&header[..end]) {
                    let _ = parse(&header[..end]);
                    break;
                }
            }
        }
    }

    #[test]
    fn who_speaks_for_nobody_says_so() {
        assert_eq!(ProxyHeader::local(ProxyVersion::V1).encode(), b"PROXY UNKNOWN\r\n");
        assert_eq!(parse(&ProxyHeader::local(ProxyVersion::V2).encode()), Ok(ProxyInfo::Local));
    }
}
