//! The congestion window of a client that sends early data, with room for the end of the handshake.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// When a handshake was complete on this side.
#[derive(Debug, Clone, Default)]
pub(crate) struct Completed(Arc<OnceLock<Instant>>);

/// A handshake under way. It has come to its end when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshaking(Completed);

impl Completed {
    /// To be dropped when the handshake is over.
    pub(crate) fn guard(&self) -> Handshaking {
        Handshaking(self.clone())
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        // tokio's clock, which is quinn's. Only the first end counts.
        let _ = self.0.0.set(tokio::time::Instant::now().into_std());
    }
}

/// Makes controllers whose window does not shrink below its first size before the server has the client's last handshake
/// message.
///
/// A server acknowledges early data when it has that message. quinn 0.11 holds the message back when early data fills the
/// window, and then has no timer that would send it all the same (RFC 9002 §6.2.4 wants one): both sides wait until one
/// gives up. So lost packets of the handshake must not shrink the window below what was sent early. They still count: the
/// window is what they have made of it as soon as the server is known to have the message.
//
pub(crate) struct Roomy<F> {
    pub(crate) inner: Arc<F>,
    pub(crate) completed: Completed,
}

impl<F: ControllerFactory + Send + Sync + 'static> ControllerFactory for Roomy<F> {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.inner).build(now, mtu);
        let floor = inner.initial_window();
        Box::new(Roomier { inner, floor, completed: self.completed.clone(), confirmed: false })
    }
}

struct Roomier {
    inner: Box<dyn Controller>,
    floor: u64,
    completed: Completed,
    /// The server has the client's last handshake message.
    confirmed: bool,
}

impl Controller for Roomier {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        // Only a server with the whole handshake can read what is sent behind its end.
        self.confirmed |= self.completed.0.get().is_some_and(|completed| sent > *completed);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let window = self.inner.window();
        if self.confirmed { window } else { window.max(self.floor) }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (inner, completed) = (self.inner.clone_box(), self.completed.clone());
        Box::new(Self { inner, floor: self.floor, completed, confirmed: self.confirmed })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
