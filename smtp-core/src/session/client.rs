//! The client side: commands in, octets out; octets in, replies out, in the order of what was asked.
//!
//! The machine does no I/O and reads no clock. Whoever drives it queues commands and content, writes what
//! [`Session::output`] holds, and hands in what was read; [`Session::input`] says which reply answers what. The same
//! table as the server's decides what may be asked, so a client cannot put a command where no server would take it.
//!
//! ```
//! use bytes::{Buf, BytesMut};
//! use smtp_core::channel::ChannelInfo;
//! use smtp_core::session::client::{Awaited, Session};
//! use smtp_core::types::{Command, EhloName, Hello, HelloKind, Verb};
//!
//! let mut session = Session::new(&ChannelInfo::memory("next hop"));
//! let mut input = BytesMut::from("220 mx.example ESMTP\r\n");
//! let greeting = session.input(&mut input)?.expect("a whole reply");
//! assert_eq!(greeting.to, Awaited::Command(Verb::Connect));
//!
//! let hello = Hello { kind: HelloKind::Ehlo, name: EhloName::new("client.example")? };
//! session.command(&Command::Hello(hello))?;
//! assert_eq!(session.output().chunk(), b"EHLO client.example\r\n");
//! session.output().advance(21);
//!
//! input.extend_from_slice(b"250-mx.example\r\n250 PIPELINING\r\n");
//! session.input(&mut input)?.expect("a whole reply");
//! assert!(session.offers("PIPELINING"));
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod content;
mod error;
mod output;
mod settle;
#[cfg(test)]
mod tests;

pub use error::{ContentError, Fault, NotNow};
pub use output::Output;

use alloc::collections::VecDeque;

use bytes::BytesMut;

use self::content::Sending;
use super::{Law, State, law};
use crate::channel::ChannelInfo;
use crate::extension::{BodyType, Capabilities, Prdr};
use crate::types::{Command, HelloKind, Mail, Parameter, Reply, Verb};
use crate::wire::{LineLaw, ReplyDecoder, decode_command, encode_command};

/// The longest line of content that is sent, in octets, CRLF included, unless [`Session::set_line_max`] says
/// otherwise. RFC 5321 §4.5.3.1.6 has 1,000; what a server took with longer lines is passed on unchanged.
pub const LINE_MAX: usize = 64 * 1024;

/// A reply, and what it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What was asked.
    pub to: Awaited,
    /// What the server said.
    pub reply: Reply,
}

/// What a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// A command; [`Verb::Connect`] is the greeting, [`Verb::Bdat`] a chunk that was not the last.
    Command(Verb),
    /// The content as a whole: the end of DATA, or BDAT LAST. Under LMTP there is one for each accepted recipient, in
    /// order (RFC 2033 §4.2). Under PRDR there may be a 353, then one for each, then one for all.
    Content,
    /// Nothing: a 421 out of the blue, with which a server may close at any time (RFC 5321 §3.8).
    Nothing,
}

/// Something that was sent and waits for its reply.
#[derive(Debug, Clone, Copy)]
struct Asked {
    what: What,
    /// The reply cannot be honest before so many octets of output have been written.
    end: u64,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Command(Verb),
    Hello(HelloKind),
    Chunk { last: bool, prdr: bool },
    EndOfData { prdr: bool },
}

impl What {
    const fn awaited(self) -> Awaited {
        match self {
            Self::Command(verb) => Awaited::Command(verb),
            Self::Hello(_) => Awaited::Command(Verb::Hello),
            Self::Chunk { last: false, .. } => Awaited::Command(Verb::Bdat),
            Self::Chunk { last: true, .. } | Self::EndOfData { .. } => Awaited::Content,
        }
    }

    /// Where the session stands if this succeeds.
    const fn success(self, state: State) -> State {
        let verb = match self {
            Self::Chunk { last: true, .. } | Self::EndOfData { .. } => return State::Ready,
            Self::Chunk { last: false, .. } => Verb::Bdat,
            Self::Hello(_) => Verb::Hello,
            Self::Command(verb) => verb,
        };
        match law(state, verb) {
            Law::Go(next) => next,
            Law::BadSequence(_) | Law::Never => state,
        }
    }
}

