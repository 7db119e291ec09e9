//! The server's session: octets in, questions and content out, answers in, replies out.
//!
//! [`Session::next`] is called with the read buffer and says what is to be done, one [`Step`] at a time. It does no
//! I/O and knows no clock: whoever drives it reads, writes, waits and asks.

mod answer;
mod check;
mod config;
mod content;
mod forward;

pub use answer::Verdict;
pub use config::{Config, Limits, MechanismOffer, Needs, Protocol};

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use self::content::Content;
use super::table::{Law, State, law};
use crate::channel::{ChannelInfo, SessionInfo};
use crate::extension::{Forwarded, Forwarding};
use crate::types::{Command, Envelope, Mail, Rcpt, Refusal, Reply, Severity, Verb};
use crate::wire::{CommandError, LineDecoder, LineError, LineStep, decode_command, decode_response, encode_reply};

/// How many refusals are kept for [`Session::take_refused`].
const REFUSED_MAX: usize = 64;

/// How many RCPT may be with the policy at the same time. Every other command waits for all before it.
const RCPT_IN_FLIGHT: usize = 16;

/// Which question an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u32);

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Send the output, then read more input.
    Read,
    /// Nothing can go on before a question is answered. Output may be sent meanwhile.
    Wait,
    /// Ask the policy; give what it says to [`Session::answer`].
    Ask(Ticket, Command),
    /// A message begins: call the delivery. Then [`Session::go_ahead`] when it reads the content, or
    /// [`Session::finish`] if it answers without.
    Begin(Envelope),
    /// The next octets of the content.
    Content(Bytes),
    /// The content is complete: wait for the delivery, then [`Session::finish`].
    End,
    /// The content breaks a rule, or the client gave it up: truncate the body and forget the delivery. The session
    /// answers by itself.
    Spoiled(&'static str),
    /// Send the output, and upgrade the stream if no input is left; then [`Session::upgraded`].
    Upgrade,
    /// Send the output, then wait so long: the client makes errors.
    Pause(Duration),
    /// Send the output and close the stream.
    Close,
}

/// The server's side of one session.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    info: Arc<SessionInfo>,
    state: State,
    lines: LineDecoder,
    output: BytesMut,
    /// A command that was read but cannot be looked at before the questions that are out are answered.
    held: Option<Result<Command, CommandError>>,
    pending: VecDeque<answer::Pending>,
    next_ticket: u32,
    extended: bool,
    transaction: Option<OpenTransaction>,
    content: Content,
    errors: u32,
    junk: u32,
    /// MAIL commands that were accepted.
    messages: u32,
    pause: Option<Duration>,
    upgrade: bool,
    draining: bool,
    closing: bool,
    quit: bool,
    /// For [`Session::take_refused`].
    refused: Vec<Refusal>,
    /// What the peer may say of others.
    forwarding: Forwarding,
    /// What it has said, with XCLIENT.
    claimed: Option<Box<Forwarded>>,
}

/// MAIL was accepted.
#[derive(Debug)]
struct OpenTransaction {
    mail: Mail,
    recipients: Vec<Rcpt>,
    /// Different domains among them; counted only where there is a limit.
    domains: u32,
    /// A RCPT was tried, so that "no valid recipients" is the better word.
    tried: bool,
    /// RCPT beyond the limit.
    overshoot: u32,
    utf8: bool,
    /// The client understands a reply per recipient.
    prdr: bool,
}

impl Session {
    /// A session on the channel that `info` tells of. Nothing has been said yet.
    #[must_use]
    pub fn new(config: Arc<Config>, info: Arc<SessionInfo>) -> Self {
        let forwarding = config.forwarders.grant(&info.channel);
        Self {
            forwarding,
            claimed: None,
            config,
            info,
            state: State::Opened,
            lines: LineDecoder::default(),
            output: BytesMut::new(),
            held: None,
            pending: VecDeque::new(),
            next_ticket: 0,
            extended: false,
            transaction: None,
            content: Content::None,
            errors: 0,
            junk: 0,
            messages: 0,
            pause: None,
            upgrade: false,
            draining: false,
            closing: false,
            quit: false,
            refused: Vec::new(),
        }
    }

    /// What services are told of this session, as it is now.
    #[must_use]
    pub const fn info(&self) -> &Arc<SessionInfo> {
        &self.info
    }

    /// Where the session stands in the table.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// True from MAIL to the last reply about its content.
    #[must_use]
    pub const fn in_transaction(&self) -> bool {
        self.transaction.is_some() || !self.content.is_none()
    }

