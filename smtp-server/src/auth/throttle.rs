//! Slows guessers down, by where they come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smtp_core::channel::Peer;
use tokio::time::Instant;

use crate::peer;

/// How many peers are remembered; the one that is closest to being forgiven makes room for another.
const PEERS_MAX: usize = 65_536;

/// How often one peer may fail to authenticate: so many times at once, and then one more per interval.
///
/// Counted by address (an IPv6 peer is its /64) and never by user name, which would let anyone lock a victim out.
/// An attempt is charged before it is made and refunded unless it failed, so that attempts made at the same time,
/// or broken off, count too. Loopback counts; peers without an address do not. Clones share the count.
///
/// It is the generic cell rate algorithm with one instant for each peer. A general rate limiter does not serve:
/// it takes from the allowance for every question, and cannot give back for those who knew their password.
#[derive(Debug, Clone)]
pub struct Throttle {
    failures: u32,
    interval: Duration,
    /// When each peer will have its whole allowance again.
    full_at: Arc<Mutex<HashMap<IpAddr, Instant>>>,
}

impl Default for Throttle {
    /// 10 failures, then one more per minute.
    fn default() -> Self {
        Self::new(10, Duration::from_secs(60))
    }
}

impl Throttle {
    /// `failures` at once (at least 1), then one more per `interval`.
    #[must_use]
    pub fn new(failures: u32, interval: Duration) -> Self {
        Self { failures: failures.max(1), interval, full_at: Arc::default() }
    }

    /// Charges an attempt to `peer`. `None` if it has none left.
    pub(super) fn charge(&self, peer: &Peer) -> Option<Charge> {
        let Some(ip) = peer::counted(peer) else { return Some(Charge(None)) };
        let now = Instant::now();
        let mut peers = lock(&self.full_at);
        let full_at = peers.get(&ip).copied().unwrap_or(now).max(now) + self.interval;
        if full_at > now + self.interval * self.failures {
            return None;
        }
        make_room(&mut peers, now);
        peers.insert(ip, full_at);
        drop(peers);
        Some(Charge(Some((self.clone(), ip))))
    }

    fn refund(&self, ip: IpAddr) {
        let mut peers = lock(&self.full_at);
        let Some(full_at) = peers.get_mut(&ip) else { return };
        *full_at = full_at.checked_sub(self.interval).unwrap_or(*full_at);
        if *full_at <= Instant::now() {
            peers.remove(&ip);
        }
    }
}

fn lock(peers: &Mutex<HashMap<IpAddr, Instant>>) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_room(peers: &mut HashMap<IpAddr, Instant>, now: Instant) {
    if peers.len() < PEERS_MAX {
        return;
    }
    peers.retain(|_, full_at| *full_at > now);
    if peers.len() >= PEERS_MAX {
        let first = peers.iter().min_by_key(|(_, full_at)| **full_at).map(|(ip, _)| *ip);
        first.and_then(|ip| peers.remove(&ip));
    }
}

/// An attempt that has been charged, and stays so unless it is refunded.
#[derive(Debug)]
#[must_use]
pub(super) struct Charge(Option<(Throttle, IpAddr)>);

impl Charge {
    pub(super) fn refund(self) {
        if let Some((throttle, ip)) = self.0 {
            throttle.refund(ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Ip(address.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_then_one_a_minute() {
        let throttle = Throttle::default();
        let guesser = peer("192.0.2.1:1");
        for _ in 0..10 {
            assert!(throttle.charge(&guesser).is_some());
        }
        assert!(throttle.charge(&guesser).is_none());
        assert!(throttle.charge(&peer("192.0.2.2:1")).is_some(), "others are not concerned");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(throttle.charge(&guesser).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(throttle.charge(&guesser).is_some());
        assert!(throttle.charge(&guesser).is_none());
        tokio::time::advance(Duration::from_secs(3600)).await;
        for _ in 0..10 {
            assert!(throttle.charge(&guesser).is_some());
        }
        assert!(throttle.charge(&guesser).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_costs_nothing_and_is_forgotten() {
        let throttle = Throttle::new(1, Duration::from_secs(60));
        for _ in 0..100 {
            throttle.charge(&peer("[2001:db8::1]:1")).unwrap().refund();
        }
        assert!(lock(&throttle.full_at).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_under_way_are_counted() {
        let throttle = Throttle::new(2, Duration::from_secs(60));
        let first = throttle.charge(&peer("192.0.2.1:1")).unwrap();
        let _second = throttle.charge(&peer("192.0.2.1:2")).unwrap();
        assert!(throttle.charge(&peer("192.0.2.1:3")).is_none());
        first.refund();
        assert!(throttle.charge(&peer("192.0.2.1:3")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let throttle = Throttle::default();
        for i in 0..u32::try_from(PEERS_MAX).unwrap() + 10 {
            let address = std::net::SocketAddr::from((std::net::Ipv4Addr::from_bits(i), 1));
            let _ = throttle.charge(&Peer::Ip(address)).unwrap();
        }
        assert_eq!(lock(&throttle.full_at).len(), PEERS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn local_processes_are_not_counted() {
        let throttle = Throttle::new(1, Duration::from_secs(60));
        for _ in 0..3 {
            assert!(throttle.charge(&Peer::Named("pipe".into())).is_some());
        }
    }
}
