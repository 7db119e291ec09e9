//! What this server can be asked, or why a message cannot go to it: decided before MAIL.

use smtp_core::acceptance::Omitted;
use smtp_core::channel::ChannelInfo;
use smtp_core::extension::{
    BodyType, ByMode, DeliverBy, Lack, OriginalRecipient, Prdr, Registry, RequireTls, Size, SmtpUtf8,
};
use smtp_core::session::client::Session;
use smtp_core::types::{Envelope, Invalid, Mail, Parameter, Parameters, Rcpt, Refusal, ReversePath};

use super::{Outgoing, SendOptions, Transfer};

/// What will be sent.
pub(super) struct Plan {
    pub(super) mail: Mail,
    /// BDAT, not DATA.
    pub(super) chunks: bool,
    /// Recipients that are refused without being asked about, by their place in the envelope.
    pub(super) refused: Vec<(usize, Refusal)>,
    /// What the next hop will not be told about the message, and about some of its recipients.
    pub(super) omitted: Omitted,
    pub(super) omitted_of: Vec<(usize, Omitted)>,
}

/// The server, as far as it is known, and the extensions that are known here.
#[derive(Clone, Copy)]
pub(super) struct NextHop<'a> {
    pub(super) session: &'a Session,
    pub(super) channel: &'a ChannelInfo,
    pub(super) registry: &'a Registry,
}

