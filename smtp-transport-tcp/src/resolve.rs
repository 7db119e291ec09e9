//! From names to addresses.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use smtp_core::types::Domain;

/// Finds the addresses of a host. MX records are somebody else's task.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, best first; both families, as far as they are of use here (RFC 6724).
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is certain that there are none: the name does not exist, or has no
    /// addresses. A connector takes that for permanent, and every other kind for something that may pass.
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>>;
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
        let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}
