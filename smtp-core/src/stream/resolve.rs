//! From names to addresses.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use async_trait::async_trait;

use super::race::interleave;
use super::{Address, ConnectError, ConnectStep, Target, TlsPolicy};
use crate::types::{AddressLiteral, Domain, Host};

/// A name with more addresses than this has the rest ignored: nobody needs them, and they would only use up time.
const MAX_ADDRESSES: usize = 16;

/// Finds the addresses of a host. MX and SVCB records are somebody else's task.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, best first; both families, as far as they are of use here (RFC 6724).
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is certain that there are none: the name does not exist, or has no
    /// addresses. A connector takes that for permanent, and every other kind for something that may pass.
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>>;
}

/// Finds out whether a server can be reached in another way than the one that is known.
#[async_trait]
pub trait Discover: Send + Sync + 'static {
    /// Where the host of `target` can be reached in the other way, and under which policy; `None` if it has not said that
    /// it can, or if what its names' owner has published forbids to use it. The name that its certificate must show
    /// stays the same, and the policy is `policy` or asks for as much: TLSA records are those of the other way's port.
    ///
    /// # Errors
    /// If that could not be found out. The other way is not taken then.
    async fn discover(&self, target: &Target, policy: &TlsPolicy) -> io::Result<Option<(Target, TlsPolicy)>>;
}

/// The system's resolver (`getaddrinfo`), with its hosts file, search list and order of addresses.
///
/// It tells a name that does not exist and a resolver that does not work apart only in the text of its error, and not
/// reliably: some systems say "not known" while the network is down. So its errors are never [`NotFound`], and
/// connectors take all of them for something that may pass. Where the difference matters, such as for a queue that
/// bounces, put a resolver that speaks DNS in its place.
///
/// [`NotFound`]: io::ErrorKind::NotFound
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>> {
        let name = name.as_str().to_owned();
        // The system has no other way to wait than to hold a thread.
        let found = tokio::task::spawn_blocking(move || (name.as_str(), 0).to_socket_addrs()).await;
        let found = found.map_err(io::Error::other)??;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The socket addresses of `address`, in the order in which to try them, at most 16: the families alternate
/// (RFC 8305 §4). `transport` names it in errors.
///
/// # Errors
/// Permanent if `address` is not one for sockets, or has certainly no address; else it may pass.
pub async fn socket_addresses(
    resolver: &dyn Resolve,
    address: &Address,
    transport: &str,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let permanent =
        |kind, text: String| ConnectError::permanent(address, ConnectStep::Resolve, io::Error::new(kind, text));
    let foreign = || permanent(io::ErrorKind::Unsupported, format!("not an address for {transport}"));
    let Address::Host { host, port } = address else { return Err(foreign()) };
    let found = match host {
        Host::Literal(AddressLiteral::V4(ip)) => vec![IpAddr::V4(*ip)],
        Host::Literal(AddressLiteral::V6(ip)) => vec![IpAddr::V6(*ip)],
        Host::Literal(AddressLiteral::General(_)) => return Err(foreign()),
        Host::Domain(name) => resolver.resolve(name).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ConnectError::permanent(address, ConnectStep::Resolve, error),
            _ => ConnectError::transient(address, ConnectStep::Resolve, error),
        })?,
    };
    if found.is_empty() {
        return Err(permanent(io::ErrorKind::NotFound, "the name has no address".to_owned()));
    }
    let mut usable = interleave(&found);
    usable.truncate(MAX_ADDRESSES);
    Ok(usable.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect())
}
