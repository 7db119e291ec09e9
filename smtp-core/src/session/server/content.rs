//! The content of a message, by DATA or by BDAT.

use bytes::{Buf, BytesMut};

use super::{Protocol, Session, Step};
use crate::acceptance::Outcome;
use crate::extension::BodyType;
use crate::session::table::{Law, State, law};
use crate::types::{Code, EnhancedCode, Envelope, Refusal, Reply, Verb};
use crate::wire::{self, BadLine, DataDecoder, LineLaw};

/// Where a session stands with a message's content.
#[derive(Debug)]
pub(super) enum Content {
    /// There is none.
    None,
    /// The delivery was called and has not said whether it wants the content.
    Offered { how: How, message: Message },
    /// Octets are read.
    Flowing { how: How, message: Message },
    /// A chunk has been read; the next command says how it goes on.
    Between { message: Message },
    /// All has been read; the delivery is to answer.
    Ended { message: Message },
    /// The chunk of a BDAT that was refused is read and thrown away; then this is said, so many times.
    Swallowed { left: u64, budget: u64, reply: Reply, times: usize },
}

/// How content comes.
#[derive(Debug)]
pub(super) enum How {
    Data(DataDecoder),
    Chunk { left: u64, last: bool },
}

/// What is known of the message so far.
#[derive(Debug)]
pub(super) struct Message {
    recipients: usize,
    prdr: bool,
    octets: u64,
    /// The line law for chunks; `None` for BINARYMIME, where it does not hold, and for DATA, whose decoder watches.
    law: Option<LineLaw>,
    /// The delivery does not get the rest, and this is what the client is told at the end.
    lost: Option<Outcome>,
    /// It was the delivery that said so.
    answered: bool,
}

impl Content {
    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) const fn is_flowing(&self) -> bool {
        matches!(self, Self::Flowing { .. } | Self::Swallowed { .. })
    }

    const fn take(&mut self) -> Self {
        core::mem::replace(self, Self::None)
    }
}

impl Session {
    pub(super) fn is_binary(&self) -> bool {
        self.transaction.as_ref().and_then(|t| t.mail.parameters.get()) == Some(BodyType::BinaryMime)
    }

    pub(super) fn begin_data(&mut self) -> Option<Step> {
        let how = How::Data(DataDecoder::new(self.config.limits.content_line));
        self.offer(how, None)
    }

    pub(super) fn begin_first_chunk(&mut self, size: u64, last: bool) -> Option<Step> {
        if size > self.config.limits.message_size {
            let reply = self.too_large().into_reply();
            self.refuse_first_chunk(size, last, reply);
            return None;
        }
        let law = (!self.is_binary()).then(|| LineLaw::new(self.config.limits.content_line));
        self.offer(How::Chunk { left: size, last }, law)
    }

    fn offer(&mut self, how: How, law: Option<LineLaw>) -> Option<Step> {
        let transaction = self.transaction.as_mut()?;
        let recipients = core::mem::take(&mut transaction.recipients);
        let prdr = transaction.prdr;
        let envelope = Envelope { mail: transaction.mail.clone(), recipients };
        let recipients = envelope.recipients.len();
        let message = Message { recipients, prdr, octets: 0, law, lost: None, answered: false };
        self.content = Content::Offered { how, message };
        Some(Step::Begin(envelope))
    }

    /// How long the content is, if its first command says so: `BDAT size LAST`.
    #[must_use]
    pub const fn content_size(&self) -> Option<u64> {
        match &self.content {
            Content::Offered { how: How::Chunk { left, last: true }, .. } => Some(*left),
            _ => None,
        }
    }

    /// The delivery wants the content: 354 to DATA; a chunk flows without a word.
    pub fn go_ahead(&mut self) {
        match self.content.take() {
            Content::Offered { how, message } => {
                if matches!(how, How::Data(_)) {
                    self.write(&Reply::fixed(354, (0, 0, 0), "end data with <CR><LF>.<CR><LF>"));
                }
                self.flow(how, message);
            }
            other => self.content = other,
        }
    }

    fn flow(&mut self, how: How, message: Message) {
        self.state = match how {
            How::Data(_) => State::Data,
            How::Chunk { .. } => State::Chunks,
        };
        self.content = Content::Flowing { how, message };
    }

