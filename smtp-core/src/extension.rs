//! The registry of service extensions (RFC 5321 §2.2): one file each.
//!
//! An [`Extension`] says what EHLO shows, which parameters it adds to MAIL and RCPT and how they are checked, and
//! which verbs it brings. A session knows nothing of them but the [`Registry`] it was given: an extension of one's
//! own is a `static` in one's own crate, put beside the standard ones with [`Registry::with`].

mod auth;
mod chunking;
mod eight_bit_mime;
mod simple;
mod size;
mod smtp_utf8;

pub use auth::{AUTH, AuthParameter};
pub use chunking::{BINARYMIME, CHUNKING};
pub use eight_bit_mime::{BodyType, EIGHT_BIT_MIME};
pub use simple::{ENHANCED_STATUS_CODES, EXPN, HELP, PIPELINING, STARTTLS, VRFY};
pub use size::{SIZE, Size};
pub use smtp_utf8::{SMTPUTF8, SmtpUtf8};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::channel::ChannelInfo;
use crate::types::{Invalid, Parameter, Parameters, Refusal};

/// What an extension may look at when EHLO is answered or a parameter is checked.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The channel's facts.
    pub channel: &'a ChannelInfo,
    /// The largest message that is taken, in octets.
    pub max_size: u64,
    /// SASL mechanisms that can be used on this channel now, separated by blanks; empty if there is none.
    pub mechanisms: &'a str,
    /// True if the client is authenticated.
    pub authenticated: bool,
    /// Keywords that the delivery promised.
    pub promises: &'a [&'static str],
}

/// A parameter that an extension adds to MAIL or RCPT.
#[derive(Debug, Clone, Copy)]
pub struct ParameterRule {
    /// In upper case.
    pub keyword: &'static str,
    /// Checks the value; `None` when the keyword stands alone.
    pub check: fn(&Context<'_>, Option<&str>) -> Result<(), Refusal>,
}

impl ParameterRule {
    /// A rule that asks no more than that the value reads as `P`.
    #[must_use]
    pub const fn of<P: Parameter>() -> Self {
        Self { keyword: P::KEYWORD, check: |_, value| P::from_value(value).map(drop).map_err(bad_value) }
    }
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
    /// Writes the keyword's EHLO parameters with a blank before each, and says whether to offer it here at all.
    pub offer: fn(&Context<'_>, &mut String) -> bool,
    /// Parameters of MAIL.
    pub mail: &'static [ParameterRule],
    /// Parameters of RCPT.
    pub rcpt: &'static [ParameterRule],
    /// Verbs beyond RFC 5321 that reach the policy as `Command::Other`, in upper
    /// case.
    pub verbs: &'static [&'static str],
}

impl Extension {
    /// An extension that is a keyword and no more: always offered, no parameters, no verbs. A base to build on.
    #[must_use]
    pub const fn keyword(keyword: &'static str, reference: &'static str) -> Self {
        Self { keyword, reference, needs_promise: false, offer: |_, _| true, mail: &[], rcpt: &[], verbs: &[] }
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
            &VRFY,
            &EXPN,
            &HELP,
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
        self.iter().any(|e| e.keyword == keyword && offered(e, context, &mut String::new()))
    }

    /// The keywords of an EHLO reply with their parameters, a line each, every one behind a `\n`.
    pub fn write_ehlo(&self, context: &Context<'_>, out: &mut String) {
        for extension in self.iter() {
            let before = out.len();
            out.push('\n');
            out.push_str(extension.keyword);
            if !offered(extension, context, out) {
                out.truncate(before);
            }
        }
    }

    /// Checks the parameters of MAIL.
    ///
    /// # Errors
    /// 555 5.5.4 for a keyword that is not offered (RFC 5321 §4.1.1.11), else what its rule says.
    pub fn check_mail(&self, context: &Context<'_>, parameters: &Parameters) -> Result<(), Refusal> {
        self.check(context, parameters, "MAIL", |e| e.mail)
    }

    /// Checks the parameters of RCPT.
    ///
    /// # Errors
    /// As [`Registry::check_mail`].
    pub fn check_rcpt(&self, context: &Context<'_>, parameters: &Parameters) -> Result<(), Refusal> {
        self.check(context, parameters, "RCPT", |e| e.rcpt)
    }

    fn check(
        &self,
        context: &Context<'_>,
        parameters: &Parameters,
        verb: &str,
        rules: fn(&Extension) -> &'static [ParameterRule],
    ) -> Result<(), Refusal> {
        for (keyword, value) in parameters.iter() {
            let rule = self
                .iter()
                .find_map(|e| rules(e).iter().find(|r| r.keyword.eq_ignore_ascii_case(keyword)).map(|rule| (e, rule)))
                .filter(|(extension, _)| offered(extension, context, &mut String::new()));
            match rule {
                Some((_, rule)) => (rule.check)(context, value)?,
                None => {
                    let text = alloc::format!("{verb} parameter {keyword} is not supported");
                    return Err(Refusal::new(555, (5, 5, 4), text));
                }
            }
        }
        Ok(())
    }

    /// True if `verb` belongs to an extension that is offered here.
    #[must_use]
    pub fn knows_verb(&self, verb: &str, context: &Context<'_>) -> bool {
        self.iter()
            .any(|e| e.verbs.iter().any(|v| v.eq_ignore_ascii_case(verb)) && offered(e, context, &mut String::new()))
    }
}

fn offered(extension: &Extension, context: &Context<'_>, out: &mut String) -> bool {
    (!extension.needs_promise || context.promises.contains(&extension.keyword)) && (extension.offer)(context, out)
}

/// What a server said it can do, from its reply to EHLO: keywords with their parameters (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(String);

impl Capabilities {
    /// From the text of an EHLO reply; its first line is the server's name and is left out.
    #[must_use]
    pub fn from_ehlo(text: &str) -> Self {
        let mut lines = String::new();
        for line in text.split('\n').skip(1) {
            // `AUTH=LOGIN` is how servers before RFC 2554 wrote it; some still do, beside the proper line.
            lines.push_str(line.trim());
            lines.push('\n');
        }
        Self(lines)
    }

    /// These and `keywords`, for channels that imply some.
    #[must_use]
    pub fn implied(keywords: &[&str]) -> Self {
        let mut lines = String::new();
        for keyword in keywords {
            lines.push_str(keyword);
            lines.push('\n');
        }
        Self(lines)
    }

    /// Every keyword with its parameters, in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter(|line| !line.is_empty()).map(|line| line.split_once(' ').unwrap_or((line, "")))
    }

    /// The parameters of `keyword`: `None` if the server does not offer it.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.eq_ignore_ascii_case(keyword)).map(|(_, parameters)| parameters.trim())
    }

    /// True if the server offers `keyword`.
    #[must_use]
    pub fn has(&self, keyword: &str) -> bool {
        self.get(keyword).is_some()
    }

    /// The largest message the server takes, in octets, if it names one (RFC 1870 §4; 0 means no fixed limit).
    #[must_use]
    pub fn max_size(&self) -> Option<u64> {
        self.get("SIZE").and_then(|size| size.parse().ok()).filter(|size| *size > 0)
    }

    /// The SASL mechanisms that the server offers.
    pub fn mechanisms(&self) -> impl Iterator<Item = &str> {
        self.get("AUTH").unwrap_or_default().split_ascii_whitespace()
    }
}
