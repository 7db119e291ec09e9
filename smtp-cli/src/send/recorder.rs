//! Remembers what a session was like, for the report.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smtp_client::{Observer, Step};
use smtp_core::channel::ChannelInfo;

use crate::transcript::Transcript;

/// Looks on, writes a transcript if there is one, and keeps what the report needs.
#[derive(Debug)]
pub(super) struct Recorder {
    transcript: Option<Transcript>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: Seen,
    /// Codes of replies that were read and not yet attributed to a step.
    codes: VecDeque<u16>,
    /// When the last thing happened; steps that nobody times begin here.
    last: Instant,
}

/// What was seen of a session.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The channel, as it was last.
    pub(super) channel: Option<ChannelInfo>,
    /// Each step with its time, in order.
    pub(super) steps: Vec<(Step, Duration)>,
    /// The code of the reply to MAIL.
    pub(super) mail: Option<u16>,
    /// Each line of RCPT that was sent.
    pub(super) asked: Vec<String>,
    /// The codes of the replies to them.
    pub(super) answers: Vec<u16>,
    /// Whether any content was sent.
    pub(super) content: bool,
}

impl Recorder {
    pub(super) fn new(transcript: Option<Transcript>) -> Self {
        Self { transcript, state: Mutex::new(State::new()) }
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// Forgets what was seen: what counts begins now.
    pub(super) fn begin(&self) {
        *self.lock() = State::new();
    }

    /// A remark in the transcript.
    pub(super) fn note(&self, text: impl std::fmt::Display) {
        if let Some(transcript) = &self.transcript {
            transcript.note(text);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step that only its end is known of.
    fn ended(&self, step: Step, channel: &ChannelInfo) {
        let mut state = self.lock();
        let now = Instant::now();
        let took = now.duration_since(state.last);
        state.last = now;
        state.seen.steps.push((step, took));
        state.seen.channel = Some(channel.clone());
    }
}

impl State {
    fn new() -> Self {
        Self { seen: Seen::default(), codes: VecDeque::new(), last: Instant::now() }
    }

    /// What was said on a stream before counts no more: it was early data that the server did not take.
    fn on_a_new_stream(&mut self) {
        self.codes.clear();
        let Seen { channel, steps, .. } = std::mem::take(&mut self.seen);
        self.seen = Seen { channel, steps, ..Seen::default() };
    }
}

impl Observer for Recorder {
    fn connected(&self, channel: &ChannelInfo) {
        self.lock().on_a_new_stream();
        self.ended(Step::Connect, channel);
        if let Some(transcript) = &self.transcript {
            transcript.connected(channel);
        }
    }

    fn secured(&self, channel: &ChannelInfo) {
        self.ended(Step::Tls, channel);
        if let Some(transcript) = &self.transcript {
            transcript.secured(channel);
        }
    }

    fn sent(&self, line: &str) {
        if line.starts_with("RCPT ") {
            self.lock().seen.asked.push(line.to_owned());
        }
        if let Some(transcript) = &self.transcript {
            transcript.sent(line);
        }
    }

    fn received(&self, line: &str) {
        if let Some(code) = last_line_code(line) {
            self.lock().codes.push_back(code);
        }
        if let Some(transcript) = &self.transcript {
            transcript.received(line);
        }
    }

    fn content(&self, octets: usize) {
        self.lock().seen.content = true;
        if let Some(transcript) = &self.transcript {
            transcript.content(octets);
        }
    }

    fn finished(&self, step: Step, took: Duration) {
        let mut state = self.lock();
        state.last = Instant::now();
        state.seen.steps.push((step, took));
        match (step, state.codes.pop_front()) {
            (Step::Mail, code) => state.seen.mail = code,
            (Step::Rcpt, Some(code)) => state.seen.answers.push(code),
            _ => {}
        }
    }
}

/// The code of a reply's last line; `None` for the others.
fn last_line_code(line: &str) -> Option<u16> {
    let (code, rest) = line.split_at_checked(3)?;
    if rest.starts_with('-') { None } else { code.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_find_their_step_though_they_come_in_one_read() {
        let recorder = Recorder::new(None);
        for line in ["MAIL FROM:<a@b>", "RCPT TO:<x@y>", "RCPT TO:<z@y>", "DATA"] {
            recorder.sent(line);
        }
        for line in ["250-2.1.0 fine", "250 2.1.0 fine", "550 5.1.1 no", "250", "354 go"] {
            recorder.received(line);
        }
        for step in [Step::Mail, Step::Rcpt, Step::Rcpt, Step::Data] {
            recorder.finished(step, Duration::ZERO);
        }
        let seen = recorder.seen();
        assert_eq!(seen.mail, Some(250));
        assert_eq!(seen.asked, ["RCPT TO:<x@y>", "RCPT TO:<z@y>"]);
        assert_eq!(seen.answers, [550, 250]);
        assert_eq!(seen.steps.len(), 4);
    }

    #[test]
    fn a_step_without_reply_takes_none_from_the_next() {
        let recorder = Recorder::new(None);
        recorder.finished(Step::Mail, Duration::ZERO);
        recorder.received("550 late");
        assert_eq!(recorder.seen().mail, None);
    }
}
