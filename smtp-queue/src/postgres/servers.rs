//! Connections to the server that the queue is on, of those that may be it.
//!
//! It is one that can be written. After a failover there may be two of these: the one that was promoted, and the former one,
//! come back by itself without what was written since. PostgreSQL begins a new *timeline* with each promotion, so the one
//! on the newest is right, and a server on an older timeline than this node has seen is left alone. Servers that only
//! speak like PostgreSQL have no timelines; all of them count as 0.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{BuildError, Manager, Metrics, PoolError, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Error, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::connect::cause;

/// How long anybody waits until another connection is free, and how long the only server may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take to be made, with all that a session begins with.
const MADE: Duration = Duration::from_secs(6);
/// How long one server of several may take before the others are asked. Together with [`EACH`] less than [`PATIENCE`].
const LAST: Duration = Duration::from_millis(1_500);
/// How long each may take when all are asked.
const EACH: Duration = Duration::from_secs(3);

/// The timeline that is written to now: the first eight digits of the name of a file of its log.
const TIMELINE: &str = "SELECT substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)";

/// What servers say that have none.
const NO_TIMELINES: [SqlState; 2] = [SqlState::UNDEFINED_FUNCTION, SqlState::FEATURE_NOT_SUPPORTED];

pub(super) type Pool = deadpool::managed::Pool<Servers>;
pub(super) type Client = deadpool::managed::Object<Servers>;

/// The servers that may have the queue. Clones share what is known of them.
#[derive(Clone)]
pub(super) struct Servers(Arc<Inner>);

struct Inner {
    /// One server each.
    servers: Vec<Config>,
    tls: Option<MakeRustlsConnect>,
    /// What every session begins with.
    session: String,
    known: Mutex<Known>,
}

/// What was seen last.
#[derive(Debug, Clone, Copy)]
struct Known {
    server: Option<usize>,
    timeline: u32,
    /// Connections from before it are to another server, or to none.
    since: Instant,
}

/// A server that can be written.
struct Found {
    server: usize,
    timeline: u32,
    client: tokio_postgres::Client,
    connection: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("known", &*self.known()).finish_non_exhaustive()
    }
}

impl Servers {
    /// At least one, each of one host.
    pub(super) fn new(servers: Vec<Config>, tls: Option<MakeRustlsConnect>, session: String) -> Self {
        let known = Mutex::new(Known { server: None, timeline: 0, since: Instant::now() });
        Self(Arc::new(Inner { servers, tls, session, known }))
    }

    /// A pool of up to `max` connections, for one runtime. Nothing is connected yet.
    pub(super) fn pool(&self, max: usize) -> Result<Pool, BuildError> {
        let patience = Some(PATIENCE);
        let pool = Pool::builder(self.clone()).max_size(max).runtime(Runtime::Tokio1);
        pool.wait_timeout(patience).create_timeout(Some(MADE)).recycle_timeout(patience).build()
    }

    /// Whether the queue is elsewhere by now.
    pub(super) fn have_left(&self, connection: &Metrics) -> bool {
        connection.created < self.known().since
    }