/// One SMTP or LMTP session, as its client sees it.
#[derive(Debug)]
pub struct Session {
    /// Where the session stands by the replies that have come.
    state: State,
    /// Where it will stand if all that was asked succeeds; `None` when that has to be worked out anew.
    ahead: Option<State>,
    waiting: VecDeque<Asked>,
    replies: ReplyDecoder,
    output: Output,
    sending: Sending,
    line_law: LineLaw,
    line_max: usize,
    /// The newest MAIL said BODY=BINARYMIME.
    binary: bool,
    /// The newest MAIL said PRDR.
    prdr: bool,
    /// The 220 to STARTTLS has come, the stream is not upgraded yet.
    upgrading: bool,
    client_speaks_first: bool,
    implied: &'static [&'static str],
    capabilities: Capabilities,
    pipelining: bool,
    /// One command at a time, whatever the server offers.
    lock_step: bool,
    lmtp: bool,
    authenticated: bool,
    /// Recipients that were accepted in the transaction that is open.
    accepted: usize,
    /// How many of several replies to the same content have come (LMTP).
    replied: usize,
    /// How many recipients wait for a reply of their own behind a 353 (PRDR); none of them, but the message as a whole
    /// does, at 0.
    verdicts: Option<usize>,
}

impl Session {
    /// A session on a channel that has just been opened. The greeting is the first reply to come.
    #[must_use]
    pub fn new(info: &ChannelInfo) -> Self {
        Self {
            state: State::Opened,
            ahead: None,
            waiting: VecDeque::from([Asked { what: What::Command(Verb::Connect), end: 0 }]),
            replies: ReplyDecoder::default(),
            output: Output::default(),
            sending: Sending::Nothing,
            line_law: LineLaw::new(LINE_MAX),
            line_max: LINE_MAX,
            binary: false,
            prdr: false,
            upgrading: false,
            client_speaks_first: info.client_speaks_first,
            implied: info.implied,
            capabilities: Capabilities::default(),
            pipelining: info.implied.contains(&"PIPELINING"),
            lock_step: false,
            lmtp: false,
            authenticated: false,
            accepted: 0,
            replied: 0,
            verdicts: None,
        }
    }

    /// One command at a time, whatever the server offers: for servers that offer PIPELINING and get it wrong. Off at
    /// first.
    pub const fn set_lock_step(&mut self, lock_step: bool) {
        self.lock_step = lock_step;
    }

    /// The longest line of content that may be sent, in octets, CRLF included; [`LINE_MAX`] at first.
    pub const fn set_line_max(&mut self, octets: usize) {
        self.line_max = octets;
    }

    /// Queues a command behind those that wait for their replies.
    ///
    /// More than one may wait only under PIPELINING, and then EHLO, DATA, STARTTLS, AUTH, VRFY, EXPN, HELP, NOOP and
    /// QUIT end a group (RFC 2920 §3.1); on a channel that implies PIPELINING nothing has to be learnt from EHLO, and
    /// EHLO ends no group. A BDAT must be followed by its octets, with [`Session::content`].
    ///
    /// # Errors
    /// [`NotNow`]; nothing was queued.
    pub fn command(&mut self, command: &Command) -> Result<(), NotNow> {
        let verb = command.verb();
        self.may_follow(verb)?;
        let ahead = self.ahead();
        let next = match law(ahead, verb) {
            Law::Go(next) => next,
            Law::BadSequence(why) => return Err(NotNow::BadSequence(why)),
            Law::Never => return Err(NotNow::BadSequence("not a command here")),
        };
        match command {
            Command::Mail(mail) => self.begin(mail),
            // RFC 3030 §3: BINARYMIME content must not be sent by DATA.
            Command::Data if self.binary => return Err(NotNow::Binary),
            Command::Bdat { size, last } => return self.chunk(*size, *last, ahead),
            _ => {}
        }
        encode_command(command, self.output.tail());
        let what = match command {
            Command::Hello(hello) => What::Hello(hello.kind),
            _ => What::Command(verb),
        };
        self.ask(what);
        self.ahead = Some(next);
        Ok(())
    }

