//! What a sender asks of the time of its message, by parameters of MAIL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smtp_core::types::Mail;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::later;
use crate::scheduler::Schedule;

/// When a message may leave, when its sender is told that it takes long, when it is given up, and how it ranks.
///
/// Parameters that are not there or make no sense have no effect: the session has checked those that it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Not before: HOLDFOR or HOLDUNTIL (RFC 4865).
    pub due: SystemTime,
    /// The time of a delay notice, or that of giving up where none is to be sent.
    pub alarm: SystemTime,
    /// When to give up: the lifetime of the schedule, counted from `due`, or earlier by `BY=…;R` (RFC 2852).
    pub expires: SystemTime,
    /// MT-PRIORITY (RFC 6710), 0 if there is none.
    pub priority: i8,
}

/// The longest that a message is held for its sender: 30 days.
const HOLD_MAX: Duration = Duration::from_secs(30 * 86_400);

impl Terms {
    /// The terms of a message that was accepted at `now`.
    #[must_use]
    pub fn of(mail: &Mail, schedule: &Schedule, now: SystemTime) -> Self {
        let value = |keyword| mail.parameters.value(keyword).flatten();
        let hold_for = value("HOLDFOR").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let hold_until = value("HOLDUNTIL").and_then(moment).and_then(|time| time.duration_since(now).ok());
        let hold = hold_for.or(hold_until).unwrap_or_default();
        let due = later(now, hold.min(HOLD_MAX));
        let (mut alarm, mut expires) = (later(due, schedule.delay_notice), later(due, schedule.lifetime));
        if let Some((time, mode)) = value("BY").and_then(by) {
            let deadline = later(now, time);
            match mode {
                // To be returned when it is late.
                Mode::Return => expires = expires.min(deadline),
                // To be told of when it is late.
                Mode::Notify => alarm = deadline,
            }
        }
        // Of a notice nobody is told anything (RFC 5321 §4.5.5).
        alarm = if mail.from.mailbox().is_none() { expires } else { alarm.min(expires) };
        let priority = value("MT-PRIORITY").and_then(|n| n.parse().ok()).unwrap_or(0_i8).clamp(-9, 9);
        Self { due, alarm, expires, priority }
    }
}

enum Mode {
    Return,
    Notify,
}

/// `by-value = by-time ";" by-mode [by-trace]` (RFC 2852 §4). A time that has passed is now.
fn by(value: &str) -> Option<(Duration, Mode)> {
    let (time, mode) = value.split_once(';')?;
    let mode = match mode.chars().next()? {
        'R' | 'r' => Mode::Return,
        'N' | 'n' => Mode::Notify,
        _ => return None,
    };
    let seconds: i64 = time.parse().ok()?;
    Some((Duration::from_secs(u64::try_from(seconds).unwrap_or_default()), mode))
}

/// An Internet date-time (RFC 4865 §3, RFC 3339).
fn moment(value: &str) -> Option<SystemTime> {
    let time = OffsetDateTime::parse(value, &Rfc3339).ok()?;
    let seconds = u64::try_from(time.unix_timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::at;
    use smtp_core::types::{Mailbox, Parameters, ReversePath};

    const HOUR: u64 = 3_600;

    fn terms(parameters: &str) -> Terms {
        let from = Mailbox::new("jo@a.example").unwrap();
        let mail = Mail { from: from.into(), parameters: Parameters::new(parameters).unwrap() };
        Terms::of(&mail, &Schedule::default(), at(0))
    }

    #[test]
    fn without_parameters_it_is_the_schedule() {
        let expected = Terms { due: at(0), alarm: at(4 * HOUR), expires: at(120 * HOUR), priority: 0 };
        assert_eq!(terms(""), expected);
        assert_eq!(terms("HOLDFOR=x BY=soon MT-PRIORITY=high"), expected);
    }

    #[test]
    fn held_mail_leaves_later_and_lives_as_long() {
        assert_eq!(terms("HOLDFOR=600").due, at(600));
        assert_eq!(terms("HOLDFOR=600").expires, at(600 + 120 * HOUR));
        // 1,800,000,000 s after 1970.
        assert_eq!(terms("HOLDUNTIL=2027-01-15T08:10:00Z").due, at(600));
        assert_eq!(terms("HOLDUNTIL=2020-01-15T08:00:00Z").due, at(0));
        assert_eq!(terms("HOLDFOR=99999999999").due, at(30 * 24 * HOUR));
    }

    #[test]
    fn a_deadline_is_kept() {
        assert_eq!(terms("BY=7200;R").expires, at(2 * HOUR));
        assert_eq!(terms("BY=-5;R").expires, at(0));
        assert_eq!((terms("BY=7200;NT").alarm, terms("BY=7200;NT").expires), (at(2 * HOUR), at(120 * HOUR)));
    }

    #[test]
    fn ranks_and_notices() {
        assert_eq!(terms("MT-PRIORITY=6").priority, 6);
        assert_eq!(terms("MT-PRIORITY=-12").priority, -9);
        let mail = Mail::new(ReversePath::Null);
        let terms = Terms::of(&mail, &Schedule::default(), at(0));
        assert_eq!(terms.alarm, terms.expires, "no delay notice for a notice");
    }
}
