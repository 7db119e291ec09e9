//! Rows in SQLite.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use smtp_core::types::{Mail, Parameters, ReversePath};

use super::change::Statement;
use super::disk::Disk;
use super::journal::Journal;
use super::lock;
use super::segments::Place;
use super::tables::Tables;
use crate::clock::{from_millis, millis};
use crate::engine::{Read, Rows, StoredBody};
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Job, Lane, Message, NextHop, Status};
use crate::lanes::LaneIndex;
use crate::spool::Stats;
use crate::text::{job_sum, message_sum, status_number};

/// Lanes that are remembered whether they are in use or not.
const LANES_MIN: usize = 10_000;

/// Bodies that came or went, as the database does not say so far.
pub(super) type FreshBodies = Arc<Mutex<HashMap<MessageId, Fresh>>>;

#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) body: FreshBody,
    /// The salt of the journal that says so.
    pub(super) salt: u64,
}

#[derive(Debug, Clone)]
pub(super) enum FreshBody {
    Memory(Bytes),
    Journal { size: u64, sum: u32, place: Place },
    File { size: u64, sum: u32 },
    Gone,
}

/// The tables, and the journal that goes before them.
#[derive(Debug)]
pub(crate) struct SqlRows {
    pub(super) tables: Tables,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) journal: Journal,
    pub(super) fresh: FreshBodies,
    /// Octets that are being folded in.
    pub(super) folding: u64,
    /// Why tables and journal may not say the same.
    pub(super) broken: Option<Error>,
    lanes: HashMap<Lane, i64>,
    names: HashMap<i64, Lane>,
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(error.to_string()),
            _ => Self::Storage(error.to_string()),
        }
    }
}

/// A number of 64 bits as SQLite has them, with a sign.
pub(super) const fn signed(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}

pub(super) const fn unsigned(value: i64) -> u64 {
    u64::from_ne_bytes(value.to_ne_bytes())
}

pub(super) const fn integer(value: i64) -> ValueRef<'static> {
    ValueRef::Integer(value)
}

const fn text(value: &str) -> ValueRef<'_> {
    ValueRef::Text(value.as_bytes())
}

/// A column as text; `None` if it is null or no text.
fn column(row: &Row<'_>, n: usize) -> Option<String> {
    row.get(n).ok().flatten()
}

impl SqlRows {
    /// The rows, with all that the journal has and they have not.
    pub(super) fn open(
        connection: Connection,
        disk: Arc<dyn Disk>,
        fresh: FreshBodies,
        segment_octets: u64,
    ) -> Result<Self, Error> {
        // Of a process that ended before it could do so.
        disk.sync_journals().map_err(|e| Error::io("sync the names of the journal", &e))?;
        let journal = Journal::new(Arc::clone(&disk), segment_octets);
        let (lanes, names) = (HashMap::new(), HashMap::new());
        let tables = Tables::new(connection, Arc::clone(&disk));
        let mut rows = Self { tables, disk, journal, fresh, folding: 0, broken: None, lanes, names };
        rows.secure()?;
        rows.fold()?;
        Ok(rows)
    }

    /// Notes a change, for the journal and for the tables.
    pub(super) fn change(&mut self, statement: Statement, values: &[ValueRef<'_>]) {
        self.journal.note(statement, values);
    }

    /// The tables, with all that was noted.
    pub(super) fn tables(&mut self) -> Result<&Connection, Error> {
        self.tables.current(self.journal.group())
    }

    /// Does a part of what the tables are behind. False if they are not, or somebody else is at it.
    pub(super) fn step(&mut self) -> Result<bool, Error> {
        self.tables.step(self.journal.group())
    }

    /// Makes the group last.
    pub(super) fn append(&mut self) -> Result<(), Error> {
        self.journal.append()?;
        self.tables.keep(self.journal.group());
        self.journal.begin();
        Ok(())
    }

    pub(super) fn read_lanes(&mut self) -> Result<(), Error> {
        self.lanes.clear();
        self.names.clear();
        let mut statement = self.tables.home()?.prepare_cached("SELECT id, next_hop, priority FROM lane")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(next_hop) = NextHop::new(&row.get::<_, String>(1)?) else { continue };
            let (id, lane) = (row.get(0)?, Lane { priority: row.get(2)?, next_hop });
            self.lanes.insert(lane.clone(), id);
            self.names.insert(id, lane);
        }
        Ok(())
    }

