//! What the registry and the extensions' own rules have against a command that the table allows.

use super::{Needs, OpenTransaction, Protocol, Session};
use crate::extension::{Attribute, Context, Forwarded, Registry, SmtpUtf8, bad_value};
use crate::types::{Command, HelloKind, Mail, Parameter, Rcpt, Refusal};

impl Session {
    /// What the registry and the extensions' own rules have against a legal command.
    pub(super) fn check(&mut self, command: &Command) -> Result<(), Refusal> {
        match command {
            Command::Hello(hello) => match (self.config.protocol, hello.kind) {
                (Protocol::Smtp, HelloKind::Ehlo | HelloKind::Helo) | (Protocol::Lmtp, HelloKind::Lhlo) => Ok(()),
                (Protocol::Smtp, HelloKind::Lhlo) => {
                    Err(Refusal::fixed(500, (5, 5, 1), "this is SMTP: greet with EHLO"))
                }
                // RFC 2033 §4.1
                (Protocol::Lmtp, HelloKind::Ehlo | HelloKind::Helo) => {
                    Err(Refusal::fixed(500, (5, 5, 1), "this is LMTP: greet with LHLO"))
                }
            },
            Command::StartTls if self.info.channel.tls.is_some() => {
                Err(Refusal::fixed(503, (5, 5, 1), "TLS is already up"))
            }
            Command::StartTls if !self.offers("STARTTLS") => {
                Err(Refusal::fixed(503, (5, 5, 1), "STARTTLS is not offered here"))
            }
            Command::Auth { mechanism, .. } => self.check_auth(mechanism),
            Command::Mail(mail) => self.check_mail(mail),
            Command::Rcpt(rcpt) => self.check_rcpt(rcpt),
            Command::Data if self.is_binary() => {
                // RFC 3030 §3
                Err(Refusal::fixed(503, (5, 5, 1), "BODY=BINARYMIME is sent with BDAT"))
            }
            Command::Bdat { .. } if !self.offers("CHUNKING") => {
                Err(Refusal::fixed(502, (5, 5, 1), "CHUNKING is not offered here"))
            }
            Command::Other { verb, arguments } if &**verb == "XCLIENT" => self.check_xclient(arguments),
            Command::Other { verb, arguments } if &**verb == "XFORWARD" => {
                self.check_between_transactions()?;
                Forwarded::xforward(arguments).map(drop).map_err(bad_value)
            }
            // RFC 5321 §3.5.2: the keyword is shown where the command is there.
            Command::Expn(_) if !self.offers("EXPN") => Err(Refusal::fixed(502, (5, 5, 1), "EXPN is not offered here")),
            _ => Ok(()),
        }
    }

    fn check_xclient(&self, arguments: &str) -> Result<(), Refusal> {
        self.check_between_transactions()?;
        let said = Forwarded::xclient(arguments).map_err(bad_value)?;
        if said.get(Attribute::Login).is_some() && !self.forwarding.login {
            return Err(Refusal::fixed(550, (5, 7, 0), "you may not say who has authenticated (XCLIENT LOGIN)"));
        }
        Ok(())
    }

    fn check_between_transactions(&self) -> Result<(), Refusal> {
        match self.transaction {
            Some(_) => Err(Refusal::fixed(503, (5, 5, 1), "not within a mail transaction; send RSET first")),
            None => Ok(()),
        }
    }

    fn check_auth(&self, mechanism: &str) -> Result<(), Refusal> {
        let config = &self.config;
        if self.info.identity.is_some() {
            // RFC 4954 §4
            return Err(Refusal::fixed(503, (5, 5, 1), "already authenticated"));
        }
        let offer = config.mechanisms().iter().find(|offer| offer.name.eq_ignore_ascii_case(mechanism));
        match offer {
            _ if config.mechanisms().is_empty() => Err(Refusal::fixed(502, (5, 5, 1), "AUTH is not offered here")),
            // RFC 4954 §4; 538 is "for historical purposes only" (§6).
            Some(offer) if !offer.needs.met_by(&self.info.channel) => {
                let text = match offer.needs {
                    Needs::Identity if self.info.channel.secure => "this mechanism needs a client certificate",
                    _ => "this mechanism needs encryption: use STARTTLS first",
                };
                Err(Refusal::fixed(504, (5, 5, 4), text))
            }
            Some(_) => Ok(()),
            None => Err(Refusal::fixed(504, (5, 5, 4), "mechanism not offered")),
        }
    }

