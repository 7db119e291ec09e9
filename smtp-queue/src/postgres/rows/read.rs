//! From rows to jobs and messages; what is not as it was written is told apart.

use smtp_core::types::{Mail, Parameters, ReversePath};
use tokio_postgres::Row;

use super::super::key::Key;
use crate::clock::from_millis;
use crate::engine::Read;
use crate::id::JobId;
use crate::job::{Job, Lane, Message, NextHop, Status};
use crate::text::{self, job_sum, message_sum};

/// A job as it was read, and where it is.
#[derive(Debug, Clone)]
pub(super) struct Cached {
    pub(super) read: Read<Job>,
    pub(super) shard: i32,
    /// The lease under which it was settled last.
    pub(super) lease: i64,
}

pub(super) fn job_id(row: &Row, at: usize) -> JobId {
    JobId { message: row.get::<_, Key>(at).0, n: row.get::<_, i32>(at + 1).unsigned_abs() }
}

pub(super) fn lane(next_hop: &str, priority: i32) -> Lane {
    let next_hop = NextHop::new(next_hop).unwrap_or_else(|_| NextHop::unknown());
    Lane { priority: i8::try_from(priority).unwrap_or_default(), next_hop }
}

type Known = Option<(Read<Message>, bool)>;

/// A row of the columns of a job and its message, from `at` on.
pub(super) fn row(row: &Row, at: usize) -> (JobId, Cached, Known) {
    let id = job_id(row, at);
    let next_hop: &str = row.get(at + 3);
    let Lane { priority, next_hop: hop } = lane(next_hop, row.get(at + 4));
    let time = |n: usize| from_millis(row.get(at + n));
    let recipients: &str = row.get(at + 12);
    let list = text::read(recipients);
    let whole = list.is_some() && hop.as_str() == next_hop;
    let job = Job {
        id,
        next_hop: hop,
        priority,
        turn: row.get(at + 5),
        due: time(6),
        alarm: time(7),
        expires: time(8),
        attempts: u32::try_from(row.get::<_, i64>(at + 9)).unwrap_or_default(),
        status: match row.get::<_, i64>(at + 14) {
            0 => Status::Waiting,
            1 => Status::Held,
            _ => Status::Quarantined,
        },
        give_up: row.get(at + 10),
        cancelled: row.get(at + 11),
        reason: row.get(at + 15),
        recipients: list.unwrap_or_default(),
    };
    let fits = whole && i64::from(job_sum(&job, recipients)) == row.get::<_, i64>(at + 13);
    let read = if fits { Read::Whole(job) } else { Read::Damaged(job, "the job's row is damaged".into()) };
    let cached = Cached { read, shard: row.get(at + 2), lease: row.get(at + 16) };
    (id, cached, message(row, at + 17))
}

/// A row of the columns of a message; `None` if it was joined and is not there. And whether its content is elsewhere.
pub(super) fn message(row: &Row, at: usize) -> Known {
    let id = row.get::<_, Option<Key>>(at)?.0;
    let from = row.get::<_, &str>(at + 2).parse::<ReversePath>().ok();
    let parameters = Parameters::new(row.get(at + 3)).ok();
    let whole = from.is_some() && parameters.is_some();
    let mail = Mail { from: from.unwrap_or(ReversePath::Null), parameters: parameters.unwrap_or_default() };
    let message = Message {
        id,
        accepted: from_millis(row.get(at + 1)),
        mail,
        sender: row.get::<_, &str>(at + 4).into(),
        size: row.get::<_, i64>(at + 5).unsigned_abs(),
    };
    let body_sum = u32::try_from(row.get::<_, i64>(at + 6)).ok();
    let sum = body_sum.map(|body| i64::from(message_sum(&message, body)));
    let fits = whole && sum == Some(row.get(at + 7));
    let read = if fits { Read::Whole(message) } else { Read::Damaged(message, "the message's row is damaged".into()) };
    Some((read, row.get(at + 8)))
}
