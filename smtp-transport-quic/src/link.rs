//! What the streams of one connection share.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quinn::{Side, ZeroRttAccepted};
use rustls_pki_types::CertificateDer;
use smtp_core::channel::{ChannelInfo, Peer, TlsInfo};
use smtp_core::stream::CloseCode;
use smtp_core::types::printable;
use smtp_tls::Role;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::code;
use crate::crypto::Negotiated;
use crate::error::QuicError;
use crate::observer::{Event, Observer, Traffic};

/// Extensions that hold before an EHLO reply has named them.
//
const IMPLIED: &[&str] = &["PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES"];

/// The label of the `tls-exporter` channel binding (RFC 9266 §4.2); its context is empty.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

/// How far the handshake is, as seen by a stream that was opened within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// What comes may be a replay.
    Pending,
    /// Complete.
    Done,
    /// Complete, but the server did not take the early data.
    EarlyDataRefused,
    /// It will not complete.
    Failed,
}

/// A connection: what its streams share, and what outlives each of them. The last one to go closes it.
pub(crate) struct Link {
    pub(crate) quic: quinn::Connection,
    pub(crate) role: Role,
    peer: SocketAddr,
    /// Where it was when that was last looked at.
    seen: Mutex<SocketAddr>,
    local: Option<SocketAddr>,
    /// The name that SNI carried, on the client's side.
    sni: Option<Box<str>>,
    /// The client holds certificates against something.
    verifies: bool,
    pub(crate) handshake: watch::Receiver<Handshake>,
    /// The listener is gone.
    pub(crate) draining: CancellationToken,
    /// Streams that are open.
    live: AtomicUsize,
    /// Since when there has been none.
    quiet_since: Mutex<Instant>,
    became_quiet: Notify,
    next_priority: AtomicI32,
    share_evenly: bool,
    credit: AtomicI64,
    full_credit: i64,
    /// Octets that streams may still send before the handshake is complete.
    early_left: AtomicUsize,
    observer: Option<Observer>,
}

/// What a side knows of a connection beside what QUIC tells.
pub(crate) struct Facts {
    pub(crate) role: Role,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) sni: Option<Box<str>>,
    pub(crate) verifies: bool,
    pub(crate) draining: CancellationToken,
    pub(crate) churn: u32,
    pub(crate) share_evenly: bool,
    pub(crate) early: usize,
    pub(crate) observer: Option<Observer>,
}

impl Link {
    pub(crate) fn new(quic: quinn::Connection, facts: Facts, handshake: watch::Receiver<Handshake>) -> Self {
        let Facts { role, local, sni, verifies, draining, churn, share_evenly, early, observer } = facts;
        // The address that the handshake proves; wherever the packets come from later.
        let peer = canonical(quic.remote_address());
        Self {
            quic,
            role,
            peer,
            seen: Mutex::new(peer),
            local: local.map(canonical),
            sni,
            verifies,
            handshake,
            draining,
            live: AtomicUsize::new(0),
            quiet_since: Mutex::new(Instant::now()),
            became_quiet: Notify::new(),
            next_priority: AtomicI32::new(0),
            share_evenly,
            credit: AtomicI64::new(churn.into()),
            full_credit: churn.into(),
            early_left: AtomicUsize::new(early),
            observer,
        }
    }

    /// The handshake of a connection that is past it.
    pub(crate) fn complete() -> watch::Receiver<Handshake> {
        watch::channel(Handshake::Done).1
    }

