//! The queue's time: it follows the wall clock, but never jumps.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time for a queue: starts at the wall clock and then runs by the monotonic one, corrected towards the wall clock by at
/// most a tenth of the time that passed.
///
/// So a wall clock that is set forward by a year expires nothing and starts no storm of retries, and one that is set back
/// stops nothing. What is stored (when a job is due, when it expires) is in this time. After a restart it is the wall
/// clock's again.
pub struct Clock {
    state: Mutex<Option<State>>,
    source: Box<dyn Fn() -> (SystemTime, Instant) + Send + Sync>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    now: SystemTime,
    monotonic: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// A clock that reads the system's.
    #[must_use]
    pub fn new() -> Self {
        Self::with(|| (SystemTime::now(), Instant::now()))
    }

    /// A clock that reads wall and monotonic time from `source`.
    #[must_use]
    pub fn with(source: impl Fn() -> (SystemTime, Instant) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::new(None), source: Box::new(source) }
    }

    /// The queue's time now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let (wall, monotonic) = (self.source)();
        self.observe(wall, monotonic)
    }

    /// The queue's time when the system's clocks show `wall` and `monotonic`.
    pub fn observe(&self, wall: SystemTime, monotonic: Instant) -> SystemTime {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match *state {
            None => wall,
            Some(State { now, monotonic: before }) => {
                let passed = monotonic.saturating_duration_since(before);
                let slew = passed / 10;
                let now = now + passed;
                match wall.duration_since(now) {
                    Ok(behind) => now + behind.min(slew),
                    Err(ahead) => now - ahead.duration().min(slew),
                }
            }
        };
        *state = Some(State { now, monotonic });
        now
    }
}

/// Milliseconds since 1970, as stored.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let clamp = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

/// The time of [`millis`]; what no calendar reaches becomes its end.
pub(crate) fn from_millis(millis: i64) -> SystemTime {
    let duration = Duration::from_millis(millis.unsigned_abs());
    let time = if millis < 0 { UNIX_EPOCH.checked_sub(duration) } else { UNIX_EPOCH.checked_add(duration) };
    time.unwrap_or(UNIX_EPOCH)
}

/// `time + duration`, or `time` where the sum is beyond the calendar.
pub(crate) fn later(time: SystemTime, duration: Duration) -> SystemTime {
    time.checked_add(duration).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    #[test]
    fn a_jump_of_the_wall_clock_is_no_jump_of_the_queue() {
        for jump in [YEAR, Duration::from_secs(3600)] {
            for forward in [true, false] {
                let clock = Clock::new();
                let (wall, start) = (UNIX_EPOCH + YEAR * 57, Instant::now());
                let mut last = clock.observe(wall, start);
                for minute in 1..=60 {
                    let passed = Duration::from_secs(60 * minute);
                    let wall = if forward { wall + passed + jump } else { wall + passed - jump };
                    let now = clock.observe(wall, start + passed);
                    let step = now.duration_since(last).unwrap();
                    assert!((54..=66).contains(&step.as_secs()), "a step of {step:?}");
                    last = now;
                }
            }
        }
    }

    #[test]
    fn drift_is_followed() {
        let clock = Clock::new();
        let (wall, start) = (UNIX_EPOCH + YEAR * 57, Instant::now());
        clock.observe(wall, start);
        let minute = Duration::from_secs(60);
        let drifted = wall + minute + Duration::from_secs(2);
        assert_eq!(clock.observe(drifted, start + minute), drifted);
    }

    #[test]
    fn millis_read_back() {
        for value in [0, 1, -1, 1_800_000_000_123] {
            assert_eq!(millis(from_millis(value)), value);
        }
    }
}
