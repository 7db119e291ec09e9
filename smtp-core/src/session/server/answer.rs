//! What the policy says to a question, and what the client is told of it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{OpenTransaction, Protocol, Session, Step, Ticket};
use crate::acceptance::{Outcome, Receipt};
use crate::channel::Identity;
use crate::extension::{Forwarded, Prdr, SmtpUtf8};
use crate::session::table::State;
use crate::types::{Code, Command, Hello, HelloKind, Mail, Rcpt, Refusal, Reply, Severity};

/// What a policy says to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on as the protocol has it: the greeting, 250 to MAIL and RCPT, 354 when the delivery asks for content.
    Proceed,
    /// No, with this reply. A 421 ends the session.
    Refuse(Refusal),
    /// To AUTH and a SASL response: 334 with these octets in base64, and the client's next line comes as
    /// [`Command::Response`].
    Challenge(Bytes),
    /// To AUTH and a SASL response: 235, and the session goes on under this identity.
    Authenticated(Identity),
    /// The reply to VRFY, EXPN, HELP or a verb of an extension. To anything else it counts as a refusal if it is 4yz
    /// or 5yz, and as [`Verdict::Proceed`] with another text if it is 2yz; content is never accepted by it.
    Answer(Reply),
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// A question that is out.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: Ticket,
    kept: Kept,
    verdict: Option<Verdict>,
}

/// What has to be remembered of a command until it is answered.
#[derive(Debug)]
enum Kept {
    Connect,
    Hello(Hello),
    StartTls,
    Sasl,
    Mail(Mail),
    Rcpt(Rcpt),
    Data,
    Bdat { size: u64, last: bool },
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    XClient(Forwarded),
    XForward(Forwarded),
    Other,
}

impl Pending {
    pub(super) const fn is_rcpt(&self) -> bool {
        matches!(self.kept, Kept::Rcpt(_))
    }
}

