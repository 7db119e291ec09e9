//! How many sessions there may be, in all and from one peer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use smtp_core::channel::Peer;
use smtp_core::service::{Request, Verdict};
use smtp_core::types::{Command, Refusal};
use tower_layer::Layer;
use tower_service::Service;

use super::Decided;
use crate::peer;

/// Limits the sessions that are open at the same time: 421, which ends the session before it costs more than a task.
///
/// Clones share the count; a place is taken at [`Command::Connect`] and given back when the session's service is
/// dropped. Over the total: 421 4.3.2. Over the share of one peer: 421 4.7.0. An IPv6 peer is its /64.
#[derive(Debug, Clone)]
pub struct SessionLimitLayer {
    total: usize,
    per_peer: Option<usize>,
    local_too: bool,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    peers: HashMap<IpAddr, usize>,
}

impl Default for SessionLimitLayer {
    fn default() -> Self {
        Self { total: 10_000, per_peer: None, local_too: false, open: Arc::default() }
    }
}

impl SessionLimitLayer {
    /// The defaults: 10,000 sessions in all, 500 from one peer, peers on this machine exempt from the latter.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sessions in all, local ones included. Default 10,000.
    #[must_use]
    pub const fn total(mut self, sessions: usize) -> Self {
        self.total = sessions;
        self
    }

    /// Sessions from one peer. Default: a twentieth of the total, at least 10.
    #[must_use]
    pub const fn per_peer(mut self, sessions: usize) -> Self {
        self.per_peer = Some(sessions);
        self
    }

    /// Whether loopback addresses count as peers too. Default: false, because a proxy or a web mailer on this machine
    /// speaks for many. Peers without an address are never counted.
    #[must_use]
    pub const fn count_loopback(mut self, count: bool) -> Self {
        self.local_too = count;
        self
    }

    fn enter(&self, peer: &Peer) -> Result<Place, Refusal> {
        let counted = peer::counted(peer).filter(|_| self.local_too || !peer.is_local());
        let mut open = lock(&self.open);
        if open.total >= self.total {
            return Err(Refusal::fixed(421, (4, 3, 2), "too many sessions; try again later"));
        }
        if let Some(ip) = counted {
            let most = self.per_peer.unwrap_or((self.total / 20).max(10));
            let here = open.peers.get(&ip).copied().unwrap_or(0);
            if here >= most {
                return Err(Refusal::fixed(421, (4, 7, 0), "too many sessions from your address; try again later"));
            }
            open.peers.insert(ip, here + 1);
        }
        open.total += 1;
        drop(open);
        Ok(Place { counted, open: Arc::clone(&self.open) })
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among the open sessions, until it is dropped.
#[derive(Debug)]
struct Place {
    counted: Option<IpAddr>,
    open: Arc<Mutex<Open>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total = open.total.saturating_sub(1);
        let Some(ip) = self.counted else { return };
        match open.peers.get_mut(&ip) {
            Some(sessions) if *sessions > 1 => *sessions -= 1,
            // The map holds who is here now, so it is never larger than the total.
            _ => drop(open.peers.remove(&ip)),
        }
    }
}

/// The service that [`SessionLimitLayer`] makes: one session, and its place.
#[derive(Debug)]
pub struct SessionLimit<S> {
    inner: S,
    limit: SessionLimitLayer,
    place: Option<Place>,
}

impl<S> Layer<S> for SessionLimitLayer {
    type Service = SessionLimit<S>;

    fn layer(&self, inner: S) -> SessionLimit<S> {
        SessionLimit { inner, limit: self.clone(), place: None }
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for SessionLimit<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if matches!(request.command, Command::Connect) {
            // A peer that speaks for others says it again for each of them (XCLIENT).
            self.place = None;
            match self.limit.enter(&request.session.channel.peer) {
                Ok(place) => self.place = Some(place),
                Err(refusal) => return Decided::refused(refusal),
            }
        }
        Decided::inner(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{ask, remote_session};

    async fn connect(layer: &SessionLimitLayer, peer: &str) -> (SessionLimit<AnyRecipient>, Verdict) {
        let mut policy = layer.layer(AnyRecipient::exposed());
        let verdict = ask(&mut policy, &remote_session(peer), Command::Connect).await;
        (policy, verdict)
    }

    #[tokio::test]
    async fn one_peer_gets_its_share_and_no_more() {
        let layer = SessionLimitLayer::new().per_peer(2);
        let (first, verdict) = connect(&layer, "192.0.2.1:1").await;
        assert_eq!(verdict, Verdict::Proceed);
        let (_second, verdict) = connect(&layer, "[::ffff:192.0.2.1]:2").await;
        assert_eq!(verdict, Verdict::Proceed);
        let (_third, verdict) = connect(&layer, "192.0.2.1:3").await;
        assert_code!(verdict, 421, "4.7.0");
        assert_eq!(connect(&layer, "192.0.2.2:4").await.1, Verdict::Proceed);
        drop(first);
        assert_eq!(connect(&layer, "192.0.2.1:5").await.1, Verdict::Proceed);
    }

    #[tokio::test]
    async fn the_total_counts_everybody() {
        let layer = SessionLimitLayer::new().total(2);
        let (_a, verdict) = connect(&layer, "127.0.0.1:1").await;
        assert_eq!(verdict, Verdict::Proceed);
        let (_b, verdict) = connect(&layer, "192.0.2.1:1").await;
        assert_eq!(verdict, Verdict::Proceed);
        assert_code!(connect(&layer, "192.0.2.2:1").await.1, 421, "4.3.2");
    }

    #[tokio::test]
    async fn loopback_is_exempt_from_the_share_unless_counted() {
        let layer = SessionLimitLayer::new().per_peer(1);
        let (_a, _) = connect(&layer, "127.0.0.1:1").await;
        let (_b, verdict) = connect(&layer, "127.0.0.1:2").await;
        assert_eq!(verdict, Verdict::Proceed);
        let layer = SessionLimitLayer::new().per_peer(1).count_loopback(true);
        let (_a, _) = connect(&layer, "127.0.0.1:1").await;
        assert_code!(connect(&layer, "127.0.0.1:2").await.1, 421, "4.7.0");
    }

    #[tokio::test]
    async fn the_default_share_is_a_twentieth_and_at_least_ten() {
        let layer = SessionLimitLayer::new().total(100);
        let mut held = Vec::new();
        for port in 1..=10 {
            held.push(connect(&layer, &format!("192.0.2.1:{port}")).await);
        }
        assert!(held.iter().all(|(_, verdict)| *verdict == Verdict::Proceed));
        assert_code!(connect(&layer, "192.0.2.1:11").await.1, 421, "4.7.0");
        drop(held);
        assert!(lock(&layer.open).peers.is_empty(), "nobody is remembered who is not here");
        assert_eq!(lock(&layer.open).total, 0);
    }
}
