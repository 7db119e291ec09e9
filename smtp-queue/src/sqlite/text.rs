//! Recipients as they stand in a row: JSON, so that people and `json_each` can read them.

use serde::{Deserialize, Serialize};
use smtp_core::types::{Parameters, Rcpt};

use crate::error::Error;
use crate::job::{Recipient, RecipientState};

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

pub(super) fn write(recipients: &[Recipient]) -> Result<String, Error> {
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
pub(super) fn read(text: &str) -> Option<Vec<Recipient>> {
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

/// A column as text; `None` if it is null or no text.
pub(super) fn column(row: &rusqlite::Row<'_>, n: usize) -> Option<String> {
    row.get(n).ok().flatten()
}
