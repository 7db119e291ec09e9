//! Connecting.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls_pki_types::ServerName;
use smtp_core::stream::{
    Address, ConnectError, ConnectStep, Connection, Connector, LocalAddresses, ProxyHeader, Resolve, Single,
    SystemResolver, Target, TlsMode, TlsPolicy, Verification, race, socket_addresses,
};
use smtp_core::types::Host;
use smtp_tls::{ClientTls, HandshakeError};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream as Socket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::stream::{ClientUpgrade, TcpStream, Upgrade};

/// Settings of a [`TcpConnector`].
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The time for one address. Default: 30 s, which is four or five of TCP's own attempts; Postfix takes the same.
    pub attempt_timeout: Duration,
    /// The time for all of it: name, addresses, and the handshake with [`TlsMode::Implicit`]. Default: 5 min, the
    /// time that RFC 5321 §4.5.3.2.1 gives the step that comes next; it sets no limit for this one.
    pub timeout: Duration,
    /// How long an address may stay silent until the next one is tried beside it. Default: 250 ms (RFC 8305 §8).
    pub stagger: Duration,
    /// The addresses to connect from. Default: the system's choice.
    pub local: LocalAddresses,
    /// The congestion control algorithm, such as `cubic` or `bbr`, on Linux and FreeBSD. Default: the system's.
    pub congestion: Option<String>,
    /// The PROXY header to begin each connection with, before TLS, for a client that speaks for another one. Only a
    /// server that expects one can do with it. Default: none.
    pub proxy: Option<ProxyHeader>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(5 * 60),
            stagger: Duration::from_millis(250),
            local: LocalAddresses::default(),
            congestion: None,
            proxy: None,
        }
    }
}

/// Makes TCP connections, under the TLS policy that each call brings.
///
/// All addresses of a name are tried as RFC 8305 says. A failure is permanent if the target cannot be meant for TCP,
/// if the resolver is sure that the name has no addresses, and if TLS fails for a reason that will be there the next
/// time, such as a certificate that does not hold. Everything else may pass.
///
/// International names have to come in their `xn--` form: DNS and certificates know no other.
#[derive(Clone)]
pub struct TcpConnector {
    tls: Option<ClientTls>,
    options: ConnectOptions,
    resolver: Arc<dyn Resolve>,
}

impl TcpConnector {
    /// A connector that uses `tls` where the policy asks for it, with default options and the system's resolver.
    #[must_use]
    pub fn new(tls: ClientTls) -> Self {
        Self { tls: Some(tls), ..Self::without_tls() }
    }

    /// A connector that has no TLS: [`TlsMode::Required`] and [`TlsMode::Implicit`] fail,
    /// [`TlsMode::Opportunistic`] stays in clear.
    #[must_use]
    pub fn without_tls() -> Self {
        Self { tls: None, options: ConnectOptions::default(), resolver: Arc::new(SystemResolver) }
    }

    /// The same with other `options`.
    #[must_use]
    pub fn with_options(self, options: ConnectOptions) -> Self {
        Self { options, ..self }
    }

    /// The same with another resolver.
    #[must_use]
    pub fn with_resolver(self, resolver: impl Resolve) -> Self {
        Self { resolver: Arc::new(resolver), ..self }
    }

    /// What TLS needs under `policy`, found out before anything is sent: a policy that cannot be met costs no
    /// connection.
    fn prepare(&self, target: &Target, policy: &TlsPolicy) -> Result<Option<Prepared>, ConnectError> {
        let fail = |error: io::Error| ConnectError::permanent(&target.address, ConnectStep::Tls, error);
        let tls = match (policy.mode, &self.tls) {
            (TlsMode::None, _) | (TlsMode::Opportunistic, None) => return Ok(None),
            (TlsMode::Required | TlsMode::Implicit, None) => {
                return Err(fail(io::Error::new(io::ErrorKind::Unsupported, "this connector has no TLS")));
            }
            (TlsMode::Opportunistic | TlsMode::Required | TlsMode::Implicit, Some(tls)) => tls,
        };
        let config = tls.config(&policy.verification).map_err(|error| fail(io::Error::other(error)))?;
        let name = target.reference_identity().map(|host| smtp_tls::server_name(&host));
        let name = match (name, &policy.verification) {
            (Some(Ok(name)), _) => Some(name),
            (Some(Err(error)), Verification::Pkix) => {
                return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, error)));
            }
            // Nothing is held against the name, so it can stay unsaid.
            _ => None,
        };
        Ok(Some(Prepared { config, name, verification: policy.verification.clone() }))
    }
}

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        let prepared = self.prepare(target, policy)?;
        let address = &target.address;
        let deadline = Instant::now() + self.options.timeout;
        let late = |step| ConnectError::transient(address, step, timed_out(self.options.timeout));

        let addresses = socket_addresses(&*self.resolver, address, "TCP");
        let addresses = timeout_at(deadline, addresses).await.map_err(|_| late(ConnectStep::Resolve))??;
        let (mut socket, peer) =
            timeout_at(deadline, race(&addresses, self.options.stagger, |peer| attempt(peer, &self.options)))
                .await
                .map_err(|_| late(ConnectStep::Connect))?
                .map_err(|failures| {
                    ConnectError::transient(address, ConnectStep::Connect, all_failed(address, failures))
                })?;

        if let Some(header) = &self.options.proxy {
            timeout_at(deadline, socket.write_all(&header.encode()))
                .await
                .map_err(|_| late(ConnectStep::Connect))?
                .map_err(|error| ConnectError::transient(address, ConnectStep::Connect, error))?;
        }
        let local = socket.local_addr().ok();
        let upgrade = prepared.map_or(Upgrade::None, |prepared| prepared.for_peer(peer));
        let stream = TcpStream::new(socket, peer, local, upgrade);
        if policy.mode != TlsMode::Implicit {
            return Ok(Box::new(Single::new(stream)));
        }
        let handshake = timeout_at(deadline, stream.start_tls()).await.map_err(|_| late(ConnectStep::Tls))?;
        let stream = handshake.map_err(|error| tls_failed(address, error))?;
        Ok(Box::new(Single::new(stream)))
    }
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnector").field("tls", &self.tls).field("options", &self.options).finish_non_exhaustive()
    }
}

