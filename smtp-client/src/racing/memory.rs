//! Where the other way does not work.

use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::HashMap;
use std::io;

use smtp_core::stream::{BoxFuture, Target};
use tokio::time::Instant;

use super::RacingOptions;

/// Hosts to which the other way lost, and until when it is left alone. Bounded.
///
/// A host is an address together with its name: what a name's records say must not speak for another name that has the
/// same address.
pub(super) struct Memory {
    hosts: HashMap<Target, Entry>,
    first: Duration,
    longest: Duration,
    max: usize,
}

struct Entry {
    until: Instant,
    pause: Duration,
    /// The handshake of a connection that was taken into use before it was complete.
    unconfirmed: Option<BoxFuture<'static, io::Result<()>>>,
}

impl Memory {
    pub(super) fn new(options: &RacingOptions) -> Self {
        Self {
            hosts: HashMap::new(),
            first: options.first_pause,
            longest: options.longest_pause,
            max: options.max_hosts.max(1),
        }
    }

    /// May the other way to `host` be tried?
    pub(super) fn may_try(&mut self, host: &Target, now: Instant) -> bool {
        let Some(entry) = self.hosts.get_mut(host) else { return true };
        match entry
            .unconfirmed
            .as_mut()
            .map(|handshake| handshake.as_mut().poll(&mut Context::from_waker(Waker::noop())))
        {
            Some(Poll::Ready(Ok(()))) => {
                self.hosts.remove(host);
                return true;
            }
            Some(Poll::Ready(Err(_))) => {
                entry.unconfirmed = None;
                self.lost(host, now);
                return false;
            }
            Some(Poll::Pending) | None => {}
        }
        entry.until <= now
    }

    /// The other way stands, if `handshake` will be complete; what was before is forgotten then.
    pub(super) fn won(&mut self, host: &Target, mut handshake: BoxFuture<'static, io::Result<()>>, now: Instant) {
        match handshake.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                self.hosts.remove(host);
            }
            Poll::Ready(Err(_)) => {
                self.lost(host, now);
            }
            Poll::Pending => {
                self.make_room(host);
                // As if half of the first pause had been the last one: a loss doubles it.
                let none = Entry { until: now, pause: self.first / 2, unconfirmed: None };
                self.hosts.entry(host.clone()).or_insert(none).unconfirmed = Some(handshake);
            }
        }
    }

    /// The other way lost; for how long it is left alone now.
    pub(super) fn lost(&mut self, host: &Target, now: Instant) -> Duration {
        self.make_room(host);
        let (first, longest) = (self.first, self.longest);
        match self.hosts.get_mut(host) {
            // Attempts that ran beside each other are one.
            Some(entry) if entry.until > now => entry.pause,
            Some(entry) => {
                entry.pause = entry.pause.saturating_mul(2).clamp(first, longest.max(first));
                entry.until = now + entry.pause;
                entry.pause
            }
            None => {
                let entry = Entry { until: now + first, pause: first, unconfirmed: None };
                self.hosts.insert(host.clone(), entry);
                first
            }
        }
    }

    /// Forgets the host that may be tried again first, if there is no place for `host`.
    fn make_room(&mut self, host: &Target) {
        if self.hosts.len() < self.max || self.hosts.contains_key(host) {
            return;
        }
        let soonest = self.hosts.iter().min_by_key(|(_, entry)| entry.until).map(|(host, _)| host.clone());
        if let Some(soonest) = soonest {
            self.hosts.remove(&soonest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u32) -> Target {
        Target::host(format!("mx{n}.example").parse().unwrap(), 25)
    }

    fn memory(max_hosts: usize) -> Memory {
        Memory::new(&RacingOptions { max_hosts, ..RacingOptions::default() })
    }

    /// Not complete when it is looked at for the first time, failed at the second.
    fn later_fails() -> BoxFuture<'static, io::Result<()>> {
        let mut looks = 0;
        Box::pin(core::future::poll_fn(move |_| {
            looks += 1;
            if looks == 1 { Poll::Pending } else { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) }
        }))
    }

    #[test]
    fn pauses_double_from_five_minutes_to_a_day() {
        let (mut memory, mut now) = (memory(10), Instant::now());
        let mut minutes = Vec::new();
        for _ in 0..11 {
            assert!(memory.may_try(&host(1), now));
            let pause = memory.lost(&host(1), now);
            assert!(!memory.may_try(&host(1), now + pause - Duration::from_secs(1)));
            assert!(memory.may_try(&host(2), now));
            minutes.push(pause.as_secs() / 60);
            now += pause;
        }
        assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
        memory.won(&host(1), Box::pin(core::future::ready(Ok(()))), now);
        assert_eq!(memory.lost(&host(1), now).as_secs(), 300);
    }

    #[test]
    fn two_names_of_one_address_are_two_hosts() {
        let (mut memory, now) = (memory(10), Instant::now());
        let named = |name: &str| {
            let target = Target::host("[192.0.2.1]".parse().unwrap(), 25);
            Target { server_name: Some(name.parse().unwrap()), ..target }
        };
        memory.lost(&named("mx.example"), now);
        assert!(!memory.may_try(&named("mx.example"), now));
        assert!(memory.may_try(&named("other.example"), now));
    }

    #[test]
    fn attempts_that_ran_beside_each_other_count_once() {
        let (mut memory, now) = (memory(10), Instant::now());
        assert_eq!(memory.lost(&host(1), now), memory.lost(&host(1), now + Duration::from_secs(1)));
    }

    #[test]
    fn a_handshake_that_fails_later_is_a_loss() {
        let (mut memory, now) = (memory(10), Instant::now());
        memory.won(&host(1), Box::pin(core::future::pending()), now);
        assert!(memory.may_try(&host(1), now + Duration::from_secs(1)));
        memory.won(&host(1), later_fails(), now);
        let now = now + Duration::from_secs(2);
        assert!(!memory.may_try(&host(1), now));
        assert!(!memory.may_try(&host(1), now + Duration::from_secs(299)));
        let now = now + Duration::from_secs(300);
        assert!(memory.may_try(&host(1), now));
        memory.won(&host(1), Box::pin(core::future::ready(Err(io::ErrorKind::TimedOut.into()))), now);
        assert!(!memory.may_try(&host(1), now + Duration::from_secs(599)));
        assert!(memory.may_try(&host(1), now + Duration::from_secs(600)));
    }

    #[test]
    fn the_number_of_hosts_is_bounded() {
        let (mut memory, now) = (memory(3), Instant::now());
        for n in 0..10 {
            memory.lost(&host(n), now + Duration::from_secs(n.into()));
        }
        assert_eq!(memory.hosts.len(), 3);
        assert!(memory.may_try(&host(6), now + Duration::from_secs(10)));
        assert!(!memory.may_try(&host(7), now + Duration::from_secs(10)));
    }
}