    /// Watches a handshake whose connection is in use already; gives it up after `limit`. Holds `until_done` so long.
    pub(crate) fn watch(
        quic: quinn::Connection,
        accepted: ZeroRttAccepted,
        limit: Duration,
        until_done: impl Send + 'static,
    ) -> watch::Receiver<Handshake> {
        let (done, watch) = watch::channel(Handshake::Pending);
        tokio::spawn(async move {
            let _until_done = until_done;
            let mut accepted = accepted;
            let accepted = match tokio::time::timeout(limit, &mut accepted).await {
                Ok(accepted) => accepted,
                Err(_) => {
                    quic.close(code::to_wire(CloseCode::Timeout), b"no handshake in time");
                    // It may have been completed at the last moment: only quinn knows.
                    accepted.await
                }
            };
            let outcome = match (quic.side(), accepted) {
                // Complete, whatever has become of the connection since: what was sent may have been acted on.
                (Side::Client, true) => Handshake::Done,
                (_, false) if quic.close_reason().is_some() => Handshake::Failed,
                (Side::Client, false) => Handshake::EarlyDataRefused,
                // On the server's side the value means nothing.
                (Side::Server, _) if quic.close_reason().is_some() => Handshake::Failed,
                (Side::Server, _) => Handshake::Done,
            };
            done.send_replace(outcome);
        });
        watch
    }

    /// How many octets a stream may send now without waiting for the handshake.
    //
    pub(crate) fn early_room(&self) -> usize {
        match *self.handshake.borrow() {
            Handshake::Pending => self.early_left.load(Ordering::Acquire),
            Handshake::Done | Handshake::EarlyDataRefused | Handshake::Failed => usize::MAX,
        }
    }

    /// So many octets were sent; it matters only if they went early.
    pub(crate) fn sent_early(&self, octets: usize) {
        let less = |left: usize| Some(left.saturating_sub(octets));
        // It never fails.
        let _ = self.early_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Waits for the end of a client's handshake.
    pub(crate) fn confirmed(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let mut handshake = self.handshake.clone();
        async move {
            match handshake.wait_for(|handshake| *handshake != Handshake::Pending).await.map(|done| *done) {
                Ok(Handshake::Failed | Handshake::Pending) | Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
                // The connection is good, even if what was sent early has to be sent again.
                Ok(Handshake::Done | Handshake::EarlyDataRefused) => Ok(()),
            }
        }
    }

    /// The facts of each of its streams, as they are now.
    pub(crate) fn info(&self) -> ChannelInfo {
        let tls = self.tls();
        ChannelInfo {
            local: self.local,
            tls: Some(tls.into()),
            secure: true,
            // QUIC has TLS inside: STARTTLS is not offered, and not possible.
            can_upgrade: false,
            // A stream that nobody has written to does not exist for the other side.
            client_speaks_first: true,
            implied: IMPLIED,
            ..ChannelInfo::new("quic", Peer::Ip(self.peer))
        }
    }

    fn tls(&self) -> TlsInfo {
        // Before the handshake is complete nobody has proved anything.
        let confirmed = *self.handshake.borrow() != Handshake::Pending;
        let data = self.quic.handshake_data().and_then(|data| data.downcast::<Negotiated>().ok());
        let Negotiated { protocol, server_name, hello } = data.map(|data| *data).unwrap_or_default();
        let mut exporter = [0; 32];
        let exported = confirmed && self.quic.export_keying_material(&mut exporter, EXPORTER, &[]).is_ok();
        let peer_certificates = if confirmed { self.peer_certificates() } else { Vec::new() };
        let verified = match self.role {
            // As after STARTTLS, and no more.
            Role::Client => self.verifies,
            // A certificate that does not hold never gets through the handshake.
            Role::Server => !peer_certificates.is_empty(),
        };
        let facts = TlsInfo {
            version: "TLSv1.3",
            cipher: hello.map(|hello| smtp_tls::cipher_name(hello.cipher)).unwrap_or_default(),
            group: hello.and_then(|hello| hello.group).map(smtp_tls::group_name),
            alpn: protocol.map(|name| printable(&name).into()),
            sni: self.sni.clone().or_else(|| server_name.map(Into::into)),
            peer_certificates,
            verified,
            exporter: exported.then_some(exporter),
            resumed: hello.is_some_and(|hello| hello.resumed),
            // quinn does not tell which certificate a server showed.
            ..TlsInfo::default()
        };
        match self.role {
            Role::Client => facts,
            Role::Server => smtp_tls::with_client_certificate(facts),
        }
    }

    fn peer_certificates(&self) -> Vec<Vec<u8>> {
        let identity = self.quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        identity.map(|chain| chain.iter().map(|der| der.to_vec()).collect()).unwrap_or_default()
    }

    /// A stream begins; its priority. Earlier streams go first: sharing the capacity among all would make every mail
    /// arrive with the last.
    //
    pub(crate) fn begin(&self) -> i32 {
        self.live.fetch_add(1, Ordering::AcqRel);
        if self.share_evenly { 0 } else { self.next_priority.fetch_sub(1, Ordering::Relaxed) }
    }

    /// A stream has ended, in good order or not.
    pub(crate) fn end(&self, orderly: bool) {
        if self.role == Role::Server {
            self.account(orderly);
        }
        if self.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.became_quiet.notify_waiters();
        }
    }

