//! What a queue holds: messages, and jobs that bring them to their next hops.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use smtp_core::types::{Envelope, Invalid, Mail, Rcpt, Refusal};

use crate::id::{JobId, MessageId};
use crate::terms::released;

/// Where a job goes next, as the router names it: a domain, a URL of a transport, a local mailbox store. Opaque here:
/// equal texts share limits, backoff and connections.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop(Arc<str>);

impl NextHop {
    /// A next hop of 1 to 512 octets without control characters.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn new(name: &str) -> Result<Self, Invalid> {
        if name.is_empty() || name.len() > 512 || name.chars().any(char::is_control) {
            return Err(Invalid::new("next hop", "1 to 512 octets, no control characters"));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a recipient for which only a notice is owed. No domain has a colon.
    pub(crate) fn expanded() -> Self {
        Self("expanded:".into())
    }

    /// Of a job whose next hop cannot be read.
    pub(crate) fn unknown() -> Self {
        Self("(unknown)".into())
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a spool knows of a message beside its jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted: SystemTime,
    /// The sender's side of the envelope.
    pub mail: Mail,
    /// Whose turn it uses: the authenticated user, or the reverse-path. Senders share a next hop fairly.
    pub sender: Arc<str>,
    /// Octets of content.
    pub size: u64,
}

/// A message to be stored, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The sender's side of the envelope.
    pub mail: Mail,
    /// As [`Message::sender`].
    pub sender: Arc<str>,
    /// At least one.
    pub jobs: Vec<NewJob>,
}

/// A job to be stored with its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Where to.
    pub next_hop: NextHop,
    /// From -9 to 9 (RFC 6710 §4.1): a higher one leaves first. 0 is normal.
    pub priority: i8,
    /// When it may leave first.
    pub due: SystemTime,
    /// When it wants attention though its next hop gets no mail now: for a delay notice, or to give up.
    pub alarm: SystemTime,
    /// When to give up.
    pub expires: SystemTime,
    /// For whom; at least one.
    pub recipients: Vec<Rcpt>,
}

/// A message that a settlement brings forth, such as a bounce, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// Its envelope and jobs.
    pub message: NewMessage,
    /// Its content; lines end with CRLF. At most what a spool keeps in a row: 256 KiB.
    pub body: Bytes,
}

/// The unit of work: one message on its way to one next hop, for one or more recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Where to.
    pub next_hop: NextHop,
    /// From -9 to 9; a higher one leaves first.
    pub priority: i8,
    /// Messages of one sender share this number.
    pub turn: i64,
    /// When it may be tried next.
    pub due: SystemTime,
    /// When it wants attention whatever its next hop does.
    pub alarm: SystemTime,
    /// When to give up.
    pub expires: SystemTime,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether it waits for its time or for somebody's word.
    pub status: Status,
    /// Told to end: give up at once and tell the sender.
    pub give_up: bool,
    /// Told to end while it was under way: whoever has it may finish; what is left then is removed.
    pub cancelled: bool,
    /// Why it stands as it does, if there is more to say than the recipients' answers do.
    pub reason: Option<String>,
    /// For whom, settled ones included.
    pub recipients: Vec<Recipient>,
}

/// Whether a job waits for its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It goes when it is due.
    Waiting,
    /// It goes when it is released.
    Held,
    /// It cannot be read as it was written. It is kept for somebody to look at and blocks nobody.
    Quarantined,
}

/// One recipient of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Address and parameters.
    pub rcpt: Rcpt,
    /// What has become of it.
    pub state: RecipientState,
    /// The last answer about it, on one line, at most 1,000 octets.
    pub last: Option<String>,
    /// A delay notice about it has been made.
    pub delay_told: bool,
}

/// What has become of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipientState {
    /// Still to be delivered.
    Waiting,
    /// The next hop took it.
    Delivered,
    /// It never will be delivered.
    Failed,
}

/// What is known of one recipient after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The next hop took it; its words.
    Delivered(String),
    /// Never.
    Failed(Refusal),
    /// Not yet.
    Deferred(Refusal),
}

/// What becomes of a leased job. Applied whole or not at all, together with the messages it brings forth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// What is known now, by position in [`Job::recipients`]. Recipients that are not named stay as they are.
    pub results: Vec<(usize, Settled)>,
    /// Whether an attempt is to be counted.
    pub attempted: bool,
    /// When the rest is due, if there is a rest.
    pub due: SystemTime,
    /// When the rest wants attention.
    pub alarm: SystemTime,
    /// Recipients about whom a delay notice was made.
    pub delay_told: Vec<usize>,
    /// Set aside for this reason instead.
    pub quarantine: Option<String>,
    /// Bounces and other notices.
    pub notices: Vec<NewNotice>,
}

/// What an administrator may do to jobs. It wins over a lease: whoever has the job may finish the attempt, and the action
/// holds for what is left then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stay until released.
    Hold,
    /// Go on. Also tries a quarantined job again.
    Release,
    /// Be due at this time, but not before its sender wants it released (RFC 4865). A job that is under way is due when
    /// its attempt says, and one that is held when it is released: they stay as they are.
    RetryAt(SystemTime),
    /// Go to another next hop.
    Reroute(NextHop),
    /// Vanish, without a word to the sender.
    Cancel,
    /// Give up now and tell the sender.
    GiveUp,
}

