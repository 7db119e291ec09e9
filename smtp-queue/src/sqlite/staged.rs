//! A message on its way into the store.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use smtp_core::service::{Complete, Receipt};

use super::SqliteSpool;
use super::bodies::{self, Writing};
use super::coming::Arrival;
use crate::engine::{Op, StoredBody};
use crate::error::Error;
use crate::id::MessageId;
use crate::job::NewMessage;
use crate::spool::Staged;

/// Octets for which there is room from the start, since growing costs.
const ROOM: usize = 8 << 10;

/// Content in memory up to what a row takes, in a file beyond it.
#[derive(Debug)]
pub(super) struct SqliteStaged {
    spool: SqliteSpool,
    id: MessageId,
    now: SystemTime,
    size: u64,
    held: BytesMut,
    file: Option<Writing>,
    /// A group may wait for it as long as it is short.
    arrival: Option<Arrival>,
}

impl SqliteStaged {
    pub(super) fn new(spool: SqliteSpool, id: MessageId, now: SystemTime) -> Self {
        let arrival = Some(spool.0.state.coming.one());
        Self { spool, id, now, size: 0, held: BytesMut::new(), file: None, arrival }
    }

    /// Writes what is held to the file, which is made if there is none yet.
    async fn spill(&mut self) -> Result<(), Error> {
        self.arrival = None;
        let (file, held) = (self.file.take(), self.held.split());
        let (disk, id) = (Arc::clone(&self.spool.0.disk), self.id);
        let written = blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => Writing::create(disk, id)?,
            };
            file.write(&held)?;
            Ok(file)
        });
        self.file = Some(written.await?);
        Ok(())
    }

    async fn store_body(&mut self) -> Result<StoredBody, Error> {
        if self.file.is_none() {
            let content = self.held.split().freeze();
            self.spool.0.taking(content.len() as u64);
            let sum = crc32fast::hash(&content);
            return Ok(StoredBody::Row { content, sum });
        }
        self.spill().await?;
        let Some(file) = self.file.take() else { return Err(Error::Closed) };
        let sealed = blocking(move || file.seal()).await;
        if let Err(Error::Storage(reason)) = &sealed {
            self.spool.0.state.poison(reason);
        }
        sealed.map(StoredBody::File)
    }
}

/// Runs `work` in the blocking threads, to its end even if nobody waits any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

#[async_trait]
impl Staged for SqliteStaged {
    fn id(&self) -> MessageId {
        self.id
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        let limits = self.spool.0.limits;
        self.size += data.len() as u64;
        if self.size > limits.body {
            return Err(Error::TooLarge { limit: limits.body });
        }
        if self.held.capacity() == 0 {
            self.held.reserve(data.len().max(ROOM));
        }
        self.held.extend_from_slice(&data);
        // A row's worth at a time; the first time, this is where it stops being a row.
        if self.held.len() > limits.inline {
            self.spool.0.check(self.held.len() as u64)?;
            self.spool.0.taking(self.held.len() as u64);
            self.spill().await?;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, complete: Complete, message: NewMessage) -> Result<Receipt, Error> {
        let body = self.store_body().await?;
        let is_file = matches!(body, StoredBody::File(_));
        let (id, now, size) = (self.id, self.now, self.size);
        let answer = self.spool.ask(Op::Insert { id, now, size, body, message }).await?;
        drop(self.arrival.take());
        let stored = answer.await.unwrap_or(Err(Error::Closed));
        match stored {
            Ok(_) => Ok(Receipt::stored(complete).with_text(format!("queued as {id}"))),
            Err(error) => {
                // After a failure of the store the row may be there all the same, and so must be its file. After a
                // refusal it is not.
                if is_file && matches!(error, Error::Invalid(_) | Error::TooMany { .. }) {
                    let disk = Arc::clone(&self.spool.0.disk);
                    let _ = blocking(move || {
                        bodies::remove(&*disk, id);
                        Ok(())
                    })
                    .await;
                }
                Err(error)
            }
        }
    }
}
