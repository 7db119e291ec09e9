//! The accept loop: from listeners to sessions, and to an orderly end.

mod connection;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::service::{Delivery, Policy};
use smtp_core::session::server::{Config, Protocol};
use smtp_core::stream::Listener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// What a [`Server`] allows. Each has a default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What each session is, allows and waits for.
    pub session: Arc<driver::Settings>,
    /// Connections at the same time, over all servers whose settings are clones of these. Default 10,000. A
    /// [`SessionLimitLayer`](crate::policy::SessionLimitLayer) with a smaller total tells those beyond it 421; its clones
    /// share their count, too.
    pub connections: Places,
    /// How long a connection may take until its first stream is there: TLS handshakes, proxy headers. Default 60 s.
    pub handshake: Duration,
    /// How long sessions may go on after a shutdown was asked for, before they are aborted. Default 30 s. An idle
    /// session is told 421 at once; one within a transaction may finish it.
    pub drain: Duration,
    /// The number of the last session. Servers of one process that share it give no number twice.
    pub last_session: Arc<AtomicU64>,
}

impl Settings {
    /// The defaults, with `session` for each session.
    #[must_use]
    pub fn new(session: driver::Settings) -> Self {
        Self {
            session: Arc::new(session),
            connections: Places::new(10_000),
            handshake: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            last_session: Arc::default(),
        }
    }
}

/// Room for connections: where there is none left no more are accepted until one ends; they wait in the system's queue,
/// without a reply. Clones share it.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// Room for so many connections at the same time.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self(Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))))
    }
}

/// A server: listeners, and a stack of services for each session.
///
/// `make_stack` is called for each session (each stream of a connection that carries many) with what is known of it,
/// and gives the policy and the delivery that serve it. A session that panics ends alone.
pub struct Server<M> {
    settings: Settings,
    make_stack: M,
    listeners: Vec<(Box<dyn Listener>, Protocol)>,
}

impl<M> Server<M> {
    /// A server that listens nowhere yet.
    pub fn new<P, D>(settings: Settings, make_stack: M) -> Self
    where
        M: Fn(&Arc<SessionInfo>) -> (P, D) + Send + Sync + 'static,
        P: Policy,
        D: Delivery,
    {
        Self { settings, make_stack, listeners: Vec::new() }
    }

    /// Listens on `listener` too.
    #[must_use]
    pub fn listen(self, listener: impl Listener) -> Self {
        let protocol = self.settings.session.session.protocol;
        self.listen_as(listener, protocol)
    }

    /// Listens on `listener` too, and speaks `protocol` there, whatever the settings say. A listener on port 25 that is
    /// to speak LMTP is not served (RFC 2033 §5); the log says so.
    #[must_use]
    pub fn listen_as(mut self, listener: impl Listener, protocol: Protocol) -> Self {
        self.listeners.push((Box::new(listener), protocol));
        self
    }

    /// Serves until `shutdown` is cancelled, or no listener can accept any more, and then until the sessions have
    /// ended or [`Settings::drain`] has passed.
    ///
    /// Dropping the future instead leaves the sessions running by themselves.
    pub async fn run<P, D>(self, shutdown: CancellationToken) -> Summary
    where
        M: Fn(&Arc<SessionInfo>) -> (P, D) + Send + Sync + 'static,
        P: Policy,
        D: Delivery,
    {
        let drain = self.settings.drain;
        let running = Arc::new(Running {
            tally: Tally { last: Arc::clone(&self.settings.last_session), ..Tally::default() },
            settings: self.settings,
            make_stack: self.make_stack,
            connections: TaskTracker::new(),
            // A child: whoever cancels `shutdown` stops accepting and starts the drain in the same moment.
            draining: shutdown.child_token(),
            aborting: CancellationToken::new(),
        });
        let mut accepting = JoinSet::new();
        for (listener, protocol) in self.listeners {
            accepting.spawn(accept(Arc::clone(&running), listener, protocol));
        }
        while accepting.join_next().await.is_some() {}
        running.draining.cancel();
        running.connections.close();
        if tokio::time::timeout(drain, running.connections.wait()).await.is_err() {
            tracing::warn!(connections = running.connections.len(), "the drain took too long; aborting what is left");
            running.aborting.cancel();
            running.connections.wait().await;
        }
        running.tally.summary()
    }
}

