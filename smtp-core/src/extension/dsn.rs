//! DSN: which notices a sender wants about its message (RFC 3461).

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt::{self, Write};

use super::{Extension, Lack, ParameterRule};
use crate::acceptance::Omitted;
use crate::types::{Invalid, Parameter, xtext};

/// DSN, where the delivery can send notices of success, or its next hop can.
///
/// RFC 3461 §5.2.2: to a next hop without DSN the message goes without the parameters. If success was to be told, the
/// sender has to hear that it was relayed; the receipt says so to whoever can write that notice.
pub static DSN: Extension = Extension {
    needs_promise: true,
    mail: &[ParameterRule::of::<Ret>().or_omitted(), ParameterRule::of::<EnvelopeId>().or_omitted()],
    rcpt: &[
        ParameterRule {
            lacking: |value| match Notify::from_value(value) {
                Ok(Notify { success: true, .. }) => Lack::Note(Omitted::DSN),
                Ok(_) | Err(_) => Lack::Omit,
            },
            ..ParameterRule::of::<Notify>()
        },
        ParameterRule::of::<OriginalRecipient>().or_omitted(),
    ],
    ..Extension::keyword("DSN", "RFC 3461")
};

/// The longest `ENVID` value, in octets as sent (RFC 3461 §4.4).
const ENVID_MAX: usize = 100;
/// The longest `ORCPT` value, in octets as sent (RFC 3461 §4.2).
const ORCPT_MAX: usize = 500;

/// MAIL's `RET=`: how much of the message a notice of failure returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header only.
    Headers,
}

impl Parameter for Ret {
    const KEYWORD: &'static str = "RET";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        match value {
            Some(v) if v.eq_ignore_ascii_case("FULL") => Ok(Self::Full),
            Some(v) if v.eq_ignore_ascii_case("HDRS") => Ok(Self::Headers),
            _ => Err(Invalid::new("RET", "FULL or HDRS (RFC 3461 §4.3)")),
        }
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

/// MAIL's `ENVID=`: the sender's own mark for this message, which notices quote: `ENVID=` xtext, at most 100 octets as
/// sent, printable US-ASCII (RFC 3461 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeId(Box<str>);

impl EnvelopeId {
    /// From the mark itself, not encoded.
    ///
    /// # Errors
    /// [`Invalid`] if it is empty, not printable US-ASCII, or longer than 100 octets when encoded.
    pub fn new(mark: &str) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid::new("ENVID", "1 to 100 octets of xtext, printable US-ASCII (RFC 3461 §4.4)");
        let fine = !mark.is_empty() && mark.bytes().all(|b| matches!(b, b' '..=b'~'));
        if fine && xtext::encoded_len(mark) <= ENVID_MAX { Ok(Self(mark.into())) } else { Err(BAD) }
    }

    /// The mark itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parameter for EnvelopeId {
    const KEYWORD: &'static str = "ENVID";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        Self::new(&xtext::decode(value.unwrap_or_default())?)
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        xtext::encode(&self.0, out)
    }
}

/// RCPT's `NOTIFY=`: when the sender wants a notice about this recipient; never, if no event is named (RFC 3461 §4.1).
///
/// Without the parameter a sender hears of failure, and perhaps of delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    /// When the message was delivered.
    pub success: bool,
    /// When it cannot be.
    pub failure: bool,
    /// When it takes long.
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}

impl Parameter for Notify {
    const KEYWORD: &'static str = "NOTIFY";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        const BAD: Invalid =
            Invalid::new("NOTIFY", "NEVER alone, or SUCCESS, FAILURE and DELAY with commas (RFC 3461 §4.1)");
        let value = value.ok_or(BAD)?;
        if value.eq_ignore_ascii_case("NEVER") {
            return Ok(Self::NEVER);
        }
        let mut notify = Self::NEVER;
        for event in value.split(',') {
            let event = match event {
                e if e.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
                e if e.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
                e if e.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
                _ => return Err(BAD),
            };
            *event = true;
        }
        Ok(notify)
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        if *self == Self::NEVER {
            return out.write_str("NEVER");
        }
        let events = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        for (n, (_, event)) in events.iter().filter(|(wanted, _)| *wanted).enumerate() {
            out.write_str(if n == 0 { "" } else { "," })?;
            out.write_str(event)?;
        }
        Ok(())
    }
}

