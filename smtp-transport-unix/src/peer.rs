//! Who is at the other end of a socket.

use std::net::SocketAddr;

use smtp_core::channel::{ChannelInfo, Peer};
use tokio::net::unix::UCred;

/// What a user id is shown as that has no number in this process's user namespace: `nobody` on most systems
/// (user_namespaces(7)). Whoever it is, it is not the user that the number names here.
pub(crate) const OVERFLOW: u32 = 65_534;

/// The facts of a Unix socket. It does not leave the machine, so what is said on it cannot be overheard.
pub(crate) fn facts(transport: &'static str, credentials: std::io::Result<UCred>) -> ChannelInfo {
    let peer = match credentials {
        Ok(credentials) => process(credentials.uid(), credentials.gid(), credentials.pid()),
        Err(error) => {
            tracing::debug!(%error, "the system does not tell who is at the other end");
            unknown()
        }
    };
    ChannelInfo { secure: true, ..ChannelInfo::new(transport, peer) }
}

fn process(uid: u32, gid: u32, pid: Option<i32>) -> Peer {
    // The pid is 0 if the process is in a namespace that is not visible from here.
    let pid = pid.filter(|pid| *pid > 0);
    if uid == OVERFLOW || uid == u32::MAX { unknown() } else { Peer::Process { uid, gid, pid } }
}

/// A local process whose user is not known; no rule about a user must match it.
fn unknown() -> Peer {
    Peer::Named("unknown local process".into())
}

/// Addresses that only look like IPv6 become IPv4: access lists and logs know them by that.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), v6.port())
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overflow_user_is_nobody_in_particular() {
        for uid in [65_534, u32::MAX] {
            let peer = process(uid, 100, Some(7));
            assert!(matches!(peer, Peer::Named(_)), "{peer:?}");
            assert!(peer.is_local());
        }
        assert_eq!(process(0, 0, Some(1)), Peer::Process { uid: 0, gid: 0, pid: Some(1) });
        assert_eq!(process(1000, 100, Some(0)), Peer::Process { uid: 1000, gid: 100, pid: None });
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let canonical = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("[::ffff:192.0.2.1]:25"), "192.0.2.1:25");
        assert_eq!(canonical("[2001:db8::1]:25"), "[2001:db8::1]:25");
        assert_eq!(canonical("192.0.2.1:25"), "192.0.2.1:25");
    }
}
