//! A session as it is read on a screen: who said what, and under which cover.
//!
//! ```text
//!   * connected to 127.0.0.1:2525
//!  <- 220 mx.example ESMTP
//!  -> STARTTLS
//!  <- 220 2.0.0 go ahead
//!   * TLSv1.3 TLS_AES_256_GCM_SHA384, certificate not verified
//!  ~> EHLO client.example            (a wave instead of a dash: under TLS)
//!  <~ 250 mx.example
//! ```

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use anstyle::{AnsiColor, Color, Style};
use smtp_client::Observer;
use smtp_core::channel::{ChannelInfo, TlsInfo};

/// Where a transcript goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Beside other text for people.
    Stdout,
    /// Out of the way of JSON.
    Stderr,
}

/// Writes a session down as it happens.
pub(crate) struct Transcript(Mutex<State>);

struct State {
    out: Box<dyn Write + Send>,
    tls: bool,
    /// Content that was sent and is not shown yet, in octets: told as one line, however many pieces it was.
    content: u64,
}

impl Transcript {
    /// One that goes to `output`; in colour if that is a terminal and `NO_COLOR` does not forbid it.
    pub(crate) fn new(output: Output) -> Self {
        match output {
            Output::Stdout => Self::to(anstream::AutoStream::auto(io::stdout())),
            Output::Stderr => Self::to(anstream::AutoStream::auto(io::stderr())),
        }
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(State { out: Box::new(out), tls: false, content: 0 }))
    }

    /// A remark of our own.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        self.with(|state| state.line(DIM, " *", &text));
    }

    fn with(&self, work: impl FnOnce(&mut State) -> io::Result<()>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody reads it any more; the mail goes on.
        let _ = state.flush_content().and_then(|()| work(&mut state));
    }

    fn channel(&self, channel: &ChannelInfo, what: &str) {
        self.with(|state| {
            state.tls = channel.tls.is_some();
            if !what.is_empty() {
                state.line(DIM, " *", &what)?;
            }
            match &channel.tls {
                Some(tls) => state.line(DIM, " *", &tls_line(tls)),
                None => Ok(()),
            }
        });
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcript").finish_non_exhaustive()
    }
}

impl Observer for Transcript {
    fn connected(&self, channel: &ChannelInfo) {
        self.channel(channel, &format!("connected to {} over {}", channel.peer, channel.transport));
    }

    fn secured(&self, channel: &ChannelInfo) {
        self.channel(channel, "");
    }

    fn sent(&self, line: &str) {
        self.with(|state| {
            let arrow = if state.tls { "~>" } else { "->" };
            state.line(SENT, arrow, &line)
        });
    }

    fn received(&self, line: &str) {
        self.with(|state| {
            let arrow = if state.tls { "<~" } else { "<-" };
            state.line(reply_style(line), arrow, &line)
        });
    }

    fn content(&self, octets: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).content += octets as u64;
    }
}

impl State {
    fn line(&mut self, style: Style, arrow: &str, text: &dyn fmt::Display) -> io::Result<()> {
        writeln!(self.out, " {style}{arrow} {text}{style:#}")?;
        self.out.flush()
    }

    fn flush_content(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.content) {
            0 => Ok(()),
            octets => {
                let arrow = if self.tls { "~>" } else { "->" };
                self.line(DIM, arrow, &format_args!("({octets} octets of content)"))
            }
        }
    }
}

/// TLS in one line: `TLSv1.3 TLS_AES_256_GCM_SHA384 x25519, certificate verified`.
pub(crate) fn tls_line(tls: &TlsInfo) -> String {
    let mut line = tls.version.to_owned();
    // Not every library tells every fact.
    let cipher = Some(&tls.cipher).filter(|cipher| !cipher.is_empty());
    for fact in [cipher, tls.group.as_ref(), tls.alpn.as_ref()].into_iter().flatten() {
        line.push(' ');
        line.push_str(fact);
    }
    line.push_str(if tls.resumed { ", resumed" } else { "" });
    line.push_str(if tls.verified { ", certificate verified" } else { ", certificate not verified" });
    line
}

const DIM: Style = Style::new().dimmed();
const SENT: Style = coloured(AnsiColor::Cyan);

const fn coloured(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}

/// Green for yes, yellow for not now, red for no.
pub(crate) fn reply_style(line: &str) -> Style {
    coloured(match line.as_bytes().first() {
        Some(b'2' | b'3') => AnsiColor::Green,
        Some(b'4') => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::channel::Peer;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn channel(tls: bool) -> ChannelInfo {
        let tls = tls.then(|| TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            group: Some("x25519".into()),
            ..TlsInfo::default()
        });
        ChannelInfo { tls: tls.map(Box::new), ..ChannelInfo::new("tcp", Peer::Ip("127.0.0.1:2525".parse().unwrap())) }
    }

    fn talk(transcript: &Transcript) {
        transcript.connected(&channel(false));
        transcript.received("220 mx ESMTP");
        transcript.sent("STARTTLS");
        transcript.received("454 not now");
        transcript.secured(&channel(true));
        transcript.sent("EHLO x");
        transcript.received("250 mx");
        transcript.content(1000);
        transcript.content(234);
        transcript.received("550 no");
    }

    #[test]
    fn who_said_what_under_which_cover() {
        let page = Page::default();
        talk(&Transcript::to(anstream::StripStream::new(Box::new(page.clone()) as Box<dyn Write + Send>)));
        assert_eq!(
            page.text(),
            "  * connected to 127.0.0.1:2525 over tcp\n \
             <- 220 mx ESMTP\n \
             -> STARTTLS\n \
             <- 454 not now\n  \
             * TLSv1.3 TLS_AES_256_GCM_SHA384 x25519, certificate not verified\n \
             ~> EHLO x\n \
             <~ 250 mx\n \
             ~> (1234 octets of content)\n \
             <~ 550 no\n"
        );
    }

    #[test]
    fn colour_tells_yes_from_no() {
        let page = Page::default();
        talk(&Transcript::to(page.clone()));
        for line in ["\u{1b}[32m<- 220 mx", "\u{1b}[33m<- 454 not", "\u{1b}[31m<~ 550 no", "\u{1b}[36m-> STARTTLS"] {
            assert!(page.text().contains(line), "{line:?}: {:?}", page.text());
        }
    }
}
