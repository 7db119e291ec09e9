//! What a session knows of the channel that carries it, and of itself.
//!
//! These are facts, not bytes. A session never asks which transport it runs on: every branch it takes keys on a fact
//! from here, which is what makes the transports interchangeable.

mod peer_list;

pub use peer_list::PeerList;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::extension::Forwarded;
use crate::types::Hello;

/// Who is at the other end, as the channel itself vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address and port.
    Ip(SocketAddr),
    /// A local process, from the socket's credentials.
    Process {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
        /// Its process id, where the system tells.
        pid: Option<i32>,
    },
    /// Anything else that has a name: a pipe, a memory pair, a public key.
    Named(Box<str>),
    /// Somebody for whom a trusted proxy speaks, by a PROXY header or XCLIENT. Policy is about this one.
    Forwarded {
        /// The address and port, if the proxy knows them. Never taken for local, whatever it is.
        address: Option<SocketAddr>,
        /// Who is at the other end of the channel itself.
        proxy: Box<Self>,
    },
}

impl Peer {
    /// The address, if the peer has one.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) | Self::Forwarded { address: Some(address), .. } => Some(address.ip()),
            Self::Process { .. } | Self::Named(_) | Self::Forwarded { address: None, .. } => None,
        }
    }

    /// True for a peer on this machine: a loopback address, a local process, or a pipe. Nobody behind a proxy is.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Process { .. } | Self::Named(_) => true,
            Self::Forwarded { .. } => false,
        }
    }

    /// True for a process on this machine that came by a Unix socket or a pipe, whether its user is known or not: a service
    /// in a user namespace of its own (systemd's `PrivateUsers=`) knows nobody's. An address makes nobody a process,
    /// loopback included.
    #[must_use]
    pub const fn is_process(&self) -> bool {
        matches!(self, Self::Process { .. } | Self::Named(_))
    }

    /// Who is at the other end of the channel itself: the proxy, if there is one. Trust in what a peer says of others
    /// is a matter of this one only.
    #[must_use]
    pub fn of_channel(&self) -> &Self {
        match self {
            Self::Forwarded { proxy, .. } => proxy.of_channel(),
            own => own,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Process { uid, .. } => write!(f, "uid={uid}"),
            Self::Named(name) => f.write_str(name),
            Self::Forwarded { address: Some(address), .. } => address.fmt(f),
            Self::Forwarded { address: None, proxy } => write!(f, "somebody behind {proxy}"),
        }
    }
}

/// What TLS established. No type of a TLS library appears here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, in IANA's name.
    pub cipher: Box<str>,
    /// The key exchange group, in IANA's name, where the library tells.
    pub group: Option<Box<str>>,
    /// The application protocol agreed on.
    pub alpn: Option<Box<str>>,
    /// The server name the client asked for.
    pub sni: Option<Box<str>>,
    /// The peer's certificates in DER, leaf first; empty if it sent none.
    pub peer_certificates: Vec<Vec<u8>>,
    /// True if the peer's certificate was checked against trust anchors, a pin, or a client CA, and held.
    pub verified: bool,
    /// The `tls-exporter` channel binding (RFC 9266), where the version allows it.
    pub exporter: Option<[u8; 32]>,
    /// The `tls-server-end-point` channel binding (RFC 5929 §4): the hash of the server's certificate, where the hash
    /// is defined and the transport tells which certificate was served.
    pub server_end_point: Option<Box<[u8]>>,
    /// The SHA-256 of the peer's public key (SubjectPublicKeyInfo), if it sent a certificate. Filled by servers.
    pub peer_key: Option<[u8; 32]>,
    /// The mail addresses (`rfc822Name`, RFC 5280 §4.2.1.6) in the peer's certificate. Filled by servers.
    pub peer_mailboxes: Vec<Box<str>>,
    /// True if the session was resumed from a ticket.
    pub resumed: bool,
}

/// The facts of one byte stream. Each has a default that suits a plain local pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Who is at the other end.
    pub peer: Peer,
    /// The local address, if there is one.
    pub local: Option<SocketAddr>,
    /// What carries the bytes, for logs and `Received`: `tcp`, `quic`, `unix`, `memory` …
    pub transport: &'static str,
    /// TLS facts, if TLS is up.
    pub tls: Option<Box<TlsInfo>>,
    /// True if what is said here cannot be overheard: TLS, or a channel that does not leave the machine. PLAIN and
    /// LOGIN are offered only then.
    pub secure: bool,
    /// True if the stream can still be upgraded by STARTTLS.
    pub can_upgrade: bool,
    /// True if the server must wait for the client's first command before it greets, as on a QUIC stream, which is
    /// invisible until a byte flows.
    pub client_speaks_first: bool,
    /// Extensions that hold on this channel without having been seen in an EHLO reply (keywords).
    pub implied: &'static [&'static str],
}

impl ChannelInfo {
    /// The facts of a plain channel over `transport` to `peer`: no TLS, not secure, no upgrade, the server greets.
    #[must_use]
    pub const fn new(transport: &'static str, peer: Peer) -> Self {
        Self {
            peer,
            local: None,
            transport,
            tls: None,
            secure: false,
            can_upgrade: false,
            client_speaks_first: false,
            implied: &[],
        }
    }

    /// True if the channel itself vouches for who the peer is: by a client certificate that was verified, or by the
    /// credentials of a local process.
    #[must_use]
    pub fn identifies_peer(&self) -> bool {
        let certified = self.tls.as_ref().is_some_and(|tls| tls.verified && !tls.peer_certificates.is_empty());
        certified || matches!(self.peer, Peer::Process { .. })
    }

    /// The facts of a channel inside this process, which counts as secure.
    #[must_use]
    pub fn memory(name: &str) -> Self {
        Self { secure: true, ..Self::new("memory", Peer::Named(name.into())) }
    }
}

/// Who a client has proved to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The authorization identity: the user whose rights hold.
    pub user: Box<str>,
    /// The SASL mechanism that proved it.
    pub mechanism: Box<str>,
}

impl Identity {
    /// True for somebody who proved nothing: ANONYMOUS (RFC 4505). Such an identity gives no rights.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        &*self.mechanism == "ANONYMOUS"
    }
}

/// What services are told of the session that a request belongs to.
///
/// Shared by reference and replaced whole when a fact changes: after the greeting, STARTTLS and AUTH, and at the end of
/// a handshake that the greeting went before, as early data.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Unique in this process; for logs.
    pub id: u64,
    /// The facts of the channel.
    pub channel: ChannelInfo,
    /// What the client greeted with, once it has.
    pub hello: Option<Hello>,
    /// Who the client proved to be, once it has.
    pub identity: Option<Identity>,
    /// What a trusted peer says of the client it speaks for, by XCLIENT, or, for one transaction and for logs only, by
    /// XFORWARD. What XCLIENT says is in `channel`, `hello` and `identity` already.
    pub client: Option<Box<Forwarded>>,
}

impl SessionInfo {
    /// A session that has just begun on `channel`.
    #[must_use]
    pub const fn new(id: u64, channel: ChannelInfo) -> Self {
        Self { id, channel, hello: None, identity: None, client: None }
    }

    /// The user that the client proved to be; `None` if it has not authenticated, or anonymously.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.identity.as_ref().filter(|identity| !identity.is_anonymous()).map(|identity| &*identity.user)
    }

    /// A session for programs that make a `Transaction` themselves rather than
    /// receive one.
    #[must_use]
    pub fn local(name: &str) -> Arc<Self> {
        Arc::new(Self::new(0, ChannelInfo::memory(name)))
    }
}