    /// The delivery has answered: at the end, as it should, or before it, which can only be a refusal. The client
    /// hears that when its content has been swallowed; a DATA that was not answered yet gets it instead of 354.
    pub fn finish(&mut self, outcome: Outcome) {
        let unread = |recipients| {
            if outcome.iter().any(Result::is_ok) {
                // Whatever was accepted there, it was not this message.
                Outcome::all(Err(Refusal::fixed(451, (4, 3, 0), "local error; try again later")), recipients)
            } else {
                outcome.clone()
            }
        };
        match self.content.take() {
            Content::Ended { message } => self.conclude(&outcome, message.recipients, message.prdr),
            Content::Offered { how: How::Data(_), message } => {
                // There is no content to answer for: one reply to DATA, under LMTP too (RFC 2033 §4.2).
                if let Err(refusal) = unread(message.recipients).single() {
                    self.say(refusal.into_reply());
                }
                if !self.closing {
                    self.end_transaction();
                }
            }
            Content::Offered { how, mut message } => {
                message.lost = Some(unread(message.recipients));
                message.answered = true;
                self.flow(how, message);
            }
            Content::Flowing { how, mut message } => {
                message.lost = Some(unread(message.recipients));
                message.answered = true;
                self.content = Content::Flowing { how, message };
            }
            Content::Between { mut message } => {
                message.lost = Some(unread(message.recipients));
                message.answered = true;
                self.content = Content::Between { message };
            }
            other @ (Content::None | Content::Swallowed { .. }) => self.content = other,
        }
    }

    fn conclude(&mut self, outcome: &Outcome, recipients: usize, prdr: bool) {
        self.say_outcome(outcome, recipients, prdr);
        if !self.closing {
            self.end_transaction();
        }
    }

    /// True if a BDAT now belongs to a message that can still be taken.
    pub(super) fn is_chunk_welcome(&self) -> bool {
        matches!(law(self.state, Verb::Bdat), Law::Go(_)) && self.offers("CHUNKING")
    }

    /// A BDAT out of place: its chunk is thrown away, so that nothing in it is run as a command, then 503.
    pub(super) fn swallow_chunk(&mut self, size: u64) {
        let text = match law(self.state, Verb::Bdat) {
            Law::BadSequence(text) => text,
            Law::Go(_) | Law::Never => "CHUNKING is not offered here",
        };
        // A recipient that came now would get half a message.
        if matches!(self.state, State::Mail | State::Rcpt) {
            self.lose_chunks(false);
        }
        self.swallow(size, Refusal::fixed(503, (5, 5, 1), text).into_reply(), 1);
    }

    /// The message is refused at its first chunk. Under LMTP the last chunk has a reply for each recipient, whatever it
    /// says (RFC 2033 §4.2; RFC 3030 §2 leaves BDAT LAST in the place of the end of data).
    pub(super) fn refuse_first_chunk(&mut self, size: u64, last: bool, reply: Reply) {
        let each = last && self.config.protocol == Protocol::Lmtp;
        let times = if each { self.transaction.as_ref().map_or(1, |t| t.recipients.len()) } else { 1 };
        self.lose_chunks(last);
        self.swallow(size, reply, times);
    }

    /// Twice the largest message is read to be polite; beyond that the reply comes, and the end.
    fn swallow(&mut self, left: u64, reply: Reply, times: usize) {
        let budget = self.config.limits.message_size.saturating_mul(2);
        self.content = Content::Swallowed { left, budget, reply, times };
    }

    /// The message is lost. Behind its last chunk the session is ready for another; before it only RSET or EHLO leads
    /// out (RFC 3030 §2).
    fn lose_chunks(&mut self, last: bool) {
        self.transaction = None;
        self.state = if last { State::Ready } else { State::ChunksRefused };
    }

    /// Another chunk of a message under way. One that cannot fit is lost before its first octet.
    pub(super) fn begin_chunk(&mut self, size: u64, last: bool) -> Option<Step> {
        let too_large = self.too_large();
        let limit = self.config.limits.message_size;
        let Content::Between { mut message } = self.content.take() else { return None };
        let spoiled = (message.lost.is_none() && message.octets.saturating_add(size) > limit).then(|| {
            message.lost = Some(Outcome::all(Err(too_large), message.recipients));
            Step::Spoiled("larger than the limit")
        });
        self.content = Content::Flowing { how: How::Chunk { left: size, last }, message };
        spoiled
    }

    pub(super) fn content_step(&mut self, input: &mut BytesMut) -> Option<Step> {
        match &mut self.content {
            Content::None => None,
            Content::Offered { .. } | Content::Ended { .. } => Some(Step::Wait),
            Content::Between { .. } => self.command_line(input),
            Content::Flowing { how: How::Data(_), .. } => self.data_step(input),
            Content::Flowing { how: How::Chunk { .. }, .. } => self.chunk_step(input),
            Content::Swallowed { .. } => self.swallow_step(input),
        }
    }

    fn swallow_step(&mut self, input: &mut BytesMut) -> Option<Step> {
        let Content::Swallowed { left, budget, reply, times } = &mut self.content else { return None };
        let room = usize::try_from((*left).min(*budget)).unwrap_or(usize::MAX);
        let taken = room.min(input.len());
        input.advance(taken);
        *left -= taken as u64;
        *budget -= taken as u64;
        if *left > 0 && *budget > 0 {
            return Some(Step::Read);
        }
        let (reply, times, whole) = (reply.clone(), *times, *left == 0);
        self.content = Content::None;
        match times {
            1 => self.say(reply),
            _ => self.say_each(core::iter::repeat_n(reply, times)),
        }
        if !whole {
            self.close();
        }
        None
    }

