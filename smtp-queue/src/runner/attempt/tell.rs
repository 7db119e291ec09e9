//! Which notices an attempt causes: one of each kind for all recipients that it settles.

use smtp_core::extension::Ret;
use smtp_core::service::{Body, Chunk};
use smtp_core::types::ReversePath;

use super::super::{Counters, STORE_RETRY};
use super::Attempt;
use crate::error::Error;
use crate::job::{NewNotice, RecipientState, Settlement};
use crate::notice::{About, Kind, NOTICE_MAX, Original};
use crate::spool::{Health, Leased};

/// How much of a message is read for the header in a notice, in octets.
const HEADER_MAX: usize = 64 << 10;

/// How often a message is asked for whose store fails and does not say that it is out of order.
const READ_TRIES: u32 = 3;

impl Attempt {
    /// The settlement with the notices that it causes. `successes` are told of as what stands there.
    pub(super) async fn with_notices(&self, mut settlement: Settlement, successes: &[(usize, Kind)]) -> Settlement {
        let job = &self.leased.job;
        let mut after = job.clone();
        after.settle(&settlement);
        if let Some(why) = &self.unreached {
            for recipient in after.recipients.iter_mut().filter(|r| r.state == RecipientState::Waiting) {
                recipient.last.get_or_insert_with(|| crate::job::answer(why));
            }
        }
        let failed = |n: &usize| after.recipients.get(*n).is_some_and(|r| r.state == RecipientState::Failed);
        let failed: Vec<_> = job.waiting().filter(failed).collect();
        let served = |kind| successes.iter().filter(|(_, as_what)| *as_what == kind).map(|(n, _)| *n).collect();
        let groups = [
            (Kind::Failed, failed),
            (Kind::Delayed, settlement.delay_told.clone()),
            (Kind::Delivered, served(Kind::Delivered)),
            (Kind::Relayed, served(Kind::Relayed)),
            (Kind::Expanded, served(Kind::Expanded)),
        ];
        for (kind, recipients) in groups {
            let recipients: Vec<_> = recipients.iter().filter_map(|n| after.recipients.get(*n)).collect();
            // Whether a success is to be told was decided with the answer in hand.
            let wanted = |kind: Kind, rcpt| !matches!(kind, Kind::Failed | Kind::Delayed) || kind.is_wanted(rcpt);
            let told: Vec<_> = recipients.iter().copied().filter(|r| wanted(kind, &r.rcpt)).collect();
            let notice = if told.is_empty() { None } else { self.notice(kind, &after, &told).await };
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

    async fn notice(&self, kind: Kind, job: &crate::Job, recipients: &[&crate::Recipient]) -> Option<NewNotice> {
        let Leased { message, .. } = &self.leased;
        if message.mail.from == ReversePath::Null {
            return None;
        }
        // RFC 3461 §4.3: RET is about notices of failure; all others return the header.
        let full = kind == Kind::Failed
            && message.mail.parameters.get::<Ret>() == Some(Ret::Full)
            && message.size <= NOTICE_MAX as u64;
        let whole = if full { self.whole().await } else { None };
        let header = if whole.is_none() { self.header().await } else { Vec::new() };
        let original = whole.as_deref().map_or(Original::Header(&header), Original::Whole);
        self.worker.notices.notice(&About { kind, message, job, recipients, original, now: self.now() })
    }

    /// The message's content. A store that is out of order is waited for: the settlement cannot do without it either.
    async fn body(&self) -> Result<Body, Error> {
        let spool = &self.worker.spool;
        let mut tries = 0;
        loop {
            tries += 1;
            match spool.body(self.leased.message.id).await {
                Err(error) if error.is_of_the_store() => {
                    if tries >= READ_TRIES && !matches!(spool.health(), Health::Unhealthy(_)) {
                        return Err(error);
                    }
                    tokio::time::sleep(STORE_RETRY).await;
                }
                body => return body,
            }
        }
    }

    /// The message, if it can be read.
    async fn whole(&self) -> Option<Vec<u8>> {
        let mut body = self.body().await.ok()?;
        Some(body.collect(NOTICE_MAX).await.ok()?.0.to_vec())
    }

    /// The header of the message, as far as it can be read.
    async fn header(&self) -> Vec<u8> {
        let Ok(mut body) = self.body().await else { return Vec::new() };
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
