//! The registry of service extensions (RFC 5321 §2.2): one file each.
//!
//! An [`Extension`] says what EHLO shows, which parameters it adds to MAIL and RCPT, how a server checks them, what a
//! client does where its server lacks them, and which verbs it brings. A session knows nothing of them but the
//! [`Registry`] it was given: an extension of one's own is a `static` in one's own crate, put beside the standard ones
//! with [`Registry::with`], on the server's side, the client's or both.

mod auth;
mod capabilities;
mod chunking;
mod claimable;
mod deliver_by;
mod dsn;
mod eight_bit_mime;
mod etrn;
mod forward;
mod future_release;
mod limits;
mod mt_priority;
mod no_soliciting;
mod prdr;
mod require_tls;
mod rrvs;
mod simple;
mod size;
mod smtp_utf8;
mod terms;
#[cfg(test)]
mod tests;

pub use auth::{AUTH, AuthParameter};
pub use capabilities::Capabilities;
pub use chunking::{BINARYMIME, CHUNKING};
pub use claimable::{BURL, CHECKPOINT, CONNEG, CONPERM, Conneg, Conperm, MTRK, Mtrk, TransactionId};
pub use deliver_by::{ByMode, DELIVERBY, DeliverBy};
pub use dsn::{DSN, EnvelopeId, Notify, OriginalRecipient, Ret};
pub use eight_bit_mime::{BodyType, EIGHT_BIT_MIME};
pub use etrn::{ETRN, EtrnNode};
pub use forward::{Attribute, Forwarded, Forwarders, Forwarding, XCLIENT, XFORWARD};
pub use future_release::{FUTURERELEASE, HoldFor, HoldUntil};
pub use limits::{LIMITS, TransactionLimits};
pub use mt_priority::{MT_PRIORITY, Priority};
pub use no_soliciting::{NO_SOLICITING, Solicit};
pub use prdr::{PRDR, Prdr};
pub use require_tls::{REQUIRETLS, RequireTls};
pub use rrvs::{RRVS, ValidSince};
pub use simple::{ENHANCED_STATUS_CODES, EXPN, HELP, PIPELINING, STARTTLS, VRFY};
pub use size::{SIZE, Size};
pub use smtp_utf8::{SMTPUTF8, SmtpUtf8};
pub use terms::Terms;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::acceptance::Omitted;
use crate::channel::ChannelInfo;
use crate::types::{Invalid, Parameter, Parameters, Refusal};

/// What an extension may look at when EHLO is answered or a parameter is checked.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The channel's facts.
    pub channel: &'a ChannelInfo,
    /// The largest message that is taken, in octets.
    pub max_size: u64,
    /// How many messages, recipients and recipient domains are taken.
    pub limits: TransactionLimits,
    /// SASL mechanisms that can be used on this channel now, separated by blanks; empty if there is none.
    pub mechanisms: &'a str,
    /// True if the client is authenticated.
    pub authenticated: bool,
    /// True for LMTP, which answers for each recipient by itself.
    pub lmtp: bool,
    /// Keywords that the delivery promised.
    pub promises: &'a [&'static str],
    /// On what terms some extensions are offered.
    pub terms: &'a Terms,
    /// What the peer may say of others.
    pub forwarding: Forwarding,
}

/// A parameter that an extension adds to MAIL or RCPT.
#[derive(Debug, Clone, Copy)]
pub struct ParameterRule {
    /// In upper case.
    pub keyword: &'static str,
    /// The server's side: checks the value, `None` when the keyword stands alone, beside all parameters of the command.
    pub check: fn(&Context<'_>, Option<&str>, &Parameters) -> Result<(), Refusal>,
    /// The client's side: what becomes of the parameter where the next hop does not offer the extension.
    pub lacking: fn(Option<&str>) -> Lack,
}

impl ParameterRule {
    /// A rule that asks no more than that the value reads as `P`, and that cannot be done without.
    #[must_use]
    pub const fn of<P: Parameter>() -> Self {
        Self {
            keyword: P::KEYWORD,
            check: |_, value, _| P::from_value(value).map(drop).map_err(bad_value),
            lacking: |_| Lack::Unsupported,
        }
    }

    /// A rule for a parameter that has no type: any value will do, and it cannot be done without. A base to build on.
    #[must_use]
    pub const fn keyword(keyword: &'static str) -> Self {
        Self { keyword, check: |_, _, _| Ok(()), lacking: |_| Lack::Unsupported }
    }