    fn data_step(&mut self, input: &mut BytesMut) -> Option<Step> {
        let limit = self.config.limits.message_size;
        let Content::Flowing { how: How::Data(decoder), message } = &mut self.content else { return None };
        let found = decoder.next(input);
        let bad = decoder.bad_line();
        if let wire::Content::Data(data) = &found {
            message.octets += data.len() as u64;
        }
        let spoiled = match (&message.lost, bad, message.octets > limit) {
            (None, Some(bad), _) => Some(message.lose(bad)),
            // What is too large is that first of all, whatever else is wrong with it: the reply must not depend on
            // where the content was cut.
            (None, None, true) => Some(message.outgrow(limit)),
            (Some(_), _, true) if !message.answered => {
                message.outgrow(limit);
                None
            }
            _ => None,
        };
        match found {
            wire::Content::Need => spoiled.or(Some(Step::Read)),
            wire::Content::Data(_) if message.octets > limit.saturating_mul(2) => {
                self.give_up();
                spoiled
            }
            wire::Content::Data(data) if message.lost.is_none() => Some(Step::Content(data)),
            wire::Content::Data(_) => spoiled,
            wire::Content::End => match message.lost.take() {
                None => {
                    self.end();
                    Some(Step::End)
                }
                Some(lost) => {
                    let (recipients, prdr) = (message.recipients, message.prdr);
                    self.content = Content::None;
                    self.conclude(&lost, recipients, prdr);
                    spoiled
                }
            },
        }
    }

    fn chunk_step(&mut self, input: &mut BytesMut) -> Option<Step> {
        let limit = self.config.limits.message_size;
        let Content::Flowing { how: How::Chunk { left, last }, message } = &mut self.content else { return None };
        if *left == 0 {
            let last = *last;
            return self.end_chunk(last);
        }
        if input.is_empty() {
            return Some(Step::Read);
        }
        let data = input.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(input.len()));
        *left -= data.len() as u64;
        message.octets = message.octets.saturating_add(data.len() as u64);
        if message.lost.is_some() {
            if message.octets > limit.saturating_mul(2) {
                self.give_up();
            }
            return None;
        }
        if let Some(Err(bad)) = message.law.as_mut().map(|law| law.check(&data)) {
            return Some(message.lose(bad));
        }
        Some(Step::Content(data.freeze()))
    }

    fn end_chunk(&mut self, last: bool) -> Option<Step> {
        let Content::Flowing { how, mut message } = self.content.take() else { return None };
        let mut spoiled = None;
        if last && message.lost.is_none() {
            // The line law's last word: a CR with nothing behind it.
            spoiled = message.law.as_ref().and_then(|law| law.finish().err()).map(|bad| message.lose(bad));
        }
        if let Some(lost) = message.lost.take() {
            self.lose_chunks(last);
            if last {
                self.say_outcome(&lost, message.recipients, message.prdr);
            } else if let Err(refusal) = lost.single() {
                self.say(refusal.into_reply());
            }
            return spoiled;
        }
        if last {
            self.content = Content::Flowing { how, message };
            self.end();
            return Some(Step::End);
        }
        let text = alloc::format!("{} octets received", message.octets);
        self.content = Content::Between { message };
        self.say(Reply::new(Code::of(250), Some(EnhancedCode::of(2, 0, 0)), text));
        None
    }

    fn end(&mut self) {
        if let Content::Flowing { message, .. } = self.content.take() {
            self.content = Content::Ended { message };
        }
    }

    /// Twice the largest message has come: the client does not listen. Say so and close.
    fn give_up(&mut self) {
        let refusal = self.too_large();
        self.write(refusal.reply());
        self.close();
    }

    fn too_large(&self) -> Refusal {
        too_large(self.config.limits.message_size)
    }
}

fn too_large(limit: u64) -> Refusal {
    Refusal::new(552, (5, 3, 4), alloc::format!("the message is over the limit of {limit} octets"))
}

impl Message {
    fn outgrow(&mut self, limit: u64) -> Step {
        self.lost = Some(Outcome::all(Err(too_large(limit)), self.recipients));
        Step::Spoiled("larger than the limit")
    }

    fn lose(&mut self, bad: BadLine) -> Step {
        let refusal = Refusal::new(554, (5, 6, 0), alloc::format!("{bad}"));
        self.lost = Some(Outcome::all(Err(refusal), self.recipients));
        Step::Spoiled("a line breaks the line law")
    }
}