/// RCPT's `ORCPT=`: the address that the sender used, before aliases and forwarding:
/// `addr-type ";" xtext`, at most 500 octets as sent (RFC 3461 §4.2).
///
/// The type `utf-8` holds an address beyond US-ASCII (RFC 6533 §3). It is read in each of its three forms and written
/// as `utf-8-addr-xtext`, which is US-ASCII and so safe for a next hop without SMTPUTF8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalRecipient {
    kind: Box<str>,
    address: Box<str>,
}

impl OriginalRecipient {
    /// An address of a type, not encoded: `rfc822` or `utf-8` for mail addresses.
    ///
    /// # Errors
    /// [`Invalid`] if the type is no atom, the address is empty or holds control characters, or characters beyond
    /// US-ASCII in another type than `utf-8`, or the whole is longer than 500 octets when encoded.
    pub fn new(kind: &str, address: &str) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid::new("ORCPT", "type;address in xtext, at most 500 octets (RFC 3461 §4.2)");
        let atom = |b: u8| b.is_ascii_graphic() && !br#"()<>@,;:\".[]+="#.contains(&b);
        if kind.is_empty() || !kind.bytes().all(atom) || address.is_empty() || address.chars().any(char::is_control) {
            return Err(BAD);
        }
        let this = Self { kind: kind.into(), address: address.into() };
        if !this.is_utf8() && !address.is_ascii() {
            return Err(Invalid::new("ORCPT", "an address beyond US-ASCII has the type utf-8 (RFC 6533 §3)"));
        }
        let mut counted = Counted(0);
        match this.write_value(&mut counted) {
            Ok(()) if counted.0 <= ORCPT_MAX => Ok(this),
            _ => Err(BAD),
        }
    }

    /// The type, such as `rfc822`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The address itself.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    fn is_utf8(&self) -> bool {
        self.kind.eq_ignore_ascii_case("utf-8")
    }
}

impl Parameter for OriginalRecipient {
    const KEYWORD: &'static str = "ORCPT";

    fn from_value(value: Option<&str>) -> Result<Self, Invalid> {
        let (kind, address) = value
            .and_then(|value| value.split_once(';'))
            .ok_or(Invalid::new("ORCPT", "type;address in xtext (RFC 3461 §4.2)"))?;
        if kind.eq_ignore_ascii_case("utf-8") {
            Self::new(kind, &decode_embedded(address)?)
        } else {
            Self::new(kind, &xtext::decode(address)?)
        }
    }

    fn write_value(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{};", self.kind)?;
        if self.is_utf8() { encode_embedded(&self.address, out) } else { xtext::encode(&self.address, out) }
    }
}

/// `EmbeddedUnicodeChar = "\x{" HEXPOINT "}"` among characters that stand for themselves (RFC 6533 §3).
fn decode_embedded(text: &str) -> Result<String, Invalid> {
    const BAD: Invalid = Invalid::new("ORCPT", "\\x{HEX} for each special character (RFC 6533 §3)");
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let (hex, behind) = escaped.strip_prefix("x{").and_then(|e| e.split_once('}')).ok_or(BAD)?;
        let digits = (2..=6).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        let padded = hex.len() > 2 && hex.starts_with('0');
        let c = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32).filter(|_| digits && !padded);
        out.push(c.ok_or(BAD)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn encode_embedded(address: &str, out: &mut dyn Write) -> fmt::Result {
    for c in address.chars() {
        match c {
            // QCHAR
            '!'..='*' | ','..='<' | '>'..='[' | ']'..='~' => out.write_char(c)?,
            c => write!(out, "\\x{{{:02X}}}", u32::from(c))?,
        }
    }
    Ok(())
}

/// Counts what is written.
struct Counted(usize);

impl Write for Counted {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}
