//! What the engine asks of the tables.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use super::super::key::Key;
use super::super::pending::{JobRow, MessageRow, Pending, signed};
use super::super::servers::Client;
use super::super::shards::home;
use super::read::{self, Cached};
use super::{Batch, PgRows, Times, Transaction, sql};
use crate::engine::{Read, Rows, StoredBody};
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Job, Lane, Message, Status};
use crate::lanes::{Fence, LaneIndex, Leases};
use crate::spool::{Lease, Stats};
use crate::text::{self, job_sum, status_number};

impl LaneIndex for PgRows {
    fn next_turn(&mut self, lane: &Lane, after: Option<i64>) -> Result<Option<i64>, Error> {
        let (shards, priority) = (self.shards_of(lane), i32::from(lane.priority));
        let after = after.unwrap_or(i64::MIN);
        let rows = self.query(sql::NEXT_TURN, &[&shards, &lane.next_hop.as_str(), &priority, &after])?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    fn ready(
        &mut self,
        lane: &Lane,
        turn: Option<i64>,
        now: SystemTime,
        max: usize,
    ) -> Result<Vec<(SystemTime, JobId)>, Error> {
        self.flush()?;
        if turn.is_none()
            && let Some((asked, jobs)) = self.batch.due.get(lane)
            && (jobs.len() < *asked || max <= jobs.len())
        {
            return Ok(jobs.iter().take(max).copied().collect());
        }
        let sql = if turn.is_some() { sql::DUE_OF } else { sql::DUE };
        Ok(self.find(sql, &[lane], now, max, turn)?.pop().unwrap_or_default())
    }
}

impl Rows for PgRows {
    fn start(&mut self) {
        self.batch = Batch::default();
        let servers = self.pool.manager();
        if let Some(client) = self.client.take_if(|client| servers.have_left(client.timeline())) {
            drop(Client::take(client));
            // What is ours there may be another's here.
            self.shards.doubt_all();
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.transaction = Transaction::Wanted;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        let begin = self.transaction == Transaction::Wanted;
        if !self.pending.is_empty() || !begin {
            let sent = self.ask(async |client, pending| pending.send(client, begin, true).await);
            self.dropped_if_broken(sent)?;
        }
        self.pending = Pending::default();
        self.transaction = Transaction::None;
        self.batch = Batch::default();
        Ok(())
    }

    fn rollback(&mut self) {
        self.pending = Pending::default();
        self.batch = Batch::default();
        if self.transaction != Transaction::None && self.client.is_some() {
            let undone = self.ask(async |client, _| client.batch_execute("ROLLBACK").await);
            let _ = self.dropped_if_broken(undone);
        }
        self.transaction = Transaction::None;
    }

    fn insert_message(&mut self, message: &Message, body: &StoredBody) -> Result<(), Error> {
        let (content, body_sum) = match body {
            StoredBody::Row { content, sum } => (Some(content.clone()), *sum),
            StoredBody::File(sealed) => (None, sealed.sum()),
        };
        self.batch.members.insert(message.id, HashSet::new());
        self.batch.messages.insert(message.id, Some((Read::Whole(message.clone()), content.is_none())));
        self.pending.insert_message(MessageRow { message: message.clone(), body_sum, content });
        Ok(())
    }

    fn delete_message(&mut self, id: MessageId) -> Result<bool, Error> {
        self.message(id)?;
        let is_file = matches!(self.batch.messages.get(&id), Some(Some((_, true))));
        self.batch.messages.insert(id, None);
        self.pending.delete_message(id);
        Ok(is_file)
    }

    fn message(&mut self, id: MessageId) -> Result<Read<Message>, Error> {
        if !self.batch.messages.contains_key(&id) {
            let rows = self.query(sql::MESSAGE, &[&Key(id)])?;
            let message = rows.first().and_then(|row| read::message(row, 0));
            self.batch.messages.insert(id, message);
        }
        let known = self.batch.messages.get(&id).cloned().flatten();
        Ok(known.map_or(Read::Missing, |(message, _)| message))
    }

    fn insert_job(&mut self, job: &Job) -> Result<(), Error> {
        let recipients = text::write(&job.recipients)?;
        let (mut shard, mut lease) = match self.cached(job.id) {
            Some(known) => (known.shard, known.lease),
            None => (home(&job.next_hop), 0),
        };
        // Nobody works on it any more: it goes where its next hop belongs.
        if let Some(settled) = self.batch.settling.get(&job.id) {
            (shard, lease) = (home(&job.next_hop), *settled);
        }
        if shard != home(&job.next_hop) {
            self.strays.entry(job.lane()).or_default().insert(shard);
        }
        if let Some(members) = self.batch.members.get_mut(&job.id.message) {
            members.insert(job.id.n);
        }
        let sum = job_sum(job, &recipients);
        self.batch.jobs.insert(job.id, Some(Cached { read: Read::Whole(job.clone()), shard, lease }));
        self.pending.write_job(JobRow { job: job.clone(), recipients, sum, shard, lease });
        Ok(())
    }

    fn update_job(&mut self, job: &Job) -> Result<(), Error> {
        self.job(job.id)?;
        self.insert_job(job)
    }

    fn delete_job(&mut self, id: JobId) -> Result<(), Error> {
        if let Some(members) = self.batch.members.get_mut(&id.message) {
            members.remove(&id.n);
        }
        self.batch.jobs.insert(id, None);
        self.pending.delete_job(id);
        Ok(())
    }

    fn job(&mut self, id: JobId) -> Result<Read<Job>, Error> {
        if !self.batch.jobs.contains_key(&id) {
            self.load(&[id])?;
        }
        Ok(self.cached(id).map_or(Read::Missing, |known| known.read.clone()))
    }

    fn has_jobs(&mut self, message: MessageId) -> Result<bool, Error> {
        if !self.batch.members.contains_key(&message) {
            self.lock(&BTreeSet::from([message]))?;
        }
        Ok(self.batch.members.get(&message).is_some_and(|members| !members.is_empty()))
    }

    fn set_status(&mut self, id: JobId, status: Status, reason: Option<&str>) -> Result<(), Error> {
        self.open()?;
        let reason = reason.map(|reason| reason.replace('\0', "\u{fffd}"));
        let sql = "UPDATE job SET status = $3, reason = $4 WHERE message = $1 AND n = $2";
        self.query(sql, &[&Key(id.message), &signed(id.n), &status_number(status), &reason])?;
        self.batch.jobs.remove(&id);
        self.batch.due.clear();
        Ok(())
    }

    fn alarms(&mut self, now: SystemTime, max: usize) -> Result<Vec<(SystemTime, JobId)>, Error> {
        let lanes: Vec<_> = self.alarms.due(now).cloned().collect();
        let lanes: Vec<_> = lanes.iter().collect();
        let mut all = self.find(sql::ALARMS, &lanes, now, max, None)?.concat();
        all.sort_unstable();
        all.truncate(max);
        Ok(all)
    }

    fn scan(&mut self, after: Option<JobId>, message: Option<MessageId>, max: usize) -> Result<Vec<JobId>, Error> {
        let first = message.map(|message| (message, -1));
        let after = after.map(|after| (after.message, signed(after.n)));
        let (start, n) = after.max(first).unwrap_or((MessageId::from_parts(0, 0), -1));
        let last = message.unwrap_or(MessageId::from_parts(u64::MAX, u64::MAX));
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let rows = self.query(sql::SCAN, &[&Key(start), &n, &Key(last), &max])?;
        let ids: Vec<_> = rows.iter().map(|row| read::job_id(row, 0)).collect();
        if self.transaction == Transaction::None {
            self.load(&ids)?;
        } else {
            // They are about to be changed.
            self.lock(&ids.iter().map(|id| id.message).collect())?;
        }
        Ok(ids)
    }

    fn lanes(&mut self) -> Result<Vec<Lane>, Error> {
        let lanes: BTreeSet<_> = self.scan_lanes()?.into_iter().map(|(lane, ..)| lane).collect();
        Ok(lanes.into_iter().collect())
    }

    fn stats(&mut self) -> Result<Stats, Error> {
        let rows = self.query(sql::STATS, &[])?;
        let count = |n: usize| rows.first().map_or(0, |row| row.get::<_, i64>(n).unsigned_abs());
        Ok(Stats { messages: count(0), jobs: count(1), held: count(2), quarantined: count(3), leased: 0 })
    }

    fn last_id(&mut self) -> Result<u64, Error> {
        let rows = self.query("SELECT id FROM message ORDER BY id DESC LIMIT 1", &[])?;
        Ok(rows.first().map_or(0, |row| row.get::<_, Key>(0).0.order()))
    }

    fn prepare(&mut self, jobs: &[JobId], rights: &[Fence]) -> Result<(), Error> {
        if !rights.is_empty() {
            self.open()?;
            let shards: BTreeSet<_> = rights.iter().map(|right| right.shard).collect();
            let (shards, token) = (shards.into_iter().collect::<Vec<_>>(), self.shards.token().to_owned());
            for row in self.query(sql::RIGHTS, &[&shards, &token])? {
                self.batch.rights.insert(row.get(0), row.get(1));
            }
        }
        self.lock(&jobs.iter().map(|id| id.message).collect())
    }

    fn expect(&mut self, wants: &[(Lane, usize)], now: SystemTime) -> Result<(), Error> {
        let Some(max) = wants.iter().map(|(_, max)| *max).max() else { return Ok(()) };
        let lanes: Vec<_> = wants.iter().map(|(lane, _)| lane).collect();
        let found = self.find(sql::DUE, &lanes, now, max, None)?;
        self.batch.due = wants.iter().zip(found).map(|((lane, _), jobs)| (lane.clone(), (max, jobs))).collect();
        Ok(())
    }

    fn fence(&self, job: JobId) -> Fence {
        self.cached(job).map_or(Fence { shard: -1, epoch: -1 }, |known| self.shards.fence(known.shard))
    }

    fn stands(&self, fence: Fence) -> bool {
        let stands = self.batch.rights.get(&fence.shard) == Some(&fence.epoch);
        if !stands {
            self.shards.doubt(fence);
        }
        stands
    }

    fn settling(&mut self, lease: Lease) -> bool {
        let epoch = i64::from_ne_bytes(lease.epoch.to_ne_bytes());
        if self.cached(lease.job).is_some_and(|known| known.lease == epoch) {
            return true;
        }
        self.batch.settling.insert(lease.job, epoch);
        false
    }

    fn is_elsewhere(&self, job: JobId) -> bool {
        self.cached(job).is_some_and(|known| !self.shards.is_ours(known.shard))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn first_free(&mut self, lanes: &[Lane], leases: &Leases) -> Result<Vec<Option<SystemTime>>, Error> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        // Asked after a commit, an error would make it a failure; the store is out of order then, and reads all of it
        // again when it works.
        let outside = self.transaction == Transaction::None;
        let times = match self.first_times(lanes, leases) {
            Err(_) if outside => vec![(None, None); lanes.len()],
            times => times?,
        };
        for (lane, (_, alarm)) in lanes.iter().zip(&times) {
            self.alarms.set(lane.clone(), *alarm);
        }
        Ok(times.into_iter().map(|(due, _)| due).collect())
    }

    fn all_free(&mut self, leases: &Leases) -> Result<Vec<(Lane, Option<SystemTime>)>, Error> {
        let mut strays = HashMap::<Lane, BTreeSet<i32>>::new();
        let mut all = HashMap::<Lane, Times>::new();
        for (lane, shard, (due, alarm)) in self.scan_lanes()? {
            if shard != home(&lane.next_hop) {
                strays.entry(lane.clone()).or_default().insert(shard);
            }
            let times = all.entry(lane).or_default();
            *times = (earlier(times.0, due), earlier(times.1, alarm));
        }
        self.strays = strays;
        // What somebody has counts for nothing.
        let leased: Vec<_> = all.keys().filter(|lane| leases.in_lane(lane) > 0).cloned().collect();
        if !leases.is_empty() {
            for (lane, times) in leased.iter().zip(self.first_times(&leased, leases)?) {
                all.insert(lane.clone(), times);
            }
        }
        self.alarms.replace(all.iter().map(|(lane, (_, alarm))| (lane.clone(), *alarm)).collect());
        Ok(all.into_iter().map(|(lane, (due, _))| (lane, due)).collect())
    }

    fn first_alarm(&mut self, _: &Leases) -> Result<Option<SystemTime>, Error> {
        Ok(self.alarms.first())
    }
}

fn earlier(a: Option<SystemTime>, b: Option<SystemTime>) -> Option<SystemTime> {
    a.into_iter().chain(b).min()
}