/// The longest answer that is kept of a recipient, in octets.
const ANSWER_MAX: usize = 1_000;

/// The number that messages of one sender share. Two senders may share one by chance; they then share a turn.
pub(crate) fn turn_of(sender: &str) -> i64 {
    // Stored on disk: an algorithm that never changes. FNV-1a.
    let hash = sender
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    i64::from_ne_bytes((hash >> 1).to_ne_bytes())
}

/// An answer as it is kept: one line, cut to length.
pub(crate) fn answer(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    if text.len() > ANSWER_MAX {
        let cut = (0..=ANSWER_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(cut);
    }
    text
}

impl NewJob {
    pub(crate) fn into_job(self, id: JobId, turn: i64) -> Job {
        let recipient = |rcpt| Recipient { rcpt, state: RecipientState::Waiting, last: None, delay_told: false };
        Job {
            id,
            next_hop: self.next_hop,
            priority: self.priority.clamp(-9, 9),
            turn,
            due: self.due,
            alarm: self.alarm,
            expires: self.expires,
            attempts: 0,
            status: Status::Waiting,
            give_up: false,
            cancelled: false,
            reason: None,
            recipients: self.recipients.into_iter().map(recipient).collect(),
        }
    }
}

impl Job {
    /// Positions of the recipients that still wait.
    pub fn waiting(&self) -> impl Iterator<Item = usize> + '_ {
        let waits = |r: &Recipient| r.state == RecipientState::Waiting;
        self.recipients.iter().enumerate().filter(move |(_, r)| waits(r)).map(|(i, _)| i)
    }

    /// The envelope for those that still wait.
    #[must_use]
    pub fn envelope(&self, mail: &Mail) -> Envelope {
        let rcpt = |i: usize| self.recipients.get(i).map(|r| r.rcpt.clone());
        Envelope { mail: mail.clone(), recipients: self.waiting().filter_map(rcpt).collect() }
    }

    /// When it may be claimed; `None` while it waits for somebody's word.
    #[must_use]
    pub fn ready(&self) -> Option<SystemTime> {
        (self.status == Status::Waiting).then_some(self.due)
    }

    /// When it wants attention; `None` while it waits for somebody's word.
    pub(crate) fn alarmed(&self) -> Option<SystemTime> {
        (self.status == Status::Waiting).then_some(self.alarm)
    }

    /// Applies a settlement. True if nothing is left to do.
    pub(crate) fn settle(&mut self, settlement: &Settlement) -> bool {
        for (n, settled) in &settlement.results {
            let Some(recipient) = self.recipients.get_mut(*n) else { continue };
            if recipient.state != RecipientState::Waiting {
                continue;
            }
            let (state, last) = match settled {
                Settled::Delivered(reply) => (RecipientState::Delivered, answer(reply)),
                Settled::Failed(refusal) => (RecipientState::Failed, answer(refusal)),
                Settled::Deferred(refusal) => (RecipientState::Waiting, answer(refusal)),
            };
            (recipient.state, recipient.last) = (state, Some(last));
        }
        for n in &settlement.delay_told {
            if let Some(recipient) = self.recipients.get_mut(*n) {
                recipient.delay_told = true;
            }
        }
        self.attempts = self.attempts.saturating_add(u32::from(settlement.attempted));
        self.alarm = settlement.alarm;
        // Told to end while it was under way: it stays due for that.
        if !self.give_up {
            self.due = settlement.due;
        }
        if let Some(reason) = &settlement.quarantine {
            (self.status, self.reason) = (Status::Quarantined, Some(answer(reason)));
        }
        self.cancelled || self.waiting().next().is_none()
    }

    /// Applies an action at `now`; `message` is the job's.
    pub(crate) fn act(&mut self, action: &Action, message: &Message, leased: bool, now: SystemTime) -> Acted {
        match action {
            Action::Hold if self.status == Status::Waiting => self.status = Status::Held,
            Action::Release if self.status != Status::Waiting => (self.status, self.reason) = (Status::Waiting, None),
            Action::RetryAt(time) if self.status == Status::Waiting => {
                let due = released(&message.mail, message.accepted).max(*time);
                if due == self.due {
                    return Acted::Unchanged;
                }
                self.due = due;
            }
            Action::Reroute(next_hop) if self.next_hop != *next_hop => self.next_hop = next_hop.clone(),
            Action::Cancel if leased => self.cancelled = true,
            Action::Cancel => return Acted::Removed,
            Action::GiveUp if self.status != Status::Quarantined && !self.give_up => {
                (self.give_up, self.status) = (true, Status::Waiting);
                (self.due, self.alarm) = (now, now);
            }
            Action::Hold | Action::Release | Action::RetryAt(_) | Action::Reroute(_) | Action::GiveUp => {
                return Acted::Unchanged;
            }
        }
        Acted::Changed
    }
}

/// What an action did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acted {
    Unchanged,
    Changed,
    Removed,
}

/// Jobs that share a queue: one next hop, one priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lane {
    pub(crate) priority: i8,
    pub(crate) next_hop: NextHop,
}

impl Job {
    pub(crate) fn lane(&self) -> Lane {
        Lane { priority: self.priority, next_hop: self.next_hop.clone() }
    }
}
