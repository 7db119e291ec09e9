//! Notices to senders: what makes them, and one that does (RFC 3461, RFC 3464, RFC 6522, RFC 6533).

mod report;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use smtp_core::extension::{Notify, RequireTls};
use smtp_core::types::{Domain, Envelope, Mail, Parameters, Rcpt, ReversePath};

use crate::job::{Job, Message, NewNotice, Recipient};
use crate::queue::{Plan, new_message};
use crate::scheduler::Schedule;
use report::Report;

/// The largest notice, in octets: 256 KiB, what every spool keeps in a row. A message that does not fit into one that was
/// to return it whole is returned by its header.
pub(crate) const NOTICE_MAX: usize = 256 << 10;

/// What a notice says of its recipients: the actions of RFC 3464 §2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// They will never get it.
    Failed,
    /// They have not got it yet.
    Delayed,
    /// They have it.
    Delivered,
    /// The next server has it, and it is not known whether more will be told: that server does not do what the sender asked
    /// for (DSN, DELIVERBY), or each step was to be told (BY with T).
    Relayed,
    /// They are aliases of several addresses, all of which the message goes to from here. Success of those is not told; of
    /// failure and delay the sender hears as it asked (RFC 3461 §5.2.7.3 (c)). See [`Queue::expanded`](crate::Queue::expanded).
    Expanded,
}

impl Kind {
    /// Whether the sender wants such a notice about this recipient (RFC 3461 §4.1): without NOTIFY those of failure and of
    /// delay.
    #[must_use]
    pub fn is_wanted(self, rcpt: &Rcpt) -> bool {
        let notify = rcpt.parameters.get::<Notify>();
        match self {
            Self::Failed => notify.is_none_or(|notify| notify.failure),
            Self::Delayed => notify.is_none_or(|notify| notify.delay),
            Self::Delivered | Self::Relayed | Self::Expanded => notify.is_some_and(|notify| notify.success),
        }
    }

    /// The class of its status codes (RFC 3463 §3.1).
    const fn class(self) -> u8 {
        match self {
            Self::Failed => 5,
            Self::Delayed => 4,
            Self::Delivered | Self::Relayed | Self::Expanded => 2,
        }
    }
}

/// What a notice is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// What happened.
    pub kind: Kind,
    /// The message.
    pub message: &'a Message,
    /// The job; what its recipients' last answers are is known.
    pub job: &'a Job,
    /// The recipients that the notice is about: those of them that may be told of (RFC 3461 §4.1), at least one.
    pub recipients: &'a [&'a Recipient],
    /// What there is of the message to be returned.
    pub original: Original<'a>,
    /// The time.
    pub now: SystemTime,
}

/// What of a message is returned to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original<'a> {
    /// Its header, or as much as was kept of it.
    Header(&'a [u8]),
    /// All of it: it failed, and RET=FULL asks for it (RFC 3461 §4.3).
    Whole(&'a [u8]),
}

/// Makes notices.
pub trait Notices: Send + Sync + 'static {
    /// The notice; `None` if there is to be none, which is logged and counted. Never asked about a message whose sender
    /// is `<>`, nor about recipients that nobody is to be told of.
    fn notice(&self, about: &About<'_>) -> Option<NewNotice>;
}

/// Makes delivery status notifications: from `<>`, with NOTIFY=NEVER, and with REQUIRETLS if they are about a message that
/// has it (RFC 8689 §5).
///
/// They return the header of the message, or all of it where it failed and RET=FULL asks for that, up to 256 KiB. To an
/// address in US-ASCII they are US-ASCII, whatever they tell and return, so that every server takes them.
#[derive(Clone)]
pub struct Dsn {
    host: Domain,
    plan: Arc<dyn Plan>,
    schedule: Schedule,
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dsn").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Dsn {
    /// Notices of the mail server `host`, which go where `plan` says.
    #[must_use]
    pub fn new(host: Domain, plan: Arc<dyn Plan>, schedule: Schedule) -> Self {
        Self { host, plan, schedule }
    }
}

impl Notices for Dsn {
    fn notice(&self, about: &About<'_>) -> Option<NewNotice> {
        let ReversePath::Mailbox(to) = &about.message.mail.from else { return None };
        let Report { body, utf8 } = Report::new(&self.host, about, to.as_str()).ok()?;
        let needs = if utf8 { "BODY=8BITMIME SMTPUTF8" } else { "" };
        let mut parameters = Parameters::new(needs).ok()?;
        if about.message.mail.parameters.get::<RequireTls>().is_some() {
            parameters = parameters.with(&RequireTls).ok()?;
        }
        // A notice about a notice is never sent (RFC 3461 §5.2, RFC 5321 §4.5.5).
        let never = Parameters::default().with(&Notify::NEVER).ok()?;
        let rcpt = Rcpt { to: to.clone().into(), parameters: never };
        let envelope = Envelope { mail: Mail { from: ReversePath::Null, parameters }, recipients: vec![rcpt] };
        let message = new_message(envelope, Arc::from("<>"), &*self.plan, &self.schedule, about.now);
        Some(NewNotice { message, body: Bytes::from(body) })
    }
}