    /// True while octets of a message are being read, which have a deadline of their own.
    #[must_use]
    pub const fn in_content(&self) -> bool {
        self.content.is_flowing()
    }

    /// True if the session ended because the client said QUIT, so that nothing more is on its way.
    #[must_use]
    pub const fn has_quit(&self) -> bool {
        self.quit
    }

    /// Octets to send.
    #[must_use]
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Says what is to be done next. What it has understood of `input` is gone from it.
    pub fn next(&mut self, input: &mut BytesMut) -> Step {
        loop {
            if let Some(pause) = self.pause.take() {
                return Step::Pause(pause);
            }
            if self.closing {
                return Step::Close;
            }
            if self.upgrade {
                return Step::Upgrade;
            }
            if self.draining && self.pending.is_empty() && self.is_between_transactions() {
                self.say_going_down();
                continue;
            }
            let step = match self.state {
                State::Opened => self.open(input),
                _ if !self.content.is_none() => self.content_step(input),
                State::Sasl => self.response_line(input),
                _ => self.command_line(input),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn is_between_transactions(&self) -> bool {
        self.transaction.is_none() && self.content.is_none() && self.state != State::Sasl
    }

    /// From now on no new transaction is begun: 421 as soon as none is open (RFC 5321 §3.8).
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    fn say_going_down(&mut self) {
        self.say_421((4, 3, 2), "shutting down");
    }

    /// A deadline passed: 421, and the end (RFC 5321 §4.5.3.2, §4.2.1).
    pub fn time_out(&mut self, what: &'static str) {
        self.say_421((4, 4, 2), what);
    }

    fn say_421(&mut self, enhanced: (u8, u16, u16), what: &str) {
        let refusal = Refusal::new(421, enhanced, alloc::format!("{} {what}", self.config.hostname));
        self.write(refusal.reply());
        self.note_refused(refusal);
        self.close();
    }

    fn close(&mut self) {
        self.closing = true;
        self.state = State::Ended;
        // What is still out is not answered any more.
        self.pending.clear();
        self.transaction = None;
        self.content = Content::None;
    }

    /// Nothing is asked before the client speaks, where the channel has it so.
    fn open(&mut self, input: &BytesMut) -> Option<Step> {
        if !self.pending.is_empty() {
            return Some(Step::Wait);
        }
        // The greeting is asked for at the client's first octets, and said before what they are is looked at.
        if self.info.channel.client_speaks_first && input.is_empty() {
            return Some(Step::Read);
        }
        // RFC 2033 §5: a relay that came by would not know that each recipient has a reply.
        if self.config.protocol == Protocol::Lmtp && self.info.channel.local.is_some_and(|local| local.port() == 25) {
            self.say_421((4, 3, 5), "LMTP must not be spoken on port 25 (RFC 2033): listen on another port");
            return None;
        }
        Some(self.ask(Command::Connect))
    }

    fn command_line(&mut self, input: &mut BytesMut) -> Option<Step> {
        if self.held.is_none() {
            // What the next octets are depends on the answer: a command, content, or a SASL response.
            if !self.pending.iter().all(answer::Pending::is_rcpt) {
                return Some(Step::Wait);
            }
            let limits = &self.config.limits;
            // RFC 4954 §4: an initial response may be as long as any other.
            let limit = |start: &[u8]| {
                let is_auth = start.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
                if is_auth { limits.auth_line.max(limits.line) } else { limits.line }
            };
            match self.lines.next_by(input, limit) {
                LineStep::Need => return Some(self.read_or_wait()),
                LineStep::Bad(error) => self.held = Some(Err(error.into())),
                LineStep::Line(len) => {
                    self.held = Some(decode_command(input.get(..len).unwrap_or_default()));
                    self.lines.consume(input, len);
                }
            }
        }
        let in_flight = self.pending.len();
        let parallel = matches!(self.held, Some(Ok(Command::Rcpt(_))))
            && self.has_room_for_rcpt()
            // Which domains there are is known when the recipients before have been answered.
            && self.config.limits.recipient_domains.is_none()
            && self.transaction.as_ref().is_none_or(|t| t.recipients.len() + in_flight < self.config.limits.recipients);
        if in_flight > 0 && !parallel {
            return Some(Step::Wait);
        }
        match self.held.take()? {
            Ok(command) => self.execute(command),
            Err(error) => {
                self.refuse_line(error);
                None
            }
        }
    }

    /// True unless a question is out that everything behind it has to wait for, or too many are.
    fn has_room_for_rcpt(&self) -> bool {
        self.pending.len() < RCPT_IN_FLIGHT && self.pending.iter().all(answer::Pending::is_rcpt)
    }

    fn read_or_wait(&self) -> Step {
        if self.has_room_for_rcpt() { Step::Read } else { Step::Wait }
    }

    fn refuse_line(&mut self, error: CommandError) {
        let (code, detail) = match error {
            CommandError::Unrecognized => (500, 2),
            CommandError::Syntax(_) | CommandError::ChunkSize => (501, 4),
            CommandError::Base64 => (501, 2),
            // RFC 4954 §4 has a code of its own for SASL lines that are too long; only they have this limit.
            CommandError::Line(LineError::TooLong { limit }) if limit > self.config.limits.line => (500, 6),
            CommandError::Line(_) => (500, 2),
        };
        self.refuse(Refusal::new(code, (5, 5, detail), alloc::format!("{error}")));
        // Behind these no command can be found: a chunk's octets would be run as commands.
        if matches!(error, CommandError::ChunkSize | CommandError::Line(LineError::Endless)) {
            self.close();
        }
    }

    /// What the registry has against an extension's verb: a refusal if the extension is known, `None` if nobody knows it.
    fn check_verb(&self, verb: &str) -> Result<(), Option<Refusal>> {
        self.with_context(|registry, context| match registry.verb(verb) {
            Some(extension) if extension.is_offered(context) => Ok(()),
            Some(extension) => {
                let text = alloc::format!("{verb} needs {}, not offered here", extension.keyword);
                Err(Some(Refusal::new(502, (5, 5, 1), text)))
            }
            None => Err(None),
        })
    }

    /// A verb that nobody knows. One of HTTP's is what a browser was made to send here, with more of it to come.
    fn refuse_stranger(&mut self, verb: &str) {
        const HTTP: [&str; 9] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "CONNECT", "TRACE", "PATCH"];
        if HTTP.contains(&verb) {
            self.say_421((4, 7, 0), "this is SMTP, not HTTP");
        } else {
            self.refuse(Refusal::fixed(500, (5, 5, 1), "command not recognized"));
        }
    }

    fn response_line(&mut self, input: &mut BytesMut) -> Option<Step> {
        if !self.pending.is_empty() {
            return Some(Step::Wait);
        }
        let len = match self.lines.next(input, self.config.limits.auth_line) {
            LineStep::Need => return Some(Step::Read),
            LineStep::Line(len) => len,
            LineStep::Bad(error) => {
                self.state = State::Ready;
                self.refuse_line(error.into());
                return None;
            }
        };
        let response = decode_response(input.get(..len).unwrap_or_default());
        self.lines.consume(input, len);
        match response {
            Ok(Some(secret)) => return Some(self.ask(Command::Response(secret))),
            // RFC 4954 §4: a cancelled exchange, and one that is not base64, get a 501.
            Ok(None) => self.refuse(Refusal::fixed(501, (5, 7, 0), "authentication cancelled")),
            Err(_) => self.refuse(Refusal::fixed(501, (5, 5, 2), "not base64 (RFC 4954 §4)")),
        }
        self.state = State::Ready;
        None
    }

    /// What the table and the registry have to say to a command, before anybody is asked.
    fn execute(&mut self, command: Command) -> Option<Step> {
        let verb = command.verb();
        if let (Verb::Bdat, false) = (verb, self.is_chunk_welcome()) {
            if let Command::Bdat { size, .. } = command {
                self.swallow_chunk(size);
            }
            return None;
        }
        if let Command::Other { verb, .. } = &command
            && let Err(stranger) = self.check_verb(verb)
        {
            match stranger {
                Some(refusal) => self.refuse(refusal),
                None => self.refuse_stranger(verb),
            }
            return None;
        }
        if let Law::BadSequence(text) = law(self.state, verb) {
            let tried = self.state == State::Mail && self.transaction.as_ref().is_some_and(|t| t.tried);
            let lmtp = self.config.protocol == Protocol::Lmtp;
            let text = if lmtp { Cow::Owned(text.replace("EHLO", "LHLO")) } else { Cow::Borrowed(text) };
            // RFC 5321 §3.3: 554 says it better when every RCPT was refused. LMTP has 503 only (RFC 2033 §4.2).
            let code = if verb == Verb::Data && tried && !lmtp { 554 } else { 503 };
            self.refuse(Refusal::new(code, (5, 5, 1), text));
            return None;
        }
        if let Err(refusal) = self.check(&command) {
            self.refuse(refusal);
            let overshoot = self.transaction.as_ref().map_or(0, |t| t.overshoot);
            if verb == Verb::Rcpt && overshoot > self.config.limits.overshoot {
                self.count_error();
            }
            return None;
        }
        if does_nothing(&command) {
            self.junk += 1;
            if self.junk > self.config.limits.junk_commands {
                self.count_error();
                if self.closing {
                    return None;
                }
            }
        }
        match command {
            Command::Quit => {
                let text = alloc::format!("{} closing channel", self.config.hostname);
                self.write(&Reply::new(
                    crate::types::Code::of(221),
                    Some(crate::types::EnhancedCode::of(2, 0, 0)),
                    text,
                ));
                let open = matches!(self.state, State::Chunks);
                self.close();
                self.quit = true;
                open.then_some(Step::Spoiled("the client quit within the message"))
            }
            Command::Bdat { size, last } if self.state == State::Chunks => self.begin_chunk(size, last),
            Command::Rset | Command::Hello(_) if self.state == State::Chunks => {
                // The message that was under way is given up; the command itself is asked about in the next step.
                self.content = Content::None;
                self.end_transaction();
                self.held = Some(Ok(command));
                Some(Step::Spoiled("the client gave the message up"))
            }
            command => Some(self.ask(command)),
        }
    }

    /// Refuses by itself: nobody was asked.
    fn refuse(&mut self, refusal: Refusal) {
        self.say(refusal.reply().clone());
        self.note_refused(refusal);
    }

    fn note_refused(&mut self, refusal: Refusal) {
        if self.refused.len() < REFUSED_MAX {
            self.refused.push(refusal);
        }
    }

    /// What was refused without asking anybody since this was last called, up to 64: for logs, which learn the rest from
    /// the policy.
    #[must_use]
    pub fn take_refused(&mut self) -> Vec<Refusal> {
        core::mem::take(&mut self.refused)
    }

    /// Says `reply`, and draws the consequences. What is refused for now is no error of the client's.
    fn say(&mut self, reply: Reply) {
        self.write(&reply);
        if reply.severity() == Severity::Permanent {
            self.count_error();
        }
        if reply.code().get() == 421 {
            self.close();
        }
    }

    fn write(&mut self, reply: &Reply) {
        let utf8 = self.transaction.as_ref().is_some_and(|t| t.utf8);
        encode_reply(reply, utf8, &mut self.output);
    }

    /// Errors beyond the soft limit cost time, and the hard limit ends the session.
    fn count_error(&mut self) {
        self.errors += 1;
        let limits = &self.config.limits;
        if self.errors >= limits.errors_hard && !self.closing {
            self.say_421((4, 7, 0), "too many errors, or commands that bring no mail");
        } else if self.errors > limits.errors_soft {
            self.pause = Some(limits.tarpit);
        }
    }

    /// The stream has become a TLS one, or something else that starts the session over (RFC 3207 §4.2): all that was
    /// said before is forgotten.
    pub fn upgraded(&mut self, channel: ChannelInfo) {
        let info = Arc::make_mut(&mut self.info);
        info.channel = channel;
        info.hello = None;
        info.identity = None;
        info.client = None;
        self.upgrade = false;
        self.extended = false;
        self.transaction = None;
        self.state = State::Greeted;
        self.lines = LineDecoder::default();
        self.claim_again();
    }

    /// What came as early data is known not to be a replay; these are the channel's facts now.
    pub fn confirmed(&mut self, channel: ChannelInfo) {
        Arc::make_mut(&mut self.info).channel = channel;
        self.claim_again();
    }

    /// The text of the reply to EHLO.
    fn ehlo_text(&self, name: &str) -> String {
        let mut text = alloc::format!("{} greets {name}", self.config.hostname);
        self.with_context(|registry, context| registry.write_ehlo(context, &mut text));
        text
    }
}

/// True for commands that bring no message further. A client that sends nothing else costs, and says nothing.
const fn does_nothing(command: &Command) -> bool {
    match command {
        Command::Hello(_)
        | Command::Rset
        | Command::Noop
        | Command::Vrfy(_)
        | Command::Expn(_)
        | Command::Help(_)
        | Command::Other { .. }
        | Command::Bdat { size: 0, last: false } => true,
        Command::Connect
        | Command::StartTls
        | Command::Auth { .. }
        | Command::Response(_)
        | Command::Mail(_)
        | Command::Rcpt(_)
        | Command::Data
        | Command::Bdat { .. }
        | Command::Quit => false,
    }
}
