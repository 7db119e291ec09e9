//! One job: tried, judged, settled.

mod tell;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use smtp_core::channel::SessionInfo;
use smtp_core::extension::{DeliverBy, Notify};
use smtp_core::service::{Claim as Ground, Outcome, Receipt, Transaction, Truncated, reply_for};
use smtp_core::stream::ConnectError;
use smtp_core::types::{Rcpt, Refusal};

use super::{Counters, Hops, Worker};
use crate::error::Error;
use crate::expansion;
use crate::job::{Settled, Settlement};
use crate::notice::Kind;
use crate::scheduler::{Feedback, Verdict, expired};
use crate::spool::Leased;
use crate::terms::{passed_on, too_late};

pub(super) struct Attempt {
    pub(super) worker: Arc<Worker>,
    pub(super) hops: Hops,
    pub(super) leased: Leased,
    /// Why the next hop is not reached, for recipients that were not tried since others were.
    pub(super) unreached: Option<Refusal>,
}

/// What an attempt led to.
struct Done {
    settlement: Settlement,
    /// Recipients whose success is to be told, by position, and as what.
    successes: Vec<(usize, Kind)>,
    feedback: Feedback,
}

impl Attempt {
    pub(super) async fn run(self, verdict: Verdict) {
        let done = match verdict {
            // It is so, whatever became of the message meanwhile.
            _ if expansion::is_job(&self.leased.job) => self.expanded(),
            Verdict::Deliver => self.deliver().await,
            Verdict::GiveUp(refusal) => self.unused(self.all(&Settled::Failed(refusal))),
            Verdict::TellDelay => self.unused(self.tell_delay()),
            Verdict::PutOff(alarm) => self.unused(Settlement { alarm, ..self.nothing() }),
        };
        // Before it is settled: then it can be claimed.
        self.hops.lock().learned(&self.leased.job.next_hop, self.now(), done.feedback);
        let settlement = self.with_notices(done.settlement, &done.successes).await;
        if let Some(notices) = self.worker.settle(&self.leased, settlement.clone()).await {
            self.report(&settlement, &notices);
        }
    }

    fn now(&self) -> SystemTime {
        self.worker.clock.now()
    }

    /// The next hop was not asked.
    const fn unused(&self, settlement: Settlement) -> Done {
        Done { settlement, successes: Vec::new(), feedback: Feedback::Unused }
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
        let wants =
            |n: &usize| job.recipients.get(*n).is_some_and(|r| !r.delay_told && Kind::Delayed.is_wanted(&r.rcpt));
        Settlement { delay_told: job.waiting().filter(wants).collect(), alarm: job.expires, ..self.nothing() }
    }

    /// Nothing is to be delivered: the notice is all.
    fn expanded(&self) -> Done {
        let said = Settled::Delivered("250 2.0.0 it stands for several addresses".into());
        let successes = self.leased.job.waiting().map(|n| (n, Kind::Expanded)).collect();
        Done { successes, ..self.unused(self.all(&said)) }
    }

