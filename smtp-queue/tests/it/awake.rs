//! A spool whose calls take no virtual time, though a real disk is under it.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_core::service::{Body, Complete, Receipt};
use smtp_queue::{
    Action, Claim, Entry, Error, Filter, Health, JobId, Lease, Leased, MessageId, NewMessage, Page, Settlement, Spool,
    Staged, Stats,
};
use tokio::sync::Notify;

/// Tokio's paused clock runs on when every task waits, for another thread too; not while a blocking task is there.
async fn awake<T>(work: impl Future<Output = T>) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let keeps_awake = tokio::task::spawn_blocking(move || wait.recv());
    let result = work.await;
    drop(done);
    let _ = keeps_awake.await;
    result
}

#[derive(Debug)]
pub(crate) struct Awake(pub(crate) Arc<dyn Spool>);

#[async_trait]
impl Spool for Awake {
    async fn begin(&self, now: SystemTime, size_hint: Option<u64>) -> Result<Box<dyn Staged>, Error> {
        Ok(Box::new(AwakeStaged(awake(self.0.begin(now, size_hint)).await?)))
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Leased>, Error> {
        awake(self.0.claim(claim)).await
    }

    async fn renew(&self, leases: &[Lease], now: SystemTime, until: SystemTime) -> Result<Vec<Lease>, Error> {
        awake(self.0.renew(leases, now, until)).await
    }

    async fn settle(&self, lease: Lease, now: SystemTime, settlement: Settlement) -> Result<Vec<MessageId>, Error> {
        awake(self.0.settle(lease, now, settlement)).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), Error> {
        awake(self.0.release(leases)).await
    }

    async fn body(&self, message: MessageId) -> Result<Body, Error> {
        awake(self.0.body(message)).await
    }

    async fn next_due(&self, claim: &Claim) -> Result<Option<SystemTime>, Error> {
        awake(self.0.next_due(claim)).await
    }

    fn changed(&self) -> Arc<Notify> {
        self.0.changed()
    }

    async fn list(&self, filter: &Filter, after: Option<JobId>, max: usize) -> Result<Page, Error> {
        awake(self.0.list(filter, after, max)).await
    }

    async fn get(&self, message: MessageId) -> Result<Vec<Entry>, Error> {
        awake(self.0.get(message)).await
    }

    async fn control(&self, filter: &Filter, action: Action, now: SystemTime) -> Result<u64, Error> {
        awake(self.0.control(filter, action, now)).await
    }

    fn health(&self) -> Health {
        self.0.health()
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), Error> {
        awake(self.0.maintain(now)).await
    }

    async fn close(&self) -> Result<(), Error> {
        awake(self.0.close()).await
    }
}

#[derive(Debug)]
struct AwakeStaged(Box<dyn Staged>);

#[async_trait]
impl Staged for AwakeStaged {
    fn id(&self) -> MessageId {
        self.0.id()
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        awake(self.0.write(data)).await
    }

    async fn commit(self: Box<Self>, complete: Complete, message: NewMessage) -> Result<Receipt, Error> {
        awake(self.0.commit(complete, message)).await
    }
}