    /// The same for a parameter that a client leaves out silently where the next hop does not know it.
    #[must_use]
    pub const fn or_omitted(mut self) -> Self {
        self.lacking = |_| Lack::Omit;
        self
    }
}

/// What a client does with a parameter that its next hop does not offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// The message, or the recipient, cannot go there: 555 5.5.4, which names the extension.
    Unsupported,
    /// The same in words of the extension's own.
    Refuse(Refusal),
    /// It goes without.
    Omit,
    /// It goes without, and whoever handed it on has to know: the receipt tells
    /// ([`Receipt::omitted`](crate::acceptance::Receipt::omitted)).
    Note(Omitted),
}

/// 501 5.5.4 for a value that breaks its rule.
#[must_use]
pub fn bad_value(invalid: Invalid) -> Refusal {
    Refusal::new(501, (5, 5, 4), alloc::format!("{invalid}"))
}

/// A service extension.
#[derive(Clone, Copy)]
pub struct Extension {
    /// The EHLO keyword, in upper case.
    pub keyword: &'static str,
    /// Where it is specified.
    pub reference: &'static str,
    /// True if a delivery has to promise the keyword before it is offered.
    pub needs_promise: bool,
    /// Whether to offer it here, beyond the promise.
    pub offered: fn(&Context<'_>) -> bool,
    /// Writes the keyword's EHLO parameters with a blank before each.
    pub announce: fn(&Context<'_>, &mut String),
    /// Parameters of MAIL.
    pub mail: &'static [ParameterRule],
    /// Parameters of RCPT.
    pub rcpt: &'static [ParameterRule],
    /// Verbs beyond RFC 5321 that reach the policy as `Command::Other`, in upper case.
    pub verbs: &'static [&'static str],
}

impl Extension {
    /// An extension that is a keyword and no more: always offered, no parameters, no verbs. A base to build on.
    #[must_use]
    pub const fn keyword(keyword: &'static str, reference: &'static str) -> Self {
        Self {
            keyword,
            reference,
            needs_promise: false,
            offered: |_| true,
            announce: |_, _| {},
            mail: &[],
            rcpt: &[],
            verbs: &[],
        }
    }

    /// True if it is offered here: its promise is given where it needs one, and its own rule agrees.
    #[must_use]
    pub fn is_offered(&self, context: &Context<'_>) -> bool {
        (!self.needs_promise || context.promises.contains(&self.keyword)) && (self.offered)(context)
    }
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extension")
            .field("keyword", &self.keyword)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// What a delivery can keep, by EHLO keyword, beyond the minimum: `BINARYMIME`, `SMTPUTF8`, `DSN`, `REQUIRETLS` …
///
/// Travels beside the stack, because stock layers could not forward it, and decides what EHLO offers: an extension
/// whose promise nobody can keep is not offered. [`Promises::MINIMUM`] is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises(&'static [&'static str]);

impl Promises {
    /// Nothing beyond plain SMTP: 8-bit content is taken, since every delivery here passes octets through.
    pub const MINIMUM: Self = Self(&[]);

    /// The promises of these keywords.
    #[must_use]
    pub const fn of(keywords: &'static [&'static str]) -> Self {
        Self(keywords)
    }

    /// The keywords.
    #[must_use]
    pub const fn keywords(&self) -> &'static [&'static str] {
        self.0
    }
}

