//! One job: tried, judged, settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Chunk, Claim as Ground, Outcome, Transaction, Truncated, reply_for};
use smtp_core::stream::ConnectError;
use smtp_core::types::{Envelope, Refusal, ReversePath};

use super::{Counters, Worker};
use crate::error::Error;
use crate::job::{NewNotice, RecipientState, Settled, Settlement};
use crate::notice::{About, Kind};
use crate::queue::{wants, wants_delay};
use crate::scheduler::{Feedback, Verdict, expired};
use crate::spool::Leased;

/// How much of a message is read for the header in a notice, in octets.
const HEADER_MAX: usize = 64 << 10;

pub(super) struct Attempt {
    pub(super) worker: Arc<Worker>,
    pub(super) leased: Leased,
}

/// Parameters of MAIL that asked something of this queue, which has seen to it, and not of the next hop.
const SEEN_TO: [&str; 4] = ["HOLDFOR", "HOLDUNTIL", "BY", "MT-PRIORITY"];

impl Attempt {
    /// Gives what it tells about the next hop.
    pub(super) async fn run(self, verdict: Verdict) -> Feedback {
        let (settlement, feedback) = match verdict {
            Verdict::Deliver => self.deliver().await,
            Verdict::GiveUp(refusal) => (self.all(&Settled::Failed(refusal)), Feedback::Unused),
            Verdict::TellDelay => (self.tell_delay(), Feedback::Unused),
            Verdict::PutOff(alarm) => (Settlement { alarm, ..self.nothing() }, Feedback::Unused),
        };
        let settlement = self.with_notices(settlement).await;
        let counts = counts(&settlement);
        if self.worker.settle(&self.leased, settlement).await {
            let counters = &self.worker.counters;
            Counters::add(&counters.delivered, counts[0]);
            Counters::add(&counters.failed, counts[1]);
            Counters::add(&counters.deferred, counts[2]);
        }
        feedback
    }

    fn now(&self) -> SystemTime {
        self.worker.clock.now()
    }

    /// A settlement that changes nothing.
    fn nothing(&self) -> Settlement {
        let job = &self.leased.job;
        let (due, alarm) = (job.due, job.alarm);
        Settlement {
            results: vec![],
            attempted: false,
            due,
            alarm,
            delay_told: vec![],
            quarantine: None,
            notices: vec![],
        }
    }

    /// A settlement that says the same of every recipient.
    fn all(&self, settled: &Settled) -> Settlement {
        let results = self.leased.job.waiting().map(|n| (n, settled.clone())).collect();
        Settlement { results, ..self.nothing() }
    }

    /// It is not delivered yet; nothing else is told before the end.
    fn tell_delay(&self) -> Settlement {
        let job = &self.leased.job;
        let told = |n: &usize| job.recipients.get(*n).is_some_and(|r| !r.delay_told && wants_delay(&r.rcpt));
        Settlement { delay_told: job.waiting().filter(told).collect(), alarm: job.expires, ..self.nothing() }
    }