impl<M> fmt::Debug for Server<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.listeners.iter().map(|(listener, _)| listener.url()).collect();
        f.debug_struct("Server").field("settings", &self.settings).field("listeners", &urls).finish_non_exhaustive()
    }
}

/// What became of the sessions of a [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// All of them.
    pub sessions: u64,
    /// Those that were still under way when the drain had taken too long.
    pub aborted: u64,
    /// Those that ended by a panic, which is a fault of this program.
    pub panicked: u64,
}

/// A server at work.
struct Running<M> {
    settings: Settings,
    make_stack: M,
    connections: TaskTracker,
    draining: CancellationToken,
    aborting: CancellationToken,
    tally: Tally,
}

/// Accepts connections until it must not or cannot any more.
async fn accept<M, P, D>(running: Arc<Running<M>>, listener: Box<dyn Listener>, protocol: Protocol)
where
    M: Fn(&Arc<SessionInfo>) -> (P, D) + Send + Sync + 'static,
    P: Policy,
    D: Delivery,
{
    let url = listener.url();
    if protocol == Protocol::Lmtp && url.ends_with(":25") {
        // The sessions would refuse everybody. Nobody is to wait for a greeting that comes to nothing.
        tracing::error!(url = url.as_str(), "LMTP must not be spoken on port 25 (RFC 2033 §5): listen on another port");
        return;
    }
    tracing::info!(url = url.as_str(), "listening");
    let settings = speaking(&running.settings.session, protocol);
    let accepting = async {
        loop {
            let connection = match listener.accept().await {
                Ok(connection) => connection,
                // One that has had its connections, as standard input has one.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    tracing::info!(url = url.as_str(), %error, "no more connections");
                    return;
                }
                Err(error) => {
                    tracing::error!(url = url.as_str(), %error, "the listener is of no more use");
                    return;
                }
            };
            // One connection is held here at most; the others wait in the listener's queue.
            let Ok(place) = Arc::clone(&running.settings.connections.0).acquire_owned().await else { return };
            let (serving, settings) = (Arc::clone(&running), Arc::clone(&settings));
            let span = tracing::debug_span!("connection", listener = url.as_str());
            let serve = async move {
                // Made in here: a future that is captured takes its place twice, and every idle session would pay.
                serving.connection(connection, settings).await;
                drop(place);
            };
            running.connections.spawn(serve.instrument(span));
        }
    };
    tokio::select! {
        biased;
        () = running.draining.cancelled() => {}
        () = accepting => {}
    }
}

/// The same settings for another protocol.
fn speaking(settings: &Arc<driver::Settings>, protocol: Protocol) -> Arc<driver::Settings> {
    if settings.session.protocol == protocol {
        return Arc::clone(settings);
    }
    let mut session = Config::clone(&settings.session);
    session.protocol = protocol;
    Arc::new(driver::Settings { session: Arc::new(session), timeouts: settings.timeouts.clone() })
}

#[derive(Debug, Default)]
struct Tally {
    last: Arc<AtomicU64>,
    sessions: AtomicU64,
    aborted: AtomicU64,
    panicked: AtomicU64,
}

impl Tally {
    /// Counts a session; the number is its id.
    fn begin(&self) -> Counted<'_> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Counted { tally: self, id: self.last.fetch_add(1, Ordering::Relaxed) + 1, finished: false }
    }

    fn summary(&self) -> Summary {
        Summary {
            sessions: self.sessions.load(Ordering::Relaxed),
            aborted: self.aborted.load(Ordering::Relaxed),
            panicked: self.panicked.load(Ordering::Relaxed),
        }
    }
}

/// A session that has been counted, and notes how it ends.
struct Counted<'a> {
    tally: &'a Tally,
    id: u64,
    finished: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tally.panicked.fetch_add(1, Ordering::Relaxed);
            tracing::error!(session = self.id, "a session panicked and was ended; the others go on");
        } else if !self.finished {
            self.tally.aborted.fetch_add(1, Ordering::Relaxed);
        }
    }
}
