//! What a batch writes, gathered, and sent in as few statements as there are tables, all at once.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio_postgres::Error;

use super::key::Key;
use super::servers::Client;
use crate::clock::millis;
use crate::id::{JobId, MessageId};
use crate::job::{Job, Message};
use crate::text::{message_sum, status_number};

const INSERT_MESSAGES: &str = "\
    INSERT INTO message(id, accepted, mail_from, parameters, sender, size, body_sum, sum, body) \
    SELECT * FROM unnest($1::uuid[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[], $8::int8[], \
    $9::bytea[])";

const WRITE_JOBS: &str = "\
    INSERT INTO job(message, n, shard, next_hop, priority, turn, due, alarm, expires, attempts, give_up, cancelled, \
    recipients, sum, status, reason, lease) \
    SELECT * FROM unnest($1::uuid[], $2::int4[], $3::int4[], $4::text[], $5::int4[], $6::int8[], $7::int8[], $8::int8[], \
    $9::int8[], $10::int8[], $11::bool[], $12::bool[], $13::text[], $14::int8[], $15::int8[], $16::text[], $17::int8[]) \
    ON CONFLICT (message, n) DO UPDATE SET shard = excluded.shard, next_hop = excluded.next_hop, \
    priority = excluded.priority, turn = excluded.turn, due = excluded.due, alarm = excluded.alarm, \
    expires = excluded.expires, attempts = excluded.attempts, give_up = excluded.give_up, \
    cancelled = excluded.cancelled, recipients = excluded.recipients, sum = excluded.sum, status = excluded.status, \
    reason = excluded.reason, lease = excluded.lease";

const DELETE_JOBS: &str = "\
    DELETE FROM job USING unnest($1::uuid[], $2::int4[]) AS gone(message, n) \
    WHERE job.message = gone.message AND job.n = gone.n";

const DELETE_MESSAGES: &str = "DELETE FROM message WHERE id = ANY($1::uuid[])";

/// A job's row.
#[derive(Debug, Clone)]
pub(super) struct JobRow {
    pub(super) job: Job,
    pub(super) recipients: String,
    pub(super) sum: u32,
    pub(super) shard: i32,
    /// The lease under which it was settled last.
    pub(super) lease: i64,
}

/// A message's row.
#[derive(Debug, Clone)]
pub(super) struct MessageRow {
    pub(super) message: Message,
    pub(super) body_sum: u32,
    pub(super) content: Option<Bytes>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Pending {
    messages: HashMap<MessageId, MessageRow>,
    jobs: HashMap<JobId, JobRow>,
    gone_jobs: HashSet<JobId>,
    gone_messages: HashSet<MessageId>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.jobs.is_empty() && self.gone_jobs.is_empty() && self.gone_messages.is_empty()
    }

    pub(super) fn insert_message(&mut self, row: MessageRow) {
        self.messages.insert(row.message.id, row);
    }

    pub(super) fn write_job(&mut self, row: JobRow) {
        self.gone_jobs.remove(&row.job.id);
        self.jobs.insert(row.job.id, row);
    }

    pub(super) fn delete_job(&mut self, id: JobId) {
        self.jobs.remove(&id);
        self.gone_jobs.insert(id);
    }

    pub(super) fn delete_message(&mut self, id: MessageId) {
        self.messages.remove(&id);
        self.gone_messages.insert(id);
    }