impl Session {
    pub(super) fn ask(&mut self, command: Command) -> Step {
        let kept = match &command {
            Command::Connect => Kept::Connect,
            Command::Hello(hello) => Kept::Hello(hello.clone()),
            Command::StartTls => Kept::StartTls,
            Command::Auth { .. } | Command::Response(_) => Kept::Sasl,
            Command::Mail(mail) => Kept::Mail(mail.clone()),
            Command::Rcpt(rcpt) => Kept::Rcpt(rcpt.clone()),
            Command::Data => Kept::Data,
            Command::Bdat { size, last } => Kept::Bdat { size: *size, last: *last },
            Command::Rset => Kept::Rset,
            Command::Noop | Command::Quit => Kept::Noop,
            Command::Vrfy(_) => Kept::Vrfy,
            Command::Expn(_) => Kept::Expn,
            Command::Help(_) => Kept::Help,
            Command::Other { verb, arguments } => match &**verb {
                "XCLIENT" => Forwarded::xclient(arguments).map_or(Kept::Other, Kept::XClient),
                "XFORWARD" => Forwarded::xforward(arguments).map_or(Kept::Other, Kept::XForward),
                _ => Kept::Other,
            },
        };
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let ticket = Ticket(self.next_ticket);
        // Without pipelining there is one at a time, and an idle session keeps the room.
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(1);
        }
        self.pending.push_back(Pending { ticket, kept, verdict: None });
        Step::Ask(ticket, command)
    }

    /// Takes what the policy said to a question. Questions may be answered in any order; replies, and what follows
    /// from the verdicts, keep the order of the commands.
    ///
    /// Gives [`Step::Begin`] if a message begins with it, which is to be carried out before anything else.
    #[must_use]
    pub fn answer(&mut self, ticket: Ticket, verdict: Verdict) -> Option<Step> {
        if let Some(pending) = self.pending.iter_mut().find(|p| p.ticket == ticket) {
            pending.verdict = Some(verdict);
        }
        let mut step = None;
        while let Some(pending) = self.pending.pop_front_if(|p| p.verdict.is_some()) {
            let Some(verdict) = pending.verdict else { continue };
            step = self.apply(pending.kept, verdict).or(step);
        }
        step
    }

    fn apply(&mut self, kept: Kept, verdict: Verdict) -> Option<Step> {
        let reply = match verdict {
            Verdict::Refuse(refusal) => refusal.into_reply(),
            Verdict::Answer(reply) if reply.severity() >= Severity::Transient => reply,
            verdict => return self.succeed(kept, verdict),
        };
        match kept {
            // RFC 5321 §3.1: a client that was turned away is waited for until it quits.
            Kept::Connect => self.state = State::TurnedAway,
            Kept::Sasl => self.state = State::Ready,
            Kept::Data => self.end_transaction(),
            Kept::Bdat { size, last } => {
                self.refuse_first_chunk(size, last, reply);
                return None;
            }
            _ => {}
        }
        self.say(reply);
        None
    }

    fn succeed(&mut self, kept: Kept, verdict: Verdict) -> Option<Step> {
        let reply = match kept {
            Kept::Connect => {
                self.state = State::Greeted;
                let protocol = match self.config.protocol {
                    Protocol::Smtp => "ESMTP",
                    Protocol::Lmtp => "LMTP",
                };
                plain(220, alloc::format!("{} {protocol} ready", self.config.hostname))
            }
            Kept::Hello(hello) => self.greet(hello),
            Kept::StartTls => {
                self.upgrade = true;
                Reply::fixed(220, (2, 0, 0), "go ahead with TLS")
            }
            Kept::Sasl => self.sasl(verdict),
            Kept::Data => return self.begin_data(),
            Kept::Bdat { size, last } => return self.begin_first_chunk(size, last),
            Kept::Mail(mail) => {
                let utf8 = mail.parameters.get::<SmtpUtf8>().is_some();
                let prdr = mail.parameters.get::<Prdr>().is_some();
                let recipients = Vec::new();
                self.transaction =
                    Some(OpenTransaction { mail, recipients, domains: 0, tried: false, overshoot: 0, utf8, prdr });
                self.messages = self.messages.saturating_add(1);
                self.state = State::Mail;
                words(verdict, 250, (2, 1, 0), "sender ok")
            }
            Kept::Rcpt(rcpt) => {
                self.state = State::Rcpt;
                if let Some(transaction) = &mut self.transaction {
                    if self.config.limits.recipient_domains.is_some() && !transaction.knows_domain_of(&rcpt) {
                        transaction.domains += 1;
                    }
                    transaction.recipients.push(rcpt);
                }
                words(verdict, 250, (2, 1, 5), "recipient ok")
            }
            Kept::Rset => {
                if self.state != State::Greeted {
                    self.end_transaction();
                }
                words(verdict, 250, (2, 0, 0), "forgotten")
            }
            Kept::Noop => words(verdict, 250, (2, 0, 0), "ok"),
            // RFC 5321 §3.5.3
            Kept::Vrfy => words(verdict, 252, (2, 0, 0), "cannot verify; send and see"),
            Kept::Expn => words(verdict, 502, (5, 5, 1), "EXPN is not offered here"),
            Kept::Help => words(
                verdict,
                214,
                (2, 0, 0),
                match self.config.protocol {
                    Protocol::Smtp => {
                        "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\nsee RFC 5321"
                    }
                    Protocol::Lmtp => "LHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\nsee RFC 2033",
                },
            ),
            // The greeting is the answer, or what is said to the client in its place.
            Kept::XClient(client) => {
                self.start_over_for(client);
                return None;
            }
            Kept::XForward(client) => {
                let info = Arc::make_mut(&mut self.info);
                info.client = Some(Box::new(client.over(info.client.as_deref())));
                words(verdict, 250, (2, 0, 0), "noted")
            }
            Kept::Other => words(verdict, 502, (5, 5, 1), "nobody here does that"),
        };
        self.say(reply);
        None
    }

    fn greet(&mut self, hello: Hello) -> Reply {
        self.end_transaction();
        self.extended = hello.kind != HelloKind::Helo;
        let text = if self.extended {
            self.ehlo_text(hello.name.as_str())
        } else {
            alloc::format!("{} greets {}", self.config.hostname, hello.name)
        };
        self.greeted_by(hello);
        plain(250, text)
    }

    fn sasl(&mut self, verdict: Verdict) -> Reply {
        self.state = State::Ready;
        match verdict {
            Verdict::Challenge(octets) => {
                self.state = State::Sasl;
                plain(334, STANDARD.encode(octets))
            }
            Verdict::Authenticated(identity) => {
                // Each session has facts of its own.
                Arc::make_mut(&mut self.info).identity = Some(identity);
                Reply::fixed(235, (2, 7, 0), "authenticated")
            }
            // A policy without authentication lets everything proceed; that proves nobody's identity.
            Verdict::Proceed | Verdict::Answer(_) | Verdict::Refuse(_) => {
                Reply::fixed(504, (5, 5, 4), "nobody here runs that mechanism")
            }
        }
    }

    pub(super) fn end_transaction(&mut self) {
        self.transaction = None;
        self.state = State::Ready;
        self.forget_forwarded();
    }

    /// One reply about the whole message, or one per recipient, as the protocol has it. With `prdr` the client asked
    /// for both.
    pub(super) fn say_outcome(&mut self, outcome: &Outcome, recipients: usize, prdr: bool) {
        if outcome.len() != recipients {
            let confused = Refusal::fixed(451, (4, 3, 0), "local error; try again later");
            return self.say_outcome(&Outcome::all(Err(confused), recipients), recipients, prdr);
        }
        match self.config.protocol {
            Protocol::Smtp if prdr && recipients > 1 && outcome.common_refusal().is_none() => {
                self.write(&Reply::fixed(353, (0, 0, 0), "one reply per recipient follows, then one for all"));
                self.write_each(outcome.iter().map(reply_of));
                if self.closing {
                    return;
                }
                // Whoever was refused knows; the message as a whole is taken if anybody took it.
                match outcome.iter().find_map(|result| result.as_ref().ok()) {
                    Some(receipt) => self.accept(&receipt.reply()),
                    None => self.say(outcome.single().map_or_else(Refusal::into_reply, Receipt::reply)),
                }
            }
            Protocol::Smtp => match outcome.single() {
                Ok(receipt) => self.accept(&receipt.reply()),
                Err(refusal) => self.say(refusal.into_reply()),
            },
            // RFC 2033 §4.2
            Protocol::Lmtp => self.say_each(outcome.iter().map(reply_of)),
        }
    }

    /// One reply for each recipient. Together they are one error at most: what is said in between would be taken for a
    /// recipient's.
    pub(super) fn say_each(&mut self, replies: impl Iterator<Item = Reply>) {
        let (accepted, refused) = self.write_each(replies);
        if accepted {
            self.errors = 0;
            self.junk = 0;
        } else if refused && !self.closing {
            self.count_error();
        }
    }

    /// Whether somebody was accepted, and whether somebody never will be.
    fn write_each(&mut self, replies: impl Iterator<Item = Reply>) -> (bool, bool) {
        let (mut accepted, mut refused) = (false, false);
        for reply in replies {
            self.write(&reply);
            accepted |= reply.severity() == Severity::Success;
            refused |= reply.severity() == Severity::Permanent;
            // The last word of a session (RFC 5321 §3.8).
            if reply.code().get() == 421 {
                self.close();
                break;
            }
        }
        (accepted, refused)
    }

    fn accept(&mut self, reply: &Reply) {
        self.forgive();
        self.write(reply);
    }

    /// A client that delivers may make mistakes again.
    const fn forgive(&mut self) {
        self.errors = 0;
        self.junk = 0;
    }
}

fn reply_of(result: &Result<Receipt, Refusal>) -> Reply {
    result.as_ref().map_or_else(|refusal| refusal.reply().clone(), Receipt::reply)
}

/// The policy's own words, if it had some, or the usual ones.
fn words(verdict: Verdict, code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Reply {
    match verdict {
        Verdict::Answer(reply) => reply,
        _ => Reply::fixed(code, enhanced, text),
    }
}

/// A reply without an enhanced code (RFC 2034 §4 has none for greetings, EHLO and 3yz).
fn plain(code: u16, text: String) -> Reply {
    Reply::new(Code::of(code), None, text)
}
