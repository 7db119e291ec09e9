//! What an administrator sees of jobs, and does to them.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Answer, Engine, Read, Rows, SCAN_MAX, round};
use crate::clock::from_millis;
use crate::error::Error;
use crate::id::JobId;
use crate::job::{Acted, Action, Job, Message, Status};
use crate::spool::{Entry, Filter, Page};

impl<R: Rows> Engine<R> {
    pub(super) fn entry(&mut self, id: JobId) -> Result<Option<Entry>, Error> {
        let job = match self.rows.job(id)? {
            Read::Whole(job) => job,
            Read::Damaged(job, reason) => Job { status: Status::Quarantined, reason: Some(reason), ..job },
            Read::Missing => return Ok(None),
        };
        let message = match self.rows.message(id.message)? {
            Read::Whole(message) | Read::Damaged(message, _) => message,
            Read::Missing => Message {
                id: id.message,
                accepted: from_millis(i64::try_from(id.message.order() >> 16).unwrap_or_default()),
                mail: smtp_core::types::Mail::new(smtp_core::types::ReversePath::Null),
                sender: Arc::from(""),
                size: 0,
            },
        };
        Ok(Some(Entry { job, message, leased_until: self.leases.get(id).map(|held| held.until) }))
    }

    /// Looks at up to a thousand jobs above `after`; gives those that match and where to go on.
    fn matching(
        &mut self,
        filter: &Filter,
        after: Option<JobId>,
        max: usize,
    ) -> Result<(Vec<Entry>, Option<JobId>), Error> {
        let ids = self.rows.scan(after, filter.message, SCAN_MAX)?;
        let more = ids.len() == SCAN_MAX;
        let (mut entries, mut last) = (Vec::new(), None);
        for id in ids {
            if entries.len() == max {
                return Ok((entries, last));
            }
            last = Some(id);
            entries.extend(self.entry(id)?.filter(|entry| filter.matches(entry)));
        }
        Ok((entries, last.filter(|_| more)))
    }

    pub(super) fn page(&mut self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error> {
        let (entries, next) = self.matching(filter, after, max.clamp(1, SCAN_MAX))?;
        Ok(Page { entries, next })
    }

    pub(super) fn control(
        &mut self,
        filter: &Filter,
        after: Option<JobId>,
        action: &Action,
        now: SystemTime,
    ) -> Result<Answer, Error> {
        self.expire(now)?;
        let (entries, next) = self.matching(filter, after, SCAN_MAX)?;
        let mut changed = 0;
        for entry in entries {
            let id = entry.job.id;
            let leased = self.leases.get(id).is_some() || self.rows.is_elsewhere(id);
            let (mut job, damaged) = match self.rows.job(id)? {
                Read::Whole(job) => (job, false),
                Read::Damaged(job, _) => (job, true),
                Read::Missing => continue,
            };
            // Its attempt says when it is due.
            if matches!(action, Action::RetryAt(_)) && self.leases.get(id).is_some() {
                continue;
            }
            let before = job.clone();
            let acted = job.act(action, &entry.message, leased, now);
            (job.due, job.alarm) = (round(job.due), round(job.alarm));
            match acted {
                Acted::Unchanged => continue,
                Acted::Removed => self.remove(&before)?,
                // Nothing is written over what cannot be read.
                Acted::Changed if damaged && job.status == before.status => continue,
                Acted::Changed if damaged => {
                    self.rows.set_status(id, job.status, job.reason.as_deref())?;
                    self.batch.stats.quarantined = self.batch.stats.quarantined.saturating_sub(1);
                    self.batch.dirty.insert(job.lane());
                }
                Acted::Changed => {
                    self.replace(&before, &job)?;
                    self.move_lease(id, job.lane());
                }
            }
            changed += 1;
        }
        Ok(Answer::Controlled { changed, next })
    }
}
