//! What counts as one peer when peers are counted.

use std::net::{IpAddr, Ipv6Addr};

use smtp_core::channel::Peer;

/// What a peer is counted as; `None` if it has no address. Those whom a proxy knows no address of are one with it:
/// nobody gets out of being counted by it.
pub(crate) fn counted(peer: &Peer) -> Option<IpAddr> {
    match peer {
        Peer::Forwarded { address: None, proxy } => counted(proxy),
        peer => peer.ip().map(network),
    }
}

/// The network that stands for `ip` where something is counted by peer: an IPv4 address itself, the first 64 bits of
/// an IPv6 address. A single IPv6 host is commonly given a /64 and could otherwise appear as 2^64 peers.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_one_peer() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }

    #[test]
    fn who_has_no_address_is_counted_with_the_proxy() {
        let proxy = Box::new(Peer::Ip("192.0.2.1:1".parse().unwrap()));
        let behind = |address: Option<&str>| Peer::Forwarded {
            address: address.map(|text| text.parse().unwrap()),
            proxy: proxy.clone(),
        };
        assert_eq!(counted(&behind(None)), counted(&proxy));
        assert_eq!(counted(&behind(Some("127.0.0.1:1"))), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(counted(&Peer::Named("pipe".into())), None);
    }
}
