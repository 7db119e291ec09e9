//! Connecting.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls_pki_types::ServerName;
use smtp_core::stream::{
    Address, ConnectError, ConnectStep, Connection, Connector, Resolve, SystemResolver, Target, TlsMode, TlsPolicy,
    Verification, race, socket_addresses,
};
use smtp_tls::{ClientTls, Role};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::connection::QuicConnection;
use crate::crypto::Watching;
use crate::error::QuicError;
use crate::link::{Facts, Handshake, Link};
use crate::listener::udp_socket;
use crate::observer::Event;
use crate::options::{ConnectOptions, EarlyData, endpoint_on, is_near};
use crate::qlog::Qlog;
use crate::window::Completed;

/// Makes QUIC connections, under the TLS policy that each call brings. Cheap to clone; clones share sockets, tickets
/// and settings.
///
/// QUIC is always encrypted, so of the policy's mode only [`TlsMode::None`] matters: it cannot be met. What certificates
/// are held against is the policy's, as over TCP: an opportunistic policy without verification takes any.
///
/// A failure is permanent if the target cannot be meant for QUIC, if the resolver is sure that the name has no
/// addresses, and if the handshake fails for a reason that will be there the next time.
#[derive(Clone)]
pub struct QuicConnector(Arc<Inner>);

struct Inner {
    /// Tickets are kept by server name; the configurations by verification; the whole is of one application protocol.
    //
    tls: ClientTls,
    options: ConnectOptions,
    resolver: Arc<dyn Resolve>,
    sockets: Sockets,
    qlog: Qlog,
}

/// Where the packets leave.
enum Sockets {
    /// One socket per address family, made when it is first needed.
    Own(Mutex<[Option<Endpoint>; 2]>),
    Given(Endpoint),
}

impl QuicConnector {
    /// A connector with these options and the system's resolver. Sockets are made when they are first needed. Of `tls`
    /// it takes trust anchors and client certificate; the application protocol is [`ConnectOptions::service`]'s.
    ///
    /// # Errors
    /// If the options cannot be used.
    pub fn new(tls: &ClientTls, options: ConnectOptions) -> io::Result<Self> {
        Self::with(tls, options, Arc::new(SystemResolver), Sockets::Own(Mutex::default()))
    }

    /// A connector on an endpoint that exists, for instance a simulated one.
    ///
    /// # Errors
    /// If the options cannot be used.
    pub fn from_endpoint(endpoint: Endpoint, tls: &ClientTls, options: ConnectOptions) -> io::Result<Self> {
        Self::with(tls, options, Arc::new(SystemResolver), Sockets::Given(endpoint))
    }

    /// The same with another resolver. Tickets and sockets are its own.
    ///
    /// # Errors
    /// None that [`QuicConnector::new`] would not have had.
    pub fn with_resolver(&self, resolver: impl Resolve) -> io::Result<Self> {
        let sockets = match &self.0.sockets {
            Sockets::Own(_) => Sockets::Own(Mutex::default()),
            Sockets::Given(endpoint) => Sockets::Given(endpoint.clone()),
        };
        Self::with(&self.0.tls, self.0.options.clone(), Arc::new(resolver), sockets)
    }

    fn with(
        tls: &ClientTls,
        options: ConnectOptions,
        resolver: Arc<dyn Resolve>,
        sockets: Sockets,
    ) -> io::Result<Self> {
        options.transport.config(&options.side(&Completed::default()), false)?;
        let qlog = Qlog::new(options.transport.qlog_dir.as_deref())?;
        //
        let tls = tls.with_alpn(&[options.service.alpn()]);
        Ok(Self(Arc::new(Inner { tls, options, resolver, sockets, qlog })))
    }

    /// Waits until the closing of all connections has been told to their servers. To be called before a program ends:
    /// a server that is not told keeps its side for half a minute.
    pub async fn wait_idle(&self) {
        let endpoints: Vec<Endpoint> = match &self.0.sockets {
            Sockets::Own(own) => own.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect(),
            Sockets::Given(endpoint) => vec![endpoint.clone()],
        };
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
    }
}

