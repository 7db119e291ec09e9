//! What a reply does to the session.

use super::content::Sending;
use super::{Asked, Awaited, Event, Fault, Session, What};
use crate::extension::Capabilities;
use crate::session::State;
use crate::types::{HelloKind, Reply, Severity, Verb};

impl Session {
    /// Puts `reply` to what it answers. `clean` says that nothing stands behind it in the input.
    pub(super) fn settle(&mut self, reply: Reply, clean: bool) -> Result<Event, Fault> {
        let front = self.waiting.front().copied();
        // RFC 5321 §3.8: a server may close with a 421 at any time; nothing follows it.
        if reply.code().get() == 421 {
            let to = match front {
                Some(asked) => asked.what.awaited(),
                None if self.wants_content() => Awaited::Content,
                None => Awaited::Nothing,
            };
            self.end();
            return Ok(Event { to, reply });
        }
        match front {
            Some(asked) if self.output.written() >= asked.end => self.answer(asked, reply, clean),
            // An answer before its question.
            Some(Asked { what: What::Chunk { .. } | What::EndOfData { .. }, .. }) => self.early(reply),
            None if matches!(self.sending, Sending::Data(_)) => self.early(reply),
            Some(_) | None => Err(Fault::Unasked(reply)),
        }
    }

    /// A reply to content that is not wholly sent. A refusal is believed, but it cannot be known whether the server
    /// reads on for the rest of the content or for commands: the session is over.
    fn early(&mut self, reply: Reply) -> Result<Event, Fault> {
        match reply.severity() {
            Severity::Transient | Severity::Permanent => {
                self.end();
                Ok(Event { to: Awaited::Content, reply })
            }
            Severity::Success | Severity::Continue => Err(Fault::Unasked(reply)),
        }
    }

    fn answer(&mut self, Asked { what, .. }: Asked, reply: Reply, clean: bool) -> Result<Event, Fault> {
        let to = what.awaited();
        let severity = reply.severity();
        let success = severity == Severity::Success;
        if to == Awaited::Content && self.more_replies_to_content(what) {
            return if severity == Severity::Continue {
                Err(Fault::Unexpected { to, reply })
            } else {
                Ok(Event { to, reply })
            };
        }
        if to == Awaited::Content && self.more_verdicts(what, &reply) {
            return Ok(Event { to, reply });
        }
        self.waiting.pop_front();
        if !success || self.waiting.is_empty() {
            self.ahead = None;
        }
        match (what, severity) {
            (What::Command(Verb::Connect), Severity::Transient | Severity::Permanent) => self.state = State::TurnedAway,
            (What::Command(Verb::Data), Severity::Continue) => self.go_ahead(&reply)?,
            // Data accepted that was never sent.
            (What::Command(Verb::Data), Severity::Success) => return Err(Fault::Unexpected { to, reply }),
            (What::Command(Verb::Auth | Verb::Response), Severity::Continue) if reply.code().get() == 334 => {
                self.state = State::Sasl;
            }
            (What::Command(Verb::Auth), Severity::Success) => self.authenticated = true,
            (What::Command(Verb::Response), Severity::Success | Severity::Transient | Severity::Permanent) => {
                self.state = State::Ready;
                self.authenticated |= success;
            }
            // A greeting, as XCLIENT is answered with: the session starts over, for another client.
            (What::Command(Verb::Other), Severity::Success) if reply.code().get() == 220 => self.start_over(),
            // What an extension's verb answers is the extension's own.
            (What::Command(Verb::Other), _) => {}
            (_, Severity::Continue) => return Err(Fault::Unexpected { to, reply }),

            (What::Command(Verb::Quit), _) => self.end(),
            (What::Command(Verb::StartTls), Severity::Success) => {
                if !clean {
                    return Err(Fault::Injected);
                }
                self.upgrading = true;
            }
            (What::Hello(kind), Severity::Success) => self.greeted(kind, &reply),
            (What::Command(verb), Severity::Success) => {
                self.state = what.success(self.state);
                match verb {
                    Verb::Mail => self.accepted = 0,
                    Verb::Rcpt => self.accepted += 1,
                    _ => {}
                }
            }
            (What::Chunk { .. }, Severity::Success) | (What::EndOfData { .. }, _) => {
                self.state = what.success(self.state)
            }
            // Behind an EHLO or a greeting that was refused, there is more missing than RSET can bring.
            (What::Chunk { .. }, _) if matches!(self.state, State::Greeted | State::TurnedAway) => {}
            // RFC 3030 §2: no more chunks; RSET leads out.
            (What::Chunk { .. }, _) => self.state = State::ChunksRefused,
            // What was assumed of the server does not hold.
            (What::Hello(_), _) if self.state == State::Greeted => self.capabilities = Capabilities::default(),
            // A refused command leaves all as it was.
            (What::Hello(_) | What::Command(_), _) => {}
        }
        Ok(Event { to, reply })
    }

    /// The 354. With recipients the content follows. Without, a server that follows RFC 2920 §3.1 to the letter still
    /// expects an end of data.
    fn go_ahead(&mut self, reply: &Reply) -> Result<(), Fault> {
        if self.state == State::Rcpt {
            self.state = State::Data;
            self.open_data();
            return Ok(());
        }
        // RFC 2033 §4.2 leaves a server no reply to give after content for nobody.
        if self.lmtp {
            return Err(Fault::Unexpected { to: Awaited::Command(Verb::Data), reply: reply.clone() });
        }
        self.end_void_data();
        Ok(())
    }

    fn greeted(&mut self, kind: HelloKind, reply: &Reply) {
        self.state = State::Ready;
        self.accepted = 0;
        self.lmtp = kind == HelloKind::Lhlo;
        self.capabilities = match kind {
            HelloKind::Ehlo | HelloKind::Lhlo => Capabilities::from_ehlo(reply.text()),
            HelloKind::Helo => Capabilities::default(),
        };
        self.pipelining = self.offers("PIPELINING");
    }

    fn start_over(&mut self) {
        self.state = State::Greeted;
        self.ahead = None;
        self.accepted = 0;
        self.authenticated = false;
        self.capabilities = Capabilities::default();
        self.pipelining = self.offers("PIPELINING");
    }

    /// PRDR has a 353, one reply for each accepted recipient and one for all; true if others follow this one. A server
    /// that answers at once with the reply for all says no more.
    fn more_verdicts(&mut self, what: What, reply: &Reply) -> bool {
        if let Some(left) = self.verdicts {
            self.verdicts = left.checked_sub(1).filter(|_| reply.severity() != Severity::Continue);
            return self.verdicts.is_some();
        }
        let asked = matches!(what, What::EndOfData { prdr: true } | What::Chunk { last: true, prdr: true });
        let begins = asked && self.accepted > 1 && reply.code().get() == 353;
        self.verdicts = begins.then_some(self.accepted);
        begins
    }

    /// LMTP has one reply for each accepted recipient (RFC 2033 §4.2); true if others follow this one.
    fn more_replies_to_content(&mut self, what: What) -> bool {
        let each = self.lmtp
            && match what {
                What::EndOfData { .. } => true,
                What::Chunk { last, .. } => last && matches!(self.state, State::Rcpt | State::Chunks),
                What::Command(_) | What::Hello(_) => false,
            };
        if !each {
            return false;
        }
        self.replied += 1;
        let more = self.replied < self.accepted;
        if !more {
            self.replied = 0;
        }
        more
    }
}
