//! Rows in PostgreSQL, as the engine wants them: one thread, one connection, one batch at a time.
//!
//! What a batch will need is read at once and kept until it ends; what it writes is gathered and sent at once. So a batch
//! costs one or two round trips, however many operations are in it.

mod read;
mod sql;
mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::connect::cause;
use super::key::Key;
use super::pending::{Pending, signed};
use super::servers::{self, Client, Pool};
use super::shards::{Shards, home};
use crate::clock::millis;
use crate::engine::Read;
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Lane, Message};
use crate::lanes::{Lanes, Leases};
use read::Cached;

/// How long the database may take for one round trip.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to show that it can be written again.
const PROOF: Duration = Duration::from_secs(5);

/// Where the batch's transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// It begins with the first statement that needs it.
    Wanted,
    Open,
}

/// The tables, as one node sees them.
pub(super) struct PgRows {
    runtime: Runtime,
    pool: Pool,
    client: Option<Client>,
    /// Why nothing is asked of the database until it is reached again.
    broken: Option<String>,
    shards: Arc<Shards>,
    transaction: Transaction,
    pending: Pending,
    batch: Batch,
    /// When each lane has the first alarm of a job that nobody has.
    alarms: Lanes,
    /// Lanes with jobs in another shard than their own: what was rerouted stays where it was while somebody works on it.
    strays: HashMap<Lane, BTreeSet<i32>>,
}

/// What is known for the length of a batch.
#[derive(Debug, Default)]
struct Batch {
    jobs: HashMap<JobId, Option<Cached>>,
    messages: HashMap<MessageId, Option<(Read<Message>, bool)>>,
    /// The numbers of all jobs of messages that are locked, or new.
    members: HashMap<MessageId, HashSet<u32>>,
    /// Epochs of shards that are ours, and locked.
    rights: HashMap<i32, i64>,
    /// By which leases jobs are being settled.
    settling: HashMap<JobId, i64>,
    /// What is due in lanes, as far as it was asked for.
    due: HashMap<Lane, (usize, Vec<(SystemTime, JobId)>)>,
}

