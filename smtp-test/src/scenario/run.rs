//! Playing the client.

use std::time::Duration;

use smtp_core::extension::Capabilities;
use smtp_core::session::server::Protocol;
use smtp_core::stream::ByteStream;

use super::reply::{differs, expected};
use super::{Got, Matching, Mismatch, Need, Scenario, Step, What};
use crate::Side;
use crate::recorder::{Recorder, Transcript};
use crate::talk::Talk;

/// Plays the client of `scenario` on `io`, which leads to a server that has just been connected to.
///
/// # Errors
/// [`Mismatch`] if the server does not keep to it.
pub async fn run(scenario: &Scenario, io: Box<dyn ByteStream>) -> Result<Report, Mismatch> {
    Runner::default().run(scenario, io).await
}

/// What came of a scenario.
#[derive(Debug)]
#[must_use]
pub enum Report {
    /// The other side kept to it; this is what was said.
    Passed(Transcript),
    /// It was not played, or not to its end, for this reason.
    Skipped(String),
}

impl Report {
    /// True unless it was skipped.
    #[must_use]
    pub const fn has_passed(&self) -> bool {
        matches!(self, Self::Passed(_))
    }
}

/// How a client is played.
#[derive(Debug, Clone)]
pub struct Runner {
    wait: Duration,
    matching: Matching,
    /// What the server is known to be like; `None`: all that a file may ask for.
    properties: Option<Vec<String>>,
    /// What it speaks; `None`: what the file is about.
    protocol: Option<Protocol>,
}

impl Default for Runner {
    fn default() -> Self {
        Self { wait: Duration::from_secs(30), matching: Matching::Text, properties: None, protocol: None }
    }
}

impl Runner {
    /// How long to wait for the server at each step. Default: 30 s; servers answer slowly on purpose when a client
    /// makes errors.
    #[must_use]
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How closely replies have to be what the file says. Default: word for word.
    #[must_use]
    pub const fn matching(mut self, matching: Matching) -> Self {
        self.matching = matching;
        self
    }

    /// The server has these properties and no others, as lines `SERVER` name them; files that ask for others are
    /// skipped. Default: all that any file asks for.
    #[must_use]
    pub fn properties(mut self, properties: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.properties = Some(properties.into_iter().map(Into::into).collect());
        self
    }

    /// The server speaks this protocol; files about the other one are skipped. Default: whatever the files are about.
    #[must_use]
    pub const fn speaking(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// As [`run`].
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run(&self, scenario: &Scenario, io: Box<dyn ByteStream>) -> Result<Report, Mismatch> {
        let channel = io.info();
        if let Some(reason) = scenario.unmet(&channel).or_else(|| self.lacks(scenario)) {
            return Ok(Report::Skipped(reason));
        }
        let (recorder, transcript) = Recorder::new(io, Side::Client);
        let mut client = Client {
            talk: Talk::new(Box::new(recorder), self.wait),
            scenario,
            midway: false,
            ahead: Vec::new(),
            judged: scenario.keywords().next().is_none(),
            greeted: false,
            matching: self.matching,
        };
        match client.play(&scenario.steps_on(&channel)).await {
            Ok(None) => Ok(Report::Passed(transcript)),
            Ok(Some(reason)) => Ok(Report::Skipped(reason)),
            Err((step, got)) => Err(Mismatch::new(scenario, step, got, &transcript)),
        }
    }

    /// Why the scenario is not for this server, if so.
    fn lacks(&self, scenario: &Scenario) -> Option<String> {
        match self.protocol {
            Some(Protocol::Smtp) if scenario.is_lmtp() => return Some("only for a server that speaks LMTP".into()),
            Some(Protocol::Lmtp) if !scenario.is_lmtp() => return Some("only for a server that speaks SMTP".into()),
            _ => {}
        }
        let have = self.properties.as_ref()?;
        let missing = scenario.properties().find(|property| !have.iter().any(|have| have == property))?;
        Some(format!("only for a server with {missing}"))
    }
}

struct Client<'a> {
    talk: Talk,
    scenario: &'a Scenario,
    /// The last line was not the last of its reply.
    midway: bool,
    /// Lines that were read before their turn, the next one last.
    ahead: Vec<Vec<u8>>,
    /// NEEDS and WITHOUT have been looked at.
    judged: bool,
    /// EHLO was sent.
    greeted: bool,
    matching: Matching,
}

/// A reason to stop early, or the step that failed.
type Played<'a> = Result<Option<String>, (&'a Step, Got)>;

