//! What the registry and the extensions' own rules have against a command that the table allows.

use super::{Needs, Protocol, Session};
use crate::extension::{Context, Registry, SmtpUtf8};
use crate::types::{Command, HelloKind, Mail, Rcpt, Refusal};

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
            _ => Ok(()),
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
        if !self.extended && !mail.parameters.is_empty() {
            return Err(Refusal::fixed(555, (5, 5, 4), "parameters need EHLO (RFC 5321 §4.1.1.11)"));
        }
        self.with_context(|registry, context| registry.check_mail(context, &mail.parameters))?;
        if mail.from.mailbox().is_some_and(|m| !m.is_ascii()) && mail.parameters.get::<SmtpUtf8>().is_none() {
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
                return Err(Refusal::fixed(
                    452,
                    (4, 5, 3),
                    "too many recipients; send the rest in another transaction",
                ));
            }
            if !transaction.utf8 && rcpt.to.mailbox().is_some_and(|m| !m.is_ascii()) {
                return Err(Refusal::fixed(553, (5, 6, 7), "an address beyond US-ASCII needs SMTPUTF8 on MAIL"));
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
            mechanisms,
            authenticated: self.info.identity.is_some(),
            promises: config.promises.keywords(),
        };
        f(&config.registry, &context)
    }
}
