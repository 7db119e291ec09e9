//! What a store does, over any rows that commit atomically. One thread owns it.

mod control;
mod op;
mod rows;

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

pub(crate) use op::{Answer, Op};
pub(crate) use rows::{Read, Rows, StoredBody};

use crate::clock::{from_millis, millis};
use crate::error::Error;
use crate::id::{Ids, JobId, MessageId};
use crate::job::{Job, Lane, Message, NewMessage, NewNotice, Settlement, Status, turn_of};
use crate::lanes::{Fence, Held, Lanes, Leases, take};
use crate::spool::{Claim, Lease, Leased, Limits, Stats, Why};

/// The most jobs that a list or a control looks at in one go.
pub(crate) const SCAN_MAX: usize = 1_000;

/// The answers of a batch, in order, and the messages whose files can be removed now.
pub(crate) type Applied = (Vec<Result<Answer, Error>>, Vec<MessageId>);

#[derive(Debug)]
pub(crate) struct Engine<R> {
    pub(crate) rows: R,
    limits: Limits,
    ids: Ids,
    lanes: Lanes,
    leases: Leases,
    cursors: HashMap<Lane, i64>,
    stats: Stats,
    batch: Batch,
}

/// What a batch has done so far beside the rows.
#[derive(Debug, Default)]
struct Batch {
    /// Lanes that are to be looked at again.
    dirty: HashSet<Lane>,
    /// Lanes that got jobs, and when the first of these is due. Nobody has it, so there is nothing to look at.
    added: HashMap<Lane, SystemTime>,
    granted: Vec<JobId>,
    ended: Vec<(JobId, Held)>,
    files: Vec<MessageId>,
    stats: Stats,
}

impl<R: Rows> Engine<R> {
    /// Over rows that are empty.
    pub(crate) fn empty(rows: R, limits: Limits) -> Self {
        Self {
            rows,
            limits,
            ids: Ids::after(0),
            lanes: Lanes::default(),
            leases: Leases::above(0),
            cursors: HashMap::new(),
            stats: Stats::default(),
            batch: Batch::default(),
        }
    }

    /// Over rows that were written before. Epochs begin above `epoch`, so that no lease of an earlier process is taken
    /// for one of ours.
    pub(crate) fn open(mut rows: R, limits: Limits, epoch: u64) -> Result<Self, Error> {
        let last = rows.last_id()?;
        let mut engine = Self { ids: Ids::after(last), leases: Leases::above(epoch), ..Self::empty(rows, limits) };
        engine.reload()?;
        Ok(engine)
    }

    /// Derives again what was derived from the rows. True if something is due earlier than was known.
    pub(crate) fn reload(&mut self) -> Result<bool, Error> {
        let found = self.rows.all_free(&self.leases)?;
        let earlier = self.lanes.replace(found);
        self.stats = self.rows.stats()?;
        Ok(earlier)
    }

    /// Ends the leases whose right is gone, without a word, and gives them. The lanes are to be derived again.
    #[cfg(feature = "postgres")]
    pub(crate) fn revoke(&mut self, gone: impl Fn(Fence) -> bool) -> Vec<Lease> {
        self.leases.revoke(gone)
    }

    /// The rights under which jobs are leased.
    #[cfg(feature = "postgres")]
    pub(crate) fn fences(&self) -> HashSet<Fence> {
        self.leases.fences()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats { leased: self.leases.len() as u64, ..self.stats }
    }

    /// Lanes with jobs that wait.
    pub(crate) fn lanes_in_use(&self) -> usize {
        self.lanes.len()
    }

    /// Where the ids of this store come from.
    pub(crate) fn ids(&self) -> Ids {
        self.ids.clone()
    }

    /// Does all of `ops` in one transaction: one commit for all, and no answer before it. Gives the answers, and the
    /// messages whose files can be removed now.
    ///
    /// # Errors
    /// If the store failed: nothing of it was done, or it is not known whether.
    pub(crate) fn apply(&mut self, ops: Vec<Op>) -> Result<Applied, Error> {
        self.rows.start();
        self.batch = Batch { stats: self.stats, ..Batch::default() };
        let result = self.run(ops);
        let batch = std::mem::take(&mut self.batch);
        match result {
            Ok(answers) => {
                self.stats = batch.stats;
                self.lanes.add(batch.added);
                for (lane, due) in self.look(batch.dirty)? {
                    if due.is_none() {
                        self.cursors.remove(&lane);
                    }
                    self.lanes.set(lane, due);
                }
                Ok((answers, batch.files))
            }
            Err(error) => {
                self.rows.rollback();
                for job in batch.granted {
                    self.leases.end(job);
                }
                for (job, held) in batch.ended.into_iter().rev() {
                    self.leases.end(job);
                    self.leases.restore(job, held);
                }
                // If even this fails the store is out of order, and reloads when it works again.
                let _ = self.reload();
                Err(error)
            }
        }
    }

