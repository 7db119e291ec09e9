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
    /// The server wants no more streams on it.
    full: AtomicBool,
    /// When a stream was given back last.
    left: Mutex<Instant>,
    /// What the server has said to EHLO last.
    known: Mutex<Option<Capabilities>>,
}

/// A stream's place on its carrier; dropping it makes room for another.
struct Slot {
    carrier: Arc<Carrier>,
    /// The carrier was there before.
    reused: bool,
}

#[async_trait]
impl Reopen for Slot {
    async fn reopen(&mut self, options: &Options) -> Result<Box<dyn ByteStream>, Error> {
        let mut connection = self.carrier.connection.lock().await;
        open(&mut **connection, &self.carrier.address, options).await
    }

    fn forsake(&self) -> bool {
        self.carrier.full.store(true, Ordering::Release);
        self.reused
    }

    fn remember(&self, capabilities: &Capabilities) {
        *self.carrier.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(capabilities.clone());
    }

    fn remembered(&self) -> Option<Capabilities> {
        self.carrier.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
                    Err(_) => self.lock().retain(|carrier| !Arc::ptr_eq(carrier, &slot.carrier)),
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
            full: AtomicBool::new(false),
            left: Mutex::new(Instant::now()),
            known: Mutex::default(),
        });
        self.lock().push(Arc::clone(&carrier));
        Ok((stream, Box::new(Slot { carrier, reused: false })))
    }

    fn is_each_alone(&self) -> bool {
        self.each_alone.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        let has_room = |carrier: &Carrier| carrier.used.load(Ordering::Acquire) < carrier.max;
        self.lock().iter().any(|carrier| !carrier.is_full() && has_room(carrier))
    }

    /// Drops connections that have had no stream for so long, which closes them; when the next one may be due, if any
    /// is left.
    pub(super) fn drop_unused(&self, idle: Duration) -> Option<Instant> {
        let mut carriers = self.lock();
        let now = Instant::now();
        let due = |carrier: &Carrier| match carrier.used.load(Ordering::Acquire) {
            0 if carrier.is_full() => now,
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
        let carrier = carriers.iter().filter(|carrier| !carrier.is_full()).find(|carrier| {
            let max = carrier.max;
            carrier.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| room(used, max)).is_ok()
        })?;
        Some(Slot { carrier: Arc::clone(carrier), reused: true })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Carrier>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier {
    fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.carrier.left.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.carrier.used.fetch_sub(1, Ordering::AcqRel);
    }
}
