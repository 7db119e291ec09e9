//! A look over the session's shoulder.

use core::time::Duration;

use bytes::BytesMut;
use smtp_core::channel::ChannelInfo;
use smtp_core::types::{Command, printable};
use smtp_core::wire::encode_command;

use crate::Step;

/// What stands in a transcript in the place of a secret.
const REDACTED: &str = "***";
/// The longest line that is shown whole, in octets.
const LINE_MAX: usize = 4096;

/// Told what happens on a connection, as it happens; for transcripts, traces and timings. Each hook does nothing by
/// default and must not block.
///
/// Secrets never come here: what AUTH sends is `***`. Of content only the count is told. Lines have no CRLF, and what
/// is not printable in them is `?`.
pub trait Observer: Send + Sync + 'static {
    /// The channel is open; what it is.
    fn connected(&self, channel: &ChannelInfo) {
        let _ = channel;
    }

    /// STARTTLS has succeeded; what the channel is now.
    fn secured(&self, channel: &ChannelInfo) {
        let _ = channel;
    }

    /// A line is being sent.
    fn sent(&self, line: &str) {
        let _ = line;
    }

    /// A line was read, before anything is made of it.
    fn received(&self, line: &str) {
        let _ = line;
    }

    /// So many octets of content are being sent, dots of DATA not counted.
    fn content(&self, octets: usize) {
        let _ = octets;
    }

    /// A step is over, whatever its result, and took so long: from its octets being written, or from the reply before
    /// it in a group, to its reply.
    fn finished(&self, step: Step, took: Duration) {
        let _ = (step, took);
    }
}

/// The line of `command`, for a transcript.
pub(crate) fn transcript(command: &Command) -> String {
    let mut line = BytesMut::new();
    match command {
        Command::Response(_) => return REDACTED.into(),
        Command::Auth { mechanism, initial: Some(_) } => return format!("AUTH {mechanism} {REDACTED}"),
        _ => encode_command(command, &mut line),
    }
    printable(line.strip_suffix(b"\r\n").unwrap_or(&line))
}

/// A raw line that starts AUTH, for a transcript: whatever follows the mechanism may be a secret.
pub(crate) fn redact_auth(line: &str) -> String {
    let mut words = line.split(' ');
    let shown: Vec<&str> = words.by_ref().take(2).collect();
    let mut shown = shown.join(" ");
    if words.next().is_some() {
        shown.push(' ');
        shown.push_str(REDACTED);
    }
    shown
}

/// Cuts what is read into lines for the observer, with bounded memory.
#[derive(Debug, Default)]
pub(crate) struct LineTap(Vec<u8>);

impl LineTap {
    pub(crate) fn read(&mut self, octets: &[u8], mut line: impl FnMut(&str)) {
        for piece in octets.split_inclusive(|b| *b == b'\n') {
            let room = LINE_MAX.saturating_sub(self.0.len());
            self.0.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                let whole = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
                let whole = whole.strip_suffix(b"\r").unwrap_or(whole);
                line(&printable(whole));
                self.0.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::types::Secret;

    #[test]
    fn secrets_do_not_show() {
        let auth = Command::Auth { mechanism: "PLAIN".into(), initial: Some(Secret::new(*b"hunter2")) };
        assert_eq!(transcript(&auth), "AUTH PLAIN ***");
        assert_eq!(transcript(&Command::Response(Secret::new(*b"hunter2"))), "***");
        assert_eq!(transcript(&Command::Noop), "NOOP");
        assert_eq!(redact_auth("auth plain aHVudGVyMg== x"), "auth plain ***");
        assert_eq!(redact_auth("AUTH LOGIN"), "AUTH LOGIN");
    }

    #[test]
    fn lines_are_whole_printable_and_bounded() {
        let (mut tap, mut lines) = (LineTap::default(), Vec::new());
        for piece in [&b"220 a\r"[..], b"\n250 \x1b[2J\r\nre", b"st"] {
            tap.read(piece, |line| lines.push(line.to_owned()));
        }
        assert_eq!(lines, ["220 a", "250 ?[2J"]);
        tap.read(&vec![b'x'; 1 << 20], |_| {});
        assert!(tap.0.len() <= LINE_MAX);
    }
}
