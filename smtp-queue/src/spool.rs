//! The store of a queue, as a trait: what every store promises.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::service::{Body, Complete, Receipt};
use smtp_core::types::ReversePath;
use tokio::sync::Notify;

use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Action, Job, Message, NewMessage, NextHop, Settlement, Status};

/// A durable store of messages and jobs.
///
/// What every store keeps to, and `kit::conformance` checks:
///
/// - **Commit is the point of durability.** Before [`Staged::commit`] returns, nothing exists; afterwards everything does,
///   power cuts included. Only it makes a receipt.
/// - **A body is stored once**, however many jobs its message has, and is freed with the last of them.
/// - **A lease is exclusive until it ends.** Afterwards the job can be claimed again, and the late owner's
///   [`Spool::settle`] fails with [`Error::LeaseLost`]: its epoch is stale.
/// - **A settlement is atomic** with the messages it brings forth, and a job that is settled never comes back.
/// - **Damage is local.** What cannot be read is set aside, counted and shown; everything else goes on.
/// - **Nothing is written once a write was not certain**: a failed sync makes the store refuse all writes until
///   [`Spool::maintain`] has found that the disk works again.
///
/// Time is a parameter: a store has no clock.
#[async_trait]
pub trait Spool: Send + Sync + fmt::Debug + 'static {
    /// Begins to take a message of about `size_hint` octets.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Unhealthy`], [`Error::TooLarge`]: load is shed here, before the content.
    async fn begin(&self, now: SystemTime, size_hint: Option<u64>) -> Result<Box<dyn Staged>, Error>;

    /// Leases jobs that are due, higher priorities first, within one fairly between next hops and between the senders of a
    /// next hop; and jobs whose alarm has come.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn claim(&self, claim: Claim) -> Result<Vec<Leased>, Error>;

    /// Makes leases last until `until`; gives those that were lost.
    ///
    /// # Errors
    /// If nothing is known of any of them. They may still last.
    async fn renew(&self, leases: &[Lease], now: SystemTime, until: SystemTime) -> Result<Vec<Lease>, Error>;

    /// Whether the end of a message may be sent that is delivered under this lease. False where it can be somebody else's
    /// by now, since this process hung, or could not renew it: asked at each piece of a message, so that it is delivered
    /// twice as seldom as can be. A store that one process has to itself says yes.
    fn may_finish(&self, lease: Lease) -> bool {
        let _ = lease;
        true
    }

    /// Writes down what became of a leased job and ends the lease. Gives the ids of the notices.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the lease is not the job's newest, in which case nothing changed. Any other: it is not
    /// known whether it was written; settle again once the store works.
    async fn settle(&self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error>;

    /// Ends leases without a word: the jobs are as they were before.
    ///
    /// # Errors
    /// If the store cannot be written. The leases then end by themselves.
    async fn release(&self, leases: &[Lease]) -> Result<(), Error>;

    /// The content of a message, to be read once from the start. Content that is not what was written ends in an error
    /// and not in a `Complete`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`].
    async fn body(&self, message: MessageId) -> Result<Body, Error>;

    /// When `claim` would first give something, or a lease ends; `None` if there is nothing at all. It may have passed.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn next_due(&self, claim: &Claim) -> Result<Option<SystemTime>, Error>;

    /// Is notified when [`Spool::next_due`] may have become earlier. A hint: others may write to the same store.
    fn changed(&self) -> Arc<Notify>;

    /// Jobs that match, in the order of their ids, those after `after`; at most `max` and at most 1,000. A page may be
    /// short, even empty, and still have a next one. Never changes anything.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn list(&self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error>;

    /// All jobs of a message; empty if there is none.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn get(&self, message: MessageId) -> Result<Vec<Entry>, Error>;

    /// Does `action` to all jobs that match; gives the number of those that changed. Atomic for each thousand jobs.
    ///
    /// # Errors
    /// If the store cannot be written; a part may be done.
    async fn control(&self, filter: &Filter, action: Action, now: SystemTime) -> Result<u64, Error>;

    /// Whether it takes mail.
    fn health(&self) -> Health;

    /// Figures.
    fn stats(&self) -> Stats;

    /// What has to be done now and then: probes a store that failed, ends leases, frees what nobody names.
    ///
    /// # Errors
    /// If the store still does not work.
    async fn maintain(&self, now: SystemTime) -> Result<(), Error>;

    /// Writes what is under way and lets go of the store. Everything fails with [`Error::Closed`] afterwards.
    ///
    /// # Errors
    /// If the store could not be closed in order. Nothing that was committed is lost.
    async fn close(&self) -> Result<(), Error>;
}

/// A message on its way into a spool. Dropped, nothing has happened.
#[async_trait]
pub trait Staged: Send + fmt::Debug {
    /// The name it will have.
    fn id(&self) -> MessageId;

    /// Adds content.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Full`], or a failing disk. The message is then of no more use.
    async fn write(&mut self, data: Bytes) -> Result<(), Error>;

    /// Stores content, envelope and jobs durably and together. **The** point of durability.
    ///
    /// # Errors
    /// Any: nobody may be told that it was stored, though it may have been.
    async fn commit(self: Box<Self>, complete: Complete, message: NewMessage) -> Result<Receipt, Error>;
}

