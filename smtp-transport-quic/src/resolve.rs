//! From names to addresses.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use smtp_core::types::Domain;

/// Finds the addresses of a host. MX and SVCB records are somebody else's task.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, best first; both families, as far as they are of use here (RFC 6724).
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is certain that there are none. A connector takes that for permanent, and
    /// every other kind for something that may pass.
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver (`getaddrinfo`), with its hosts file, search list and order of addresses. Its errors are all
/// taken for something that may pass, since it tells a name that does not exist from a resolver that does not work
/// only in the text.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &Domain) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}