    fn run(&mut self, ops: Vec<Op>) -> Result<Vec<Result<Answer, Error>>, Error> {
        // What only looks needs no transaction, and works on a disk that cannot be written.
        let writes = !ops.iter().all(Op::only_looks);
        if writes {
            self.rows.begin()?;
            self.prepare(&ops)?;
        }
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            match self.op(op) {
                Err(error) if error.is_of_the_store() => return Err(error),
                answer => answers.push(answer),
            }
        }
        if writes {
            self.rows.commit()?;
        }
        Ok(answers)
    }

    /// Reads at once what the operations need one by one.
    fn prepare(&mut self, ops: &[Op]) -> Result<(), Error> {
        let (mut jobs, mut rights) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Settle { lease, .. } if self.leases.holds(*lease) => {
                    jobs.push(lease.job);
                    rights.extend(self.leases.get(lease.job).map(|held| held.fence));
                }
                Op::Release(leases) => {
                    jobs.extend(leases.iter().filter(|lease| self.leases.holds(**lease)).map(|lease| lease.job));
                }
                #[cfg(feature = "postgres")]
                Op::Bury(ended) => jobs.extend(ended),
                _ => {}
            }
        }
        if let Some(now) = ops.iter().filter_map(Op::time).max() {
            jobs.extend(self.leases.ending(now));
        }
        if jobs.is_empty() { Ok(()) } else { self.rows.prepare(&jobs, &rights) }
    }

    fn op(&mut self, op: Op) -> Result<Answer, Error> {
        match op {
            Op::Insert { id, now, size, body, message } => {
                self.check(&message)?;
                if self.batch.stats.messages >= self.limits.messages {
                    return Err(Error::TooMany { limit: self.limits.messages });
                }
                self.insert(id, now, size, &body, message)?;
                Ok(Answer::Done)
            }
            Op::Claim(claim) => self.claim(&claim).map(Answer::Claimed),
            Op::Renew { leases, now, until } => {
                self.expire(now)?;
                let lost = leases.into_iter().filter(|lease| !self.leases.renew(*lease, round(until))).collect();
                Ok(Answer::Lost(lost))
            }
            Op::Settle { lease, now, settlement } => self.settle(lease, now, *settlement).map(Answer::Settled),
            Op::Release(leases) => {
                for lease in leases.into_iter().filter(|lease| self.leases.holds(*lease)).collect::<Vec<_>>() {
                    self.end(lease.job)?;
                }
                Ok(Answer::Done)
            }
            Op::NextDue(claim) => self.next_due(&claim).map(Answer::Due),
            Op::Scan { filter, after, max } => self.page(&filter, after, max).map(Answer::Page),
            Op::Control { filter, after, action, now } => self.control(&filter, after, &action, now),
            Op::Expire(now) => self.expire(now).map(|()| Answer::Done),
            #[cfg(feature = "postgres")]
            Op::Bury(jobs) => {
                for id in jobs.into_iter().filter(|id| self.leases.get(*id).is_none()).collect::<Vec<_>>() {
                    if let Read::Whole(job) = self.rows.job(id)?
                        && job.cancelled
                    {
                        self.remove(&job)?;
                    }
                }
                Ok(Answer::Done)
            }
        }
    }

    fn check(&self, message: &NewMessage) -> Result<(), Error> {
        let recipients: usize = message.jobs.iter().map(|job| job.recipients.len()).sum();
        if message.jobs.is_empty() || message.jobs.iter().any(|job| job.recipients.is_empty()) {
            return Err(Error::Invalid("a job without recipients"));
        }
        if recipients > self.limits.recipients {
            return Err(Error::Invalid("too many recipients"));
        }
        Ok(())
    }

    fn insert(
        &mut self,
        id: MessageId,
        now: SystemTime,
        size: u64,
        body: &StoredBody,
        new: NewMessage,
    ) -> Result<(), Error> {
        let turn = turn_of(&new.sender);
        let message = Message { id, accepted: round(now), mail: new.mail, sender: new.sender, size };
        self.rows.insert_message(&message, body)?;
        self.batch.stats.messages += 1;
        for (n, job) in (0_u32..).zip(new.jobs) {
            let mut job = job.into_job(JobId { message: id, n }, turn);
            (job.due, job.alarm, job.expires) = (round(job.due), round(job.alarm), round(job.expires));
            self.rows.insert_job(&job)?;
            self.batch.stats.jobs += 1;
            if self.rows.is_shared() {
                self.batch.dirty.insert(job.lane());
            } else {
                let due = self.batch.added.entry(job.lane()).or_insert(job.due);
                *due = job.due.min(*due);
            }
        }
        Ok(())
    }

    fn claim(&mut self, claim: &Claim) -> Result<Vec<Leased>, Error> {
        self.expire(claim.now)?;
        self.look_again()?;
        let mut leased = Vec::new();
        let max = claim.max.min(self.limits.leases.saturating_sub(self.leases.len()));
        let picks = self.lanes.pick(claim, max);
        let wants: Vec<_> =
            picks.iter().map(|(lane, n)| (lane.clone(), self.leases.in_lane(lane).saturating_add(n + 1))).collect();
        self.rows.expect(&wants, claim.now)?;
        for (lane, n) in picks {
            let mut cursor = self.cursors.get(&lane).copied();
            for job in take(&mut self.rows, &lane, &mut cursor, &self.leases, claim.now, n)? {
                leased.extend(self.lease(job, &lane, Why::Due, claim)?);
            }
            if let Some(cursor) = cursor {
                self.cursors.insert(lane.clone(), cursor);
            }
        }
        let room = claim.alarms.min(self.limits.leases.saturating_sub(self.leases.len()));
        if room > 0 {
            let alarms = self.rows.alarms(claim.now, self.leases.len() + room)?;
            let free = alarms.into_iter().map(|(_, job)| job).filter(|job| self.leases.get(*job).is_none());
            for job in free.take(room).collect::<Vec<_>>() {
                let lane = match self.rows.job(job)? {
                    Read::Whole(job) | Read::Damaged(job, _) => job.lane(),
                    Read::Missing => continue,
                };
                leased.extend(self.lease(job, &lane, Why::Alarm, claim)?);
            }
        }
        Ok(leased)
    }

    /// Brings the lanes up to date with what this batch has done so far.
    fn look_again(&mut self) -> Result<(), Error> {
        self.lanes.add(std::mem::take(&mut self.batch.added));
        for (lane, due) in self.look(self.batch.dirty.clone())? {
            self.lanes.set(lane, due);
        }
        Ok(())
    }

    fn look(
        &mut self,
        lanes: HashSet<Lane>,
    ) -> Result<impl Iterator<Item = (Lane, Option<SystemTime>)> + use<R>, Error> {
        let lanes: Vec<_> = lanes.into_iter().collect();
        let due = self.rows.first_free(&lanes, &self.leases)?;
        Ok(lanes.into_iter().zip(due))
    }

    /// Leases one job, or sets it aside if it cannot be read.
    fn lease(&mut self, id: JobId, lane: &Lane, why: Why, claim: &Claim) -> Result<Option<Leased>, Error> {
        self.batch.dirty.insert(lane.clone());
        let damage = match (self.rows.job(id)?, self.rows.message(id.message)?) {
            // Told to end by a process that ended before whoever worked on it.
            (Read::Whole(job), _) if job.cancelled => {
                self.remove(&job)?;
                return Ok(None);
            }
            (Read::Whole(job), Read::Whole(message)) => {
                let fence = self.rows.fence(id);
                let lease = self.leases.grant(id, lane.clone(), round(claim.until), fence);
                self.batch.granted.push(id);
                return Ok(Some(Leased { lease, why, job, message }));
            }
            (Read::Missing, _) => return Ok(None),
            (Read::Damaged(_, reason), _) | (_, Read::Damaged(_, reason)) => reason,
            (_, Read::Missing) => "its message is missing".into(),
        };
        tracing::error!(job = %id, reason = damage, "a queued job is damaged and was set aside; look at it with a list");
        self.rows.set_status(id, Status::Quarantined, Some(&damage))?;
        self.batch.stats.quarantined += 1;
        Ok(None)
    }

    fn settle(&mut self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error> {
        self.expire(now)?;
        let held = self.leases.get(lease.job).filter(|held| held.epoch == lease.epoch);
        let Some(fence) = held.map(|held| held.fence) else { return Err(Error::LeaseLost) };
        if !self.rows.stands(fence) {
            if let Some(held) = self.leases.end(lease.job) {
                self.batch.dirty.insert(held.lane.clone());
                self.batch.ended.push((lease.job, held));
            }
            return Err(Error::LeaseLost);
        }
        if self.rows.settling(lease) {
            self.end(lease.job)?;
            return Ok(Vec::new());
        }
        for notice in &settlement.notices {
            self.check(&notice.message)?;
            if notice.body.len() > self.limits.inline {
                return Err(Error::TooLarge { limit: self.limits.inline as u64 });
            }
        }
        let mut notices = settlement.notices.clone();
        match self.rows.job(lease.job)? {
            Read::Whole(before) => {
                if before.cancelled {
                    // Told to end without a word.
                    notices.clear();
                }
                let mut job = before.clone();
                let done = job.settle(&settlement);
                (job.due, job.alarm) = (round(job.due), round(job.alarm));
                if done { self.remove(&job)? } else { self.replace(&before, &job)? }
            }
            Read::Damaged(_, reason) => {
                self.rows.set_status(lease.job, Status::Quarantined, Some(&reason))?;
                self.batch.stats.quarantined += 1;
            }
            Read::Missing => return Err(Error::LeaseLost),
        }
        let mut ids = Vec::with_capacity(notices.len());
        for NewNotice { message, body } in notices {
            let id = self.ids.next(now);
            let (size, sum) = (body.len() as u64, crc32fast::hash(&body));
            self.insert(id, now, size, &StoredBody::Row { content: body, sum }, message)?;
            ids.push(id);
        }
        self.end(lease.job)?;
        Ok(ids)
    }

    fn replace(&mut self, before: &Job, job: &Job) -> Result<(), Error> {
        let count = |stats: &mut Stats, status, by: i64| match status {
            Status::Waiting => {}
            Status::Held => stats.held = stats.held.saturating_add_signed(by),
            Status::Quarantined => stats.quarantined = stats.quarantined.saturating_add_signed(by),
        };
        count(&mut self.batch.stats, before.status, -1);
        count(&mut self.batch.stats, job.status, 1);
        self.batch.dirty.extend([before.lane(), job.lane()]);
        self.rows.update_job(job)
    }

    /// Removes a job, and its message with the last one.
    fn remove(&mut self, job: &Job) -> Result<(), Error> {
        self.rows.delete_job(job.id)?;
        let stats = &mut self.batch.stats;
        stats.jobs = stats.jobs.saturating_sub(1);
        match job.status {
            Status::Waiting => {}
            Status::Held => stats.held = stats.held.saturating_sub(1),
            Status::Quarantined => stats.quarantined = stats.quarantined.saturating_sub(1),
        }
        self.batch.dirty.insert(job.lane());
        if !self.rows.has_jobs(job.id.message)? {
            if self.rows.delete_message(job.id.message)? {
                self.batch.files.push(job.id.message);
            }
            self.batch.stats.messages = self.batch.stats.messages.saturating_sub(1);
        }
        Ok(())
    }

    /// A lease goes with its job to another lane.
    fn move_lease(&mut self, id: JobId, lane: Lane) {
        if self.leases.get(id).is_some_and(|held| held.lane != lane)
            && let Some(held) = self.leases.end(id)
        {
            self.leases.restore(id, Held { lane, ..held.clone() });
            self.batch.ended.push((id, held));
        }
    }

    /// Ends a lease. A job that was told to end meanwhile, and was not settled, ends with it.
    fn end(&mut self, id: JobId) -> Result<(), Error> {
        let Some(held) = self.leases.end(id) else { return Ok(()) };
        self.ended(id, held)
    }

    fn ended(&mut self, id: JobId, held: Held) -> Result<(), Error> {
        self.batch.dirty.insert(held.lane.clone());
        self.batch.ended.push((id, held));
        match self.rows.job(id)? {
            Read::Whole(job) if job.cancelled => self.remove(&job),
            Read::Whole(_) | Read::Damaged(..) | Read::Missing => Ok(()),
        }
    }

    fn expire(&mut self, now: SystemTime) -> Result<(), Error> {
        for (job, held) in self.leases.expire(now) {
            self.ended(job, held)?;
        }
        Ok(())
    }

    fn next_due(&mut self, claim: &Claim) -> Result<Option<SystemTime>, Error> {
        self.look_again()?;
        let alarm = if claim.alarms == 0 { None } else { self.rows.first_alarm(&self.leases)? };
        Ok([self.lanes.next(claim), alarm, self.leases.next_end()].into_iter().flatten().min())
    }
}

/// As it is stored: to the millisecond.
fn round(time: SystemTime) -> SystemTime {
    from_millis(millis(time))
}
