//! Keeps this node's shards: renews their leases, takes those that nobody has, gives those back that are too many.
//!
//! All by the database's clock. A shard's epoch grows with every change of its owner, and every settlement is made under
//! the epoch that its job was leased by.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use object_store::ObjectStore;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::rows::too_long;
use super::schema::SHARDS;
use super::servers::{Client, Pool, client};
use super::shards::Shards;
use super::writer::Request;
use super::{State, bodies};

const SEEN: &str = "\
    INSERT INTO node(token, name, until) VALUES ($1, $2, now() + $3 * interval '1 millisecond') \
    ON CONFLICT (token) DO UPDATE SET until = excluded.until";

const NODES: &str = "SELECT count(*) FROM node WHERE until > now()";

/// Also those whose time is over, as long as nobody has taken them.
const RENEW: &str = "\
    WITH mine AS (SELECT id FROM shard WHERE owner = $1 ORDER BY id FOR UPDATE) \
    UPDATE shard SET until = now() + $2 * interval '1 millisecond' FROM mine WHERE shard.id = mine.id \
    RETURNING shard.id, shard.epoch";

const TAKE: &str = "\
    WITH free AS (SELECT id FROM shard WHERE owner IS NULL OR until < now() ORDER BY id LIMIT $3 \
    FOR UPDATE SKIP LOCKED) \
    UPDATE shard SET owner = $1, epoch = shard.epoch + 1, until = now() + $2 * interval '1 millisecond' \
    FROM free WHERE shard.id = free.id RETURNING shard.id, shard.epoch";

const GIVE: &str = "UPDATE shard SET owner = NULL WHERE id = ANY($1::int4[]) AND owner = $2";

const GIVE_ALL: &str = "UPDATE shard SET owner = NULL WHERE owner = $1";

const FORGET: &str = "DELETE FROM node WHERE token = $1 OR until < now() - interval '1 day'";

/// The longest time between two looks at what others have done, while they cost little.
const POLL: Duration = Duration::from_secs(1);
/// The longest time, whatever they cost.
const POLL_MAX: Duration = Duration::from_secs(5);
/// How long a renewal may take at least, with a new connection: one that is cut short was for nothing. And at most.
const TURN: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(30));
/// How long it may take to give all back at the end.
const LAST: Duration = Duration::from_secs(5);
/// How often the other servers are asked whether one of them was promoted.
const AROUND: Duration = Duration::from_secs(10);
/// How often bodies that no row names are looked for.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// What a renewal gave.
#[derive(Debug)]
pub(super) struct Renewal {
    /// The shards that are ours, with the epochs of their ownership.
    pub(super) owned: HashMap<i32, i64>,
    /// How many may be.
    pub(super) share: usize,
    /// Until when they are at least.
    pub(super) until: Instant,
    /// Of the database that says so.
    timeline: u32,
}

impl Renewal {
    pub(super) fn turn(&self) -> Turn {
        // There is much less than there may be.
        let wants_more = self.owned.len() * 10 < self.share * 9;
        Turn { wants_more, timeline: self.timeline }
    }
}

/// What came of a renewal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    wants_more: bool,
    timeline: u32,
}

pub(super) struct Keeper {
    pub(super) pool: Pool,
    pub(super) shards: Arc<Shards>,
    pub(super) state: Arc<State>,
    pub(super) name: String,
    pub(super) lease: Duration,
    pub(super) bodies: Option<Arc<dyn ObjectStore>>,
}

