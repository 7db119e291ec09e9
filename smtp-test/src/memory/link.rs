//! The two directions of a channel, and who waits for what.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::knobs::{Cut, CutHow, Knobs};
use crate::Side;

/// Both directions of one channel. They share a lock, because a reset breaks both.
#[derive(Debug)]
pub(super) struct Link(Mutex<Both>);

#[derive(Debug)]
struct Both {
    from_client: Lane,
    from_server: Lane,
    /// A reset: nothing can be written any more; what has arrived can be read.
    broken: bool,
    harsh: bool,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    segments: VecDeque<Segment>,
    /// Octets in `segments`.
    held: usize,
    capacity: usize,
    latency: Duration,
    cut: Option<Cut>,
    /// Octets that went in, those behind a cut included.
    passed: u64,
    end: Option<End>,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Octets that arrive together.
#[derive(Debug)]
struct Segment {
    at: Option<Instant>,
    octets: BytesMut,
}

#[derive(Debug, Clone, Copy)]
struct End {
    at: Option<Instant>,
    /// The writer said so itself; otherwise it went away, or the channel was cut.
    clean: bool,
}

/// What a read found.
#[derive(Debug)]
pub(super) enum Found {
    Octets,
    End {
        clean: bool,
    },
    /// Something arrives then.
    At(Instant),
    /// The reader is registered.
    Nothing,
}

impl Link {
    pub(super) fn new(knobs: &Knobs) -> Self {
        let lane = |cut: Option<Cut>| Lane {
            segments: VecDeque::new(),
            held: 0,
            capacity: knobs.capacity.max(1),
            latency: knobs.latency,
            cut,
            passed: 0,
            end: None,
            reader_gone: false,
            reader: None,
            writer: None,
        };
        let mut both = Both {
            from_client: lane(knobs.from_client),
            from_server: lane(knobs.from_server),
            broken: false,
            harsh: knobs.harsh_close,
        };
        // A cut before the first octet takes effect without one.
        both.cut(Side::Client);
        both.cut(Side::Server);
        Self(Mutex::new(both))
    }

    fn lock(&self) -> MutexGuard<'_, Both> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up to `room` octets that the other side of `side` has sent.
    pub(super) fn read(&self, side: Side, buf: &mut ReadBuf<'_>, room: usize, cx: &Context<'_>) -> io::Result<Found> {
        let mut both = self.lock();
        let broken = both.broken;
        let lane = both.lane(side.other());
        if let Some(segment) = lane.segments.front_mut() {
            if let Some(at) = segment.at.filter(|at| *at > Instant::now()) {
                return Ok(Found::At(at));
            }
            let n = room.min(segment.octets.len());
            buf.put_slice(&segment.octets[..n]);
            segment.octets.advance(n);
            if segment.octets.is_empty() {
                lane.segments.pop_front();
            }
            lane.held -= n;
            wake(&mut lane.writer);
            return Ok(Found::Octets);
        }
        if broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match lane.end {
            Some(End { at: Some(at), .. }) if at > Instant::now() => Ok(Found::At(at)),
            Some(End { clean, .. }) => Ok(Found::End { clean }),
            None => {
                lane.reader = Some(cx.waker().clone());
                Ok(Found::Nothing)
            }
        }
    }

    /// Sends octets from `side`.
    pub(super) fn poll_write(&self, side: Side, octets: &[u8], cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let mut both = self.lock();
        if both.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let lane = both.lane(side);
        if lane.reader_gone || lane.end.is_some_and(|end| end.clean) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = octets.len().min(lane.capacity - lane.held);
        if n == 0 && !octets.is_empty() {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // Behind a cut octets vanish.
        let before_cut = lane.cut.map_or(u64::MAX, |cut| cut.after.saturating_sub(lane.passed));
        let arriving = n.min(usize::try_from(before_cut).unwrap_or(usize::MAX));
        lane.push(&octets[..arriving]);
        lane.passed += n as u64;
        both.cut(side);
        Poll::Ready(Ok(n))
    }

    /// `side` sends no more.
    pub(super) fn finish(&self, side: Side) {
        self.lock().lane(side).finish(true);
    }

    /// `side` went away.
    pub(super) fn leave(&self, side: Side) {
        let mut both = self.lock();
        if both.harsh && both.lane(side.other()).held > 0 {
            drop(both);
            return self.abort(side);
        }
        both.lane(side).finish(false);
        let inbound = both.lane(side.other());
        inbound.reader_gone = true;
        inbound.segments.clear();
        inbound.held = 0;
        wake(&mut inbound.writer);
    }

    /// `side` breaks the channel; what it sent and nobody read is lost.
    pub(super) fn abort(&self, side: Side) {
        let mut both = self.lock();
        let outbound = both.lane(side);
        outbound.segments.clear();
        outbound.held = 0;
        both.break_off();
    }
}

impl Both {
    const fn lane(&mut self, from: Side) -> &mut Lane {
        match from {
            Side::Client => &mut self.from_client,
            Side::Server => &mut self.from_server,
        }
    }

    /// Lets the cut of what `from` sends take effect if it has come to that.
    fn cut(&mut self, from: Side) {
        let lane = self.lane(from);
        match lane.cut {
            Some(Cut { after, how }) if lane.passed >= after => match how {
                CutHow::Eof => lane.finish(false),
                CutHow::Reset => self.break_off(),
            },
            _ => {}
        }
    }

    fn break_off(&mut self) {
        self.broken = true;
        for lane in [&mut self.from_client, &mut self.from_server] {
            wake(&mut lane.reader);
            wake(&mut lane.writer);
        }
    }
}

impl Lane {
    /// When what is sent now arrives. Without latency the clock is left alone.
    fn arrival(&self) -> Option<Instant> {
        (!self.latency.is_zero()).then(|| Instant::now() + self.latency)
    }

    fn push(&mut self, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        let at = self.arrival();
        self.held += octets.len();
        match self.segments.back_mut() {
            Some(last) if last.at == at => last.octets.extend_from_slice(octets),
            _ => self.segments.push_back(Segment { at, octets: octets.into() }),
        }
        wake(&mut self.reader);
    }

    fn finish(&mut self, clean: bool) {
        if self.end.is_none() {
            self.end = Some(End { at: self.arrival(), clean });
            wake(&mut self.reader);
        }
    }
}

fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}