/// The extensions that a server knows, in the order of its EHLO reply.
#[derive(Debug, Clone)]
pub struct Registry(Vec<&'static Extension>);

impl Default for Registry {
    /// All of the standard ones.
    fn default() -> Self {
        Self(Vec::from([
            &PIPELINING,
            &SIZE,
            &STARTTLS,
            &AUTH,
            &ENHANCED_STATUS_CODES,
            &EIGHT_BIT_MIME,
            &SMTPUTF8,
            &CHUNKING,
            &BINARYMIME,
            &DSN,
            &DELIVERBY,
            &MT_PRIORITY,
            &FUTURERELEASE,
            &REQUIRETLS,
            &RRVS,
            &NO_SOLICITING,
            &LIMITS,
            &PRDR,
            &ETRN,
            &VRFY,
            &EXPN,
            &HELP,
            &BURL,
            &CHECKPOINT,
            &MTRK,
            &CONPERM,
            &CONNEG,
            &XCLIENT,
            &XFORWARD,
        ]))
    }
}

impl Registry {
    /// A registry without any.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// This and `extension`, which takes the place of one with the same keyword.
    #[must_use]
    pub fn with(mut self, extension: &'static Extension) -> Self {
        self.0.retain(|e| !e.keyword.eq_ignore_ascii_case(extension.keyword));
        self.0.push(extension);
        self
    }

    /// This without `keyword`.
    #[must_use]
    pub fn without(mut self, keyword: &str) -> Self {
        self.0.retain(|e| !e.keyword.eq_ignore_ascii_case(keyword));
        self
    }

    /// Every extension, offered or not.
    pub fn iter(&self) -> impl Iterator<Item = &'static Extension> {
        self.0.iter().copied()
    }

    /// True if `keyword` is offered here.
    #[must_use]
    pub fn offers(&self, keyword: &str, context: &Context<'_>) -> bool {
        self.iter().any(|e| e.keyword == keyword && e.is_offered(context))
    }

    /// The keywords of an EHLO reply with their parameters, a line each, every one behind a `\n`.
    pub fn write_ehlo(&self, context: &Context<'_>, out: &mut String) {
        for extension in self.iter().filter(|e| e.is_offered(context)) {
            out.push('\n');
            out.push_str(extension.keyword);
            // Whether the channel implies it is not asked.
            (extension.announce)(context, out);
        }
    }

    /// The extension that brings the MAIL parameter `keyword`, offered or not, and its rule.
    #[must_use]
    pub fn mail_rule(&self, keyword: &str) -> Option<(&'static Extension, &'static ParameterRule)> {
        self.rule(keyword, |e| e.mail)
    }

    /// The extension that brings the RCPT parameter `keyword`, offered or not, and its rule.
    #[must_use]
    pub fn rcpt_rule(&self, keyword: &str) -> Option<(&'static Extension, &'static ParameterRule)> {
        self.rule(keyword, |e| e.rcpt)
    }

    fn rule(&self, keyword: &str, rules: Rules) -> Option<(&'static Extension, &'static ParameterRule)> {
        let named = |rule: &&ParameterRule| rule.keyword.eq_ignore_ascii_case(keyword);
        self.iter().find_map(|e| rules(e).iter().find(named).map(|rule| (e, rule)))
    }

    /// The extension that brings `verb`, offered or not.
    #[must_use]
    pub fn verb(&self, verb: &str) -> Option<&'static Extension> {
        self.iter().find(|e| e.verbs.iter().any(|v| v.eq_ignore_ascii_case(verb)))
    }

    /// Checks the parameters of MAIL.
    ///
    /// # Errors
    /// 555 5.5.4 for a keyword that is not offered, unknown, or RCPT's (RFC 5321 §4.1.1.11); else what its rule says.
    pub fn check_mail(&self, context: &Context<'_>, parameters: &Parameters) -> Result<(), Refusal> {
        self.check(context, parameters, ("MAIL", |e| e.mail), ("RCPT", |e| e.rcpt))
    }

    /// Checks the parameters of RCPT.
    ///
    /// # Errors
    /// As [`Registry::check_mail`].
    pub fn check_rcpt(&self, context: &Context<'_>, parameters: &Parameters) -> Result<(), Refusal> {
        self.check(context, parameters, ("RCPT", |e| e.rcpt), ("MAIL", |e| e.mail))
    }

    fn check(
        &self,
        context: &Context<'_>,
        parameters: &Parameters,
        (verb, rules): (&str, Rules),
        (other_verb, other_rules): (&str, Rules),
    ) -> Result<(), Refusal> {
        for (keyword, value) in parameters.iter() {
            let why = match self.rule(keyword, rules) {
                Some((extension, rule)) if extension.is_offered(context) => {
                    (rule.check)(context, value, parameters)?;
                    continue;
                }
                Some((extension, _)) => {
                    alloc::format!("{verb} parameter {keyword} needs {}, not offered here", extension.keyword)
                }
                None if self.rule(keyword, other_rules).is_some() => {
                    alloc::format!("{keyword} is a parameter of {other_verb}, not of {verb}")
                }
                None => alloc::format!("{verb} parameter {keyword} is not supported"),
            };
            return Err(Refusal::new(555, (5, 5, 4), why));
        }
        Ok(())
    }
}

/// Which of an extension's parameters are meant.
type Rules = fn(&Extension) -> &'static [ParameterRule];
