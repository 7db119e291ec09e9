//! Where to connect from.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of this machine to connect from: at most one of each family.
///
/// Without any the system chooses. With one of one family alone, addresses of the other are not connected to: who names an
/// address means to be known by it. `0.0.0.0` and `::` leave the choice to the system, within their family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LocalAddresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl LocalAddresses {
    /// Adds `ip`, which counts as an IPv4 address if it is one in IPv6's clothes; gives the one of its family that was
    /// there before.
    pub const fn insert(&mut self, ip: IpAddr) -> Option<IpAddr> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => match self.v4.replace(ip) {
                Some(old) => Some(IpAddr::V4(old)),
                None => None,
            },
            IpAddr::V6(ip) => match self.v6.replace(ip) {
                Some(old) => Some(IpAddr::V6(old)),
                None => None,
            },
        }
    }

    /// True if the system chooses.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// All of them, the IPv4 address first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// They, or `others` if there are none.
    #[must_use]
    pub const fn or(self, others: Self) -> Self {
        if self.is_empty() { others } else { self }
    }

    /// The address to bind to before connecting to `peer`; `None` if the system chooses.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrNotAvailable`] if there are addresses, and none of the peer's family.
    pub fn towards(&self, peer: IpAddr) -> io::Result<Option<IpAddr>> {
        let (own, family) = match peer {
            IpAddr::V4(_) => (self.v4.map(IpAddr::V4), "IPv4"),
            IpAddr::V6(_) => (self.v6.map(IpAddr::V6), "IPv6"),
        };
        if own.is_none() && !self.is_empty() {
            let why = format!("not tried: it is {family}, and the source address is {self}");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why));
        }
        Ok(own.filter(|own| !own.is_unspecified()))
    }
}

impl FromIterator<IpAddr> for LocalAddresses {
    /// The last of each family.
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        let mut local = Self::default();
        for ip in addresses {
            local.insert(ip);
        }
        local
    }
}

impl fmt::Display for LocalAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4}, {v6}"),
            (Some(v4), None) => v4.fmt(f),
            (None, Some(v6)) => v6.fmt(f),
            (None, None) => f.write_str("the system's choice"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(addresses: &[&str]) -> LocalAddresses {
        addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect()
    }

    #[test]
    fn each_family_has_its_own() {
        let towards = |addresses: &[&str], peer: &str| {
            let found = local(addresses).towards(peer.parse().unwrap());
            found.map(|ip| ip.map(|ip| ip.to_string())).map_err(|error| error.to_string())
        };
        assert_eq!(towards(&[], "192.0.2.1"), Ok(None));
        assert_eq!(towards(&["192.0.2.7", "2001:db8::7"], "192.0.2.1"), Ok(Some("192.0.2.7".into())));
        assert_eq!(towards(&["192.0.2.7", "2001:db8::7"], "2001:db8::1"), Ok(Some("2001:db8::7".into())));
        assert_eq!(towards(&["0.0.0.0"], "192.0.2.1"), Ok(None));
        assert_eq!(towards(&["::ffff:192.0.2.7"], "192.0.2.1"), Ok(Some("192.0.2.7".into())));
        let why = "not tried: it is IPv6, and the source address is 0.0.0.0";
        assert_eq!(towards(&["0.0.0.0"], "2001:db8::1"), Err(why.into()));
        let why = "not tried: it is IPv4, and the source address is 2001:db8::7";
        assert_eq!(towards(&["2001:db8::7"], "192.0.2.1"), Err(why.into()));
    }

    #[test]
    fn one_of_each_family() {
        let mut both = local(&["192.0.2.7", "2001:db8::7"]);
        assert_eq!(both.insert("192.0.2.8".parse().unwrap()), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(both.to_string(), "192.0.2.8, 2001:db8::7");
        assert_eq!(both.or(local(&["::"])), both);
        assert_eq!(LocalAddresses::default().or(both), both);
    }
}
