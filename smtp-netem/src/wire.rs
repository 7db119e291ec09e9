//! The threads that carry packets from one TUN device to another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tun_rs::{InterruptEvent, SyncDevice};

use crate::link::{Counters, DropReason, Fate, Link};
use crate::nat::Nat;
use crate::packet::Layout;
use crate::shape::Shape;
use crate::trace::{Direction, Event};

/// The largest IP packet.
const LARGEST: usize = 0xffff;
/// Packets under way in one direction; what comes on top is dropped. With delay and no rate nothing else bounds them.
const MAX_UNDER_WAY: usize = 100_000;

/// What both directions share.
pub(crate) struct Shared {
    pub(crate) start: Instant,
    pub(crate) nat: Mutex<Nat>,
    pub(crate) trace: Mutex<Trace>,
}

/// The last packets, up to a limit.
pub(crate) struct Trace {
    pub(crate) limit: usize,
    pub(crate) events: Vec<Event>,
}

/// One direction: a thread that reads, and one that writes in time.
pub(crate) struct Wire {
    lane: Arc<Lane>,
    threads: Vec<JoinHandle<()>>,
}

struct Lane {
    direction: Direction,
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
    stop: InterruptEvent,
}

struct State {
    link: Link,
    /// By arrival, and by the order of sending where that is the same.
    under_way: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>,
    number: u64,
    stopped: bool,
}

impl Wire {
    pub(crate) fn start(
        direction: Direction,
        link: Link,
        shared: &Arc<Shared>,
        from: &Arc<SyncDevice>,
        to: &Arc<SyncDevice>,
    ) -> io::Result<Self> {
        let state = State { link, under_way: BinaryHeap::new(), number: 0, stopped: false };
        let lane = Arc::new(Lane {
            direction,
            shared: Arc::clone(shared),
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop: InterruptEvent::new()?,
        });
        let mut wire = Self { lane: Arc::clone(&lane), threads: Vec::new() };
        let (reading, from) = (Arc::clone(&lane), Arc::clone(from));
        wire.threads.push(thread::Builder::new().name("netem-in".into()).spawn(move || reading.read(&from))?);
        let to = Arc::clone(to);
        wire.threads.push(thread::Builder::new().name("netem-out".into()).spawn(move || lane.write(&to))?);
        Ok(wire)
    }

    pub(crate) fn set_shape(&self, shape: Shape) {
        self.lane.lock().link.set_shape(shape);
    }

    pub(crate) fn reseed(&self, seed: u64) {
        self.lane.lock().link.reseed(seed);
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lane.lock().link.counters()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.lane.lock().stopped = true;
        self.lane.changed.notify_all();
        // Without it the reader would wait for a packet; the device's end is the second chance.
        let _ = self.lane.stop.trigger();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, device: &SyncDevice) {
        let mut buffer = vec![0; LARGEST];
        loop {
            let Ok(n) = device.recv_intr(&mut buffer, &self.stop) else {
                // Asked to stop, or the device is gone.
                return;
            };
            let at = self.shared.start.elapsed();
            // The kernel's own chatter (IPv6) is no part of the experiment, and must not take its draws.
            if Layout::of(&buffer[..n]).is_some() {
                self.offer(at, buffer[..n].to_vec());
            }
        }
    }

    fn offer(&self, at: Duration, mut packet: Vec<u8>) {
        let mut nat = self.shared.nat.lock().unwrap_or_else(PoisonError::into_inner);
        let what = Layout::of(&packet).map(|layout| layout.describe(&packet));
        let mut known = true;
        match self.direction {
            Direction::AToB => nat.outbound(&mut packet),
            Direction::BToA => known = nat.inbound(&mut packet),
        }
        drop(nat);
        let what = match self.direction {
            Direction::AToB => Layout::of(&packet).map(|layout| layout.describe(&packet)),
            Direction::BToA => what,
        };
        let octets = packet.len();
        let mut state = self.lock();
        let mut fate = state.link.offer(at, &packet);
        if let Fate::Arrives(when) = fate {
            fate = match () {
                () if !known => state.link.take_back(DropReason::NoSuchPort),
                () if state.under_way.len() >= MAX_UNDER_WAY => state.link.take_back(DropReason::QueueFull),
                () => {
                    state.number += 1;
                    let number = state.number;
                    state.under_way.push(Reverse((when, number, packet)));
                    self.changed.notify_one();
                    fate
                }
            };
        }
        drop(state);
        let mut trace = self.shared.trace.lock().unwrap_or_else(PoisonError::into_inner);
        if trace.events.len() < trace.limit {
            let what = what.unwrap_or_default();
            trace.events.push(Event { at, direction: self.direction, octets, what, fate });
        }
    }

    fn write(&self, device: &SyncDevice) {
        let mut state = self.lock();
        while !state.stopped {
            let now = self.shared.start.elapsed();
            let Some(Reverse((when, ..))) = state.under_way.peek() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if let Some(early) = when.checked_sub(now).filter(|early| !early.is_zero()) {
                state = self.changed.wait_timeout(state, early).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if let Some(Reverse((_, _, packet))) = state.under_way.pop() {
                drop(state);
                let taken = device.send(&packet);
                state = self.lock();
                if taken.is_err() {
                    state.link.take_back(DropReason::NotTaken);
                }
            }
        }
    }
}
