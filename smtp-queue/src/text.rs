//! What rows of all databases hold alike: recipients as JSON, so that people and databases can read them, and checksums.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};
use smtp_core::types::{Parameters, Rcpt};

use crate::clock::millis;
use crate::error::Error;
use crate::job::{Job, Message, Recipient, RecipientState, Status};

#[derive(Serialize, Deserialize)]
struct Text<'a> {
    to: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    parameters: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "State::is_waiting")]
    state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    delay_told: bool,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Waiting,
    Delivered,
    Failed,
}

impl State {
    // serde hands a reference.
    fn is_waiting(&self) -> bool {
        *self == Self::Waiting
    }
}

pub(crate) fn write(recipients: &[Recipient]) -> Result<String, Error> {
    let texts: Vec<_> = recipients
        .iter()
        .map(|recipient| Text {
            to: recipient.rcpt.to.to_string().into(),
            parameters: recipient.rcpt.parameters.as_str().into(),
            state: match recipient.state {
                RecipientState::Waiting => State::Waiting,
                RecipientState::Delivered => State::Delivered,
                RecipientState::Failed => State::Failed,
            },
            last: recipient.last.as_deref().map(Into::into),
            delay_told: recipient.delay_told,
        })
        .collect();
    serde_json::to_string(&texts).map_err(|_| Error::Invalid("recipients that cannot be written"))
}

/// `None` if it is not what was written.
pub(crate) fn read(text: &str) -> Option<Vec<Recipient>> {
    let texts: Vec<Text<'_>> = serde_json::from_str(text).ok()?;
    let recipient = |text: Text<'_>| {
        let parameters = Parameters::new(&text.parameters).ok()?;
        let state = match text.state {
            State::Waiting => RecipientState::Waiting,
            State::Delivered => RecipientState::Delivered,
            State::Failed => RecipientState::Failed,
        };
        let (rcpt, last) = (Rcpt { to: text.to.parse().ok()?, parameters }, text.last.map(Into::into));
        Some(Recipient { rcpt, state, last, delay_told: text.delay_told })
    };
    texts.into_iter().map(recipient).collect()
}

/// How a status stands in a row.
pub(crate) const fn status_number(status: Status) -> i64 {
    match status {
        Status::Waiting => 0,
        Status::Held => 1,
        Status::Quarantined => 2,
    }
}

/// The checksum of a message's row.
pub(crate) fn message_sum(message: &Message, body_sum: u32) -> u32 {
    let Message { id, accepted, mail, sender, size } = message;
    let (from, parameters, accepted) = (&mail.from, mail.parameters.as_str(), millis(*accepted));
    sum(format_args!("{id}\n{accepted}\n{from}\n{parameters}\n{sender}\n{size}\n{body_sum}"))
}

/// The checksum of a job's row: all of it but how it stands, which may change where the rest cannot be read.
pub(crate) fn job_sum(job: &Job, recipients: &str) -> u32 {
    let Job { id, next_hop, priority, turn, attempts, give_up, cancelled, .. } = job;
    let (due, alarm, expires) = (millis(job.due), millis(job.alarm), millis(job.expires));
    sum(format_args!(
        "{id}\n{next_hop}\n{priority}\n{turn}\n{due}\n{alarm}\n{expires}\n{attempts}\n{give_up}\n{cancelled}\n{recipients}"
    ))
}

/// A checksum of what is written, which needs no place.
#[derive(Default)]
struct Sum(crc32fast::Hasher);

impl Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn sum(text: fmt::Arguments<'_>) -> u32 {
    let mut sum = Sum::default();
    // It takes everything.
    let _ = sum.write_fmt(text);
    sum.0.finalize()
}
