//! A message on its way into the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use smtp_core::service::{Complete, Receipt};

use super::PgSpool;
use super::bodies::{self, Writing};
use crate::engine::{Op, StoredBody};
use crate::error::Error;
use crate::id::MessageId;
use crate::job::NewMessage;
use crate::spool::Staged;

/// Octets of content that are in memory at once, over all messages on their way: 256 MiB.
const MEMORY_MAX: u64 = 256 << 20;

/// Content in memory up to what a row takes; beyond it in the store of bodies, if there is one.
#[derive(Debug)]
pub(super) struct PgStaged {
    spool: PgSpool,
    id: MessageId,
    now: SystemTime,
    size: u64,
    held: BytesMut,
    memory: Memory,
    object: Option<Writing>,
}

impl PgStaged {
    pub(super) fn new(spool: PgSpool, id: MessageId, now: SystemTime) -> Self {
        let memory = Memory { all: Arc::clone(&spool.0.staged), mine: 0 };
        Self { spool, id, now, size: 0, held: BytesMut::new(), memory, object: None }
    }

    /// Hands what is held to the store of bodies.
    async fn spill(&mut self) -> Result<(), Error> {
        let Some(store) = self.spool.0.bodies.clone() else { return Ok(()) };
        let mut object = match self.object.take() {
            Some(object) => object,
            None => Writing::create(&*store, self.id).await?,
        };
        object.write(self.held.split().freeze()).await?;
        self.object = Some(object);
        self.memory.release();
        Ok(())
    }
}

#[async_trait]
impl Staged for PgStaged {
    fn id(&self) -> MessageId {
        self.id
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        let limits = self.spool.0.limits;
        self.size += data.len() as u64;
        if self.size > limits.body {
            return Err(Error::TooLarge { limit: limits.body });
        }
        self.memory.take(data.len() as u64)?;
        self.held.extend_from_slice(&data);
        // A row's worth at a time; the first time, this is where it stops being a row.
        if self.held.len() > limits.inline {
            self.spill().await?;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, complete: Complete, message: NewMessage) -> Result<Receipt, Error> {
        if self.object.is_some() {
            self.spill().await?;
        }
        let body = match self.object.take() {
            Some(object) => StoredBody::File(object.seal().await?),
            None => {
                let content = self.held.split().freeze();
                let sum = crc32fast::hash(&content);
                StoredBody::Row { content, sum }
            }
        };
        let is_object = matches!(body, StoredBody::File(_));
        let (id, now, size) = (self.id, self.now, self.size);
        match self.spool.run(Op::Insert { id, now, size, body, message }).await {
            Ok(_) => Ok(Receipt::stored(complete).with_text(format!("queued as {id}"))),
            Err(error) => {
                // After a failure of the store the row may be there all the same, and so must be its body. After a
                // refusal it is not.
                if is_object
                    && matches!(error, Error::Invalid(_) | Error::TooMany { .. })
                    && let Some(store) = &self.spool.0.bodies
                {
                    bodies::remove(&**store, id).await;
                }
                Err(error)
            }
        }
    }
}

/// A part of the memory that content on its way may take.
#[derive(Debug)]
struct Memory {
    all: Arc<AtomicU64>,
    mine: u64,
}

impl Memory {
    fn take(&mut self, octets: u64) -> Result<(), Error> {
        let before = self.all.fetch_add(octets, Ordering::Relaxed);
        self.mine += octets;
        if before + octets > MEMORY_MAX {
            return Err(Error::Full(format!("{MEMORY_MAX} octets of content are on their way already")));
        }
        Ok(())
    }

    fn release(&mut self) {
        self.all.fetch_sub(self.mine, Ordering::Relaxed);
        self.mine = 0;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.release();
    }
}