    /// Streams that are opened and thrown away cost a session each and are under nobody's limit.
    //
    fn account(&self, orderly: bool) {
        if orderly {
            let refill = |credit: i64| (credit < self.full_credit).then_some(credit + 1);
            // Full already is no failure.
            let _ = self.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, refill);
        } else if self.credit.fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::warn!(peer = %self.peer, "too many streams were opened and thrown away: connection closed");
            self.close(CloseCode::ExcessiveLoad, "too many streams without a session");
        }
    }

    /// Ready when there has been no stream for `quiet`, or for `grace` after the listener has gone.
    pub(crate) async fn quiet(&self, quiet: Duration, grace: Duration) -> CloseCode {
        loop {
            let notified = self.became_quiet.notified();
            if self.live.load(Ordering::Acquire) > 0 {
                notified.await;
                continue;
            }
            let since = *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner);
            let draining = tokio::time::timeout_at(since + quiet, self.draining.cancelled()).await.is_ok();
            if !draining {
                return CloseCode::NoError;
            }
            tokio::time::sleep_until((since + grace).max(Instant::now())).await;
            return CloseCode::Shutdown;
        }
    }

    /// Where the peer is now, if it has moved; logged once for each place.
    pub(crate) fn moved(&self) -> Option<SocketAddr> {
        let now = canonical(self.quic.remote_address());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen != now {
            *seen = now;
            tracing::info!(peer = %self.peer, %now, "the peer has moved to another address");
        }
        (now != self.peer).then_some(now)
    }

    /// True as long as what is sent is early data.
    pub(crate) fn is_early(&self) -> bool {
        *self.handshake.borrow() == Handshake::Pending
    }

    /// True if a server has closed the connection in good order, so that it has seen all streams to their end but those
    /// that it said nothing on.
    pub(crate) fn was_left(&self) -> bool {
        let Some(quinn::ConnectionError::ApplicationClosed(close)) = self.quic.close_reason() else { return false };
        self.role == Role::Client
            && matches!(code::from_wire(close.error_code), CloseCode::NoError | CloseCode::Shutdown)
    }

    pub(crate) const fn observer(&self) -> Option<&Observer> {
        self.observer.as_ref()
    }

    /// Tells the observer, if there is one.
    pub(crate) fn tell(&self, event: impl FnOnce(&quinn::Connection) -> Event) {
        if let Some(observer) = &self.observer {
            observer.tell(&event(&self.quic));
        }
    }

    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.quic.close(code::to_wire(code), reason.as_bytes());
    }

    /// What ended the connection.
    pub(crate) fn why_closed(&self) -> QuicError {
        self.quic.close_reason().map_or(QuicError::ClosedHere, |error| self.error(error))
    }

    pub(crate) fn error(&self, error: quinn::ConnectionError) -> QuicError {
        QuicError::from_connection(error, self.role)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tell(|quic| Event::Closed(Traffic::of(quic)));
        // What was to be acknowledged has been: streams wait for that before they go.
        let code = if self.draining.is_cancelled() { CloseCode::Shutdown } else { CloseCode::NoError };
        self.close(code, "");
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("role", &self.role)
            .field("peer", &self.peer)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

/// Addresses that only look like IPv6, on a socket for both families, become IPv4: access lists and logs know them by
/// that.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
    }
}
