//! Who this host is.

use std::collections::HashSet;
use std::net::IpAddr;

use smtp_core::types::Domain;
use smtp_dns::Name;

/// The names and addresses of this host, so that it never sends mail to itself, nor to a mail exchanger that is meant to
/// stand behind it (RFC 5321 §5.1).
#[derive(Debug, Clone)]
pub struct Own {
    names: HashSet<Box<str>>,
    addresses: HashSet<IpAddr>,
    loopback: bool,
}

impl Own {
    /// A host of these names and addresses, and of all loopback addresses. Names that are none in the DNS are left out.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let names = names.into_iter().filter_map(|name| Domain::new(name).ok());
        Self {
            names: names.filter_map(|name| canonical(&name)).collect(),
            addresses: addresses.into_iter().map(|ip| ip.to_canonical()).collect(),
            loopback: true,
        }
    }

    /// Whether the loopback addresses are this host. Default: true. False is for networks of tests, in which several
    /// hosts live on one machine.
    #[must_use]
    pub fn with_loopback(self, loopback: bool) -> Self {
        Self { loopback, ..self }
    }

    /// True if it has this name, in any case and as A- or U-labels.
    #[must_use]
    pub fn has_name(&self, name: &Domain) -> bool {
        canonical(name).is_some_and(|name| self.names.contains(&name))
    }

    /// True if it has this address.
    #[must_use]
    pub fn has_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.addresses.contains(&ip) || (self.loopback && ip.is_loopback())
    }
}

/// The name in lower case and A-labels.
pub(crate) fn canonical(name: &Domain) -> Option<Box<str>> {
    Name::of(name).ok().map(|name| name.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_knows_itself_in_any_spelling() {
        let own = Own::new(["MX.bücher.example"], ["192.0.2.1".parse().unwrap()]);
        assert!(own.has_name(&"mx.xn--bcher-kva.EXAMPLE".parse().unwrap()));
        assert!(!own.has_name(&"example".parse().unwrap()));
        let has = |ip: &str| own.has_address(ip.parse().unwrap());
        assert!(has("192.0.2.1") && has("::ffff:192.0.2.1") && has("127.0.0.53") && has("::1"));
        assert!(!has("192.0.2.2"));
        assert!(!own.clone().with_loopback(false).has_address("127.0.0.1".parse().unwrap()));
    }
}
