//! Which address of this machine to connect from, as it is said in URLs and by `--source-address`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use smtp_core::stream::LocalAddresses;

/// One that can be connected from, as far as that can be told without looking at this machine: it may get it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceAddress(IpAddr);

impl FromStr for SourceAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ip: IpAddr = text.parse().map_err(|_| {
            "not an IP address of this machine such as 192.0.2.7 or 2001:db8::7, without brackets and without a port"
        })?;
        let ip = ip.to_canonical();
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err("this is the address of many, and nobody connects from it");
        }
        Ok(Self(ip))
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Adds one to those that are there.
///
/// # Errors
/// If there is one of its family.
pub(crate) fn add(to: &mut LocalAddresses, SourceAddress(ip): SourceAddress) -> Result<(), String> {
    match to.insert(ip) {
        None => Ok(()),
        Some(first) => Err(format!("there is {first} already, and one of each family can be there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_address_to_connect_from() {
        for (text, part) in [
            ("", "not an IP address"),
            ("mx.example", "not an IP address"),
            ("192.0.2.7:25", "without a port"),
            ("[2001:db8::7]", "without brackets"),
            ("224.0.0.1", "of many"),
            ("255.255.255.255", "of many"),
            ("ff02::1", "of many"),
        ] {
            let error = text.parse::<SourceAddress>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, shown) in [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("::ffff:192.0.2.7", "192.0.2.7")] {
            assert_eq!(text.parse::<SourceAddress>().unwrap().to_string(), shown);
        }
    }
}
