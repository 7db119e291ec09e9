//! Connections to the server that the queue is on, of those that may be it.
//!
//! It is one that can be written. After a failover there may be two of these: the one that was promoted, and the former one,
//! come back by itself without what was written since. PostgreSQL begins a new *timeline* with each promotion, so the one
//! on the newest is right, and a server on an older timeline than this node has seen is left alone. Servers that only
//! speak like PostgreSQL have no timelines; all of them count as 0.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
use super::session::{Session, Unsure};

/// How long anybody waits until another connection is free, and how long the only server may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take to be made, with all that a session begins with.
const MADE: Duration = Duration::from_secs(6);
/// How long one server of several may take before the others are asked. Together with [`EACH`] less than [`PATIENCE`].
const LAST: Duration = Duration::from_millis(1_500);
/// How long each may take when all are asked.
const EACH: Duration = Duration::from_secs(3);

/// How long a server may take to hear that it is to give up.
const CANCEL: Duration = Duration::from_secs(2);

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
    /// Connections to an older one are of no use.
    timeline: u32,
}

/// A server that can be written.
struct Found {
    server: usize,
    timeline: u32,
    client: tokio_postgres::Client,
    connection: AbortOnDropHandle<()>,
    unsure: Unsure,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("known", &*self.known()).finish_non_exhaustive()
    }
}

impl Servers {
    /// At least one, each of one host.
    pub(super) fn new(servers: Vec<Config>, tls: Option<MakeRustlsConnect>, session: String) -> Self {
        let known = Mutex::new(Known { server: None, timeline: 0 });
        Self(Arc::new(Inner { servers, tls, session, known }))
    }

    /// A pool of up to `max` connections, for one runtime. Nothing is connected yet.
    pub(super) fn pool(&self, max: usize) -> Result<Pool, BuildError> {
        let patience = Some(PATIENCE);
        let pool = Pool::builder(self.clone()).max_size(max).runtime(Runtime::Tokio1);
        pool.wait_timeout(patience).create_timeout(Some(MADE)).recycle_timeout(patience).build()
    }

    /// Whether the queue was on this timeline, and is on a newer one by now.
    pub(super) fn have_left(&self, timeline: u32) -> bool {
        timeline < self.known().timeline
    }

    /// A connection has ended: the queue may be elsewhere by now.
    pub(super) fn lost(&self) {
        self.known().server = None;
    }

    /// Has a server end what it does for this connection, which nobody waits for any more. It would wait for a standby for
    /// ever, also when the connection is closed, and would have none left in the end.
    pub(super) async fn give_up(&self, client: &tokio_postgres::Client) {
        let token = client.cancel_token();
        let told = async {
            match &self.0.tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(NoTls).await,
            }
        };
        // One that hangs has nobody who could be told.
        let _ = timeout(CANCEL, told).await;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, server: usize, config: &Config) -> Result<Found, Error> {
        let (client, connection, unsure) = match &self.0.tls {
            Some(tls) => connect(config, tls.clone()).await?,
            None => connect(config, NoTls).await?,
        };
        let timeline = match client.query_one(TIMELINE, &[]).await {
            Ok(row) => row.try_get(0).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default(),
            // It does not know what that is.
            Err(error) if error.code().is_some_and(|code| NO_TIMELINES.contains(code)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Found { server, timeline, client, connection, unsure })
    }

    /// The server that has the queue.
    async fn find(&self) -> Result<Found, String> {
        let Known { server, timeline } = *self.known();
        // Where other connections are. Without one all are asked: the server may have come back as a former primary.
        if let Some(n) = server.filter(|_| self.0.servers.len() > 1)
            && let Some(config) = self.0.servers.get(n)
            && let Ok(Ok(found)) = timeout(LAST, self.attempt(n, config)).await
            && found.timeline >= timeline
        {
            return Ok(found);
        }
        let (found, mut refused) = self.all().await;
        match self.newest(found) {
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
        let timeline = self.known().timeline;
        let Some(found) = self.newest(found).filter(|found| found.timeline > timeline) else { return };
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

    /// Of servers that can be written, the one that was promoted last.
    fn newest(&self, found: Vec<Found>) -> Option<Found> {
        let timeline = self.known().timeline;
        let newest = found.iter().map(|found| found.timeline).max()?;
        // Where this node was until now, and where nothing keeps others from going on.
        let former = found.iter().find(|found| timeline > 0 && found.timeline == timeline && timeline < newest);
        if let Some(server) = former.and_then(|former| self.0.servers.get(former.server)).map(place) {
            tracing::error!(
                server,
                timeline,
                newest,
                "a former primary still takes what is written: what was taken there since is nowhere else"
            );
        }
        found.into_iter().max_by_key(|found| (found.timeline, Reverse(found.server)))
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
                let server = self.0.servers.get(found.server).map(place).unwrap_or_default();
                tracing::warn!(server, timeline = found.timeline, "the queue's database has failed over");
            }
            known.timeline = found.timeline;
        }
        Ok(())
    }
}

impl Manager for Servers {
    type Type = Session;
    type Error = String;

    async fn create(&self) -> Result<Session, String> {
        let found = self.find().await?;
        found.client.batch_execute(&self.0.session).await.map_err(|error| cause(&error))?;
        self.note(&found)?;
        let client = ClientWrapper::new(found.client, found.connection.detach());
        Ok(Session::new(client, found.timeline, found.unsure))
    }

    async fn recycle(&self, client: &mut Session, _: &Metrics) -> RecycleResult<String> {
        if client.is_closed() {
            self.lost();
            return Err(RecycleError::message("it was closed"));
        }
        if self.have_left(client.timeline()) {
            return Err(RecycleError::message("it is of no use any more"));
        }
        Ok(())
    }
}

/// A connection of the pool, or why there is none.
pub(super) async fn client(pool: &Pool) -> Result<Client, String> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(why) => why,
        PoolError::Timeout(_) => "it does not answer, or is busy".into(),
        error => error.to_string(),
    })
}

async fn connect<T>(config: &Config, tls: T) -> Result<(tokio_postgres::Client, AbortOnDropHandle<()>, Unsure), Error>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    let unsure = Unsure::default();
    let connection = unsure.clone().watch(connection);
    let connection = tokio::spawn(async move { drop(connection.await) });
    Ok((client, AbortOnDropHandle::new(connection), unsure))
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
