//! ETRN: a host that was away asks for the mail that waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use smtp_core::extension::EtrnNode;
use smtp_queue::{Action, Clock, Entry, Error, Filter, Hops, MessageId, NextHop, Spool, Status};
use smtp_server::policy::{StartQueue, Started};

/// How many jobs are read at once.
const PAGE: usize = 200;

/// The queue, as ETRN starts it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) spool: Arc<dyn Spool>,
    pub(super) clock: Arc<Clock>,
    pub(super) hops: Hops,
}

#[async_trait]
impl StartQueue for Waiting {
    async fn start(&self, node: &EtrnNode) -> Started {
        match self.release(node).await {
            Ok(0) => Started::Nothing,
            Ok(jobs) => Started::Messages(u32::try_from(jobs).unwrap_or(u32::MAX)),
            Err(error) => {
                tracing::warn!(%node, %error, "ETRN: the queue cannot be started");
                Started::Unable
            }
        }
    }
}

impl Waiting {
    /// Makes all that waits for `node` due, and gives how many jobs that are.
    async fn release(&self, node: &EtrnNode) -> Result<u64, Error> {
        // How an address ends, as a forward-path is written.
        let ends = match node {
            EtrnNode::Host(host) => vec![format!("@{host}>")],
            EtrnNode::Domain(domain) => vec![format!("@{domain}>"), format!(".{domain}>")],
            EtrnNode::Queue(_) => vec![],
        };
        let mut jobs = 0;
        for end in ends {
            let filter = Filter { recipient: Some(end), status: Some(Status::Waiting), ..Filter::default() };
            let (next_hops, held, ready) = self.look(&filter).await?;
            // Before the jobs become due, so that the runner finds their next hops alive.
            for next_hop in &next_hops {
                self.hops.revive(Some(next_hop));
            }
            let now = self.clock.now();
            if held == 0 {
                jobs += self.spool.control(&filter, Action::RetryAt(now), now).await?;
                continue;
            }
            for message in ready {
                let filter = Filter { message: Some(message), ..filter.clone() };
                jobs += self.spool.control(&filter, Action::RetryAt(now), now).await?;
            }
        }
        tracing::info!(%node, jobs, "ETRN started the queue");
        Ok(jobs)
    }

    /// Where the jobs go, how many of them are held for their senders, and the messages of the others.
    async fn look(&self, filter: &Filter) -> Result<(BTreeSet<NextHop>, usize, BTreeSet<MessageId>), Error> {
        let (mut next_hops, mut held, mut ready, mut after) = (BTreeSet::new(), 0, BTreeSet::new(), None);
        loop {
            let page = self.spool.list(filter, after, PAGE).await?;
            for entry in page.entries {
                if self.is_held(&entry) {
                    held += 1;
                } else {
                    next_hops.insert(entry.job.next_hop);
                    ready.insert(entry.job.id.message);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok((next_hops, held, ready));
            }
        }
    }

    /// True if its sender does not want it to leave yet (RFC 4865): nobody else can change that.
    fn is_held(&self, entry: &Entry) -> bool {
        let parameters = &entry.message.mail.parameters;
        let asked = parameters.value("HOLDFOR").or(parameters.value("HOLDUNTIL")).is_some();
        asked && entry.job.attempts == 0 && entry.job.due > self.clock.now()
    }
}
