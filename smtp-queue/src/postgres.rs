//! The store that several nodes share: PostgreSQL, or what speaks like it.

mod bodies;
mod connect;
mod keeper;
mod key;
mod pending;
mod rows;
mod schema;
mod servers;
mod session;
mod shards;
mod staged;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;
use smtp_core::service::Body;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use connect::PgSettings;

use crate::clock::millis;
use crate::engine::{Answer, Engine, Op, SCAN_MAX};
use crate::error::{Error, OpenError};
use crate::id::{Ids, JobId, MessageId};
use crate::job::{Action, Settlement};
use crate::spool::{Claim, Entry, Filter, Health, Lease, Leased, Limits, Page, Spool, Staged, Stats};
use crate::sqlite::WAITING_MAX;
use keeper::Keeper;
use key::Key;
use rows::{PgRows, describe};
use servers::{Client, Pool};
use shards::Shards;
use staged::PgStaged;
use writer::{Request, Writer};

/// Connections that bodies are read over.
const CONNECTIONS: usize = 9;
/// How long making the tables may take, or bringing them up to date, and how long finding the store of bodies.
const OPENING: Duration = Duration::from_secs(60);
/// How long the row of a message may take to come.
const BODY: Duration = Duration::from_secs(30);

/// A spool in a PostgreSQL database, which several nodes fill and empty together.
///
/// **Durability.** A commit is on the server's disk when it returns (`synchronous_commit` is never off). What many writers
/// want is written together, as much as waits, up to about 1 MiB; nothing waits for a timer.
///
/// **Sharing.** Next hops are divided into 1,024 shards, each with one owner: all jobs of a next hop are claimed by one
/// node, so that what that node knows of the next hop is exact. A shard is leased, by the database's clock; its epoch grows
/// with each owner, and a settlement under an old epoch fails with [`Error::LeaseLost`]. A node takes its fair share, and
/// what others leave behind; it gives surplus back as soon as nobody works on it. Jobs that others store are seen within a
/// second.
///
/// **Failure.** While the database is not reached nothing is taken and nothing is claimed; it is tried again every second.
/// What is under way is settled when it is back. Of several servers the one that was promoted last is used, and one that was
/// promoted earlier than what was used before is never gone back to.
///
/// **SQL.** Plain enough for servers that only speak like PostgreSQL: no notifications, no extensions.
///
/// The leases of jobs are in memory, as they end with their node. Clones share everything. When the last is dropped, or it
/// is closed, its shards go to others.
#[derive(Debug, Clone)]
pub struct PgSpool(Arc<Shared>);

struct Shared {
    requests: mpsc::Sender<Request>,
    pool: Pool,
    shards: Arc<Shards>,
    bodies: Option<Arc<dyn ObjectStore>>,
    limits: Limits,
    ids: Ids,
    state: Arc<State>,
    /// Octets of content in memory, on their way.
    staged: Arc<AtomicU64>,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("shards", &self.shards).field("state", &self.state).finish_non_exhaustive()
    }
}

/// What the writer tells the others.
#[derive(Debug, Default)]
struct State {
    broken: Mutex<Option<String>>,
    stats: Mutex<Stats>,
    look_took: Mutex<Duration>,
    changed: Arc<Notify>,
}

impl State {
    /// Nothing is taken any more until the database is reached.
    fn poison(&self, reason: &str) {
        let mut broken = lock(&self.broken);
        if broken.is_none() {
            tracing::error!(reason, "the queue takes no mail until its database is there again");
        }
        // The newest: why it is not there any more may be another reason than why it does not come back.
        *broken = Some(reason.to_owned());
    }

    fn heal(&self) {
        *lock(&self.broken) = None;
    }

    fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }

    fn publish(&self, stats: Stats) {
        *lock(&self.stats) = stats;
    }

    fn looked(&self, took: Duration) {
        *lock(&self.look_took) = took;
    }

    fn look_took(&self) -> Duration {
        *lock(&self.look_took)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets go of a connection on which opening took too long; what is told of it.
async fn given_up(pool: &Pool, client: Client) -> String {
    pool.manager().give_up(&client).await;
    drop(Client::take(client));
    rows::too_long(OPENING)
}

impl PgSpool {
    /// The spool that the settings name, with its tables made or brought up to date, and with a share of the work.
    ///
    /// # Errors
    /// [`OpenError::Server`], [`OpenError::Newer`].
    pub async fn open(settings: PgSettings) -> Result<Self, OpenError> {
        let refused = |reason: String| OpenError::Server { server: settings.url().to_owned(), reason };
        let servers = settings.servers()?;
        let pool_of = |max| servers.pool(max).map_err(|error| refused(error.to_string()));
        let (own, pool) = (pool_of(1)?, pool_of(CONNECTIONS)?);
        let mut client = servers::client(&pool).await.map_err(refused)?;
        let failed = |error: tokio_postgres::Error| refused(connect::cause(&error));
        let encoding: String = client.query_one("SHOW server_encoding", &[]).await.map_err(failed)?.get(0);
        if !encoding.eq_ignore_ascii_case("UTF8") && !encoding.eq_ignore_ascii_case("UTF-8") {
            return Err(refused(format!("its encoding is {encoding}; make a database with ENCODING 'UTF8'")));
        }
        let migrated = tokio::time::timeout(OPENING, schema::migrate(&mut client, settings.schema())).await;
        let Ok(migrated) = migrated else {
            return Err(refused(given_up(&pool, client).await));
        };
        if let schema::Schema::Newer(found) = migrated.map_err(failed)? {
            return Err(OpenError::Newer { path: settings.url().into(), found, known: schema::NEWEST });
        }

        let now = u64::try_from(millis(SystemTime::now())).unwrap_or_default();
        let chance = RandomState::new().hash_one(now);
        // Nobody else's ever, also where two nodes have one name.
        let shards = Arc::new(Shards::new(format!("{}/{now:x}-{chance:016x}", settings.name)));
        let bodies = match &settings.bodies {
            Some(store) => {
                let fresh = format!("{chance:016x}");
                let own = tokio::time::timeout(OPENING, bodies::own(Arc::clone(store), &client, &fresh)).await;
                let Ok(own) = own else { return Err(refused(given_up(&pool, client).await)) };
                let own = own.map_err(|error| match error {
                    Error::Storage(reason) => refused(reason),
                    error => refused(error.to_string()),
                })?;
                let other = "its large bodies are not in the store that is named here; all nodes need the same one";
                Some(own.ok_or_else(|| refused(other.into()))?)
            }
            None => {
                let row = client.query_one("SELECT bodies IS NULL FROM meta WHERE one", &[]).await.map_err(failed)?;
                if !row.get::<_, bool>(0) {
                    return Err(refused("its large bodies are in a store that is not named here".into()));
                }
                None
            }
        };
        drop(client);
        let state = Arc::new(State::default());
        let keeper = Keeper {
            // Its own: reading bodies must not keep it from renewing.
            pool: pool_of(2)?,
            shards: Arc::clone(&shards),
            state: Arc::clone(&state),
            name: settings.name.clone(),
            lease: settings.lease,
            bodies: bodies.clone(),
        };
        let renewal = keeper.renew().await.map_err(refused)?;
        let first = renewal.turn();
        shards.replace(renewal.owned, renewal.until);

        let epoch = now << 16 | chance & 0xffff;
        let (requests, queue) = mpsc::channel(WAITING_MAX);
        let (opened, ready) = oneshot::channel();
        let (limits, elsewhere) = (settings.limits, tokio::runtime::Handle::current());
        let work = {
            let (shards, state, bodies) = (Arc::clone(&shards), Arc::clone(&state), bodies.clone());
            move || {
                let writer = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| Error::Storage(error.to_string()))
                    .and_then(|runtime| Engine::open(PgRows::new(runtime, own, Arc::clone(&shards)), limits, epoch))
                    .and_then(|engine| {
                        let mut writer = Writer { engine, shards, state, bodies, elsewhere, in_vain: None };
                        // What was cancelled while somebody had it went with the leases of who had it; and whoever has the
                        // spool has its figures.
                        writer.look()?;
                        Ok(writer)
                    });
                match writer {
                    Ok(writer) => {
                        if opened.send(Ok(writer.engine.ids())).is_ok() {
                            writer.run(queue);
                        }
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            }
        };
        std::thread::Builder::new().name("spool".into()).spawn(work).map_err(|error| refused(error.to_string()))?;
        let ids = match ready.await {
            Ok(Ok(ids)) => ids,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused("its thread ended".into())),
        };
        let stop = CancellationToken::new();
        let keeper = Mutex::new(Some(tokio::spawn(keeper.run(requests.downgrade(), first, stop.clone()))));
        let staged = Arc::default();
        Ok(Self(Arc::new(Shared { requests, pool, shards, bodies, limits, ids, state, staged, stop, keeper })))
    }

    async fn run(&self, op: Op) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.requests.send(Request::Op { op: Box::new(op), reply }).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Size, checksum and content of a message's row.
    async fn content(&self, message: MessageId) -> Result<(u64, u32, Option<Bytes>), Error> {
        let client = servers::client(&self.0.pool).await;
        let client = client.map_err(|why| Error::Storage(format!("the database: {why}")))?;
        let asked = async {
            let statement = client.prepare_cached("SELECT size, body_sum, body FROM message WHERE id = $1").await?;
            client.query_opt(&statement, &[&Key(message)]).await
        };
        let Ok(row) = tokio::time::timeout(BODY, asked).await else {
            drop(Client::take(client));
            return Err(Error::Storage("the database does not answer".into()));
        };
        let row = row.map_err(|e| describe(&e))?.ok_or(Error::NotFound)?;
        let content = row.get::<_, Option<&[u8]>>(2).map(Bytes::copy_from_slice);
        Ok((row.get::<_, i64>(0).unsigned_abs(), u32::try_from(row.get::<_, i64>(1)).unwrap_or_default(), content))
    }
}

impl Shared {
    /// Whether a message can be taken.
    fn check(&self) -> Result<(), Error> {
        if let Some(reason) = self.state.broken() {
            return Err(Error::Unhealthy(reason));
        }
        if lock(&self.state.stats).messages >= self.limits.messages {
            return Err(Error::TooMany { limit: self.limits.messages });
        }
        Ok(())
    }
}

#[async_trait]
impl Spool for PgSpool {
    async fn begin(&self, now: SystemTime, size_hint: Option<u64>) -> Result<Box<dyn Staged>, Error> {
        let limit = self.0.limits.body;
        if size_hint.is_some_and(|size| size > limit) {
            return Err(Error::TooLarge { limit });
        }
        if self.0.requests.is_closed() {
            return Err(Error::Closed);
        }
        self.0.check()?;
        Ok(Box::new(PgStaged::new(self.clone(), self.0.ids.next(now), now)))
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Leased>, Error> {
        self.run(Op::Claim(claim)).await?.claimed()
    }

    async fn renew(&self, leases: &[Lease], now: SystemTime, until: SystemTime) -> Result<Vec<Lease>, Error> {
        self.run(Op::Renew { leases: leases.to_vec(), now, until }).await?.lost()
    }

    fn may_finish(&self, lease: Lease) -> bool {
        self.0.shards.may_finish(lease)
    }

    async fn settle(&self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error> {
        self.run(Op::Settle { lease, now, settlement: Box::new(settlement) }).await?.settled()
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), Error> {
        self.run(Op::Release(leases.to_vec())).await.map(drop)
    }

    async fn body(&self, message: MessageId) -> Result<Body, Error> {
        let (size, sum, content) = match self.content(message).await {
            // A connection that the server has closed meanwhile is noticed by its use only.
            Err(Error::Storage(_)) => self.content(message).await?,
            content => content?,
        };
        match (content, &self.0.bodies) {
            (Some(content), _) if crc32fast::hash(&content) == sum && content.len() as u64 == size => {
                Ok(Body::from_bytes(content))
            }
            (Some(_), _) => Err(Error::Corrupt("the content is not what was written".into())),
            (None, Some(bodies)) => bodies::read(&**bodies, message, size, sum).await,
            (None, None) => Err(Error::Storage("the content is in a store of bodies that was not named here".into())),
        }
    }

    async fn next_due(&self, claim: &Claim) -> Result<Option<SystemTime>, Error> {
        self.run(Op::NextDue(claim.clone())).await?.due()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.state.changed)
    }

    async fn list(&self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error> {
        self.run(Op::Scan { filter: Box::new(filter.clone()), after, max }).await?.page()
    }

    async fn get(&self, message: MessageId) -> Result<Vec<Entry>, Error> {
        let filter = Box::new(Filter::message(message));
        Ok(self.run(Op::Scan { filter, after: None, max: SCAN_MAX }).await?.page()?.entries)
    }

    async fn control(&self, filter: &Filter, action: Action, now: SystemTime) -> Result<u64, Error> {
        let (mut total, mut after) = (0, None);
        loop {
            let op = Op::Control { filter: Box::new(filter.clone()), after, action: action.clone(), now };
            let (changed, next) = self.run(op).await?.controlled()?;
            total += changed;
            after = next;
            if after.is_none() {
                return Ok(total);
            }
        }
    }

    fn health(&self) -> Health {
        match self.0.check() {
            Ok(()) => Health::Ready,
            Err(error @ Error::TooMany { .. }) => Health::Full(error.to_string()),
            Err(error) => Health::Unhealthy(error.to_string()),
        }
    }

    fn stats(&self) -> Stats {
        *lock(&self.0.state.stats)
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.0.requests.send(Request::Maintain { now, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn close(&self) -> Result<(), Error> {
        let (reply, closed) = oneshot::channel();
        if self.0.requests.send(Request::Close { reply }).await.is_ok() {
            let _ = closed.await;
        }
        self.0.stop.cancel();
        let keeper = lock(&self.0.keeper).take();
        if let Some(keeper) = keeper {
            let _ = keeper.await;
        }
        Ok(())
    }
}
