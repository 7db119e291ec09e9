//! NO-SOLICITING: the sign at the door against advertising (RFC 3865).

use alloc::boxed::Box;
use core::fmt;

use super::{Extension, ParameterRule, bad_value};
use crate::types::{Invalid, Parameter, Refusal};

/// NO-SOLICITING, where [`Terms::no_soliciting`](super::Terms::no_soliciting) puts the sign up. A message that says to
/// be of a class that is named there is refused. To a next hop without it the message goes without (RFC 3865 §2.7):
/// its header says the same.
pub static NO_SOLICITING: Extension = Extension {
    offered: |context| context.terms.no_soliciting.is_some(),
    announce: |context, out| {
        if let Some(words) = context.terms.no_soliciting.as_deref().filter(|words| !words.is_empty()) {
            out.push(' ');
            out.push_str(words);
        }
    },
    mail: &[ParameterRule {
        check: |context, value, _| {
            let said = Solicit::from_value(value).map_err(bad_value)?;
            match context.terms.no_soliciting.as_deref().and_then(|sign| said.unwanted_by(sign)) {
                Some(class) => {
                    let text = alloc::format!("no soliciting here: {class}");
                    Err(Refusal::new(550, (5, 7, 1), text))
                }
                None => Ok(()),
            }
        },
        ..ParameterRule::of::<Solicit>().or_omitted()
    }],
    ..Extension::keyword("NO-SOLICITING", "RFC 3865")
};

/// MAIL's `SOLICIT=`: the solicitation classes that the message belongs to: `word 0*("," word)`, at most 1,000 octets
/// (RFC 3865 §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solicit(Box<str>);

impl Solicit {
    /// From the classes with commas between them.
    ///
    /// # Errors
    /// [`Invalid`] names the broken rule.
    pub fn new(classes: &str) -> Result<Self, Invalid> {
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        let word = |w: &str| w.starts_with(|c: char| c.is_ascii_alphabetic()) && w.bytes().all(letter);
        if classes.len() <= 1000 && classes.split(',').all(word) {
            Ok(Self(classes.into()))
        } else {
            Err(Invalid::new("SOLICIT", "classes such as net.example:ADV with commas, 1000 octets (RFC 3865 §2.2)"))
        }
    }

    /// The classes.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.0.split(',')
    }

    /// The first class that a sign, in the same syntax, names.
    #[must_use]
    pub fn unwanted_by(&self, sign: &str) -> Option<&str> {
        self.classes().find(|class| sign.split(',').any(|unwanted| unwanted.eq_ignore_ascii_case(class)))
    }
}

impl Parameter for Solicit {
    const KEYWORD: &'static str = "SOLICIT";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        Self::new(value.unwrap_or_default())
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(&self.0)
    }
}