    async fn deliver(&self) -> (Settlement, Feedback) {
        let Leased { job, message, .. } = &self.leased;
        let body = match self.worker.spool.body(message.id).await {
            Ok(body) => body,
            Err(error @ (Error::Corrupt(_) | Error::NotFound)) => {
                tracing::error!(job = %job.id, %error, "a queued message is damaged and was set aside; look at it with a list");
                return (Settlement { quarantine: Some(error.to_string()), ..self.nothing() }, Feedback::Unused);
            }
            Err(error) => return (self.deferred(&error.refusal()), Feedback::Unused),
        };
        let delivery = match self.worker.router.route(&job.next_hop) {
            Ok(delivery) => delivery,
            Err(refusal) if refusal.is_transient() => return self.dead(refusal),
            Err(refusal) => return (self.all(&Settled::Failed(refusal)), Feedback::Unused),
        };
        let read = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&read);
        let (spool, lease) = (Arc::clone(&self.worker.spool), self.leased.lease);
        let body = body.inspect(move |_| {
            seen.store(true, Ordering::Relaxed);
            if spool.may_finish(lease) { Ok(()) } else { Err(Truncated("the job may be somebody else's by now")) }
        });
        let transaction = Transaction { session: SessionInfo::local("queue"), envelope: self.envelope(), body };
        match tokio::time::timeout(self.worker.settings.attempt, delivery.deliver(transaction)).await {
            Ok(Ok(outcome)) => (self.judge(outcome), Feedback::Answered),
            Ok(Err(error)) => {
                let refusal = reply_for(&error);
                let before_content = !read.load(Ordering::Relaxed) || is_connect_error(&*error);
                match (refusal.is_transient(), before_content) {
                    (true, true) => self.dead(refusal),
                    (true, false) => (self.deferred(&refusal), Feedback::Troubled),
                    (false, _) => (self.all(&Settled::Failed(refusal)), Feedback::Unused),
                }
            }
            Err(_) => {
                let late = Refusal::fixed(451, (4, 4, 2), "the attempt took too long and was ended here");
                (self.deferred(&late), Feedback::Troubled)
            }
        }
    }

    fn envelope(&self) -> Envelope {
        let mut mail = self.leased.message.mail.clone();
        for keyword in SEEN_TO {
            mail.parameters = mail.parameters.without(keyword);
        }
        self.leased.job.envelope(&mail)
    }

    /// The next hop was not reached: that says nothing of this message, which stays due. If its time is over, this was
    /// its last chance.
    fn dead(&self, refusal: Refusal) -> (Settlement, Feedback) {
        let settlement = if self.now() >= self.leased.job.expires {
            self.all(&Settled::Failed(expired(&refusal)))
        } else {
            self.all(&Settled::Deferred(refusal.clone()))
        };
        (settlement, Feedback::Dead(refusal))
    }

    fn deferred(&self, refusal: &Refusal) -> Settlement {
        self.judge(Outcome::all(Err(refusal.clone()), self.leased.job.waiting().count()))
    }

    /// What an answer makes of each recipient: after the lifetime there is no later.
    fn judge(&self, outcome: Outcome) -> Settlement {
        let (job, now) = (&self.leased.job, self.now());
        let mut answers = outcome.into_results().into_iter();
        let settle = |n| {
            let answer = answers.next().unwrap_or_else(|| Err(Refusal::fixed(451, (4, 3, 0), "no answer was given")));
            let settled = match answer {
                Ok(receipt) => Settled::Delivered(match receipt.claim() {
                    Ground::Relayed(reply) => reply.reply().to_string(),
                    Ground::Stored | Ground::Discarded => receipt.reply().to_string(),
                }),
                Err(refusal) if !refusal.is_transient() => Settled::Failed(refusal),
                Err(refusal) if now >= job.expires => Settled::Failed(expired(&refusal)),
                Err(refusal) => Settled::Deferred(refusal),
            };
            (n, settled)
        };
        let results = job.waiting().map(settle).collect();
        let due = self.worker.settings.schedule.retry_at(job.id, job.attempts + 1, now, job.expires);
        Settlement { results, attempted: true, due, ..self.nothing() }
    }

    /// The settlement with the notices that it causes.
    async fn with_notices(&self, mut settlement: Settlement) -> Settlement {
        let Leased { job, message, .. } = &self.leased;
        let mut after = job.clone();
        after.settle(&settlement);
        let failed = |n: &usize| after.recipients.get(*n).is_some_and(|r| r.state == RecipientState::Failed);
        let failed: Vec<_> = job.waiting().filter(failed).collect();
        let groups = [(Kind::Failed, failed, "FAILURE"), (Kind::Delayed, settlement.delay_told.clone(), "DELAY")];
        for (kind, recipients, word) in groups {
            let recipients: Vec<_> = recipients.iter().filter_map(|n| after.recipients.get(*n)).collect();
            if recipients.is_empty() {
                continue;
            }
            let told: Vec<_> = recipients.iter().copied().filter(|r| wants(&r.rcpt, word)).collect();
            let notice = if message.mail.from == ReversePath::Null || told.is_empty() {
                None
            } else {
                self.notice(&About {
                    kind,
                    message,
                    job: &after,
                    recipients: &told,
                    header: &self.header().await,
                    now: self.now(),
                })
            };
            let untold = recipients.len() - notice.as_ref().map_or(0, |_| told.len());
            if kind == Kind::Failed && untold > 0 {
                Counters::add(&self.worker.counters.failed_without_notice, untold);
                tracing::warn!(job = %job.id, recipients = untold, "mail failed and nobody is told");
            }
            if let Some(notice) = notice {
                Counters::add(&self.worker.counters.notices, 1);
                settlement.notices.push(notice);
            }
        }
        settlement
    }

    fn notice(&self, about: &About<'_>) -> Option<NewNotice> {
        self.worker.notices.notice(about)
    }

    /// The header of the message, as far as it can be read.
    async fn header(&self) -> Vec<u8> {
        let Ok(mut body) = self.worker.spool.body(self.leased.message.id).await else { return Vec::new() };
        read_header(&mut body).await
    }
}

async fn read_header(body: &mut Body) -> Vec<u8> {
    let mut head = Vec::new();
    while let Ok(Chunk::Data(data)) = body.next().await {
        head.extend_from_slice(&data);
        let end = head.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            head.truncate(end + 2);
            break;
        }
        if head.len() > HEADER_MAX {
            head.truncate(HEADER_MAX);
            break;
        }
    }
    head
}

/// Delivered, failed, deferred.
fn counts(settlement: &Settlement) -> [usize; 3] {
    let mut counts = [0; 3];
    for (_, settled) in &settlement.results {
        match settled {
            Settled::Delivered(_) => counts[0] += 1,
            Settled::Failed(_) => counts[1] += 1,
            Settled::Deferred(_) => counts[2] += 1,
        }
    }
    counts
}

fn is_connect_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}