/// What a worker has room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The time.
    pub now: SystemTime,
    /// Until when the leases last.
    pub until: SystemTime,
    /// At most so many jobs that are due.
    pub max: usize,
    /// At most so many of them for a next hop that is not in `rooms`.
    pub room: usize,
    /// At most so many for these; 0 for a next hop that gets nothing now.
    pub rooms: HashMap<NextHop, usize>,
    /// At most so many jobs whose alarm has come, whatever room their next hops have.
    pub alarms: usize,
}

impl Claim {
    /// Up to `max` jobs, of any next hop, leased for `lease`, and as many alarms.
    #[must_use]
    pub fn up_to(max: usize, now: SystemTime, lease: Duration) -> Self {
        let until = crate::clock::later(now, lease);
        Self { now, until, max, room: max, rooms: HashMap::new(), alarms: max }
    }

    pub(crate) fn room_of(&self, next_hop: &NextHop) -> usize {
        self.rooms.get(next_hop).copied().unwrap_or(self.room)
    }
}

/// The right to work on a job until it ends or somebody else gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// Grows with every lease of the job.
    pub epoch: u64,
}

/// A leased job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// The lease.
    pub lease: Lease,
    /// Why it was leased.
    pub why: Why,
    /// The job as it stands.
    pub job: Job,
    /// Its message.
    pub message: Message,
}

/// Why a job was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// It is due.
    Due,
    /// Its alarm has come, while its next hop has no room.
    Alarm,
}

/// Which jobs are meant: those that match all that is set. The default matches every job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this message.
    pub message: Option<MessageId>,
    /// For this next hop.
    pub next_hop: Option<NextHop>,
    /// Of this sender: [`Message::sender`], or the address in MAIL FROM, without regard to ASCII case; `<>` if there is none.
    pub sender: Option<String>,
    /// With a recipient whose address contains this, without regard to ASCII case.
    pub recipient: Option<String>,
    /// Of this status.
    pub status: Option<Status>,
    /// Accepted before this time.
    pub before: Option<SystemTime>,
    /// With this in the job's reason or in the last answer about a recipient.
    pub reason: Option<String>,
    /// Or, if there is a `reason`, waiting for one of these next hops: those that are not reached for such a reason, which
    /// only the runner knows ([`Hops::unreached`](crate::Hops::unreached)).
    pub unreached: Vec<NextHop>,
}

impl Filter {
    /// All jobs of one message.
    #[must_use]
    pub fn message(message: MessageId) -> Self {
        Self { message: Some(message), ..Self::default() }
    }

    /// True if the job is meant.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        let Entry { job, message, .. } = entry;
        fn is<T: PartialEq>(wanted: Option<&T>, value: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == value)
        }
        let contains = |text: &str, part: &str| text.to_ascii_lowercase().contains(&part.to_ascii_lowercase());
        let has_recipient = |part: &String| job.recipients.iter().any(|r| contains(&r.rcpt.to.to_string(), part));
        let has_reason = |part: &String| {
            let answers = job.recipients.iter().filter_map(|r| r.last.as_deref());
            let waits = job.status == Status::Waiting && self.unreached.contains(&job.next_hop);
            waits || answers.chain(job.reason.as_deref()).any(|text| contains(text, part))
        };
        let is_sender = |sender: &String| {
            let from = match &message.mail.from {
                ReversePath::Null => "<>",
                ReversePath::Mailbox(mailbox) => mailbox.as_str(),
            };
            [from, &*message.sender].iter().any(|known| known.eq_ignore_ascii_case(sender))
        };
        is(self.message.as_ref(), &job.id.message)
            && is(self.next_hop.as_ref(), &job.next_hop)
            && is(self.status.as_ref(), &job.status)
            && self.sender.as_ref().is_none_or(is_sender)
            && self.before.is_none_or(|time| message.accepted < time)
            && self.recipient.as_ref().is_none_or(has_recipient)
            && self.reason.as_ref().is_none_or(has_reason)
    }
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The message. Of one that cannot be read, as much as can.
    pub message: Message,
    /// The job. Of one that cannot be read, as much as can, quarantined, with the reason.
    pub job: Job,
    /// Until when somebody works on it.
    pub leased_until: Option<SystemTime>,
}

/// A part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The jobs.
    pub entries: Vec<Entry>,
    /// Where to go on; `None` at the end.
    pub next: Option<JobId>,
}

/// Whether a spool takes mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// No new mail, for lack of space; what is there leaves.
    Full(String),
    /// Nothing can be written until a probe succeeds.
    Unhealthy(String),
}

/// Figures of a spool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages in it.
    pub messages: u64,
    /// Jobs in it.
    pub jobs: u64,
    /// Of those, jobs that wait to be released.
    pub held: u64,
    /// Of those, jobs that cannot be read.
    pub quarantined: u64,
    /// Jobs that somebody works on.
    pub leased: u64,
}

/// Limits of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in octets: 35 MiB.
    pub body: u64,
    /// The largest body that is kept with others, in octets: 256 KiB. Larger ones are files of their own.
    pub inline: usize,
    /// Messages: 1,000,000.
    pub messages: u64,
    /// Leases at a time: 10,000.
    pub leases: usize,
    /// Recipients of one message, over all of its jobs: 10,000.
    pub recipients: usize,
    /// New mail is refused while the disk has fewer free octets than this: 70 MiB, twice the largest body. A store on disk
    /// keeps 48 MiB free for itself, whatever is said here.
    pub free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 35 << 20,
            inline: 256 << 10,
            messages: 1_000_000,
            leases: 10_000,
            recipients: 10_000,
            free: 70 << 20,
        }
    }
}