    /// Queues `line` as it stands, whatever the table says: for shells and tests. What it does to the session is told
    /// from its verb. Within a SASL exchange it is a response, in base64 or `*`.
    ///
    /// # Errors
    /// [`NotNow`], in particular for a line that holds CR, LF, NUL or another control character, and while any reply
    /// is outstanding.
    pub fn raw(&mut self, line: &str) -> Result<Verb, NotNow> {
        if line.chars().any(char::is_control) {
            return Err(NotNow::Control);
        }
        // Where the client speaks first, its first line goes ahead of the greeting.
        let first = |asked: &Asked| self.client_speaks_first && matches!(asked.what, What::Command(Verb::Connect));
        match self.waiting.back() {
            Some(asked) if !first(asked) => return Err(NotNow::Outstanding(asked.what.awaited())),
            Some(_) => self.may_follow(Verb::Hello)?,
            None => self.may_follow(Verb::Other)?,
        }
        let what = match decode_command(line.as_bytes()) {
            _ if self.state == State::Sasl => What::Command(Verb::Response),
            Ok(Command::Bdat { size, last }) => {
                self.chunk(size, last, self.state)?;
                return Ok(Verb::Bdat);
            }
            Ok(Command::Hello(hello)) => What::Hello(hello.kind),
            Ok(Command::Mail(mail)) => {
                self.begin(&mail);
                What::Command(Verb::Mail)
            }
            Ok(command) => What::Command(command.verb()),
            Err(_) => What::Command(Verb::Other),
        };
        self.output.tail().extend_from_slice(line.as_bytes());
        self.output.tail().extend_from_slice(b"\r\n");
        self.ask(what);
        match what.awaited() {
            Awaited::Command(verb) => Ok(verb),
            Awaited::Content | Awaited::Nothing => Ok(Verb::Other),
        }
    }

    /// Notes what MAIL says of the content that is to come.
    fn begin(&mut self, mail: &Mail) {
        self.binary = mail.parameters.get::<BodyType>() == Some(BodyType::BinaryMime);
        self.prdr = mail.parameters.value(Prdr::KEYWORD).is_some();
    }

    /// Gives a SASL exchange up (RFC 4954 §4: a line that is `*` alone).
    ///
    /// # Errors
    /// [`NotNow`] outside an exchange.
    pub fn cancel_auth(&mut self) -> Result<(), NotNow> {
        if self.state != State::Sasl || !self.waiting.is_empty() {
            return Err(NotNow::BadSequence("no SASL exchange is under way"));
        }
        self.output.tail().extend_from_slice(b"*\r\n");
        self.ask(What::Command(Verb::Response));
        Ok(())
    }

