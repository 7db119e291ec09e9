//! Listening.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig};
use smtp_core::stream::{Connection, Listener};
use smtp_tls::ServerTls;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::connection::{Attempt, HalfOpen, Opening, QuicConnection};
use crate::crypto::Watching;
use crate::options::{EarlyData, QuicOptions, Service, Side, endpoint_on, is_near};
use crate::qlog::Qlog;

/// What may wait for [`Listener::accept`], in connections, and in octets that these have sent ahead.
const MAX_WAITING: usize = 1024;
const WAITING_OCTETS_EACH: u64 = 64 << 10;
const WAITING_OCTETS_ALL: u64 = 16 << 20;

/// A UDP socket that accepts QUIC connections with SMTP sessions in them.
///
/// Dropping it lets the connections that are up go on; they are closed with SHUTDOWN when their last session has ended.
/// Whoever connects from then on is refused.
pub struct QuicListener {
    endpoint: Endpoint,
    server: ServerConfig,
    /// For clients on this machine.
    near: Option<Arc<ServerConfig>>,
    local: SocketAddr,
    options: Arc<QuicOptions>,
    half_open: Arc<AtomicUsize>,
    draining: CancellationToken,
    qlog: Qlog,
}

impl QuicListener {
    /// Listens on `address`; port 0 is a free one. Has to be called in a tokio runtime. Of `tls` it takes
    /// certificates, client CA and resumption; the application protocol is [`QuicOptions::service`]'s, and the version
    /// is 1.3.
    ///
    /// # Errors
    /// With a [`ListenError`] inside, which says what to do.
    pub fn bind(address: SocketAddr, tls: &ServerTls, options: QuicOptions) -> io::Result<Self> {
        let explain = |source: io::Error| io::Error::new(source.kind(), ListenError { address, source });
        let socket = udp_socket(address, options.v6_only).map_err(explain)?;
        endpoint_on(socket).and_then(|endpoint| Self::with(endpoint, tls, options, true)).map_err(explain)
    }

    /// Takes over a socket that is bound already, as a service manager hands it down. Has to be called in a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the options or the TLS settings cannot be used for QUIC, or the runtime cannot watch the socket.
    pub fn from_std(socket: UdpSocket, tls: &ServerTls, options: QuicOptions) -> io::Result<Self> {
        deepen(SockRef::from(&socket));
        Self::with(endpoint_on(socket)?, tls, options, true)
    }

    /// Listens on an endpoint that exists, for instance on a simulated one. Its server configuration is replaced.
    ///
    /// # Errors
    /// If the options or the TLS settings cannot be used for QUIC.
    pub fn from_endpoint(endpoint: Endpoint, tls: &ServerTls, options: QuicOptions) -> io::Result<Self> {
        Self::with(endpoint, tls, options, false)
    }

    fn with(endpoint: Endpoint, tls: &ServerTls, options: QuicOptions, own: bool) -> io::Result<Self> {
        let server = server_config(tls, &options)?;
        let near = own.then(|| options.transport.config(&Side::Server, true)).transpose()?.map(|transport| {
            let mut near = server.clone();
            near.transport_config(Arc::new(transport));
            Arc::new(near)
        });
        let local = endpoint.local_addr()?;
        let qlog = Qlog::new(options.transport.qlog_dir.as_deref())?;
        endpoint.set_server_config(Some(server.clone()));
        Ok(Self {
            endpoint,
            server,
            near,
            local,
            options: Arc::new(options),
            half_open: Arc::default(),
            draining: CancellationToken::new(),
            qlog,
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The endpoint, for statistics and for [`Endpoint::wait_idle`].
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What to do with a connection attempt.
    //
    fn judge(&self, incoming: &Incoming) -> Judgement {
        let half_open = self.half_open.load(Ordering::Relaxed);
        if half_open >= self.options.max_half_open {
            Judgement::Refuse
        } else if half_open >= self.options.retry_above && !incoming.remote_address_validated() {
            Judgement::Retry
        } else {
            Judgement::Accept
        }
    }

    fn opening(&self, incoming: Incoming) -> Opening {
        // Only a listener on all addresses has to ask which one it was.
        let unspecified = self.local.ip().is_unspecified();
        let local = match incoming.local_ip().filter(|_| unspecified) {
            Some(ip) => SocketAddr::new(ip, self.local.port()),
            None => self.local,
        };
        let peer = incoming.remote_address();
        let near = self.near.as_ref().filter(|_| is_near(peer));
        let logged = self.qlog.server_config(&self.server, &self.options, peer, near.is_some());
        Opening {
            server: logged.or_else(|| near.cloned()),
            attempt: Attempt::New(Box::new(incoming)),
            local: Some(local),
            options: Arc::clone(&self.options),
            draining: self.draining.clone(),
            half_open: Some(HalfOpen::new(&self.half_open)),
        }
    }
}

enum Judgement {
    Accept,
    Retry,
    Refuse,
}

#[async_trait]
impl Listener for QuicListener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        loop {
            let Some(incoming) = self.endpoint.accept().await else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the QUIC endpoint was closed"));
            };
            match self.judge(&incoming) {
                Judgement::Accept => return Ok(Box::new(QuicConnection::opening(self.opening(incoming)))),
                // It fails only for addresses that are validated.
                Judgement::Retry => drop(incoming.retry()),
                Judgement::Refuse => incoming.refuse(),
            }
        }
    }

