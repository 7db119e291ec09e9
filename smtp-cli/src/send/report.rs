//! What is told at the end: for people, and in JSON.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use serde::Serialize;
use smtp_client::Step;
use smtp_core::channel::TlsInfo;
use smtp_core::types::ReversePath;

use super::recorder::Seen;
use super::verdict::Recipient;
use crate::exit::{Exit, Failure};
use crate::transcript::{reply_style, tls_line};
use crate::url::Url;

/// All there is to tell.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Where it went.
    pub(super) server: Option<Url>,
    /// The sender.
    pub(super) from: Option<ReversePath>,
    /// What became of each recipient.
    pub(super) recipients: Vec<Recipient>,
    /// What the session was like.
    pub(super) seen: Seen,
    /// The size of the message, in octets.
    pub(super) octets: usize,
    /// What ended it early, and at which step of the session, if there was one.
    pub(super) error: Option<(Option<Step>, Failure)>,
}

impl Report {
    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        let worst = self.recipients.iter().fold(Exit::Success, |worst, recipient| worst.worst(recipient.exit));
        match &self.error {
            Some((_, failure)) => failure.exit(),
            None => worst,
        }
    }

    /// For people: each recipient, then the time that each step took.
    pub(super) fn print(&self) {
        // Whoever closes the pipe has seen enough.
        let _ = self.write(&mut anstream::stdout().lock());
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for recipient in self.recipients.iter().filter(|recipient| !recipient.unsent) {
            let reply = recipient.reply.as_ref().map(ToString::to_string).unwrap_or_default();
            let style = reply_style(&reply);
            writeln!(out, "{style}{:9}{style:#} {}  {reply}", recipient.status(), recipient.to)?;
        }
        if let Some(channel) = &self.seen.channel {
            let dim = Style::new().dimmed();
            // Where it went wrong the facts may be of half a session.
            if let (Some(server), None) = (&self.server, &self.error) {
                let tls = channel.tls.as_deref().map_or_else(|| "in clear".to_owned(), tls_line);
                writeln!(out, "{dim}{server}, {tls}{dim:#}")?;
            }
            writeln!(out, "{dim}{}{dim:#}", timing(&self.seen.steps))?;
        }
        Ok(())
    }

    /// For programs: one JSON object on standard output.
    pub(super) fn print_json(&self) {
        let mut text = serde_json::to_string_pretty(&self.json()).unwrap_or_default();
        text.push('\n');
        let _ = io::stdout().write_all(text.as_bytes());
    }

    fn json(&self) -> Json<'_> {
        let exit = self.exit();
        Json {
            server: self.server.as_ref().map(ToString::to_string),
            result: exit.class(),
            exit: exit.code(),
            from: self.from.as_ref().map(|from| from.mailbox().map_or("", |mailbox| mailbox.as_str())),
            recipients: self
                .recipients
                .iter()
                .map(|recipient| JsonRecipient {
                    to: recipient.to.as_str(),
                    status: recipient.status(),
                    code: recipient.reply.as_ref().map(|reply| reply.code().get()),
                    enhanced: recipient.reply.as_ref().and_then(|reply| Some(reply.enhanced()?.to_string())),
                    text: recipient.reply.as_ref().map(|reply| reply.text()),
                    stage: recipient.stage,
                })
                .collect(),
            steps: self.seen.steps.iter().map(|(step, took)| JsonStep { step: name(*step), ms: ms(*took) }).collect(),
            peer: self.seen.channel.as_ref().map(|channel| channel.peer.to_string()),
            tls: self.seen.channel.as_ref().and_then(|channel| channel.tls.as_deref()).map(JsonTls::of),
            octets: self.octets,
            error: self.error.as_ref().map(|(step, failure)| JsonError {
                step: step.map_or("setup", name),
                class: failure.exit().class(),
                text: failure.what(),
                help: failure.advice(),
            }),
        }
    }
}

/// `connect 0.2 ms, ehlo 0.1 ms …`, equal neighbours added up.
fn timing(steps: &[(Step, Duration)]) -> String {
    let mut sums: Vec<(&str, Duration)> = Vec::new();
    for (step, took) in steps {
        match sums.last_mut() {
            Some((last, sum)) if *last == name(*step) => *sum += *took,
            _ => sums.push((name(*step), *took)),
        }
    }
    let total: Duration = steps.iter().map(|(_, took)| *took).sum();
    let mut parts: Vec<String> = sums.iter().map(|(step, took)| format!("{step} {}", shown(*took))).collect();
    parts.push(format!("all {}", shown(total)));
    parts.join(", ")
}

