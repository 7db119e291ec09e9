//! The envelope: what can be asked of this server, and the asking.

use smtp_core::extension::{BodyType, Size, SmtpUtf8};
use smtp_core::session::State;
use smtp_core::session::client::{NotNow, Session};
use smtp_core::types::{Command, Envelope, Invalid, Mail, Parameter, Parameters, Rcpt, Refusal, ReversePath};

use super::{Attempt, Outgoing, SendOptions, Transfer};
use crate::{Connection, Error, Step};

/// What will be sent.
pub(super) struct Plan {
    mail: Mail,
    /// BDAT, not DATA.
    pub(super) chunks: bool,
    /// Recipients that are refused without being asked about, by their place in the envelope.
    pub(super) refused: Vec<(usize, Refusal)>,
}

/// What this server can be asked, or why the message cannot go to it at all.
pub(super) fn plan(
    session: &Session,
    envelope: &Envelope,
    content: &Outgoing,
    options: &SendOptions,
) -> Result<Plan, Refusal> {
    let mail = &envelope.mail;
    let body = mail.parameters.get::<BodyType>().unwrap_or_default();
    let binary = body == BodyType::BinaryMime;
    let chunks = match options.transfer {
        Transfer::Auto => session.offers("CHUNKING"),
        Transfer::Data => false,
        Transfer::Chunks if session.offers("CHUNKING") => true,
        Transfer::Chunks => return Err(not_offered("CHUNKING", "the message")),
    };
    // RFC 3030 §3. To turn the content into another encoding is not for this layer.
    if binary && !(chunks && session.offers("BINARYMIME")) {
        return Err(Refusal::fixed(554, (5, 6, 1), "the next hop does not take BINARYMIME content"));
    }
    let mut parameters = offered_only(session, &mail.parameters, "MAIL")?;
    // RFC 6152 §3. Without BODY what is sent was never said, and can be looked at only if it is in memory.
    let eight_bit = body == BodyType::EightBitMime
        || mail.parameters.value(BodyType::KEYWORD).is_none() && content.whole().is_some_and(|whole| !whole.is_ascii());
    if eight_bit && !session.offers("8BITMIME") {
        return Err(Refusal::fixed(554, (5, 6, 3), "the next hop does not take 8-bit content"));
    }
    let with = |invalid: Invalid| Refusal::new(501, (5, 5, 4), invalid.to_string());
    if eight_bit && body == BodyType::SevenBit {
        parameters = parameters.with(&BodyType::EightBitMime).map_err(with)?;
    }
    let declared = mail.parameters.get::<Size>().map(|Size(size)| size);
    if let Some(size) = content.size().or(declared) {
        if let Some(max) = session.capabilities().max_size().filter(|max| size > *max) {
            let text = format!("a message of {size} octets is over the next hop's limit of {max}");
            return Err(Refusal::new(552, (5, 3, 4), text));
        }
        if session.offers("SIZE") {
            parameters = parameters.with(&Size(size)).map_err(with)?;
        }
    }
    if let ReversePath::Mailbox(from) = &mail.from
        && !from.is_ascii()
        && parameters.value(SmtpUtf8::KEYWORD).is_none()
    {
        if !session.offers("SMTPUTF8") {
            return Err(needs_smtputf8());
        }
        parameters = parameters.with(&SmtpUtf8).map_err(with)?;
    }
    let utf8 = parameters.value(SmtpUtf8::KEYWORD).is_some();
    let refused = envelope.recipients.iter().enumerate();
    let refused = refused.filter_map(|(n, rcpt)| Some((n, refused_here(session, rcpt, utf8)?))).collect();
    Ok(Plan { mail: Mail { from: mail.from.clone(), parameters }, chunks, refused })
}

fn refused_here(session: &Session, rcpt: &Rcpt, utf8: bool) -> Option<Refusal> {
    // RFC 6531 §3.4: MAIL has to say SMTPUTF8 for such a recipient, and it is the sender's to say.
    if rcpt.to.mailbox().is_some_and(|to| !to.is_ascii()) && !utf8 {
        return Some(needs_smtputf8());
    }
    offered_only(session, &rcpt.parameters, "RCPT").err()
}