    /// `smtp+quic://192.0.2.1:443`.
    fn url(&self) -> String {
        format!("smtp+quic://{}", self.local)
    }

    fn is_local(&self) -> bool {
        self.local.ip().to_canonical().is_loopback()
    }
}

impl Drop for QuicListener {
    fn drop(&mut self) {
        self.draining.cancel();
        let endpoint = self.endpoint.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return endpoint.set_server_config(None);
        };
        // Without a configuration quinn would leave whoever comes without an answer, to wait for nothing.
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = endpoint.wait_idle() => break endpoint.set_server_config(None),
                    incoming = endpoint.accept() => match incoming {
                        Some(incoming) => incoming.refuse(),
                        None => break,
                    },
                }
            }
        });
    }
}

impl fmt::Debug for QuicListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicListener")
            .field("local", &self.local)
            .field("half_open", &self.half_open)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn server_config(tls: &ServerTls, options: &QuicOptions) -> io::Result<ServerConfig> {
    let invalid = |error: Box<dyn std::error::Error + Send + Sync>| io::Error::new(io::ErrorKind::InvalidInput, error);
    // TLS refuses who offers another protocol or none. And tickets are this listener's own.
    let tls = tls.for_listener(&[options.service.alpn()]).map_err(|error| invalid(error.into()))?;
    let mut tls = rustls::ServerConfig::clone(tls.config());
    tls.max_early_data_size = match options.early_data {
        EarlyData::Off => 0,
        // QUIC has no other value (RFC 9001 §4.6.1); flow control is the limit.
        EarlyData::Gated => u32::MAX,
    };
    // QUIC takes 1.3 from it.
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| invalid(error.into()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(Watching(Arc::new(crypto))));
    server
        .transport_config(Arc::new(options.transport.config(&Side::Server, false)?))
        //
        .migration(options.migration.unwrap_or(options.service == Service::Submission))
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size(WAITING_OCTETS_EACH)
        .incoming_buffer_size_total(WAITING_OCTETS_ALL);
    Ok(server)
}

pub(crate) fn udp_socket(address: SocketAddr, v6_only: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    deepen(SockRef::from(&socket));
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Octets that may wait in a socket. All its connections share them, what finds no room is lost, and one stream alone may
/// have more in flight than the 208 KiB that Linux gives unless it is asked.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Asks for room. The system gives no more than it may (`net.core.rmem_max`), which will do.
fn deepen(socket: SockRef<'_>) {
    if socket.recv_buffer_size().is_ok_and(|there| there < RECEIVE_BUFFER) {
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
}

/// Why a listener cannot listen, and what to do. Found inside the [`io::Error`] of [`QuicListener::bind`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenError {
    /// Where it was meant to listen.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {} (UDP): {}", self.address, self.source)?;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; another program listens there: stop it or take another port"),
            io::ErrorKind::PermissionDenied if self.address.port() < 1024 => f.write_str(
                "; ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket from the service manager: \
                 or take a port above, such as 2525",
            ),
            io::ErrorKind::AddrNotAvailable => f.write_str("; this machine has no such address"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