impl NextHop<'_> {
    /// What this server can be asked, or why the message cannot go to it at all.
    ///
    /// 8-bit content that the server does not take is refused (5.6.3), and BINARYMIME likewise (5.6.1): to turn it into
    /// another encoding every part of the message and its header would have to be rewritten, which breaks signatures,
    /// and whoever has the message can still do it. Content that only claims to need more than it does is found out
    /// where it is in memory.
    pub(super) fn plan(self, envelope: &Envelope, content: &Outgoing, options: &SendOptions) -> Result<Plan, Refusal> {
        let Self { session, .. } = self;
        let mail = &envelope.mail;
        let body = mail.parameters.get::<BodyType>().unwrap_or_default();
        let chunks = match options.transfer {
            Transfer::Auto => session.offers("CHUNKING"),
            Transfer::Data => false,
            Transfer::Chunks if session.offers("CHUNKING") => true,
            Transfer::Chunks => return Err(not_offered("CHUNKING", "the message")),
        };
        let ascii = content.whole().map(|whole| whole.is_ascii());
        let with = |invalid: Invalid| Refusal::new(501, (5, 5, 4), invalid.to_string());

        let mut given = mail.parameters.clone();
        // Content that holds no 8-bit octet needs no 8BITMIME, whatever was announced.
        if body == BodyType::EightBitMime && ascii == Some(true) && !session.offers("8BITMIME") {
            given = given.without(BodyType::KEYWORD);
        }
        // RFC 6531 §3.2 is about internationalized messages, not about those that could have been.
        let could_be_plain = given.value(SmtpUtf8::KEYWORD).is_some() && ascii == Some(true);
        if could_be_plain && !session.offers("SMTPUTF8") && is_ascii(envelope) {
            given = given.without(SmtpUtf8::KEYWORD);
        }
        // From hop to hop: what the next hop is asked depends on what it can do.
        if given.value(Prdr::KEYWORD).is_some() {
            given = given.without(Prdr::KEYWORD);
        }
        let (mut parameters, omitted) = self.adapt(&given, Command::Mail)?;

        // RFC 3030 §3
        if body == BodyType::BinaryMime && !chunks {
            return Err(Refusal::fixed(554, (5, 6, 1), "the next hop does not take BINARYMIME content"));
        }
        // RFC 6152 §3. Without BODY what is sent was never said, and can be looked at only if it is in memory.
        if mail.parameters.value(BodyType::KEYWORD).is_none() && ascii == Some(false) {
            //
            if !session.offers("8BITMIME") {
                return Err(Refusal::fixed(554, (5, 6, 3), "the next hop does not take 8-bit content"));
            }
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
        if envelope.recipients.len() > 1 && session.offers("PRDR") {
            parameters = parameters.with(&Prdr).map_err(with)?;
        }
        let utf8 = parameters.value(SmtpUtf8::KEYWORD).is_some();
        let (mut refused, mut omitted_of) = (Vec::new(), Vec::new());
        for (n, rcpt) in envelope.recipients.iter().enumerate() {
            match self.recipient(rcpt, utf8) {
                Ok((_, Omitted::NOTHING)) => {}
                Ok((_, omitted)) => omitted_of.push((n, omitted)),
                Err(refusal) => refused.push((n, refusal)),
            }
        }
        Ok(Plan { mail: Mail { from: mail.from.clone(), parameters }, chunks, refused, omitted, omitted_of })
    }

    /// What can be asked about a recipient.
    pub(super) fn recipient(self, rcpt: &Rcpt, utf8: bool) -> Result<(Parameters, Omitted), Refusal> {
        // RFC 6531 §3.4: MAIL has to say SMTPUTF8 for such a recipient, and it is the sender's to say.
        if rcpt.to.mailbox().is_some_and(|to| !to.is_ascii()) && !utf8 {
            return Err(needs_smtputf8());
        }
        let (mut parameters, omitted) = self.adapt(&rcpt.parameters, Command::Rcpt)?;
        // RFC 6533 §3: the form in US-ASCII is for everybody.
        if !utf8
            && !parameters.as_str().is_ascii()
            && let Some(original) = parameters.get::<OriginalRecipient>()
        {
            parameters = parameters.with(&original).unwrap_or(parameters);
        }
        Ok((parameters, omitted))
    }

    /// The parameters that the server knows; without the others, if they can be done without.
    fn adapt(self, given: &Parameters, command: Command) -> Result<(Parameters, Omitted), Refusal> {
        let (mut kept, mut omitted) = (given.clone(), Omitted::NOTHING);
        for (keyword, value) in given.iter() {
            let rule = match command {
                Command::Mail => self.registry.mail_rule(keyword),
                Command::Rcpt => self.registry.rcpt_rule(keyword),
            };
            let binary = value.is_some_and(|v| v.eq_ignore_ascii_case("BINARYMIME"));
            let extension = match rule {
                Some(_) if binary && keyword.eq_ignore_ascii_case(BodyType::KEYWORD) => "BINARYMIME".into(),
                Some((extension, _)) => extension.keyword.into(),
                None => keyword.to_ascii_uppercase(),
            };
            if self.session.offers(&extension) {
                self.more_conditions(keyword, value)?;
                continue;
            }
            match rule.map_or(Lack::Unsupported, |(_, rule)| (rule.lacking)(value)) {
                Lack::Unsupported => {
                    return Err(not_offered(&extension, &format!("{} parameter {keyword}", command.name())));
                }
                Lack::Refuse(refusal) => return Err(refusal),
                Lack::Omit => kept = kept.without(keyword),
                Lack::Note(what) => {
                    kept = kept.without(keyword);
                    omitted = omitted.and(what);
                }
            }
        }
        Ok((kept, omitted))
    }

    /// What an extension asks for beyond being offered.
    fn more_conditions(self, keyword: &str, value: Option<&str>) -> Result<(), Refusal> {
        if keyword.eq_ignore_ascii_case(RequireTls::KEYWORD) {
            // RFC 8689 §4.2.1: a TLS session with a server that has proved who it is.
            let verified = self.channel.tls.as_ref().is_some_and(|tls| tls.verified);
            return if verified { Ok(()) } else { Err(RequireTls::no_tls()) };
        }
        if keyword.eq_ignore_ascii_case(DeliverBy::KEYWORD)
            && let Ok(by) = DeliverBy::from_value(value)
            && by.mode() == ByMode::Return
        {
            // RFC 2852 §4.1.3
            let least = self.session.capabilities().get("DELIVERBY").and_then(|least| least.parse().ok()).unwrap_or(0);
            if by.seconds() < least {
                let text = format!("the next hop keeps no deadline below {least} s, and there are {} s", by.seconds());
                return Err(Refusal::new(550, (5, 4, 7), text));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Command {
    Mail,
    Rcpt,
}

impl Command {
    const fn name(self) -> &'static str {
        match self {
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
        }
    }
}

fn is_ascii(envelope: &Envelope) -> bool {
    envelope.mail.from.mailbox().is_none_or(|from| from.is_ascii())
        && envelope.recipients.iter().all(|rcpt| rcpt.to.mailbox().is_none_or(|to| to.is_ascii()))
}

fn not_offered(extension: &str, what: &str) -> Refusal {
    Refusal::new(555, (5, 5, 4), format!("{what} needs {extension}, which the next hop does not offer"))
}

fn needs_smtputf8() -> Refusal {
    // RFC 6531 §3.7.4.1 has 553 and 550 with X.6.7.
    Refusal::fixed(553, (5, 6, 7), "the next hop does not take internationalized mail (SMTPUTF8)")
}
