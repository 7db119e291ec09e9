//! A spool in memory: the model that other stores are held against, and a store for tests.

mod rows;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use smtp_core::service::{Body, Complete, Receipt};
use tokio::sync::Notify;

use crate::engine::{Answer, Engine, Op, StoredBody};
use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Action, NewMessage, Settlement};
use crate::spool::{Claim, Entry, Filter, Health, Lease, Leased, Limits, Page, Spool, Staged, Stats};
use rows::MemRows;

/// A spool that forgets everything when the program ends.
///
/// Its receipts say `discarded`, never `stored`: memory is no stable storage. Clones share everything.
#[derive(Debug, Clone)]
pub struct MemSpool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Mutex<Engine<MemRows>>,
    limits: Limits,
    changed: Arc<Notify>,
}

impl Default for MemSpool {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl MemSpool {
    /// An empty spool.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let engine = Engine::empty(MemRows::default(), limits);
        Self(Arc::new(Shared { engine: Mutex::new(engine), limits, changed: Arc::default() }))
    }

    fn engine(&self) -> MutexGuard<'_, Engine<MemRows>> {
        self.0.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, op: Op) -> Result<Answer, Error> {
        let news = op.is_news();
        let (answers, _) = self.engine().apply(vec![op])?;
        if news {
            self.0.changed.notify_waiters();
        }
        answers.into_iter().next().unwrap_or(Err(Error::Closed))
    }
}

#[async_trait]
impl Spool for MemSpool {
    async fn begin(&self, now: SystemTime, size_hint: Option<u64>) -> Result<Box<dyn Staged>, Error> {
        let limits = self.0.limits;
        if size_hint.is_some_and(|size| size > limits.body) {
            return Err(Error::TooLarge { limit: limits.body });
        }
        let engine = self.engine();
        if engine.stats().messages >= limits.messages {
            return Err(Error::TooMany { limit: limits.messages });
        }
        let id = engine.ids().next(now);
        drop(engine);
        Ok(Box::new(MemStaged { spool: self.clone(), id, now, content: BytesMut::new() }))
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Leased>, Error> {
        self.run(Op::Claim(claim))?.claimed()
    }

    async fn renew(&self, leases: &[Lease], now: SystemTime, until: SystemTime) -> Result<Vec<Lease>, Error> {
        self.run(Op::Renew { leases: leases.to_vec(), now, until })?.lost()
    }

    async fn settle(&self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error> {
        self.run(Op::Settle { lease, now, settlement: Box::new(settlement) })?.settled()
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), Error> {
        self.run(Op::Release(leases.to_vec())).map(drop)
    }

    async fn body(&self, message: MessageId) -> Result<Body, Error> {
        self.engine().rows.body(message).map(Body::from_bytes).ok_or(Error::NotFound)
    }

    async fn next_due(&self, claim: &Claim) -> Result<Option<SystemTime>, Error> {
        self.run(Op::NextDue(claim.clone()))?.due()
    }

    fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.changed)
    }

    async fn list(&self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error> {
        self.run(Op::Scan { filter: Box::new(filter.clone()), after, max })?.page()
    }

    async fn get(&self, message: MessageId) -> Result<Vec<Entry>, Error> {
        let filter = Box::new(Filter::message(message));
        Ok(self.run(Op::Scan { filter, after: None, max: crate::engine::SCAN_MAX })?.page()?.entries)
    }

    async fn control(&self, filter: &Filter, action: Action, now: SystemTime) -> Result<u64, Error> {
        let (mut total, mut after) = (0, None);
        loop {
            let filter = Box::new(filter.clone());
            let (changed, next) = self.run(Op::Control { filter, after, action: action.clone(), now })?.controlled()?;
            total += changed;
            after = next;
            if after.is_none() {
                return Ok(total);
            }
        }
    }

    fn health(&self) -> Health {
        let messages = self.engine().stats().messages;
        if messages < self.0.limits.messages { Health::Ready } else { Health::Full(format!("{messages} messages")) }
    }

    fn stats(&self) -> Stats {
        self.engine().stats()
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), Error> {
        self.run(Op::Expire(now)).map(drop)
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemStaged {
    spool: MemSpool,
    id: MessageId,
    now: SystemTime,
    content: BytesMut,
}

#[async_trait]
impl Staged for MemStaged {
    fn id(&self) -> MessageId {
        self.id
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        let limit = self.spool.0.limits.body;
        if (self.content.len() + data.len()) as u64 > limit {
            return Err(Error::TooLarge { limit });
        }
        self.content.extend_from_slice(&data);
        Ok(())
    }

    async fn commit(self: Box<Self>, complete: Complete, message: NewMessage) -> Result<Receipt, Error> {
        let Self { spool, id, now, content } = *self;
        let content = content.freeze();
        let (size, sum) = (content.len() as u64, crc32fast::hash(&content));
        spool.run(Op::Insert { id, now, size, body: StoredBody::Row { content, sum }, message })?;
        Ok(Receipt::discarded(complete).with_text(format!("queued in memory as {id}")))
    }
}