/// The parameters that the server knows; those that it can do without are left out.
fn offered_only(session: &Session, given: &Parameters, verb: &str) -> Result<Parameters, Refusal> {
    let mut kept = given.clone();
    for (keyword, value) in given.iter() {
        let needs = extension_of(keyword, value);
        if session.offers(&needs) {
            continue;
        }
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        let seven_bit = value.is_some_and(|v| v.eq_ignore_ascii_case("7BIT"));
        if is("SIZE") || is("AUTH") || (is("BODY") && seven_bit) {
            kept = kept.without(keyword);
        } else if is("BODY") {
            let eight_bit = value.is_some_and(|v| v.eq_ignore_ascii_case("8BITMIME"));
            let (detail, what) = if eight_bit { (3, "8-bit") } else { (1, "such") };
            return Err(Refusal::new(554, (5, 6, detail), format!("the next hop does not take {what} content")));
        } else if is(SmtpUtf8::KEYWORD) {
            return Err(needs_smtputf8());
        } else {
            return Err(not_offered(&needs, &format!("{verb} parameter {keyword}")));
        }
    }
    Ok(kept)
}

/// The EHLO keyword of the extension that a parameter belongs to.
fn extension_of(keyword: &str, value: Option<&str>) -> String {
    let keyword = keyword.to_ascii_uppercase();
    match keyword.as_str() {
        "BODY" if value.is_some_and(|v| v.eq_ignore_ascii_case("BINARYMIME")) => "BINARYMIME".into(),
        "BODY" => "8BITMIME".into(),
        "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN".into(),
        "BY" => "DELIVERBY".into(),
        "HOLDFOR" | "HOLDUNTIL" => "FUTURERELEASE".into(),
        "SOLICIT" => "NO-SOLICITING".into(),
        _ => keyword,
    }
}

fn not_offered(extension: &str, what: &str) -> Refusal {
    Refusal::new(555, (5, 5, 4), format!("{what} needs {extension}, which the next hop does not offer"))
}

fn needs_smtputf8() -> Refusal {
    // RFC 6531 §3.7.4.1 has 553 and 550 with X.6.7.
    Refusal::fixed(553, (5, 6, 7), "the next hop does not take internationalized mail (SMTPUTF8)")
}

impl Connection {
    /// Sends the envelope and reads the replies to it: all in one group if that is allowed. With `eager` a message
    /// that is in memory goes along as one chunk.
    pub(super) async fn send_envelope(
        &mut self,
        envelope: &Envelope,
        plan: &Plan,
        content: &mut Outgoing,
        eager: bool,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        let left_over = self.wire.session.state() != State::Ready;
        let reset = left_over.then_some(Command::Rset);
        let recipients = envelope.recipients.iter().enumerate().filter(|(n, _)| !attempt.is_refused(*n));
        let recipients: Vec<&Rcpt> = recipients.map(|(_, rcpt)| rcpt).collect();
        let mut script = reset
            .into_iter()
            .chain([Command::Mail(plan.mail.clone())])
            .chain(recipients.into_iter().map(|rcpt| {
                let parameters = offered_only(&self.wire.session, &rcpt.parameters, "RCPT").unwrap_or_default();
                Command::Rcpt(Rcpt { to: rcpt.to.clone(), parameters })
            }))
            .chain((!plan.chunks).then_some(Command::Data))
            .collect::<Vec<_>>()
            .into_iter()
            .peekable();
        loop {
            while let Some(command) = script.peek() {
                match self.queue(command) {
                    Ok(()) => drop(script.next()),
                    Err(NotNow::Outstanding(_)) => break,
                    // A refusal in lock step makes the rest pointless: no sender, no recipients.
                    Err(NotNow::BadSequence(_) | NotNow::Over) if attempt.answered() => {
                        script = Vec::new().into_iter().peekable();
                    }
                    Err(why) => return Err(Error::local(Step::Mail, why)),
                }
            }
            if plan.chunks && eager && script.peek().is_none() && self.wire.session.pipelining() {
                self.queue_whole(content, attempt)?;
            }
            if !self.awaits_something() || self.wire.session.wants_content() {
                return Ok(());
            }
            let event = self.next().await?;
            attempt.record(event);
        }
    }

    /// Queues a message that is in memory as one chunk.
    fn queue_whole(&mut self, content: &mut Outgoing, attempt: &mut Attempt) -> Result<(), Error> {
        if attempt.ended || attempt.answered() {
            return Ok(());
        }
        let Some(whole) = content.give_whole() else { return Ok(()) };
        let command = Command::Bdat { size: whole.len() as u64, last: true };
        self.queue(&command).map_err(|why| Error::local(Step::EndOfContent, why))?;
        if !whole.is_empty() {
            self.show_content(whole.len());
            self.wire.session.content(whole).map_err(|why| Error::local(Step::EndOfContent, why))?;
        }
        attempt.ended = true;
        self.messages += 1;
        Ok(())
    }
}
