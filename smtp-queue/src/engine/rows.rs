//! What an engine needs to keep its jobs and messages in.

use std::time::SystemTime;

use bytes::Bytes;

use crate::clock::from_millis;
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Job, Lane, Message, Status};
use crate::lanes::{Fence, LaneIndex, Leases, first_free};
use crate::spool::{Lease, Stats};
use crate::sqlite::Sealed;

/// Rows of messages and jobs, with transactions that are atomic and, once committed, durable.
///
/// What has a body here is for stores that others share, or that are far away; the others need nothing else.
pub(crate) trait Rows: LaneIndex + Sized {
    /// A batch begins: what was read before may have changed.
    fn start(&mut self) {}
    fn begin(&mut self) -> Result<(), Error>;
    fn commit(&mut self) -> Result<(), Error>;
    fn rollback(&mut self);

    fn insert_message(&mut self, message: &Message, body: &StoredBody) -> Result<(), Error>;
    /// Gives whether its content is a file.
    fn delete_message(&mut self, id: MessageId) -> Result<bool, Error>;
    fn message(&mut self, id: MessageId) -> Result<Read<Message>, Error>;

    fn insert_job(&mut self, job: &Job) -> Result<(), Error>;
    fn update_job(&mut self, job: &Job) -> Result<(), Error>;
    fn delete_job(&mut self, id: JobId) -> Result<(), Error>;
    fn job(&mut self, id: JobId) -> Result<Read<Job>, Error>;
    fn has_jobs(&mut self, message: MessageId) -> Result<bool, Error>;

    /// Changes how a job stands and nothing else of it: for jobs that cannot be read.
    fn set_status(&mut self, id: JobId, status: Status, reason: Option<&str>) -> Result<(), Error>;

    /// Jobs whose alarm has come, longest first.
    fn alarms(&mut self, now: SystemTime, max: usize) -> Result<Vec<(SystemTime, JobId)>, Error>;
    /// Jobs above `after`, of one message or of all.
    fn scan(&mut self, after: Option<JobId>, message: Option<MessageId>, max: usize) -> Result<Vec<JobId>, Error>;
    /// Every lane that has jobs.
    fn lanes(&mut self) -> Result<Vec<Lane>, Error>;
    fn stats(&mut self) -> Result<Stats, Error>;
    fn last_id(&mut self) -> Result<u64, Error>;

    /// These jobs will be looked at and changed, and these rights have to stand until the commit.
    fn prepare(&mut self, jobs: &[JobId], rights: &[Fence]) -> Result<(), Error> {
        let _ = (jobs, rights);
        Ok(())
    }

    /// Up to so many jobs of each of these lanes will be asked for.
    fn expect(&mut self, wants: &[(Lane, usize)], now: SystemTime) -> Result<(), Error> {
        let _ = (wants, now);
        Ok(())
    }

    /// Under what right a job that was read is leased.
    fn fence(&self, job: JobId) -> Fence {
        let _ = job;
        Fence::default()
    }

    /// Whether a right that was prepared stands until the commit.
    fn stands(&self, fence: Fence) -> bool {
        let _ = fence;
        true
    }

    /// A settlement of this job, under this lease, follows. True if it was stored before, and only its answer was lost.
    fn settling(&mut self, lease: Lease) -> bool {
        let _ = lease;
        false
    }

    /// Whether somebody else may be working on a job that nobody here has.
    fn is_elsewhere(&self, job: JobId) -> bool {
        let _ = job;
        false
    }

    /// Whether others write these rows too, and a job that was stored here may be theirs to deliver.
    fn is_shared(&self) -> bool {
        false
    }

    /// When each of these lanes has its first job that nobody has.
    fn first_free(&mut self, lanes: &[Lane], leases: &Leases) -> Result<Vec<Option<SystemTime>>, Error> {
        lanes.iter().map(|lane| first_free(self, lane, leases)).collect()
    }

    /// The same for all lanes.
    fn all_free(&mut self, leases: &Leases) -> Result<Vec<(Lane, Option<SystemTime>)>, Error> {
        let lanes = self.lanes()?;
        let due = self.first_free(&lanes, leases)?;
        Ok(lanes.into_iter().zip(due).collect())
    }

    /// The first alarm of a job that nobody has.
    fn first_alarm(&mut self, leases: &Leases) -> Result<Option<SystemTime>, Error> {
        let alarms = self.alarms(from_millis(i64::MAX), leases.len() + 1)?;
        Ok(alarms.into_iter().find(|(_, job)| leases.get(*job).is_none()).map(|(alarm, _)| alarm))
    }
}

/// What reading a row gave.
#[derive(Debug, Clone)]
pub(crate) enum Read<T> {
    Whole(T),
    /// As much as could be read, and what is wrong.
    Damaged(T, String),
    Missing,
}

/// Where a body is when its row is written.
#[derive(Debug, Clone)]
pub(crate) enum StoredBody {
    Row {
        content: Bytes,
        sum: u32,
    },
    /// A file that is on disk for good already.
    File(Sealed),
}