    async fn deliver(&self) -> Done {
        let Leased { job, message, .. } = &self.leased;
        let body = match self.worker.spool.body(message.id).await {
            Ok(body) => body,
            Err(error @ (Error::Corrupt(_) | Error::NotFound)) => {
                tracing::error!(job = %job.id, %error, "a queued message is damaged and was set aside; look at it with a list");
                return self.unused(Settlement { quarantine: Some(error.to_string()), ..self.nothing() });
            }
            Err(error) => {
                tracing::warn!(job = %job.id, %error, "a queued message cannot be read now; it waits");
                let unread = Refusal::fixed(451, (4, 3, 0), "the queued message cannot be read now");
                return self.deferred(&unread, Feedback::Unused);
            }
        };
        let delivery = match self.worker.router.route(&job.next_hop) {
            Ok(delivery) => delivery,
            Err(refusal) if refusal.is_transient() => return self.dead(refusal),
            Err(refusal) => return self.unused(self.all(&Settled::Failed(refusal))),
        };
        let now = self.now();
        // The time may have passed since it was claimed.
        if let Some(refusal) = too_late(message, now) {
            return self.unused(self.all(&Settled::Failed(refusal)));
        }
        let envelope = job.envelope(&passed_on(message, now));
        let read = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&read);
        let (spool, lease) = (Arc::clone(&self.worker.spool), self.leased.lease);
        let body = body.inspect(move |_| {
            seen.store(true, Ordering::Relaxed);
            if spool.may_finish(lease) { Ok(()) } else { Err(Truncated("the job may be somebody else's by now")) }
        });
        let transaction = Transaction { session: SessionInfo::local("queue"), envelope, body };
        match tokio::time::timeout(self.worker.settings.attempt, delivery.deliver(transaction)).await {
            Ok(Ok(outcome)) => self.judge(outcome, Feedback::Answered),
            Ok(Err(error)) => {
                let refusal = reply_for(&error);
                let before_content = !read.load(Ordering::Relaxed) || is_connect_error(&*error);
                match (refusal.is_transient(), before_content) {
                    (true, true) => self.dead(refusal),
                    (true, false) => self.deferred(&refusal, Feedback::Troubled),
                    (false, _) => self.unused(self.all(&Settled::Failed(refusal))),
                }
            }
            Err(_) => {
                let late = Refusal::fixed(451, (4, 4, 2), "the attempt took too long and was ended here");
                self.deferred(&late, Feedback::Troubled)
            }
        }
    }

    /// The next hop was not reached: that says nothing of this message, which stays due. If its time is over, this was
    /// its last chance.
    fn dead(&self, refusal: Refusal) -> Done {
        let settlement = if self.now() >= self.leased.job.expires {
            self.all(&Settled::Failed(expired(&refusal)))
        } else {
            self.all(&Settled::Deferred(refusal.clone()))
        };
        Done { feedback: Feedback::Dead(refusal), ..self.unused(settlement) }
    }

    fn deferred(&self, refusal: &Refusal, feedback: Feedback) -> Done {
        self.judge(Outcome::all(Err(refusal.clone()), self.leased.job.waiting().count()), feedback)
    }

    /// What an answer makes of each recipient: after the lifetime there is no later.
    fn judge(&self, outcome: Outcome, feedback: Feedback) -> Done {
        let (job, now) = (&self.leased.job, self.now());
        let mut answers = outcome.into_results().into_iter();
        let (mut results, mut successes) = (Vec::new(), Vec::new());
        for n in job.waiting() {
            let answer = answers.next().unwrap_or_else(|| Err(Refusal::fixed(451, (4, 3, 0), "no answer was given")));
            let settled = match answer {
                Ok(receipt) => {
                    let told = job.recipients.get(n).and_then(|recipient| self.success(&recipient.rcpt, &receipt));
                    successes.extend(told.map(|kind| (n, kind)));
                    Settled::Delivered(match receipt.claim() {
                        Ground::Relayed(reply) => reply.reply().to_string(),
                        Ground::Stored | Ground::Discarded => receipt.reply().to_string(),
                    })
                }
                Err(refusal) if !refusal.is_transient() => Settled::Failed(refusal),
                Err(refusal) if now >= job.expires => Settled::Failed(expired(&refusal)),
                Err(refusal) => Settled::Deferred(refusal),
            };
            results.push((n, settled));
        }
        let due = self.worker.settings.schedule.retry_at(job.id, job.attempts + 1, now, job.expires);
        Done { settlement: Settlement { results, attempted: true, due, ..self.nothing() }, successes, feedback }
    }

    /// What the sender is to be told now that this recipient was served; nothing, if it did not ask for that, or the next
    /// hop tells.
    fn success(&self, rcpt: &Rcpt, receipt: &Receipt) -> Option<Kind> {
        let omitted = receipt.omitted();
        match receipt.claim() {
            Ground::Stored | Ground::Discarded => Kind::Delivered.is_wanted(rcpt).then_some(Kind::Delivered),
            // RFC 3461 §5.2.2
            Ground::Relayed(_) if omitted.dsn && Kind::Relayed.is_wanted(rcpt) => Some(Kind::Relayed),
            Ground::Relayed(_) => {
                // RFC 2852 §4.1.4: unless nothing at all is to be told.
                let parameters = &self.leased.message.mail.parameters;
                let traced = parameters.get::<DeliverBy>().is_some_and(DeliverBy::trace);
                let may = rcpt.parameters.get::<Notify>() != Some(Notify::NEVER);
                ((omitted.deliver_by || traced) && may).then_some(Kind::Relayed)
            }
        }
    }

    /// Counts what became of the recipients, and writes a line for each into the log.
    fn report(&self, settlement: &Settlement, notices: &[crate::MessageId]) {
        let Leased { job, message, .. } = &self.leased;
        let counters = &self.worker.counters;
        let delay = self.now().duration_since(message.accepted).unwrap_or_default().as_secs_f64();
        // To the millisecond.
        let delay = (delay * 1e3).round() / 1e3;
        for (n, settled) in &settlement.results {
            let Some(recipient) = job.recipients.get(*n) else { continue };
            let (counter, reply, what) = match settled {
                // Those that it stands for are counted.
                Settled::Delivered(reply) if expansion::is_owed(&recipient.rcpt) => (None, reply.clone(), "expanded"),
                Settled::Delivered(reply) => (Some(&counters.delivered), reply.clone(), "delivered"),
                Settled::Failed(refusal) => (Some(&counters.failed), refusal.to_string(), "bounced"),
                Settled::Deferred(refusal) => (Some(&counters.deferred), refusal.to_string(), "deferred"),
            };
            if let Some(counter) = counter {
                Counters::add(counter, 1);
            }
            let (to, reply) = (safe(&recipient.rcpt.to), safe(&crate::job::answer(reply)));
            let (to, reply, next_hop) = (to.as_str(), reply.as_str(), job.next_hop.as_str());
            tracing::info!(id = %job.id, to, next_hop, delay, reply, "{what}");
        }
        for notice in notices {
            let to = safe(&message.mail.from);
            tracing::info!(id = %job.id, notice = %notice, to = to.as_str(), "a notice to the sender was queued");
        }
    }
}

/// What others said, as it may stand in a log.
fn safe(text: &impl ToString) -> String {
    smtp_core::types::printable(text.to_string().as_bytes())
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
