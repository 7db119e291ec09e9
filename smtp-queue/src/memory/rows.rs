//! Rows in ordered maps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use bytes::Bytes;

use crate::engine::{Read, Rows, StoredBody};
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Job, Lane, Message, Status};
use crate::lanes::LaneIndex;
use crate::spool::Stats;

type Times = BTreeSet<(SystemTime, JobId)>;

/// Nothing here can fail half-way, so that transactions need no undoing.
#[derive(Debug, Default)]
pub(super) struct MemRows {
    messages: BTreeMap<MessageId, Message>,
    bodies: HashMap<MessageId, Bytes>,
    jobs: BTreeMap<JobId, Job>,
    ready: BTreeMap<Lane, Times>,
    turns: BTreeMap<(Lane, i64), Times>,
    alarms: Times,
    held: u64,
    quarantined: u64,
}

impl MemRows {
    pub(super) fn body(&self, id: MessageId) -> Option<Bytes> {
        self.bodies.get(&id).cloned()
    }

    fn index(&mut self, job: &Job) {
        let lane = job.lane();
        if let Some(ready) = job.ready() {
            self.ready.entry(lane.clone()).or_default().insert((ready, job.id));
            self.turns.entry((lane, job.turn)).or_default().insert((ready, job.id));
        }
        if let Some(alarm) = job.alarmed() {
            self.alarms.insert((alarm, job.id));
        }
        match job.status {
            Status::Waiting => {}
            Status::Held => self.held += 1,
            Status::Quarantined => self.quarantined += 1,
        }
    }

    fn unindex(&mut self, job: &Job) {
        let lane = job.lane();
        if let Some(ready) = job.ready() {
            forget(&mut self.ready, &lane, (ready, job.id));
            forget(&mut self.turns, &(lane, job.turn), (ready, job.id));
        }
        if let Some(alarm) = job.alarmed() {
            self.alarms.remove(&(alarm, job.id));
        }
        match job.status {
            Status::Waiting => {}
            Status::Held => self.held -= 1,
            Status::Quarantined => self.quarantined -= 1,
        }
    }
}

fn forget<K: Ord>(map: &mut BTreeMap<K, Times>, key: &K, value: (SystemTime, JobId)) {
    if let Some(set) = map.get_mut(key) {
        set.remove(&value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

impl LaneIndex for MemRows {
    fn next_turn(&mut self, lane: &Lane, after: Option<i64>) -> Result<Option<i64>, Error> {
        let after = after.map_or(i64::MIN, |after| after.saturating_add(1));
        let next = self.turns.range((lane.clone(), after)..).next();
        Ok(next.filter(|((other, _), _)| other == lane).map(|((_, turn), _)| *turn))
    }

    fn ready(
        &mut self,
        lane: &Lane,
        turn: Option<i64>,
        now: SystemTime,
        max: usize,
    ) -> Result<Vec<(SystemTime, JobId)>, Error> {
        let set = match turn {
            Some(turn) => self.turns.get(&(lane.clone(), turn)),
            None => self.ready.get(lane),
        };
        let due = set.into_iter().flatten().take_while(|(ready, _)| *ready <= now);
        Ok(due.take(max).copied().collect())
    }
}

impl Rows for MemRows {
    fn begin(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn rollback(&mut self) {}

    fn insert_message(&mut self, message: &Message, body: &StoredBody) -> Result<(), Error> {
        let StoredBody::Row { content, .. } = body else { return Err(Error::Invalid("a file, in memory")) };
        self.bodies.insert(message.id, content.clone());
        self.messages.insert(message.id, message.clone());
        Ok(())
    }

    fn delete_message(&mut self, id: MessageId) -> Result<bool, Error> {
        self.messages.remove(&id);
        self.bodies.remove(&id);
        Ok(false)
    }

    fn message(&mut self, id: MessageId) -> Result<Read<Message>, Error> {
        Ok(self.messages.get(&id).cloned().map_or(Read::Missing, Read::Whole))
    }

    fn insert_job(&mut self, job: &Job) -> Result<(), Error> {
        self.index(job);
        self.jobs.insert(job.id, job.clone());
        Ok(())
    }

    fn update_job(&mut self, job: &Job) -> Result<(), Error> {
        self.delete_job(job.id)?;
        self.insert_job(job)
    }

    fn delete_job(&mut self, id: JobId) -> Result<(), Error> {
        if let Some(job) = self.jobs.remove(&id) {
            self.unindex(&job);
        }
        Ok(())
    }

    fn job(&mut self, id: JobId) -> Result<Read<Job>, Error> {
        Ok(self.jobs.get(&id).cloned().map_or(Read::Missing, Read::Whole))
    }

    fn has_jobs(&mut self, message: MessageId) -> Result<bool, Error> {
        Ok(self.jobs.range(JobId { message, n: 0 }..).next().is_some_and(|(id, _)| id.message == message))
    }

    fn set_status(&mut self, id: JobId, status: Status, reason: Option<&str>) -> Result<(), Error> {
        let Some(job) = self.jobs.get(&id).cloned() else { return Ok(()) };
        self.update_job(&Job { status, reason: reason.map(Into::into), ..job })
    }

    fn alarms(&mut self, now: SystemTime, max: usize) -> Result<Vec<(SystemTime, JobId)>, Error> {
        Ok(self.alarms.iter().take_while(|(alarm, _)| *alarm <= now).take(max).copied().collect())
    }

    fn scan(&mut self, after: Option<JobId>, message: Option<MessageId>, max: usize) -> Result<Vec<JobId>, Error> {
        let first = message.map(|message| JobId { message, n: 0 });
        let after = after.map(|after| JobId { n: after.n.saturating_add(1), ..after });
        let start = after.max(first).unwrap_or(JobId { message: MessageId::from_parts(0, 0), n: 0 });
        let ids = self.jobs.range(start..).map(|(id, _)| *id);
        Ok(ids.take_while(|id| message.is_none_or(|message| id.message == message)).take(max).collect())
    }

    fn lanes(&mut self) -> Result<Vec<Lane>, Error> {
        Ok(self.ready.keys().cloned().collect())
    }

    fn stats(&mut self) -> Result<Stats, Error> {
        let (messages, jobs) = (self.messages.len() as u64, self.jobs.len() as u64);
        Ok(Stats { messages, jobs, held: self.held, quarantined: self.quarantined, leased: 0 })
    }

    fn last_id(&mut self) -> Result<u64, Error> {
        Ok(self.messages.last_key_value().map_or(0, |(id, _)| id.order()))
    }
}
