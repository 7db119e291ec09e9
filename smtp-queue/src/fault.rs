//! A spool that fails when it is told to.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::service::{Body, Complete, Receipt};
use tokio::sync::Notify;

use crate::error::Error;
use crate::id::{JobId, MessageId};
use crate::job::{Action, NewMessage, Settlement};
use crate::spool::{Claim, Entry, Filter, Health, Lease, Leased, Page, Spool, Staged, Stats};

/// What is asked of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Spool::begin`].
    Begin,
    /// [`Staged::write`].
    Write,
    /// [`Staged::commit`].
    Commit,
    /// [`Spool::claim`].
    Claim,
    /// [`Spool::renew`].
    Renew,
    /// [`Spool::settle`].
    Settle,
    /// [`Spool::release`].
    Release,
    /// [`Spool::body`].
    Body,
    /// [`Spool::next_due`].
    NextDue,
    /// [`Spool::list`].
    List,
    /// [`Spool::get`].
    Get,
    /// [`Spool::control`].
    Control,
    /// [`Spool::maintain`].
    Maintain,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens, and this is said.
    Before(Error),
    /// It happens, and this is said all the same: the answer is lost.
    After(Error),
}

type Plan = dyn Fn(Call) -> Option<Fault> + Send + Sync;

/// A spool around another that fails as a plan says: for tests of what uses spools.
#[derive(Clone)]
pub struct FaultSpool {
    inner: Arc<dyn Spool>,
    plan: Arc<Plan>,
}

impl FaultSpool {
    /// `plan` is asked at every call; `None` lets it pass.
    #[must_use]
    pub fn new(inner: Arc<dyn Spool>, plan: impl Fn(Call) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self { inner, plan: Arc::new(plan) }
    }
}

impl fmt::Debug for FaultSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultSpool").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Does `work` unless the plan says otherwise.
async fn under<T>(plan: &Plan, call: Call, work: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
    match plan(call) {
        None => work.await,
        Some(Fault::Before(error)) => Err(error),
        Some(Fault::After(error)) => work.await.and(Err(error)),
    }
}

#[async_trait]
impl Spool for FaultSpool {
    async fn begin(&self, now: SystemTime, size_hint: Option<u64>) -> Result<Box<dyn Staged>, Error> {
        let inner = under(&*self.plan, Call::Begin, self.inner.begin(now, size_hint)).await?;
        Ok(Box::new(FaultStaged { inner, plan: Arc::clone(&self.plan) }))
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Leased>, Error> {
        under(&*self.plan, Call::Claim, self.inner.claim(claim)).await
    }

    async fn renew(&self, leases: &[Lease], now: SystemTime, until: SystemTime) -> Result<Vec<Lease>, Error> {
        under(&*self.plan, Call::Renew, self.inner.renew(leases, now, until)).await
    }

    fn may_finish(&self, lease: Lease) -> bool {
        self.inner.may_finish(lease)
    }

    async fn settle(&self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error> {
        under(&*self.plan, Call::Settle, self.inner.settle(lease, now, settlement)).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), Error> {
        under(&*self.plan, Call::Release, self.inner.release(leases)).await
    }

    async fn body(&self, message: MessageId) -> Result<Body, Error> {
        under(&*self.plan, Call::Body, self.inner.body(message)).await
    }

    async fn next_due(&self, claim: &Claim) -> Result<Option<SystemTime>, Error> {
        under(&*self.plan, Call::NextDue, self.inner.next_due(claim)).await
    }

    fn changed(&self) -> Arc<Notify> {
        self.inner.changed()
    }

    async fn list(&self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error> {
        under(&*self.plan, Call::List, self.inner.list(filter, after, max)).await
    }

    async fn get(&self, message: MessageId) -> Result<Vec<Entry>, Error> {
        under(&*self.plan, Call::Get, self.inner.get(message)).await
    }

    async fn control(&self, filter: &Filter, action: Action, now: SystemTime) -> Result<u64, Error> {
        under(&*self.plan, Call::Control, self.inner.control(filter, action, now)).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), Error> {
        under(&*self.plan, Call::Maintain, self.inner.maintain(now)).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}

struct FaultStaged {
    inner: Box<dyn Staged>,
    plan: Arc<Plan>,
}

impl fmt::Debug for FaultStaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStaged").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl Staged for FaultStaged {
    fn id(&self) -> MessageId {
        self.inner.id()
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        under(&*self.plan, Call::Write, self.inner.write(data)).await
    }

    async fn commit(self: Box<Self>, complete: Complete, message: NewMessage) -> Result<Receipt, Error> {
        under(&*self.plan, Call::Commit, self.inner.commit(complete, message)).await
    }
}