    /// A connection has ended: the queue may be elsewhere by now.
    pub(super) fn lost(&self) {
        self.known().server = None;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, server: usize, config: &Config) -> Result<Found, Error> {
        let (client, connection) = match &self.0.tls {
            Some(tls) => connect(config, tls.clone()).await?,
            None => connect(config, NoTls).await?,
        };
        let timeline = match client.query_one(TIMELINE, &[]).await {
            Ok(row) => row.try_get(0).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default(),
            // It does not know what that is.
            Err(error) if error.code().is_some_and(|code| NO_TIMELINES.contains(code)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Found { server, timeline, client, connection })
    }

    /// The server that has the queue.
    async fn find(&self) -> Result<Found, String> {
        let Known { server, timeline, .. } = *self.known();
        // Where other connections are. Without one all are asked: the server may have come back as a former primary.
        if let Some(n) = server.filter(|_| self.0.servers.len() > 1)
            && let Some(config) = self.0.servers.get(n)
            && let Ok(Ok(found)) = timeout(LAST, self.attempt(n, config)).await
            && found.timeline >= timeline
        {
            return Ok(found);
        }
        let (found, mut refused) = self.all().await;
        match newest(found) {
            Some(found) if found.timeline >= timeline => Ok(found),
            Some(found) => {
                let place = self.0.servers.get(found.server).map(place).unwrap_or_default();
                refused.push(format!(
                    "{place}: it is on timeline {}, and the queue went on on timeline {timeline}: a former primary has \
                     come back, and has to be taken away (or, if it is right, this node started again)",
                    found.timeline
                ));
                Err(refused.join("; "))
            }
            None => Err(refused.join("; ")),
        }
    }

    /// Looks whether the queue is on a newer timeline elsewhere, while the server where this node works with it has stayed.
    pub(super) async fn look_around(self) {
        if self.0.servers.len() < 2 {
            return;
        }
        let (found, _) = self.all().await;
        let Known { server, timeline, .. } = *self.known();
        let Some(found) = newest(found).filter(|found| found.timeline > timeline) else { return };
        let server = server.and_then(|n| self.0.servers.get(n)).map(place).unwrap_or_default();
        tracing::error!(server, timeline, "a former primary: what this node has taken there meanwhile is nowhere else");
        // Nobody can have seen a newer one meanwhile that is older than this.
        let _ = self.note(&found);
    }

    /// Those that can be written, and what the others say.
    async fn all(&self) -> (Vec<Found>, Vec<String>) {
        let patience = if self.0.servers.len() > 1 { EACH } else { PATIENCE };
        let attempts = self.0.servers.iter().enumerate().map(async |(n, config)| {
            let refused = |why: String| format!("{}: {why}", place(config));
            match timeout(patience, self.attempt(n, config)).await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) => Err(refused(cause(&error))),
                Err(_) => Err(refused("it does not answer".into())),
            }
        });
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for attempt in join_all(attempts).await {
            match attempt {
                Ok(server) => found.push(server),
                Err(why) => refused.push(why),
            }
        }
        (found, refused)
    }

    /// Remembers where the queue is.
    fn note(&self, found: &Found) -> Result<(), String> {
        let mut known = self.known();
        if found.timeline < known.timeline {
            return Err("the queue's database has failed over just now".into());
        }
        known.server = Some(found.server);
        if found.timeline > known.timeline {
            if known.timeline > 0 {
                known.since = Instant::now();
                let server = self.0.servers.get(found.server).map(place).unwrap_or_default();
                tracing::warn!(server, timeline = found.timeline, "the queue's database has failed over");
            }
            known.timeline = found.timeline;
        }
        Ok(())
    }
}

impl Manager for Servers {
    type Type = ClientWrapper;
    type Error = String;

    async fn create(&self) -> Result<ClientWrapper, String> {
        let found = self.find().await?;
        found.client.batch_execute(&self.0.session).await.map_err(|error| cause(&error))?;
        self.note(&found)?;
        Ok(ClientWrapper::new(found.client, found.connection.detach()))
    }

    async fn recycle(&self, client: &mut ClientWrapper, metrics: &Metrics) -> RecycleResult<String> {
        if client.is_closed() {
            self.lost();
            return Err(RecycleError::message("it was closed"));
        }
        if self.have_left(metrics) {
            return Err(RecycleError::message("it is of no use any more"));
        }
        Ok(())
    }
}

fn newest(found: Vec<Found>) -> Option<Found> {
    found.into_iter().max_by_key(|found| (found.timeline, Reverse(found.server)))
}

/// A connection of the pool, or why there is none.
pub(super) async fn client(pool: &Pool) -> Result<Client, String> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(why) => why,
        PoolError::Timeout(_) => "it does not answer, or is busy".into(),
        error => error.to_string(),
    })
}

async fn connect<T>(config: &Config, tls: T) -> Result<(tokio_postgres::Client, AbortOnDropHandle<()>), Error>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    // Whoever waits for an answer hears how it ends.
    let connection = tokio::spawn(async move { drop(connection.await) });
    Ok((client, AbortOnDropHandle::new(connection)))
}

/// A server, as a reader of the log knows it.
fn place(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5_432);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => String::new(),
    }
}
