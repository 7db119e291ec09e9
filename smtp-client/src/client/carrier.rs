//! Connections that carry more than one session.

use core::time::Duration;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use smtp_core::extension::Capabilities;
use smtp_core::stream::{self, Address, ByteStream, Connector, Target, TlsPolicy};
use tokio::time::Instant;

use crate::connection::{Own, Reopen, open, reach};
use crate::{Error, Options};

/// Connections on which another stream can be opened. Those that are themselves one stream are not kept here.
#[derive(Default)]
pub(super) struct Carriers {
    all: Mutex<Vec<Arc<Carrier>>>,
    /// Held by who connects while a connection is expected to serve others too: they wait for it instead of making
    /// one each.
    turn: tokio::sync::Mutex<()>,
    /// The last connection carried one stream only, or was not to be had: everybody connects for themselves.
    each_alone: AtomicBool,
}

/// A connection, and how many streams are in use on it.
struct Carrier {
    connection: tokio::sync::Mutex<Box<dyn stream::Connection>>,
    address: Address,
    max: usize,
    used: AtomicUsize,
    /// When a stream was given back last.
    left: Mutex<Instant>,
    /// What the server has said to EHLO last.
    known: Mutex<Option<Capabilities>>,
}

/// A stream's place on its carrier; dropping it makes room for another.
struct Slot(Arc<Carrier>);

#[async_trait]
impl Reopen for Slot {
    async fn reopen(&mut self, options: &Options) -> Result<Box<dyn ByteStream>, Error> {
        let mut connection = self.0.connection.lock().await;
        open(&mut **connection, &self.0.address, options).await
    }

    fn remember(&self, capabilities: &Capabilities) {
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(capabilities.clone());
    }

    fn remembered(&self) -> Option<Capabilities> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Carriers {
    /// A stream to `target`: on a connection that is there and has room, else on a new one. The other thing is what
    /// the stream needs to live.
    pub(super) async fn open(
        &self,
        connector: &dyn Connector,
        target: &Target,
        policy: &TlsPolicy,
        options: &Options,
    ) -> Result<(Box<dyn ByteStream>, Box<dyn Reopen>), Error> {
        loop {
            while let Some(mut slot) = self.reserve() {
                match slot.reopen(options).await {
                    Ok(stream) => return Ok((stream, Box::new(slot))),
                    // It is of no more use: another, or a new one.
                    Err(_) => self.lock().retain(|carrier| !Arc::ptr_eq(carrier, &slot.0)),
                }
            }
            let turn = if self.is_each_alone() { None } else { Some(self.turn.lock().await) };
            // Somebody may have connected meanwhile, or failed to.
            let _turn = match turn {
                Some(_) if self.has_room() => continue,
                Some(turn) if !self.is_each_alone() => Some(turn),
                _ => None,
            };
            let result = self.connect(connector, target, policy, options).await;
            if result.is_err() {
                self.each_alone.store(true, Ordering::Release);
            }
            return result;
        }
    }

    async fn connect(
        &self,
        connector: &dyn Connector,
        target: &Target,
        policy: &TlsPolicy,
        options: &Options,
    ) -> Result<(Box<dyn ByteStream>, Box<dyn Reopen>), Error> {
        let mut connection = reach(connector, target, policy, options).await?;
        let max = connection.max_parallel();
        let stream = open(&mut *connection, &target.address, options).await?;
        self.each_alone.store(max <= 1, Ordering::Release);
        if max <= 1 {
            return Ok((stream, Box::new(Own { connection, address: target.address.clone() })));
        }
        let carrier = Arc::new(Carrier {
            connection: connection.into(),
            address: target.address.clone(),
            max,
            used: AtomicUsize::new(1),
            left: Mutex::new(Instant::now()),
            known: Mutex::default(),
        });
        self.lock().push(Arc::clone(&carrier));
        Ok((stream, Box::new(Slot(carrier))))
    }

    fn is_each_alone(&self) -> bool {
        self.each_alone.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.lock().iter().any(|carrier| carrier.used.load(Ordering::Acquire) < carrier.max)
    }

    /// Drops connections that have had no stream for so long, which closes them; when the next one may be due, if any
    /// is left.
    pub(super) fn drop_unused(&self, idle: Duration) -> Option<Instant> {
        let mut carriers = self.lock();
        let now = Instant::now();
        let due = |carrier: &Carrier| match carrier.used.load(Ordering::Acquire) {
            0 => *carrier.left.lock().unwrap_or_else(PoisonError::into_inner) + idle,
            // One that is in use has all of it before it.
            _ => now + idle,
        };
        carriers.retain(|carrier| due(carrier) > now);
        carriers.iter().map(|carrier| due(carrier)).min()
    }

    /// True if there is no connection that carries more than one stream.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn reserve(&self) -> Option<Slot> {
        let room = |used: usize, max: usize| (used < max).then_some(used + 1);
        let carriers = self.lock();
        let carrier = carriers.iter().find(|carrier| {
            let max = carrier.max;
            carrier.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| room(used, max)).is_ok()
        })?;
        Some(Slot(Arc::clone(carrier)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Carrier>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.used.fetch_sub(1, Ordering::AcqRel);
    }
}