fn shown(took: Duration) -> String {
    let ms = ms(took);
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// Milliseconds, to the microsecond.
fn ms(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The step's name in JSON and on the screen; part of the stable form.
const fn name(step: Step) -> &'static str {
    match step {
        Step::Connect => "connect",
        Step::Greeting => "greeting",
        Step::Hello => "ehlo",
        Step::StartTls => "starttls",
        Step::Tls => "tls",
        Step::Auth => "auth",
        Step::Mail => "mail",
        Step::Rcpt => "rcpt",
        Step::Data => "data",
        Step::Content => "content",
        Step::EndOfContent => "accept",
        Step::Reset => "rset",
        Step::Noop => "noop",
        Step::Verify => "vrfy",
        Step::Expand => "expn",
        Step::Help => "help",
        Step::Quit => "quit",
        Step::Other => "other",
        Step::Idle => "idle",
    }
}

/// The documented form; see `smtp send --help`.
#[derive(Serialize)]
struct Json<'a> {
    server: Option<String>,
    result: &'static str,
    exit: u8,
    from: Option<&'a str>,
    recipients: Vec<JsonRecipient<'a>>,
    steps: Vec<JsonStep>,
    peer: Option<String>,
    tls: Option<JsonTls<'a>>,
    octets: usize,
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct JsonRecipient<'a> {
    to: &'a str,
    status: &'static str,
    code: Option<u16>,
    enhanced: Option<String>,
    text: Option<&'a str>,
    stage: Option<&'static str>,
}

#[derive(Serialize)]
struct JsonStep {
    step: &'static str,
    ms: f64,
}

#[derive(Serialize)]
struct JsonTls<'a> {
    version: &'a str,
    cipher: &'a str,
    group: Option<&'a str>,
    alpn: Option<&'a str>,
    verified: bool,
    resumed: bool,
    pin: Option<String>,
}

impl<'a> JsonTls<'a> {
    fn of(tls: &'a TlsInfo) -> Self {
        let leaf = tls.peer_certificates.first();
        Self {
            version: tls.version,
            cipher: &tls.cipher,
            group: tls.group.as_deref(),
            alpn: tls.alpn.as_deref(),
            verified: tls.verified,
            resumed: tls.resumed,
            pin: leaf.and_then(|leaf| smtp_tls::Pin::of_certificate(leaf).ok()).map(|pin| pin.to_string()),
        }
    }
}

#[derive(Serialize)]
struct JsonError<'a> {
    step: &'static str,
    class: &'static str,
    text: &'a str,
    help: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::types::{Mailbox, Reply};

    fn report() -> Report {
        let to = |name: &str| Mailbox::new(name).unwrap();
        let decided = |name, reply, exit| Recipient {
            to: to(name),
            reply: Some(reply),
            stage: Some("rcpt"),
            exit,
            unsent: false,
        };
        Report {
            server: "smtp://127.0.0.1:25".parse().ok(),
            from: Some(ReversePath::Null),
            recipients: vec![
                decided("a@x", Reply::fixed(250, (2, 0, 0), "stored"), Exit::Success),
                decided("b@x", Reply::fixed(550, (5, 1, 1), "no\nsuch"), Exit::Refused),
                Recipient::unsent(to("c@x")),
            ],
            seen: Seen {
                steps: vec![
                    (Step::Connect, Duration::from_micros(1_500)),
                    (Step::Rcpt, Duration::from_millis(10)),
                    (Step::Rcpt, Duration::from_millis(20)),
                ],
                ..Seen::default()
            },
            octets: 7,
            error: None,
        }
    }

    #[test]
    fn json_always_has_every_key_and_every_recipient() {
        let json = serde_json::to_value(report().json()).unwrap();
        assert_eq!(json["exit"], 67);
        assert_eq!(json["result"], "refused");
        assert_eq!(json["from"], "");
        let recipients = json["recipients"].as_array().unwrap();
        let status: Vec<_> = recipients.iter().map(|r| r["status"].as_str().unwrap()).collect();
        assert_eq!(status, ["accepted", "refused", "unsent"]);
        assert_eq!(recipients[1]["code"], 550);
        assert_eq!(recipients[1]["enhanced"], "5.1.1");
        assert!(recipients[2]["code"].is_null());
        assert_eq!(json["steps"][0], serde_json::json!({"step": "connect", "ms": 1.5}));
        for key in ["peer", "tls", "error"] {
            assert!(json.as_object().unwrap().contains_key(key), "{key}");
        }
    }

    #[test]
    fn an_error_outweighs_what_recipients_got() {
        let mut report = report();
        report.error = Some((Some(Step::Rcpt), Failure::new(Exit::Protocol, "RCPT: nonsense")));
        assert_eq!(report.exit(), Exit::Protocol);
        let json = serde_json::to_value(report.json()).unwrap();
        assert_eq!(json["error"]["step"], "rcpt");
        assert_eq!(json["error"]["class"], "protocol");
    }

    #[test]
    fn people_see_each_recipient_on_a_line() {
        let mut page = anstream::StripStream::new(Vec::new());
        report().write(&mut page).unwrap();
        let text = String::from_utf8(page.into_inner()).unwrap();
        assert_eq!(text, "accepted  a@x  250 2.0.0 stored\nrefused   b@x  550 5.1.1 no / such\n");
        assert_eq!(timing(&report().seen.steps), "connect 1.5 ms, rcpt 30 ms, all 32 ms");
    }
}