impl Keeper {
    /// Works until it is stopped, or nobody has the queue any more; then it gives everything back.
    ///
    /// `first`: what it has to begin with.
    pub(super) async fn run(self, requests: mpsc::WeakSender<Request>, first: Turn, stop: CancellationToken) {
        // Where there is less than there may be, what others leave is waited for, and so looked for more often.
        let Turn { mut wants_more, mut timeline } = first;
        let third = self.lease / 3;
        let poll = third.min(POLL);
        let (mut renewed, mut looked, mut looked_around) = (Instant::now(), Instant::now(), Instant::now());
        let (mut swept, mut sweeping) = (None::<Instant>, None::<AbortOnDropHandle<()>>);
        // Said once, and again when it is another.
        let mut trouble = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(poll) => {}
            }
            let Some(requests) = requests.upgrade() else { break };
            let has_left = self.pool.manager().have_left(timeline);
            if wants_more || has_left || renewed.elapsed() + poll > third {
                let turned = tokio::select! {
                    () = stop.cancelled() => break,
                    turned = tokio::time::timeout(self.limit() * 2, self.turn(&requests)) => turned,
                };
                match turned {
                    Ok(Ok(turn)) => {
                        if turn.timeline != timeline {
                            // Whoever has the bodies hears of it.
                            swept = None;
                        }
                        (renewed, wants_more, timeline, trouble) =
                            (Instant::now(), turn.wants_more, turn.timeline, None);
                    }
                    Ok(Err(error)) if trouble.as_ref() == Some(&error) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(error, "the shards of this node cannot be renewed now");
                        trouble = Some(error);
                    }
                    Err(_) => tracing::warn!("what writes to the database takes too long to hear what was renewed"),
                }
            }
            // One that is large is looked at less often, so that looking is never most of the work.
            if looked.elapsed() >= (self.state.look_took() * 20).min(POLL_MAX)
                && requests.try_send(Request::Look).is_ok()
            {
                looked = Instant::now();
            }
            if looked_around.elapsed() > AROUND {
                looked_around = Instant::now();
                // Nobody waits for a server that says nothing.
                tokio::spawn(self.pool.manager().clone().look_around());
            }
            if let Some(store) = &self.bodies
                && swept.is_none_or(|at| at.elapsed() > SWEEP)
                && sweeping.as_ref().is_none_or(AbortOnDropHandle::is_finished)
            {
                swept = Some(Instant::now());
                // Nor for a store that has much in it, or hangs.
                sweeping = Some(AbortOnDropHandle::new(tokio::spawn(sweep(Arc::clone(store), self.pool.clone()))));
            }
        }
        if self.give_all().await.is_err() {
            tracing::warn!("the shards of this node could not be given back; others wait until their leases end");
        }
    }

    /// How long a renewal may take.
    fn limit(&self) -> Duration {
        (self.lease / 3).clamp(TURN.0, TURN.1)
    }

    /// What is ours after a renewal, and how much may be.
    pub(super) async fn renew(&self) -> Result<Renewal, String> {
        let limit = self.limit();
        let client = client(&self.pool).await?;
        match tokio::time::timeout(limit, self.renew_by(&client)).await {
            Ok(renewal) => renewal,
            Err(_) => {
                let servers = self.pool.manager();
                servers.give_up(&client).await;
                drop(Client::take(client));
                // If it hangs, so do the other connections to it, and the queue may be elsewhere by now.
                servers.lost();
                self.pool.retain(|_, _| false);
                Err(too_long(limit))
            }
        }
    }

    async fn renew_by(&self, client: &Client) -> Result<Renewal, String> {
        let (token, lease) = (self.shards.token(), self.lease.as_secs_f64() * 1e3);
        // Counted from before it was asked for: here it is over no later than there.
        let asked = Instant::now();
        let seen = client.prepare_cached(SEEN).await.map_err(what)?;
        client.execute(&seen, &[&token, &self.name, &lease]).await.map_err(what)?;
        let nodes: i64 = client.query_one(NODES, &[]).await.map_err(what)?.get(0);
        let all = usize::try_from(SHARDS).unwrap_or_default();
        let share = all.div_ceil(usize::try_from(nodes).unwrap_or(1).max(1));
        let renew = client.prepare_cached(RENEW).await.map_err(what)?;
        let rows = client.query(&renew, &[&token, &lease]).await.map_err(what)?;
        let mut owned: HashMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        if let Some(room) = share.checked_sub(owned.len()).filter(|room| *room > 0) {
            let take = client.prepare_cached(TAKE).await.map_err(what)?;
            let room = i64::try_from(room).unwrap_or(i64::MAX);
            let rows = client.query(&take, &[&token, &lease, &room]).await.map_err(what)?;
            if !rows.is_empty() {
                tracing::info!(shards = rows.len(), nodes, "this node has taken over work");
            }
            owned.extend(rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))));
        }
        Ok(Renewal { owned, share, until: asked + self.lease, timeline: client.timeline() })
    }

    /// Renews, and gives surplus back.
    async fn turn(&self, requests: &mpsc::Sender<Request>) -> Result<Turn, String> {
        let renewal = self.renew().await;
        if renewal.is_err() {
            // No commit may end any more, though nobody has sent anything that would show it.
            let _ = requests.try_send(Request::Prove);
        }
        let renewal = renewal?;
        let turn = renewal.turn();
        if self.pool.manager().have_left(turn.timeline) {
            return Err("the database has failed over meanwhile".to_owned());
        }
        let (reply, idle) = oneshot::channel();
        let gone = |_| "the queue is closed".to_owned();
        requests.send(Request::Owned { renewal, reply }).await.map_err(|_| gone(()))?;
        let idle = idle.await.map_err(|_| gone(()))?;
        if !idle.is_empty() {
            let client = client(&self.pool).await?;
            client.execute(GIVE, &[&idle, &self.shards.token()]).await.map_err(what)?;
            tracing::info!(shards = idle.len(), "this node has given work to another");
        }
        Ok(turn)
    }

    async fn give_all(&self) -> Result<(), ()> {
        let client = tokio::time::timeout(LAST, client(&self.pool)).await;
        let client = client.map_err(drop)?.map_err(drop)?;
        let token = self.shards.token();
        let given = async {
            client.execute(GIVE_ALL, &[&token]).await?;
            client.execute(FORGET, &[&token]).await
        };
        let given = tokio::time::timeout(LAST, given).await;
        if given.is_err() {
            self.pool.manager().give_up(&client).await;
        }
        given.map_err(drop)?.map(drop).map_err(drop)
    }
}

async fn sweep(store: Arc<dyn ObjectStore>, pool: Pool) {
    let Ok(client) = client(&pool).await else { return };
    match tokio::time::timeout(SWEEP, bodies::sweep(&store, &client, SystemTime::now())).await {
        Ok(Ok(0)) => {}
        Ok(Ok(swept)) => tracing::info!(swept, "removed bodies of messages that were never accepted, or are gone"),
        Ok(Err(error)) => tracing::warn!(%error, "bodies of messages that are gone were not looked for"),
        Err(_) => {
            drop(Client::take(client));
            tracing::warn!("looking for bodies of messages that are gone takes too long");
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn what(error: tokio_postgres::Error) -> String {
    super::connect::cause(&error)
}