impl Inner {
    /// What TLS needs under `policy`, found out before anything is sent.
    //
    fn prepare(&self, target: &Target, policy: &TlsPolicy) -> Result<Prepared, ConnectError> {
        let fail = |error: io::Error| ConnectError::permanent(&target.address, ConnectStep::Tls, error);
        if policy.mode == TlsMode::None {
            return Err(fail(io::Error::new(io::ErrorKind::Unsupported, "QUIC without TLS does not exist")));
        }
        let config = self.tls.config(&policy.verification).map_err(|error| fail(io::Error::other(error)))?;
        let config = if self.options.early_data == EarlyData::Gated {
            // It shares its tickets with the one it was made from.
            let mut config = rustls::ClientConfig::clone(&config);
            config.enable_early_data = true;
            Arc::new(config)
        } else {
            config
        };
        let crypto = QuicClientConfig::try_from(config).map_err(|error| fail(io::Error::other(error)))?;
        let name = target.reference_identity().map(|host| smtp_tls::server_name(&host));
        let name = match (name, &policy.verification) {
            (Some(Ok(name)), _) => Some(name),
            (Some(Err(error)), Verification::Pkix) => {
                return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, error)));
            }
            // Nothing is held against the name, so it can stay unsaid.
            _ => None,
        };
        Ok(Prepared {
            crypto: Arc::new(Watching(Arc::new(crypto))),
            name,
            verifies: policy.verification != Verification::None,
        })
    }

    /// The endpoint for peers of one family.
    fn endpoint(&self, peer: SocketAddr) -> io::Result<Endpoint> {
        let local = self.options.local.towards(peer.ip())?;
        let own = match &self.sockets {
            Sockets::Given(endpoint) => return Ok(endpoint.clone()),
            Sockets::Own(own) => own,
        };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let [v4, v6] = &mut *own;
        let (place, any) = match peer {
            SocketAddr::V4(_) => (v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        if let Some(endpoint) = place {
            return Ok(endpoint.clone());
        }
        let local = local.unwrap_or(any);
        let socket = udp_socket(SocketAddr::new(local, 0), true).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot send from {local}: {error}; is it this machine's?"))
        })?;
        let endpoint = endpoint_on(socket)?;
        Ok(place.insert(endpoint).clone())
    }

    async fn attempt(&self, prepared: &Prepared, peer: SocketAddr) -> Result<Link, Failure> {
        let limit = self.options.attempt_timeout;
        let broken = |error: io::Error| Failure { step: ConnectStep::Connect, permanent: false, error };
        let completed = Completed::default();
        let handshaking = completed.guard();
        let near = matches!(self.sockets, Sockets::Own(_)) && is_near(peer);
        let mut transport = self.options.transport.config(&self.options.side(&completed), near).map_err(broken)?;
        self.qlog.attach(&mut transport, "client", peer);
        let mut config = ClientConfig::new(Arc::clone(&prepared.crypto) as _);
        config.transport_config(Arc::new(transport));
        let endpoint = self.endpoint(peer).map_err(broken)?;
        // An address is never sent as SNI (RFC 6066 §3); rustls sees to it.
        let name = prepared.name.clone().unwrap_or_else(|| ServerName::from(peer.ip()));
        let connecting = endpoint
            .connect_with(config, peer, &name.to_str())
            .map_err(|error| broken(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let sni = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().into()),
            _ => None,
        };
        let facts = Facts {
            role: Role::Client,
            local: endpoint.local_addr().ok().and_then(|own| local_towards(own, peer)),
            sni,
            verifies: prepared.verifies,
            draining: CancellationToken::new(),
            churn: 0,
            share_evenly: self.options.transport.share_evenly,
            early: self.options.transport.early_data_max(),
            observer: self.options.observer.clone(),
        };
        let connecting = match self.options.early_data {
            EarlyData::Off => connecting,
            EarlyData::Gated => match connecting.into_0rtt() {
                Ok((quic, accepted)) => {
                    let handshake = Link::watch(quic.clone(), accepted, limit, handshaking);
                    return Ok(Link::new(quic, facts, handshake));
                }
                // There is no ticket.
                Err(connecting) => connecting,
            },
        };
        let quic = timeout(limit, connecting).await.map_err(|_| broken(timed_out(limit)))?;
        let quic = quic.map_err(|error| Failure::of(QuicError::from_connection(error, Role::Client)))?;
        Ok(Link::new(quic, facts, Link::complete()))
    }
}