/// TLS under one policy for one target.
struct Prepared {
    config: Arc<rustls::ClientConfig>,
    name: Option<ServerName<'static>>,
    verification: Verification,
}

impl Prepared {
    fn for_peer(self, peer: SocketAddr) -> Upgrade {
        let name = self.name.unwrap_or_else(|| ServerName::from(peer.ip()));
        Upgrade::Client(Box::new(ClientUpgrade { config: self.config, name, verification: self.verification }))
    }
}

async fn attempt(peer: SocketAddr, options: &ConnectOptions) -> io::Result<(Socket, SocketAddr)> {
    let local = options.local.towards(peer.ip())?;
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0)).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot connect from {local}: {error}; is it this machine's?"))
        })?;
    }
    if let Some(algorithm) = &options.congestion {
        set_congestion(SockRef::from(&socket), algorithm)?;
    }
    socket.set_nodelay(true)?;
    let limit = options.attempt_timeout;
    let socket = timeout(limit, socket.connect(peer)).await.map_err(|_| timed_out(limit))??;
    Ok((socket, peer))
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
pub(crate) fn set_congestion(socket: SockRef<'_>, algorithm: &str) -> io::Result<()> {
    socket.set_tcp_congestion(algorithm.as_bytes()).map_err(|error| {
        let hint = "see /proc/sys/net/ipv4/tcp_allowed_congestion_control";
        io::Error::new(error.kind(), format!("congestion control {algorithm:?}: {error}; {hint}"))
    })
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
pub(crate) fn set_congestion(_: SockRef<'_>, _: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "congestion control cannot be chosen on this system"))
}

fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}

/// One error that tells all.
fn all_failed(target: &Address, mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let is_literal = matches!(target, Address::Host { host: Host::Literal(_), .. });
    if is_literal && let Some((_, error)) = failures.pop() {
        return error;
    }
    let kind = failures.first().map_or(io::ErrorKind::Other, |(_, error)| error.kind());
    let texts: Vec<String> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    io::Error::new(kind, texts.join("; "))
}

fn tls_failed(address: &Address, error: io::Error) -> ConnectError {
    let handshake = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>());
    if handshake.is_some_and(HandshakeError::is_permanent) {
        ConnectError::permanent(address, ConnectStep::Tls, error)
    } else {
        ConnectError::transient(address, ConnectStep::Tls, error)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test]
    async fn connected_sockets_do_not_delay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local: IpAddr = "127.0.0.9".parse().unwrap();
        let options = ConnectOptions { local: [local].into_iter().collect(), ..ConnectOptions::default() };
        let (socket, _) = attempt(listener.local_addr().unwrap(), &options).await.unwrap();
        assert!(socket.nodelay().unwrap());
        assert_eq!(socket.local_addr().unwrap().ip(), local);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn congestion_control_can_be_chosen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let with = |name: &str| ConnectOptions { congestion: Some(name.into()), ..ConnectOptions::default() };
        // Linux has it always, and lets everybody use it.
        let (socket, _) = attempt(listener.local_addr().unwrap(), &with("reno")).await.unwrap();
        let name = SockRef::from(&socket).tcp_congestion().unwrap();
        assert!(name.starts_with(b"reno"), "{name:?}");
        let error = attempt(listener.local_addr().unwrap(), &with("no-such")).await.unwrap_err().to_string();
        assert!(error.contains("no-such") && error.contains("tcp_allowed_congestion_control"), "{error}");
    }
}
