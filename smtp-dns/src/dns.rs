//! The trait.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::types::Domain;

use crate::{Answer, LookupError, Mx, Name, Svcb, Tlsa};

/// The lookups that mail needs. Aliases (CNAME) are followed.
///
/// # Errors
/// Each fails with a [`LookupError`]: an answer without records of the kind is [`LookupError::NotFound`].
#[async_trait]
pub trait Dns: Send + Sync + 'static {
    /// A and AAAA; the AAAA first.
    async fn addresses(&self, name: &Name) -> Result<Answer<IpAddr>, LookupError>;

    /// MX, in no particular order. The null MX is in it as it is; the implicit one is not.
    async fn mx(&self, name: &Name) -> Result<Answer<Mx>, LookupError>;

    /// SVCB; an AliasMode record is not followed.
    async fn svcb(&self, name: &Name) -> Result<Answer<Svcb>, LookupError>;

    /// TLSA.
    async fn tlsa(&self, name: &Name) -> Result<Answer<Tlsa>, LookupError>;

    /// TXT; the strings of each record are joined.
    async fn txt(&self, name: &Name) -> Result<Answer<Box<[u8]>>, LookupError>;
}

#[async_trait]
impl<D: Dns + ?Sized> Dns for Arc<D> {
    async fn addresses(&self, name: &Name) -> Result<Answer<IpAddr>, LookupError> {
        (**self).addresses(name).await
    }

    async fn mx(&self, name: &Name) -> Result<Answer<Mx>, LookupError> {
        (**self).mx(name).await
    }

    async fn svcb(&self, name: &Name) -> Result<Answer<Svcb>, LookupError> {
        (**self).svcb(name).await
    }

    async fn tlsa(&self, name: &Name) -> Result<Answer<Tlsa>, LookupError> {
        (**self).tlsa(name).await
    }

    async fn txt(&self, name: &Name) -> Result<Answer<Box<[u8]>>, LookupError> {
        (**self).txt(name).await
    }
}

/// What [`Resolve`](smtp_core::stream::Resolve) asks of a [`Dns`].
pub(crate) async fn resolve(dns: &dyn Dns, name: &Domain) -> io::Result<Vec<IpAddr>> {
    let name = Name::of(name).map_err(|invalid| io::Error::new(io::ErrorKind::NotFound, invalid))?;
    Ok(dns.addresses(&name).await?.records)
}
