//! What a sender asks of the time of its message, by parameters of MAIL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smtp_core::extension::{ByMode, DeliverBy, HoldFor, HoldUntil, Priority};
use smtp_core::types::{Mail, Refusal};

use crate::clock::later;
use crate::job::Message;
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
        let due = released(mail, now);
        let (mut alarm, mut expires) = (later(due, schedule.delay_notice), later(due, schedule.lifetime));
        match deadline(mail, now) {
            // To be returned when it is late.
            Some((deadline, ByMode::Return)) => expires = expires.min(deadline),
            // To be told of when it is late.
            Some((deadline, ByMode::Notify)) => alarm = deadline.max(now),
            None => {}
        }
        // Of a notice nobody is told anything (RFC 5321 §4.5.5).
        alarm = if mail.from.mailbox().is_none() { expires } else { alarm.min(expires) };
        let priority = mail.parameters.get::<Priority>().unwrap_or_default().get();
        Self { due, alarm, expires, priority }
    }
}

/// When a message that was accepted at `accepted` may leave first: its sender may want it held.
pub(crate) fn released(mail: &Mail, accepted: SystemTime) -> SystemTime {
    let hold_for = || mail.parameters.get::<HoldFor>().map(|hold| Duration::from_secs(hold.seconds().into()));
    let hold_until = || {
        let seconds = u64::try_from(mail.parameters.get::<HoldUntil>()?.unix()).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?.duration_since(accepted).ok()
    };
    later(accepted, hold_for().or_else(hold_until).unwrap_or_default().min(HOLD_MAX))
}

/// By when its sender wants it delivered (RFC 2852), and what is to happen then.
pub(crate) fn deadline(mail: &Mail, accepted: SystemTime) -> Option<(SystemTime, ByMode)> {
    let by = mail.parameters.get::<DeliverBy>()?;
    let seconds = Duration::from_secs(by.seconds().unsigned_abs().into());
    let deadline = match by.seconds() {
        0.. => later(accepted, seconds),
        _ => accepted.checked_sub(seconds).unwrap_or(accepted),
    };
    Some((deadline, by.mode()))
}

/// Why the message must not go on at `now`: its sender wants it back by then (`BY=…;R`), delivered or not.
pub(crate) fn too_late(message: &Message, now: SystemTime) -> Option<Refusal> {
    match deadline(&message.mail, message.accepted)? {
        (deadline, ByMode::Return) if now >= deadline => {
            Some(Refusal::fixed(554, (5, 4, 7), "the time in which its sender wanted it delivered is over (DELIVERBY)"))
        }
        _ => None,
    }
}

/// What the next hop is asked at `now`: what was asked here, but for what is done here, and less the time that it took.
pub(crate) fn passed_on(message: &Message, now: SystemTime) -> Mail {
    let mut mail = message.mail.clone();
    mail.parameters = mail.parameters.without("HOLDFOR").without("HOLDUNTIL");
    if let Some(by) = mail.parameters.get::<DeliverBy>() {
        let spent = now.duration_since(message.accepted).unwrap_or_default().as_secs();
        let left = by.after(u32::try_from(spent).unwrap_or(u32::MAX));
        // One of mode R whose time is over is not passed on at all.
        mail.parameters = left.and_then(|left| mail.parameters.with(&left).ok()).unwrap_or(mail.parameters);
    }
    mail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::at;
    use smtp_core::types::{Mailbox, Parameters, ReversePath};

    const HOUR: u64 = 3_600;

    fn mail(parameters: &str) -> Mail {
        Mail { from: Mailbox::new("jo@a.example").unwrap().into(), parameters: Parameters::new(parameters).unwrap() }
    }

    fn terms(parameters: &str) -> Terms {
        Terms::of(&mail(parameters), &Schedule::default(), at(0))
    }

    fn message(parameters: &str) -> Message {
        let id = crate::id::Ids::after(0).next(at(0));
        Message { id, accepted: at(0), mail: mail(parameters), sender: "jo".into(), size: 9 }
    }

    #[test]
    fn without_parameters_it_is_the_schedule() {
        let expected = Terms { due: at(0), alarm: at(4 * HOUR), expires: at(120 * HOUR), priority: 0 };
        assert_eq!(terms(""), expected);
        assert_eq!(terms("HOLDFOR=x BY=soon MT-PRIORITY=high"), expected);
        assert_eq!(terms("BY=-5;R MT-PRIORITY=-12"), expected, "the session refuses these");
    }

    #[test]
    fn held_mail_leaves_later_and_lives_as_long() {
        assert_eq!(terms("HOLDFOR=600").due, at(600));
        assert_eq!(terms("HOLDFOR=600").expires, at(600 + 120 * HOUR));
        // 1,800,000,000 s after 1970.
        assert_eq!(terms("HOLDUNTIL=2027-01-15T08:10:00Z").due, at(600));
        assert_eq!(terms("HOLDUNTIL=2020-01-15T08:00:00Z").due, at(0));
        assert_eq!(terms("HOLDFOR=999999999").due, at(30 * 24 * HOUR));
    }

    #[test]
    fn a_deadline_is_kept() {
        assert_eq!(terms("BY=7200;R").expires, at(2 * HOUR));
        assert_eq!((terms("BY=7200;NT").alarm, terms("BY=7200;NT").expires), (at(2 * HOUR), at(120 * HOUR)));
        assert_eq!(terms("BY=-7200;N").alarm, at(0), "late already");
        assert_eq!(too_late(&message("BY=7200;R"), at(2 * HOUR - 1)), None);
        assert!(too_late(&message("BY=7200;R"), at(2 * HOUR)).is_some());
        assert_eq!(too_late(&message("BY=7200;N"), at(9 * HOUR)), None);
    }

    #[test]
    fn the_next_hop_is_asked_for_what_is_left() {
        let asked = |parameters, now| passed_on(&message(parameters), now).parameters.to_string();
        assert_eq!(asked("BY=7200;RT HOLDFOR=9 RET=HDRS", at(100)), "RET=HDRS BY=7100;RT");
        assert_eq!(asked("BY=60;N MT-PRIORITY=3", at(100)), "MT-PRIORITY=3 BY=-40;N");
        assert_eq!(asked("HOLDUNTIL=2027-01-15T08:10:00Z ENVID=x", at(900)), "ENVID=x");
    }

    #[test]
    fn ranks_and_notices() {
        assert_eq!(terms("MT-PRIORITY=6").priority, 6);
        assert_eq!(terms("MT-PRIORITY=-9").priority, -9);
        let mail = Mail::new(ReversePath::Null);
        let terms = Terms::of(&mail, &Schedule::default(), at(0));
        assert_eq!(terms.alarm, terms.expires, "no delay notice for a notice");
    }
}