    /// What is to be written. Advance it by what the channel took, no sooner: a reply that comes before its question
    /// was written is told by it.
    pub const fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The next reply in what was read; `None` if more octets are needed.
    ///
    /// # Errors
    /// [`Fault`]: the server, or somebody on the way, broke the protocol. The session is over.
    pub fn input(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Fault> {
        if self.state == State::Ended || self.upgrading {
            return Ok(None);
        }
        let event = match self.replies.next(input) {
            Ok(None) => return Ok(None),
            Ok(Some(reply)) => self.settle(reply, input.is_empty()),
            Err(error) => Err(Fault::Reply(error)),
        };
        if event.is_err() {
            self.end();
        }
        event.map(Some)
    }

    /// The stream was upgraded to TLS after the 220 to STARTTLS. All that was known is forgotten: capabilities,
    /// authentication, the greeting's EHLO (RFC 3207 §4.2).
    ///
    /// # Errors
    /// [`NotNow`] if no upgrade was under way.
    pub fn upgraded(&mut self, info: &ChannelInfo) -> Result<(), NotNow> {
        if !self.upgrading {
            return Err(NotNow::BadSequence("no 220 to STARTTLS has come"));
        }
        let (line_max, lock_step) = (self.line_max, self.lock_step);
        *self = Self { state: State::Greeted, waiting: VecDeque::new(), line_max, lock_step, ..Self::new(info) };
        Ok(())
    }

    /// What the server's last EHLO reply offered, or before it what was [assumed](Session::assume); nothing after HELO
    /// and after STARTTLS.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// True if the server offered `keyword`, or the channel implies it.
    #[must_use]
    pub fn offers(&self, keyword: &str) -> bool {
        self.implied.iter().any(|k| k.eq_ignore_ascii_case(keyword)) || self.capabilities.has(keyword)
    }

    /// Takes `capabilities` for the server's until it has answered EHLO: what it said to an earlier session, on a
    /// channel on which nothing has been said yet. Elsewhere nothing happens.
    pub fn assume(&mut self, capabilities: Capabilities) {
        if self.is_unspoken() {
            self.capabilities = capabilities;
        }
    }

    /// True on a channel on which the client speaks first, as long as it has not.
    #[must_use]
    pub fn is_unspoken(&self) -> bool {
        self.client_speaks_first && self.state == State::Opened && self.waiting.len() == 1
    }

    /// True if commands may be sent in groups (RFC 2920).
    #[must_use]
    pub const fn pipelining(&self) -> bool {
        self.pipelining && !self.lock_step
    }

    /// Where the session stands by the replies that have come.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What the next reply will answer.
    #[must_use]
    pub fn awaits(&self) -> Option<Awaited> {
        self.waiting.front().map(|asked| asked.what.awaited())
    }

    /// How many recipients were accepted in the open transaction.
    #[must_use]
    pub const fn accepted(&self) -> usize {
        self.accepted
    }

    /// True after a 235.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// True if a message is queued to its end and not written so far: no server can have taken it.
    #[must_use]
    pub fn holds_content(&self) -> bool {
        let held = |asked: &Asked| asked.what.awaited() == Awaited::Content && self.output.written() < asked.end;
        self.waiting.iter().any(held)
    }

    /// True between the 220 to STARTTLS and [`Session::upgraded`].
    #[must_use]
    pub const fn is_upgrading(&self) -> bool {
        self.upgrading
    }

    /// True while content is wanted: after a 354, or inside a chunk.
    #[must_use]
    pub const fn wants_content(&self) -> bool {
        !matches!(self.sending, Sending::Nothing)
    }

    /// True if nothing is under way: no reply outstanding, nothing left to write, no content open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.output.is_empty()
            && !self.wants_content()
            && !self.upgrading
            && !self.replies.is_midway()
            && !matches!(self.state, State::Ended | State::Opened | State::Sasl)
    }

    /// True once nothing more can be said.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Ended
    }

    /// May a command come here at all, behind what is outstanding?
    fn may_follow(&self, verb: Verb) -> Result<(), NotNow> {
        if self.state == State::Ended {
            return Err(NotNow::Over);
        }
        if self.upgrading {
            return Err(NotNow::BadSequence("the stream has to be upgraded to TLS first"));
        }
        if self.wants_content() {
            return Err(NotNow::InContent);
        }
        let Some(Asked { what, .. }) = self.waiting.back() else { return Ok(()) };
        let may = match what {
            What::Command(Verb::Connect) => self.client_speaks_first && verb == Verb::Hello,
            What::Command(Verb::Rset | Verb::Mail | Verb::Rcpt) | What::Chunk { .. } | What::EndOfData { .. } => {
                self.pipelining()
            }
            What::Hello(_) => self.implied.contains(&"PIPELINING") && !self.lock_step,
            What::Command(_) => false,
        };
        if may { Ok(()) } else { Err(NotNow::Outstanding(what.awaited())) }
    }

    fn ahead(&mut self) -> State {
        let (state, waiting) = (self.state, &self.waiting);
        *self.ahead.get_or_insert_with(|| waiting.iter().fold(state, |state, asked| asked.what.success(state)))
    }

    fn ask(&mut self, what: What) {
        self.waiting.push_back(Asked { what, end: self.output.queued() });
        self.ahead = None;
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.ahead = None;
        self.sending = Sending::Nothing;
        self.waiting.clear();
        self.output.clear();
    }
}
