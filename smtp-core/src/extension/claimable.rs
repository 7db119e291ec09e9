//! Extensions that nothing here does, with their keywords, parameters and verbs: refused by name, and free for a
//! service to claim. A delivery or policy that promises the keyword gets the parameters in the envelope and the verbs as
//! `Command::Other`.

use alloc::boxed::Box;
use core::fmt;

use super::{Extension, ParameterRule};
use crate::types::{Invalid, Parameter};

/// BURL: content by reference to an IMAP server (RFC 4468). The verb comes as `Command::Other`; whoever claims it
/// fetches the content and hands it on itself.
pub static BURL: Extension = claimable("BURL", "RFC 4468", &["BURL"]);

/// CHECKPOINT: a transaction that broke off is taken up again (RFC 1845).
pub static CHECKPOINT: Extension = Extension {
    mail: &[ParameterRule::of::<TransactionId>().or_omitted()],
    ..claimable("CHECKPOINT", "RFC 1845", &[])
};

/// MTRK: the way of a message can be asked for later (RFC 3885).
pub static MTRK: Extension =
    Extension { mail: &[ParameterRule::of::<Mtrk>().or_omitted()], ..claimable("MTRK", "RFC 3885", &[]) };

/// CONPERM: the sender permits conversion of the content (RFC 4141).
pub static CONPERM: Extension =
    Extension { mail: &[ParameterRule::of::<Conperm>().or_omitted()], ..claimable("CONPERM", "RFC 4141", &[]) };

/// CONNEG: what content a recipient can take (RFC 4141).
pub static CONNEG: Extension =
    Extension { rcpt: &[ParameterRule::of::<Conneg>().or_omitted()], ..claimable("CONNEG", "RFC 4141", &[]) };

const fn claimable(keyword: &'static str, reference: &'static str, verbs: &'static [&'static str]) -> Extension {
    Extension { needs_promise: true, verbs, ..Extension::keyword(keyword, reference) }
}

/// MAIL's `TRANSID=`: the transaction's name, `<` local `@` domain `>` as it stands (RFC 1845 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionId(pub(super) Box<str>);

impl TransactionId {
    /// The name with its brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parameter for TransactionId {
    const KEYWORD: &'static str = "TRANSID";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        let bracketed = |v: &&str| v.len() <= 80 && v.len() > 2 && v.starts_with('<') && v.ends_with('>');
        let value = value.filter(bracketed);
        value.map(|v| Self(v.into())).ok_or(Invalid::new("TRANSID", "<name>, at most 80 octets (RFC 1845 §3)"))
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// MAIL's `MTRK=`: `certifier [":" timeout]`, the certifier in base64, the timeout in seconds (RFC 3885 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtrk {
    certifier: Box<str>,
    timeout: Option<u32>,
}

impl Mtrk {
    /// The hash of the secret that proves the right to ask, in base64.
    #[must_use]
    pub fn certifier(&self) -> &str {
        &self.certifier
    }

    /// How long the way is to be remembered, in seconds.
    #[must_use]
    pub const fn timeout(&self) -> Option<u32> {
        self.timeout
    }
}

impl Parameter for Mtrk {
    const KEYWORD: &'static str = "MTRK";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid::new("MTRK", "base64, then perhaps ':' and 1 to 9 digits (RFC 3885 §4)");
        let value = value.ok_or(BAD)?;
        let (certifier, timeout) = match value.split_once(':') {
            Some((certifier, timeout)) => (certifier, Some(timeout)),
            None => (value, None),
        };
        let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if certifier.is_empty() || certifier.len() > 128 || !certifier.bytes().all(base64) {
            return Err(BAD);
        }
        let seconds = |t: &str| {
            let digits = (1..=9).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
            t.parse().ok().filter(|_| digits).ok_or(BAD)
        };
        Ok(Self { certifier: certifier.into(), timeout: timeout.map(seconds).transpose()? })
    }

    fn write_value(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(&self.certifier)?;
        self.timeout.map_or(Ok(()), |timeout| write!(out, ":{timeout}"))
    }
}

/// MAIL's `CONPERM` (RFC 4141 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conperm;

/// RCPT's `CONNEG` (RFC 4141 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conneg;

macro_rules! bare {
    ($type:ident, $keyword:literal) => {
        impl Parameter for $type {
            const KEYWORD: &'static str = $keyword;

            fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
                match value {
                    None => Ok(Self),
                    Some(_) => Err(Invalid::new($keyword, "takes no value (RFC 4141)")),
                }
            }

            fn write_value(&self, _: &mut dyn fmt::Write) -> fmt::Result {
                Ok(())
            }
        }
    };
}

bare!(Conperm, "CONPERM");
bare!(Conneg, "CONNEG");