    fn check_mail(&self, mail: &Mail) -> Result<(), Refusal> {
        if self.config.limits.messages.is_some_and(|most| self.messages >= most) {
            // RFC 5321 §3.8 and RFC 9422 §4.1: it was announced; another session has room.
            return Err(Refusal::fixed(421, (4, 5, 3), "enough messages for one session; open another"));
        }
        if !self.extended && !mail.parameters.is_empty() {
            return Err(Refusal::fixed(555, (5, 5, 4), "parameters need EHLO (RFC 5321 §4.1.1.11)"));
        }
        self.with_context(|registry, context| registry.check_mail(context, &mail.parameters))?;
        let utf8 = mail.parameters.value(SmtpUtf8::KEYWORD).is_some();
        if !utf8 && !mail.parameters.as_str().is_ascii() {
            return Err(beyond_ascii());
        }
        if mail.from.mailbox().is_some_and(|m| !m.is_ascii()) && !utf8 {
            // RFC 6531 §3.5
            return Err(Refusal::fixed(553, (5, 6, 7), "an address beyond US-ASCII needs SMTPUTF8"));
        }
        Ok(())
    }

    fn check_rcpt(&mut self, rcpt: &Rcpt) -> Result<(), Refusal> {
        let limit = self.config.limits.recipients;
        if let Some(transaction) = &mut self.transaction {
            transaction.tried = true;
            if transaction.recipients.len() >= limit {
                // RFC 5321 §4.5.3.1.10
                transaction.overshoot = transaction.overshoot.saturating_add(1);
                return Err(Refusal::fixed(
                    452,
                    (4, 5, 3),
                    "too many recipients; send the rest in another transaction",
                ));
            }
            if !transaction.utf8 && rcpt.to.mailbox().is_some_and(|m| !m.is_ascii()) {
                return Err(Refusal::fixed(553, (5, 6, 7), "an address beyond US-ASCII needs SMTPUTF8 on MAIL"));
            }
            if !transaction.utf8 && !rcpt.parameters.as_str().is_ascii() {
                return Err(beyond_ascii());
            }
            let full = self.config.limits.recipient_domains.is_some_and(|most| transaction.domains >= most);
            if full && !transaction.knows_domain_of(rcpt) {
                return Err(Refusal::fixed(452, (4, 5, 3), "too many domains; send the rest in another transaction"));
            }
        }
        if !self.extended && !rcpt.parameters.is_empty() {
            return Err(Refusal::fixed(555, (5, 5, 4), "parameters need EHLO (RFC 5321 §4.1.1.11)"));
        }
        self.with_context(|registry, context| registry.check_rcpt(context, &rcpt.parameters))
    }

    pub(super) fn offers(&self, keyword: &str) -> bool {
        self.with_context(|registry, context| registry.offers(keyword, context))
    }

    pub(super) fn with_context<T>(&self, f: impl FnOnce(&Registry, &Context<'_>) -> T) -> T {
        let config = &self.config;
        let mechanisms = config.mechanisms_on(&self.info.channel);
        let context = Context {
            channel: &self.info.channel,
            max_size: config.limits.message_size,
            limits: config.limits.announced(),
            mechanisms,
            authenticated: self.info.identity.is_some(),
            lmtp: config.protocol == Protocol::Lmtp,
            promises: config.promises.keywords(),
            terms: &config.terms,
            forwarding: self.forwarding,
        };
        f(&config.registry, &context)
    }
}

impl OpenTransaction {
    /// True if a recipient of the same domain was accepted before.
    pub(super) fn knows_domain_of(&self, rcpt: &Rcpt) -> bool {
        fn domain(rcpt: &Rcpt) -> &str {
            rcpt.to.mailbox().map_or("", |mailbox| mailbox.host())
        }
        self.recipients.iter().any(|other| domain(other).eq_ignore_ascii_case(domain(rcpt)))
    }
}

/// RFC 6531 §3.3 allows UTF-8 in parameters where MAIL says SMTPUTF8, and only there.
fn beyond_ascii() -> Refusal {
    Refusal::fixed(501, (5, 5, 4), "a parameter beyond US-ASCII needs SMTPUTF8 on MAIL")
}