#[async_trait]
impl Connector for QuicConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let inner = &*self.0;
        let prepared = inner.prepare(target, policy)?;
        let address = &target.address;
        let deadline = Instant::now() + inner.options.timeout;
        let late = |step| ConnectError::transient(address, step, timed_out(inner.options.timeout));

        let addresses = socket_addresses(&*inner.resolver, address, "QUIC");
        let addresses = timeout_at(deadline, addresses).await.map_err(|_| late(ConnectStep::Resolve))??;
        let attempts = race(&addresses, inner.options.stagger, |peer| inner.attempt(&prepared, peer));
        let link = timeout_at(deadline, attempts)
            .await
            .map_err(|_| late(ConnectStep::Connect))?
            .map_err(|failures| all_failed(address, failures))?;
        link.tell(|quic| Event::Connected { rtt: quic.rtt(), early: link.is_early() });
        tell_of_early_data(&link);
        let max_parallel = inner.options.transport.max_streams as usize;
        Ok(Box::new(QuicConnection::client(Arc::new(link), max_parallel)))
    }
}

impl fmt::Debug for QuicConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicConnector")
            .field("tls", &self.0.tls)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// TLS under one policy for one target.
struct Prepared {
    crypto: Arc<Watching<QuicClientConfig>>,
    name: Option<ServerName<'static>>,
    verifies: bool,
}

/// Why one address did not do.
struct Failure {
    step: ConnectStep,
    permanent: bool,
    error: io::Error,
}

impl Failure {
    fn of(error: QuicError) -> Self {
        let step = if matches!(error, QuicError::Handshake(_) | QuicError::Protocol) {
            ConnectStep::Tls
        } else {
            ConnectStep::Connect
        };
        Self { step, permanent: error.is_permanent(), error: error.into() }
    }
}

fn timed_out(limit: std::time::Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}

/// The address on this side of a connection to `peer`, from a socket at `own`. One on all addresses does not say which
/// it is; a socket of its own that is connected, which sends nothing, does.
fn local_towards(own: SocketAddr, peer: SocketAddr) -> Option<SocketAddr> {
    if !own.ip().is_unspecified() {
        return Some(own);
    }
    let probe = UdpSocket::bind(SocketAddr::new(own.ip(), 0)).ok()?;
    probe.connect(peer).ok()?;
    Some(SocketAddr::new(probe.local_addr().ok()?.ip(), own.port()))
}

/// Tells the observer what becomes of early data, once the server has said so.
fn tell_of_early_data(link: &Link) {
    let Some(observer) = link.observer().filter(|_| link.is_early()).cloned() else { return };
    let mut handshake = link.handshake.clone();
    tokio::spawn(async move {
        let done = handshake.wait_for(|handshake| *handshake != Handshake::Pending).await.map(|done| *done);
        match done {
            Ok(Handshake::Done) => observer.tell(&Event::EarlyData { accepted: true }),
            Ok(Handshake::EarlyDataRefused) => observer.tell(&Event::EarlyData { accepted: false }),
            Ok(Handshake::Pending | Handshake::Failed) | Err(_) => {}
        }
    });
}

/// One error that tells all. It is permanent only if every address failed for good.
fn all_failed(target: &Address, failures: Vec<(SocketAddr, Failure)>) -> ConnectError {
    let permanent = failures.iter().all(|(_, failure)| failure.permanent);
    let tls = failures.iter().any(|(_, failure)| failure.step == ConnectStep::Tls);
    let step = if tls { ConnectStep::Tls } else { ConnectStep::Connect };
    let kind = failures.first().map_or(io::ErrorKind::Other, |(_, failure)| failure.error.kind());
    let single = failures.len() == 1;
    let texts: Vec<String> =
        failures.iter().map(|(address, failure)| format!("{address}: {}", failure.error)).collect();
    let error = match failures.into_iter().next() {
        Some((_, only)) if single => only.error,
        _ => io::Error::new(kind, texts.join("; ")),
    };
    if permanent { ConnectError::permanent(target, step, error) } else { ConnectError::transient(target, step, error) }
}