    /// Removes jobs that were told to end by a process that ended before them, with their messages, and lanes that no
    /// job uses.
    pub(crate) fn tidy(&mut self) -> Result<(), Error> {
        self.tables()?.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TEMP TABLE ended AS SELECT message FROM job WHERE cancelled <> 0;
             DELETE FROM job WHERE cancelled <> 0;
             DELETE FROM message WHERE id IN (SELECT message FROM ended WHERE message NOT IN
                 (SELECT job.message FROM job JOIN ended ON job.message = ended.message));
             DROP TABLE ended;
             COMMIT",
        )?;
        self.forget_lanes()
    }

    /// Forgets lanes that no job uses.
    fn forget_lanes(&mut self) -> Result<(), Error> {
        self.tables()?.execute("DELETE FROM lane WHERE id NOT IN (SELECT lane FROM job)", [])?;
        self.read_lanes()
    }

    /// Keeps the number of lanes that are remembered in bounds; `used` of them are in use.
    pub(crate) fn bound_lanes(&mut self, used: usize) -> Result<(), Error> {
        if self.lanes.len() > LANES_MIN.max(2 * used) { self.forget_lanes() } else { Ok(()) }
    }

    /// Gives up to so many pages back to the disk, if more than a quarter of the file is empty.
    pub(crate) fn give_back(&mut self, pages: i64) -> Result<(), Error> {
        let tables = self.tables()?;
        let number = |name| tables.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        if number("freelist_count")? * 4 < number("page_count")?.max(1_024) {
            return Ok(());
        }
        let mut statement = self.tables()?.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        drop(statement);
        // The file becomes shorter when the log is folded into it.
        self.tables()?.pragma_query(None, "wal_checkpoint", |_| Ok(()))?;
        Ok(())
    }

    /// Writes something for good, to see whether that works.
    pub(crate) fn probe(&mut self, now: SystemTime) -> Result<(), Error> {
        self.journal.begin();
        self.append()?;
        self.tables()?.execute("INSERT OR REPLACE INTO probe(id, time) VALUES (1, ?1)", [millis(now)])?;
        self.fold()
    }

    /// Messages whose content is a file.
    pub(crate) fn files(&mut self) -> Result<HashSet<MessageId>, Error> {
        let mut statement =
            self.tables()?.prepare("SELECT id, random FROM message WHERE body IS NULL AND segment IS NULL")?;
        let ids = statement.query_map([], |row| message_id(row, 0, 1))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// For the end: leaves no mail behind in the journal, all of which is folded in.
    pub(crate) fn into_connection(mut self) -> Option<Connection> {
        if !self.is_unfolded() && self.broken.is_none() {
            let _ = self.journal.clear();
        }
        self.tables.into_connection()
    }

    /// Puts content into the journal.
    pub(super) fn store_content(&mut self, content: &[u8]) -> Place {
        let place = self.journal.content(content);
        self.journal.segments.add(place.segment, content.len() as u64);
        place
    }

    /// Tells readers of a body that the database does not know so.
    pub(super) fn freshen(&self, id: MessageId, body: FreshBody) {
        let salt = self.journal.salt();
        lock(&self.fresh).insert(id, Fresh { body, salt });
    }

    fn lane_id(&mut self, lane: &Lane) -> i64 {
        if let Some(id) = self.lanes.get(lane) {
            return *id;
        }
        let id = self.names.keys().max().map_or(1, |last| last + 1);
        let values = [integer(id), text(lane.next_hop.as_str()), integer(lane.priority.into())];
        self.change(Statement::InsertLane, &values);
        self.lanes.insert(lane.clone(), id);
        self.names.insert(id, lane.clone());
        id
    }

    fn times(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<(SystemTime, JobId)>, Error> {
        let mut statement = self.tables()?.prepare_cached(sql)?;
        let rows = statement.query_map(parameters, |row| {
            let message = message_id(row, 1, 2)?;
            Ok((from_millis(row.get(0)?), JobId { message, n: row.get(3)? }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn message_id(row: &Row<'_>, order: usize, random: usize) -> rusqlite::Result<MessageId> {
    Ok(MessageId::from_parts(unsigned(row.get(order)?), unsigned(row.get(random)?)))
}

fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}

impl LaneIndex for SqlRows {
    fn next_turn(&mut self, lane: &Lane, after: Option<i64>) -> Result<Option<i64>, Error> {
        let Some(lane) = self.lanes.get(lane).copied() else { return Ok(None) };
        let sql = "SELECT turn FROM job WHERE lane = ?1 AND turn > ?2 AND status = 0 ORDER BY turn LIMIT 1";
        let mut statement = self.tables()?.prepare_cached(sql)?;
        Ok(statement.query_row([lane, after.unwrap_or(i64::MIN)], |row| row.get(0)).optional()?)
    }

    fn ready(
        &mut self,
        lane: &Lane,
        turn: Option<i64>,
        now: SystemTime,
        max: usize,
    ) -> Result<Vec<(SystemTime, JobId)>, Error> {
        let Some(lane) = self.lanes.get(lane).copied() else { return Ok(Vec::new()) };
        let (now, max) = (millis(now), limit(max));
        match turn {
            Some(turn) => self.times(
                "SELECT due, message, random, n FROM job \
                 WHERE lane = ?1 AND turn = ?2 AND due <= ?3 AND status = 0 ORDER BY due, message, n LIMIT ?4",
                params![lane, turn, now, max],
            ),
            None => self.times(
                "SELECT due, message, random, n FROM job \
                 WHERE lane = ?1 AND due <= ?2 AND status = 0 ORDER BY due, message, n LIMIT ?3",
                params![lane, now, max],
            ),
        }
    }
}

impl Rows for SqlRows {
    fn begin(&mut self) -> Result<(), Error> {
        self.journal.begin();
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn commit(&mut self) -> Result<(), Error> {
        if self.journal.group().is_empty() { Ok(()) } else { self.append() }
    }

    fn rollback(&mut self) {
        if let Err(error) = self.restore() {
            self.broken.get_or_insert(error);
        }
    }

    fn insert_message(&mut self, message: &Message, body: &StoredBody) -> Result<(), Error> {
        let (content, sum) = match body {
            StoredBody::Row { content, sum } => (Some(content), *sum),
            StoredBody::File(sealed) => (None, sealed.sum()),
        };
        let place = content.map(|content| self.store_content(content));
        self.change(
            Statement::StoreMessage,
            &[
                integer(signed(message.id.order())),
                integer(signed(message.id.random())),
                integer(signed(message.size)),
                integer(sum.into()),
                place.map_or(ValueRef::Null, |place| integer(place.segment.into())),
                place.map_or(ValueRef::Null, |place| integer(signed(place.offset))),
                integer(millis(message.accepted)),
                text(&message.mail.from.to_string()),
                text(message.mail.parameters.as_str()),
                text(&message.sender),
                integer(message_sum(message, sum).into()),
            ],
        );
        let body = match content {
            Some(content) => FreshBody::Memory(content.clone()),
            None => FreshBody::File { size: message.size, sum },
        };
        self.freshen(message.id, body);
        Ok(())
    }

    fn delete_message(&mut self, id: MessageId) -> Result<bool, Error> {
        let mut statement = self
            .tables()?
            .prepare_cached("SELECT body IS NULL, segment, size FROM message WHERE id = ?1 AND random = ?2")?;
        let key = [signed(id.order()), signed(id.random())];
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1).unwrap_or_default(), row.get(2).unwrap_or_default()));
        let found = statement.query_row(key, row).optional()?;
        drop(statement);
        let (is_apart, segment, size): (bool, Option<u32>, i64) = found.unwrap_or_default();
        if let Some(segment) = segment {
            self.journal.segments.remove(segment, unsigned(size));
        }
        let values = [integer(signed(id.order())), integer(signed(id.random()))];
        self.change(Statement::DeleteMessage, &values);
        self.freshen(id, FreshBody::Gone);
        Ok(is_apart && segment.is_none())
    }

    fn message(&mut self, id: MessageId) -> Result<Read<Message>, Error> {
        let mut statement = self.tables()?.prepare_cached(
            "SELECT accepted, mail_from, parameters, sender, size, body_sum, sum FROM message WHERE id = ?1 AND random = ?2",
        )?;
        let mut rows = statement.query([signed(id.order()), signed(id.random())])?;
        let Some(row) = rows.next()? else { return Ok(Read::Missing) };
        let from = column(row, 1).and_then(|text| text.parse::<ReversePath>().ok());
        let parameters = column(row, 2).and_then(|text| Parameters::new(&text).ok());
        let damaged = from.is_none() || parameters.is_none();
        let mail = Mail { from: from.unwrap_or(ReversePath::Null), parameters: parameters.unwrap_or_default() };
        let message = Message {
            id,
            accepted: from_millis(row.get(0).unwrap_or_default()),
            mail,
            sender: column(row, 3).unwrap_or_default().into(),
            size: unsigned(row.get(4).unwrap_or_default()),
        };
        let (body_sum, sum) = (row.get::<_, u32>(5).ok(), row.get::<_, u32>(6).ok());
        let fits = !damaged && sum.is_some() && body_sum.map(|body| message_sum(&message, body)) == sum;
        Ok(if fits { Read::Whole(message) } else { Read::Damaged(message, "the message's row is damaged".into()) })
    }

    fn insert_job(&mut self, job: &Job) -> Result<(), Error> {
        let recipients = crate::text::write(&job.recipients)?;
        let lane = self.lane_id(&job.lane());
        self.change(
            Statement::WriteJob,
            &[
                integer(signed(job.id.message.order())),
                integer(job.id.n.into()),
                integer(signed(job.id.message.random())),
                integer(lane),
                integer(job.turn),
                integer(millis(job.due)),
                integer(millis(job.alarm)),
                integer(millis(job.expires)),
                integer(job.attempts.into()),
                integer(job.give_up.into()),
                integer(job.cancelled.into()),
                text(&recipients),
                integer(job_sum(job, &recipients).into()),
                integer(status_number(job.status)),
                job.reason.as_deref().map_or(ValueRef::Null, text),
            ],
        );
        Ok(())
    }

    fn update_job(&mut self, job: &Job) -> Result<(), Error> {
        self.insert_job(job)
    }

    fn delete_job(&mut self, id: JobId) -> Result<(), Error> {
        self.change(Statement::DeleteJob, &[integer(signed(id.message.order())), integer(id.n.into())]);
        Ok(())
    }

    fn job(&mut self, id: JobId) -> Result<Read<Job>, Error> {
        let Self { tables, journal, names, .. } = self;
        let mut statement = tables.current(journal.group())?.prepare_cached(
            "SELECT lane, turn, due, alarm, expires, attempts, give_up, cancelled, recipients, sum, status, reason \
             FROM job WHERE message = ?1 AND n = ?2",
        )?;
        let mut rows = statement.query(params![signed(id.message.order()), id.n])?;
        let Some(row) = rows.next()? else { return Ok(Read::Missing) };
        let lane = row.get(0).ok().and_then(|lane: i64| names.get(&lane));
        let recipients = column(row, 8);
        let list = recipients.as_deref().and_then(crate::text::read);
        let whole = lane.is_some() && list.is_some();
        let (priority, next_hop) = match lane {
            Some(lane) => (lane.priority, lane.next_hop.clone()),
            None => (0, NextHop::unknown()),
        };
        let time = |column| row.get(column).map(from_millis).unwrap_or(SystemTime::UNIX_EPOCH);
        let job = Job {
            id,
            next_hop,
            priority,
            turn: row.get(1).unwrap_or_default(),
            due: time(2),
            alarm: time(3),
            expires: time(4),
            attempts: row.get(5).unwrap_or_default(),
            status: match row.get(10) {
                Ok(0) => Status::Waiting,
                Ok(1) => Status::Held,
                _ => Status::Quarantined,
            },
            give_up: row.get(6).unwrap_or_default(),
            cancelled: row.get(7).unwrap_or_default(),
            reason: column(row, 11),
            recipients: list.unwrap_or_default(),
        };
        let sum = row.get::<_, u32>(9).ok();
        let fits = whole && sum.is_some() && recipients.map(|recipients| job_sum(&job, &recipients)) == sum;
        Ok(if fits { Read::Whole(job) } else { Read::Damaged(job, "the job's row is damaged".into()) })
    }

    fn has_jobs(&mut self, message: MessageId) -> Result<bool, Error> {
        let mut statement = self.tables()?.prepare_cached("SELECT 1 FROM job WHERE message = ?1 LIMIT 1")?;
        Ok(statement.exists([signed(message.order())])?)
    }

    fn set_status(&mut self, id: JobId, status: Status, reason: Option<&str>) -> Result<(), Error> {
        let (message, n) = (integer(signed(id.message.order())), integer(id.n.into()));
        let values = [message, n, integer(status_number(status)), reason.map_or(ValueRef::Null, text)];
        self.change(Statement::SetStatus, &values);
        Ok(())
    }

    fn alarms(&mut self, now: SystemTime, max: usize) -> Result<Vec<(SystemTime, JobId)>, Error> {
        self.times(
            "SELECT alarm, message, random, n FROM job \
             WHERE alarm <= ?1 AND status = 0 ORDER BY alarm, message, n LIMIT ?2",
            params![millis(now), limit(max)],
        )
    }

    fn scan(&mut self, after: Option<JobId>, message: Option<MessageId>, max: usize) -> Result<Vec<JobId>, Error> {
        let sql = "SELECT due, message, random, n FROM job \
                   WHERE (message, n) > (?1, ?2) AND message <= ?3 ORDER BY message, n LIMIT ?4";
        let first = message.map(|message| (signed(message.order()), -1));
        let after = after.map(|after| (signed(after.message.order()), i64::from(after.n)));
        let (start, n) = after.max(first).unwrap_or((-1, -1));
        let last = message.map_or(i64::MAX, |message| signed(message.order()));
        let jobs = self.times(sql, params![start, n, last, limit(max)])?;
        Ok(jobs.into_iter().map(|(_, job)| job).filter(|job| message.is_none_or(|id| id == job.message)).collect())
    }

    fn lanes(&mut self) -> Result<Vec<Lane>, Error> {
        Ok(self.lanes.keys().cloned().collect())
    }

    fn stats(&mut self) -> Result<Stats, Error> {
        let tables = self.tables()?;
        let count = |sql: &str| tables.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
        Ok(Stats {
            messages: count("SELECT count(*) FROM message")?,
            jobs: count("SELECT count(*) FROM job")?,
            held: count("SELECT count(*) FROM job WHERE status = 1 AND status <> 0")?,
            quarantined: count("SELECT count(*) FROM job WHERE status = 2 AND status <> 0")?,
            leased: 0,
        })
    }

    fn last_id(&mut self) -> Result<u64, Error> {
        let last: Option<i64> = self.tables()?.query_row("SELECT max(id) FROM message", [], |row| row.get(0))?;
        Ok(last.map(unsigned).unwrap_or_default())
    }
}