impl fmt::Debug for PgRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgRows").field("broken", &self.broken).field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl PgRows {
    /// For the thread that owns `runtime`, and `pool` with it.
    pub(super) fn new(runtime: Runtime, pool: Pool, shards: Arc<Shards>) -> Self {
        Self {
            runtime,
            pool,
            client: None,
            broken: None,
            shards,
            transaction: Transaction::None,
            pending: Pending::default(),
            batch: Batch::default(),
            alarms: Lanes::default(),
            strays: HashMap::new(),
        }
    }

    /// Why the database is not asked any more.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// From now on it is asked again, over a new connection.
    pub(super) fn mend(&mut self) {
        self.broken = None;
    }

    /// Shows that it can be written: where a standby is waited for that is away, it is reached, and can be read, and no
    /// commit ever ends.
    ///
    /// By a row of its own, for which it waits for nobody, and which is gone again when others can see it.
    pub(super) fn prove(&mut self) -> Result<(), Error> {
        let chance = RandomState::new().hash_one(());
        let sql = format!(
            "INSERT INTO node(token, name, until) VALUES ('proof {chance:016x}', 'proof', now()); \
             DELETE FROM node WHERE token = 'proof {chance:016x}'"
        );
        let proved = self.ask_for(PROOF, async |client, _| client.batch_execute(&sql).await);
        self.dropped_if_broken(proved)
    }

    /// Jobs that were told to end, in shards of ours.
    pub(super) fn cancelled(&mut self) -> Result<Vec<JobId>, Error> {
        let rows =
            self.query("SELECT message, n, shard FROM job WHERE cancelled ORDER BY message, n LIMIT 1000", &[])?;
        let ours = rows.iter().filter(|row| self.shards.may_use(row.get(2)));
        Ok(ours.map(|row| read::job_id(row, 0)).collect())
    }

    fn connect(&mut self) -> Result<&Client, Error> {
        if let Some(reason) = &self.broken {
            return Err(Error::Unhealthy(reason.clone()));
        }
        if self.client.is_none() {
            match self.runtime.block_on(servers::client(&self.pool)) {
                Ok(client) => self.client = Some(client),
                Err(why) => {
                    let reason = format!("the database is not reached: {why}");
                    self.broken = Some(reason.clone());
                    return Err(Error::Storage(reason));
                }
            }
        }
        self.client.as_ref().ok_or(Error::Closed)
    }

    /// One round trip.
    fn ask<T>(
        &mut self,
        work: impl AsyncFnOnce(&Client, &Pending) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.ask_for(PATIENCE, work)
    }

    fn ask_for<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&Client, &Pending) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.connect()?;
        let Self { runtime, client, broken, pending, .. } = self;
        let Some(connection) = client.as_ref() else { return Err(Error::Closed) };
        let unsure = connection.unsure();
        let asked = runtime.block_on(async { tokio::time::timeout(limit, work(connection, pending)).await });
        let storage = |what: String| (Error::Storage(what), false);
        let (error, is_ours) = match asked {
            Ok(Ok(answer)) if connection.unsure() == unsure => return Ok(answer),
            Ok(Ok(_)) => storage("the database has given up waiting for a standby to have what was written".into()),
            Ok(Err(error)) => (describe(&error), error.code().is_some_and(is_passing)),
            Err(_) => {
                runtime.block_on(self.pool.manager().give_up(connection));
                storage(too_long(limit))
            }
        };
        if !is_ours && !matches!(error, Error::Full(_)) {
            *broken = Some(error.to_string());
        }
        Err(error)
    }

    fn query(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.flush()?;
        let rows = self.ask(async |client, _| {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        });
        self.dropped_if_broken(rows)
    }

    /// A connection that failed is not used again.
    fn dropped_if_broken<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if self.broken.is_some()
            && let Some(client) = self.client.take()
        {
            drop(Client::take(client));
            self.pool.manager().lost();
            self.transaction = Transaction::None;
        }
        result
    }

    /// Sends what is gathered, so that what is read next is read behind it.
    fn flush(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let begin = self.transaction == Transaction::Wanted;
        let sent = self.ask(async |client, pending| pending.send(client, begin, false).await);
        self.dropped_if_broken(sent)?;
        self.transaction = Transaction::Open;
        self.pending = Pending::default();
        self.batch.due.clear();
        Ok(())
    }

    /// Begins the transaction, if it has not begun.
    fn open(&mut self) -> Result<(), Error> {
        self.flush()?;
        if self.transaction == Transaction::Wanted {
            let begun = self.ask(async |client, _| client.batch_execute("BEGIN").await);
            self.dropped_if_broken(begun)?;
            self.transaction = Transaction::Open;
        }
        Ok(())
    }

    /// Locks messages, so that nobody else changes their jobs, and reads all of those.
    fn lock(&mut self, messages: &BTreeSet<MessageId>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        self.open()?;
        let ids: Vec<_> = messages.iter().map(|id| Key(*id)).collect();
        let rows = self.ask(async |client, _| {
            let (lock, jobs) = (client.prepare_cached(sql::LOCK).await?, client.prepare_cached(sql::JOBS_OF).await?);
            let (params, same): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&ids], [&ids]);
            // One behind the other on one connection: the jobs are read when the locks are held.
            let (_, rows) = tokio::try_join!(client.query(&lock, &params), client.query(&jobs, &same))?;
            Ok(rows)
        });
        let rows = self.dropped_if_broken(rows)?;
        for id in messages {
            self.batch.members.insert(*id, HashSet::new());
        }
        for row in &rows {
            let id = self.remember(row, 0);
            self.batch.members.entry(id.message).or_default().insert(id.n);
        }
        Ok(())
    }

    /// Keeps a row of the usual columns, from `at` on.
    fn remember(&mut self, row: &Row, at: usize) -> JobId {
        let (id, job, message) = read::row(row, at);
        self.batch.jobs.insert(id, Some(job));
        self.batch.messages.insert(id.message, message);
        id
    }

    fn load(&mut self, ids: &[JobId]) -> Result<(), Error> {
        let (messages, numbers): (Vec<_>, Vec<_>) = ids.iter().map(|id| (Key(id.message), signed(id.n))).unzip();
        let rows = self.query(sql::JOBS, &[&messages, &numbers])?;
        for id in ids {
            self.batch.jobs.entry(*id).or_insert(None);
        }
        for row in &rows {
            self.remember(row, 0);
        }
        Ok(())
    }

    /// Where jobs of a lane may be that are ours now.
    fn shards_of(&self, lane: &Lane) -> Vec<i32> {
        let strays = self.strays.get(lane).into_iter().flatten().copied();
        let mut shards: Vec<_> = strays.chain([home(&lane.next_hop)]).filter(|id| self.shards.may_use(*id)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// Lanes with the shards that they are in, column by column, and which of `lanes` each is.
    fn places<'a>(&self, lanes: impl Iterator<Item = (usize, &'a Lane)>) -> Places<'a> {
        let mut places = Places::default();
        for (n, lane) in lanes {
            for shard in self.shards_of(lane) {
                places.of.push(n);
                places.shard.push(shard);
                places.next_hop.push(lane.next_hop.as_str());
                places.priority.push(lane.priority.into());
            }
        }
        places
    }

    /// The jobs that `sql` finds in lanes, by lane, each with its time, in order.
    fn find(
        &mut self,
        sql: &str,
        lanes: &[&Lane],
        now: SystemTime,
        max: usize,
        turn: Option<i64>,
    ) -> Result<Vec<Vec<(SystemTime, JobId)>>, Error> {
        self.flush()?;
        let mut found = vec![Vec::new(); lanes.len()];
        let Places { of, shard, next_hop, priority } = self.places(lanes.iter().copied().enumerate());
        if of.is_empty() {
            return Ok(found);
        }
        let (now, max_rows) = (millis(now), i64::try_from(max).unwrap_or(i64::MAX));
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&shard, &next_hop, &priority, &now, &max_rows];
        if let Some(turn) = &turn {
            params.push(turn);
        }
        for row in self.query(sql, &params)? {
            let id = self.remember(&row, 2);
            let place = usize::try_from(row.get::<_, i64>(0) - 1).ok().and_then(|n| of.get(n));
            if let Some(jobs) = place.and_then(|n| found.get_mut(*n)) {
                jobs.push((crate::clock::from_millis(row.get(1)), id));
            }
        }
        for jobs in &mut found {
            jobs.sort_unstable();
            jobs.truncate(max);
        }
        Ok(found)
    }

    /// The first times of these lanes: due, and alarm, of jobs that nobody has.
    fn first_times(&mut self, lanes: &[Lane], leases: &Leases) -> Result<Vec<Times>, Error> {
        let mut times = vec![(None, None); lanes.len()];
        let mut open: Vec<usize> = (0..lanes.len()).collect();
        let leased = |n: &usize| lanes.get(*n).map_or(0, |lane| leases.in_lane(lane));
        let mut max = open.iter().map(leased).max().unwrap_or_default() + 1;
        // Where all that came is leased, though fewer leases were known there, more is asked for.
        while !open.is_empty() {
            self.flush()?;
            let Places { of, shard, next_hop, priority } =
                self.places(open.iter().filter_map(|n| lanes.get(*n).map(|lane| (*n, lane))));
            if of.is_empty() {
                break;
            }
            let limit = i64::try_from(max).unwrap_or(i64::MAX);
            let found = self.ask(async |client, _| {
                let due = client.prepare_cached(sql::FIRST_DUE).await?;
                let alarm = client.prepare_cached(sql::FIRST_ALARM).await?;
                let params: [&(dyn ToSql + Sync); 4] = [&shard, &next_hop, &priority, &limit];
                tokio::try_join!(client.query(&due, &params), client.query(&alarm, &params))
            });
            let (due, alarm) = self.dropped_if_broken(found)?;
            let mut counts = HashMap::<i64, usize>::new();
            for (rows, is_due) in [(&due, true), (&alarm, false)] {
                for row in rows {
                    let (place, time, id) = (row.get::<_, i64>(0), row.get(1), read::job_id(row, 2));
                    if is_due {
                        *counts.entry(place).or_default() += 1;
                    }
                    let n = usize::try_from(place - 1).ok().and_then(|n| of.get(n));
                    let Some(times) = n.and_then(|n| times.get_mut(*n)) else { continue };
                    if leases.get(id).is_none() {
                        let time = crate::clock::from_millis(time);
                        let first = if is_due { &mut times.0 } else { &mut times.1 };
                        *first = Some(first.map_or(time, |first: SystemTime| first.min(time)));
                    }
                }
            }
            let full: HashSet<usize> = counts
                .into_iter()
                .filter(|(_, count)| *count >= max)
                .filter_map(|(place, _)| usize::try_from(place - 1).ok().and_then(|n| of.get(n)).copied())
                .collect();
            open.retain(|n| full.contains(n) && times.get(*n).is_some_and(|(due, _)| due.is_none()));
            if max > leases.len() {
                break;
            }
            max = (max * 8).min(leases.len() + 1);
        }
        Ok(times)
    }

    /// Every lane with jobs that wait, in shards of ours, with its first times, leased jobs and all.
    fn scan_lanes(&mut self) -> Result<Vec<(Lane, i32, Times)>, Error> {
        let rows = self.query(sql::LANES, &[])?;
        let lane = |row: &Row| {
            let shard: i32 = row.get(0);
            let lane = read::lane(row.get(1), row.get(2));
            let time = |at: usize| row.get::<_, Option<i64>>(at).map(crate::clock::from_millis);
            self.shards.may_use(shard).then(|| (lane, shard, (time(3), time(4))))
        };
        Ok(rows.iter().filter_map(lane).collect())
    }

    fn cached(&self, id: JobId) -> Option<&Cached> {
        self.batch.jobs.get(&id)?.as_ref()
    }
}

/// When a lane's first job that nobody has is due, and when its first alarm comes.
type Times = (Option<SystemTime>, Option<SystemTime>);

/// Lanes and their shards, column by column.
#[derive(Default)]
struct Places<'a> {
    of: Vec<usize>,
    shard: Vec<i32>,
    next_hop: Vec<&'a str>,
    priority: Vec<i32>,
}

/// Of a transaction that met another; the next one may fare better, on the same connection.
fn is_passing(code: &SqlState) -> bool {
    [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
}

/// Why nothing came within this time.
pub(super) fn too_long(limit: Duration) -> String {
    let seconds = limit.as_secs();
    format!(
        "the database has not answered within {seconds} s (where it is replicated synchronously, it may wait for a standby)"
    )
}

pub(super) fn describe(error: &tokio_postgres::Error) -> Error {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => Error::Full(format!("the database: {}", cause(error))),
        _ => Error::Storage(format!("the database: {}", cause(error))),
    }
}