    /// Sends all of it, between a BEGIN and a COMMIT where they are wanted, without waiting in between.
    pub(super) async fn send(&self, client: &Client, begin: bool, commit: bool) -> Result<(), Error> {
        let (messages, jobs) = (Messages::of(self.messages.values()), Jobs::of(self.jobs.values()));
        let gone_jobs: Vec<_> = self.gone_jobs.iter().map(|id| Key(id.message)).collect();
        let gone_numbers: Vec<_> = self.gone_jobs.iter().map(|id| signed(id.n)).collect();
        let gone_messages: Vec<_> = self.gone_messages.iter().map(|id| Key(*id)).collect();
        type Step<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;
        // Each is sent when it is first looked at, and so in this order; the answers are then awaited together.
        let mut steps = Vec::<Step<'_>>::new();
        if begin {
            steps.push(Box::pin(client.batch_execute("BEGIN")));
        }
        if !self.messages.is_empty() {
            let statement = client.prepare_cached(INSERT_MESSAGES).await?;
            let Messages { id, accepted, from, parameters, sender, size, body_sum, sum, body } = &messages;
            steps.push(Box::pin(async move {
                client
                    .execute(&statement, &[id, accepted, from, parameters, sender, size, body_sum, sum, body])
                    .await
                    .map(drop)
            }));
        }
        if !self.jobs.is_empty() {
            let statement = client.prepare_cached(WRITE_JOBS).await?;
            let j = &jobs;
            steps.push(Box::pin(async move {
                client
                    .execute(
                        &statement,
                        &[
                            &j.message,
                            &j.n,
                            &j.shard,
                            &j.next_hop,
                            &j.priority,
                            &j.turn,
                            &j.due,
                            &j.alarm,
                            &j.expires,
                            &j.attempts,
                            &j.give_up,
                            &j.cancelled,
                            &j.recipients,
                            &j.sum,
                            &j.status,
                            &j.reason,
                            &j.lease,
                        ],
                    )
                    .await
                    .map(drop)
            }));
        }
        if !gone_jobs.is_empty() {
            let statement = client.prepare_cached(DELETE_JOBS).await?;
            let (ids, numbers) = (&gone_jobs, &gone_numbers);
            steps.push(Box::pin(async move { client.execute(&statement, &[ids, numbers]).await.map(drop) }));
        }
        if !gone_messages.is_empty() {
            let statement = client.prepare_cached(DELETE_MESSAGES).await?;
            let ids = &gone_messages;
            steps.push(Box::pin(async move { client.execute(&statement, &[ids]).await.map(drop) }));
        }
        if commit {
            steps.push(Box::pin(client.batch_execute("COMMIT")));
        }
        try_join_all(steps).await.map(drop)
    }
}

/// `n` of a job as the database has it.
pub(super) fn signed(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A text as the database takes it: it has no NUL.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Rows of messages, column by column.
#[derive(Default)]
struct Messages<'a> {
    id: Vec<Key>,
    accepted: Vec<i64>,
    from: Vec<String>,
    parameters: Vec<String>,
    sender: Vec<String>,
    size: Vec<i64>,
    body_sum: Vec<i64>,
    sum: Vec<i64>,
    body: Vec<Option<&'a [u8]>>,
}

impl<'a> Messages<'a> {
    fn of(rows: impl Iterator<Item = &'a MessageRow>) -> Self {
        let mut all = Self::default();
        for MessageRow { message, body_sum, content } in rows {
            // What is summed is what is written.
            let message = Message { sender: clean(&message.sender).into(), ..message.clone() };
            all.sum.push(message_sum(&message, *body_sum).into());
            all.id.push(Key(message.id));
            all.accepted.push(millis(message.accepted));
            all.from.push(message.mail.from.to_string());
            all.parameters.push(message.mail.parameters.as_str().to_owned());
            all.sender.push(message.sender.to_string());
            all.size.push(i64::try_from(message.size).unwrap_or(i64::MAX));
            all.body_sum.push((*body_sum).into());
            all.body.push(content.as_deref());
        }
        all
    }
}

/// Rows of jobs, column by column.
#[derive(Default)]
struct Jobs<'a> {
    message: Vec<Key>,
    n: Vec<i32>,
    shard: Vec<i32>,
    next_hop: Vec<&'a str>,
    priority: Vec<i32>,
    turn: Vec<i64>,
    due: Vec<i64>,
    alarm: Vec<i64>,
    expires: Vec<i64>,
    attempts: Vec<i64>,
    give_up: Vec<bool>,
    cancelled: Vec<bool>,
    recipients: Vec<&'a str>,
    sum: Vec<i64>,
    status: Vec<i64>,
    reason: Vec<Option<String>>,
    lease: Vec<i64>,
}

impl<'a> Jobs<'a> {
    fn of(rows: impl Iterator<Item = &'a JobRow>) -> Self {
        let mut all = Self::default();
        for JobRow { job, recipients, sum, shard, lease } in rows {
            all.message.push(Key(job.id.message));
            all.n.push(signed(job.id.n));
            all.shard.push(*shard);
            all.next_hop.push(job.next_hop.as_str());
            all.priority.push(job.priority.into());
            all.turn.push(job.turn);
            all.due.push(millis(job.due));
            all.alarm.push(millis(job.alarm));
            all.expires.push(millis(job.expires));
            all.attempts.push(job.attempts.into());
            all.give_up.push(job.give_up);
            all.cancelled.push(job.cancelled);
            all.recipients.push(recipients);
            all.sum.push((*sum).into());
            all.status.push(status_number(job.status));
            all.reason.push(job.reason.as_deref().map(clean));
            all.lease.push(*lease);
        }
        all
    }
}
