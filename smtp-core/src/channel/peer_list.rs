//! Peers that are trusted to speak for others.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use ipnet::IpNet;

use super::Peer;
use crate::types::Invalid;

/// A list of peers: addresses, networks, and users of this machine. Empty by default; nobody is in it by nature.
///
/// Always held against the peer of the channel itself ([`Peer::of_channel`]), never against one that somebody else
/// speaks of.
///
/// ```
/// use smtp_core::channel::{Peer, PeerList};
/// let proxies: PeerList = "192.0.2.1, 2001:db8::/32, uid:101".parse()?;
/// assert!(proxies.contains(&Peer::Ip("192.0.2.1:4711".parse().unwrap())));
/// assert!(!proxies.contains(&Peer::Ip("127.0.0.1:4711".parse().unwrap())));
/// # Ok::<(), smtp_core::types::Invalid>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerList {
    networks: Vec<IpNet>,
    users: Vec<u32>,
}

impl PeerList {
    /// Nobody.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { networks: Vec::new(), users: Vec::new() }
    }

    /// Takes all of `other` in too.
    pub fn extend(&mut self, other: Self) {
        self.networks.extend(other.networks);
        self.users.extend(other.users);
    }

    /// True if there is nobody in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.users.is_empty()
    }

    /// True if the peer of the channel that leads to `peer` is in it.
    #[must_use]
    pub fn contains(&self, peer: &Peer) -> bool {
        match peer.of_channel() {
            Peer::Ip(address) => {
                let ip = address.ip().to_canonical();
                self.networks.iter().any(|network| network.contains(&ip))
            }
            Peer::Process { uid, .. } => self.users.contains(uid),
            // A name is no credential.
            Peer::Named(_) | Peer::Forwarded { .. } => false,
        }
    }
}

impl FromStr for PeerList {
    type Err = Invalid;

    /// `192.0.2.1`, `10.0.0.0/8`, `2001:db8::/32`, and `uid:1000` for processes of that user on a Unix socket; more
    /// than one separated by commas or blanks.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut list = Self::nobody();
        for entry in text.split([',', ' ']).filter(|entry| !entry.is_empty()) {
            if let Some(uid) = entry.strip_prefix("uid:") {
                // Who has no number in this user namespace shows as 65534 (user_namespaces(7)), and is not one user.
                let uid = uid.parse().ok().filter(|uid| *uid != 65_534 && *uid != u32::MAX);
                list.users.push(uid.ok_or(Invalid::new("peer", "uid: is followed by a user's number, not 65534"))?);
                continue;
            }
            let network = entry.parse::<IpAddr>().map(IpNet::from).or_else(|_| entry.parse());
            list.networks.push(network.map_err(|_| {
                Invalid::new("peer", "an address, a network such as 192.0.2.0/24, or a user such as uid:1000")
            })?);
        }
        Ok(list)
    }
}

impl fmt::Display for PeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users.iter().map(|uid| alloc::format!("uid:{uid}"));
        let all: Vec<String> = self.networks.iter().map(ToString::to_string).chain(users).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    fn ip(address: &str) -> Peer {
        Peer::Ip(core::net::SocketAddr::new(address.parse().unwrap(), 1))
    }

    #[test]
    fn only_who_is_listed_is_in_it() {
        let list: PeerList = "192.0.2.0/24 ::1,10.1.2.3, uid:7".parse().unwrap();
        let process = |uid| Peer::Process { uid, gid: 0, pid: None };
        for peer in [ip("192.0.2.255"), ip("::1"), ip("10.1.2.3"), ip("::ffff:10.1.2.3"), process(7)] {
            assert!(list.contains(&peer), "{peer:?}");
        }
        for peer in [ip("192.0.3.0"), ip("127.0.0.1"), ip("10.1.2.4"), process(0), Peer::Named("10.1.2.3".into())] {
            assert!(!list.contains(&peer), "{peer:?}");
        }
        for nobody in ["", " , "] {
            assert!(nobody.parse::<PeerList>().unwrap().is_empty());
        }
        assert_eq!(list.to_string(), "192.0.2.0/24, ::1/128, 10.1.2.3/32, uid:7");
    }

    #[test]
    fn what_somebody_speaks_of_is_not_asked() {
        let list: PeerList = "10.1.2.3".parse().unwrap();
        let behind = |address: &str, proxy| Peer::Forwarded {
            address: Some(core::net::SocketAddr::new(address.parse().unwrap(), 1)),
            proxy: Box::new(proxy),
        };
        assert!(!list.contains(&behind("10.1.2.3", ip("192.0.2.1"))));
        assert!(list.contains(&behind("192.0.2.1", ip("10.1.2.3"))));
        assert!(!behind("127.0.0.1", ip("127.0.0.1")).is_local());
    }

    #[test]
    fn what_is_no_peer_is_refused() {
        for bad in ["localhost", "10.0.0.0/33", "10.0.0", "uid:", "uid:x", "uid:-1", "uid:65534", "*"] {
            assert!(bad.parse::<PeerList>().is_err(), "{bad}");
        }
    }
}