impl<'a> Client<'a> {
    async fn play(&mut self, all: &[&'a Step]) -> Played<'a> {
        let mut steps = all.iter().copied().peekable();
        while let Some(step) = steps.next() {
            let at = |got| (step, got);
            match &step.what {
                What::ClientLine(_) | What::ClientRaw(_) => {
                    let mut octets = step.what.client_octets().unwrap_or_default();
                    while let Some(more) = steps.peek().and_then(|next| next.what.client_octets()) {
                        octets.extend_from_slice(&more);
                        steps.next();
                    }
                    self.greeted |= says_ehlo(&octets);
                    if !may_be_early(&octets) {
                        self.talk.confirmed().await.map_err(at)?;
                    }
                    self.talk.send(&octets).await.map_err(at)?;
                }
                What::ServerLine(_) | What::ServerMaybe(_) if self.matching != Matching::Text => {
                    let rest = all.get(all.len() - steps.len()..).unwrap_or_default();
                    let expected = expected(step, rest);
                    for _ in 1..expected.len() {
                        steps.next();
                    }
                    if let Some(reason) = self.reply(&expected).await? {
                        return Ok(Some(reason));
                    }
                }
                What::ServerLine(pattern) => {
                    if let Some(reason) = self.judge().await.map_err(at)? {
                        return Ok(Some(reason));
                    }
                    let line = self.line().await.map_err(at)?;
                    if !pattern.matches(&line) {
                        return Err((step, Got::Octets(line)));
                    }
                }
                What::ServerMaybe(pattern) => match self.line().await {
                    Ok(line) if pattern.matches(&line) => {}
                    Ok(line) => return Err((step, Got::Octets(line))),
                    Err(Got::Closed(rest)) if rest.is_empty() => {}
                    Err(Got::Broken(_)) => {}
                    Err(got) => return Err((step, got)),
                },
                What::ServerRest { without } => {
                    let next = steps.peek().and_then(|next| match &next.what {
                        What::ServerLine(pattern) => Some((*next, pattern)),
                        _ => None,
                    });
                    let mut found = false;
                    while self.midway && !found {
                        let line = self.line().await.map_err(at)?;
                        found = next.is_some_and(|(_, pattern)| pattern.matches(&line));
                        if !found && without.as_ref().is_some_and(|keyword| is_about(&line, keyword)) {
                            return Err((step, Got::Octets(line)));
                        }
                    }
                    if found {
                        steps.next();
                    } else if let Some((next, pattern)) = next
                        && pattern.is_within_reply()
                    {
                        return Err((next, Got::EndOfReply));
                    }
                }
                What::ServerRaw(expected) => {
                    let octets = self.talk.exact(expected.len()).await.map_err(at)?;
                    if octets != *expected {
                        return Err((step, Got::Octets(octets)));
                    }
                }
                What::ServerCloses => self.talk.end().await.map_err(at)?,
                What::ServerClosesSomehow => self.talk.end_without_reply().await.map_err(at)?,
                What::ClientCloses => self.talk.finish().await.map_err(at)?,
                What::Upgrade => self.talk.upgrade().await.map_err(at)?,
                What::Wait(time) => tokio::time::sleep(*time).await,
                What::Abort => self.talk.abort(),
            }
        }
        // Whoever is left waiting hears of the end.
        let _ = self.talk.finish().await;
        Ok(None)
    }

    /// Holds one reply as a whole to the steps that are about it.
    async fn reply(&mut self, expected: &[&'a Step]) -> Played<'a> {
        let Some(first) = expected.first().copied() else { return Ok(None) };
        let at = |got| (first, got);
        if let Some(reason) = self.judge().await.map_err(at)? {
            return Ok(Some(reason));
        }
        let mut lines = match self.line().await {
            Ok(line) => vec![line],
            Err(Got::Closed(rest)) if rest.is_empty() && matches!(first.what, What::ServerMaybe(_)) => return Ok(None),
            Err(Got::Broken(_)) if matches!(first.what, What::ServerMaybe(_)) => return Ok(None),
            Err(got) => return Err(at(got)),
        };
        while self.midway {
            lines.push(self.line().await.map_err(at)?);
        }
        match differs(expected, &lines, self.matching) {
            Some((step, line)) => Err((step, Got::Octets(line))),
            None => Ok(None),
        }
    }

    /// The next line of a reply.
    async fn line(&mut self) -> Result<Vec<u8>, Got> {
        let line = match self.ahead.pop() {
            Some(line) => line,
            None => self.talk.line().await?,
        };
        if !is_reply(&line) {
            return Err(Got::Octets(line));
        }
        self.midway = line.get(3) == Some(&b'-');
        Ok(line)
    }

    /// Looks at the first reply to EHLO as a whole, before its lines are compared: a server that lacks what the file
    /// needs has done nothing wrong. Gives the reason if so.
    async fn judge(&mut self) -> Result<Option<String>, Got> {
        if self.judged || !self.greeted || self.midway {
            return Ok(None);
        }
        let mut lines = vec![self.line().await?];
        while self.midway {
            lines.push(self.line().await?);
        }
        self.midway = false;
        let reason = lines[0].starts_with(b"250").then(|| {
            self.judged = true;
            let text: Vec<_> =
                lines.iter().map(|line| String::from_utf8_lossy(line.get(4..).unwrap_or_default())).collect();
            let offered = Capabilities::from_ehlo(&text.join("\n"));
            self.scenario.keywords().find_map(|(need, keyword)| match (need, offered.has(keyword)) {
                (Need::Offered, false) => Some(format!("only with {keyword}, which the server does not offer")),
                (Need::Absent, true) => Some(format!("only without {keyword}, which the server offers")),
                _ => None,
            })
        });
        lines.reverse();
        self.ahead = lines;
        Ok(reason.flatten())
    }
}

/// True for what can be a line of a reply: three digits, and behind them a blank, a dash or nothing.
pub(crate) fn is_reply(line: &[u8]) -> bool {
    line.get(..3).is_some_and(|code| code.iter().all(u8::is_ascii_digit))
        && matches!(line.get(3), None | Some(b' ' | b'-'))
}

fn says_ehlo(octets: &[u8]) -> bool {
    octets.split(|octet| *octet == b'\n').any(|line| {
        line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"EHLO ") || verb.eq_ignore_ascii_case(b"LHLO "))
    })
}

/// True for what may travel before the handshake is complete, without forward secrecy: whole lines, none of which asks
/// for secrecy or tells something about somebody. Part of a line may become anything.
fn may_be_early(octets: &[u8]) -> bool {
    const LATER: [&str; 5] = ["AUTH", "VRFY", "EXPN", "ETRN", "BURL"];
    octets.ends_with(b"\n")
        && octets.split(|octet| *octet == b'\n').all(|line| {
            let mut words = line.split(|octet| !octet.is_ascii_graphic()).filter(|word| !word.is_empty());
            let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            let verb = words.next().unwrap_or_default();
            !LATER.iter().any(|later| is(verb, later)) && !words.any(|word| is(word, "REQUIRETLS"))
        })
}

/// True if a line of the reply to EHLO begins with this keyword.
pub(super) fn is_about(line: &[u8], keyword: &str) -> bool {
    let word = line.get(4..).unwrap_or_default().split(|octet| matches!(octet, b' ' | b'=')).next();
    word.is_some_and(|word| word.eq_ignore_ascii_case(keyword.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    use smtp_core::channel::ChannelInfo;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;
    use crate::memory::{Knobs, MemoryStream, pair};
    use crate::server::play;

    #[test]
    fn what_tells_of_somebody_is_not_early() {
        for early in ["EHLO c\r\n", "EHLO c\r\nMAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<auth@b>\r\n", "BDAT 3\r\nab\n"] {
            assert!(may_be_early(early.as_bytes()), "{early}");
        }
        for late in [
            "EHLO c\r\nAUTH PLAIN x\r\n",
            "vrfy a\r\n",
            "Expn l\r\n",
            "ETRN x\r\n",
            " BURL imap:x\r\n",
            "MAIL FROM:<a@b> requiretls\r\n",
            "AU",
        ] {
            assert!(!may_be_early(late.as_bytes()), "{late}");
        }
    }

    /// A stream whose handshake completes when somebody waits for it.
    struct Early {
        io: MemoryStream,
        pending: bool,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Early {
        fn log(&self, what: &str) {
            self.log.lock().unwrap().push(what.to_owned());
        }
    }

    impl AsyncRead for Early {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Early {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
            self.log(String::from_utf8_lossy(octets).trim_end());
            Pin::new(&mut self.io).poll_write(cx, octets)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    impl ByteStream for Early {
        fn info(&self) -> ChannelInfo {
            self.io.info()
        }

        fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if std::mem::take(&mut self.pending) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.log("confirmed");
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_handshake_is_complete_before_auth_is_written() {
        let text = "S: 220 x\nC: EHLO c\nS: 250 x\nC: NOOP\nS: 250 ok\nC: AUTH PLAIN AGEAYg==\nS: 235 ok\n";
        let scenario = Scenario::parse("auth", text).unwrap();
        let (client, server) = pair(Knobs::default());
        let log = Arc::default();
        let client = Early { io: client, pending: true, log: Arc::clone(&log) };
        let (played, served) = tokio::join!(run(&scenario, Box::new(client)), play(&scenario, Box::new(server)));
        assert!(played.unwrap().has_passed());
        assert!(served.unwrap().has_passed());
        assert_eq!(*log.lock().unwrap(), ["EHLO c", "NOOP", "confirmed", "AUTH PLAIN AGEAYg=="]);
    }
}
