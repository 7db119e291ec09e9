//! Mailboxes (RFC 5321 §4.1.2, RFC 6531 §3.3).

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use smol_str::SmolStr;

use super::host::check_domain;
use super::octets::{ATEXT, is_beyond_ascii, split_span};
use super::{AddressLiteral, Host, Invalid, split_at_byte};

/// The longest local part that is taken, in octets as written.
///
/// RFC 5321 §4.5.3.1.1 guarantees 64 and asks implementations not to be bound by it; generated addresses (VERP, SRS,
/// BATV) are longer in the field.
const LOCAL_PART_MAX: usize = 255;

/// A mailbox: `Mailbox = Local-part "@" ( Domain / address-literal )`, `Local-part = Dot-string / Quoted-string`
/// (RFC 5321 §4.1.2), with UTF-8 in both where SMTPUTF8 allows it (RFC 6531 §3.3).
///
/// A quoted local part is kept in its shortest form, so that `"jo"@x` and `jo@x` are one mailbox. Comparison is by
/// octet for the local part and without ASCII case for the domain. A mailbox of up to 23 octets is
/// held in place, a longer one is one shared allocation: a clone costs next to nothing, and no read buffer is pinned.
#[derive(Clone)]
pub struct Mailbox {
    text: SmolStr,
    at: usize,
}

impl Mailbox {
    /// Parses `local@host`.
    ///
    /// # Errors
    /// [`Invalid`] names the broken rule.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        match Self::parse(text)? {
            (mailbox, "") => Ok(mailbox),
            _ => Err(Invalid::new("mailbox", "nothing may follow the domain (RFC 5321 §4.1.2)")),
        }
    }

    /// Parses the mailbox at the start of `text`, up to the `>` of a path if there is one; gives what follows.
    #[inline]
    pub(super) fn parse(text: &str) -> Result<(Self, &str), Invalid> {
        const PARTS: Invalid = Invalid::new("mailbox", "local-part, '@', domain (RFC 5321 §4.1.2)");
        let at = local_part_len(text)?;
        let behind = text.get(at..).and_then(|rest| rest.strip_prefix('@')).ok_or(PARTS)?;
        let host = if behind.starts_with('[') {
            // A `>` may stand inside.
            let literal = behind.split_inclusive(']').next().unwrap_or_default();
            literal.parse::<AddressLiteral>()?;
            literal
        } else {
            let (domain, _) = split_at_byte(behind, b'>');
            check_domain(domain, false)?;
            domain
        };
        let (mailbox, rest) = text.split_at_checked(at + 1 + host.len()).ok_or(PARTS)?;
        if mailbox.starts_with('"') {
            let local = mailbox.get(..at).unwrap_or_default();
            let local = LocalPart::unquoted(&unquote(local))?;
            return Ok((Self::join(&local.0, host), rest));
        }
        Ok((Self { text: mailbox.into(), at }, rest))
    }

    /// A mailbox from its parts.
    #[must_use]
    pub fn from_parts(local: &LocalPart, host: &Host) -> Self {
        let mut text = String::from(&*local.0);
        let at = text.len();
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("@{host}"));
        Self { text: text.into(), at }
    }

    fn join(local: &str, host: &str) -> Self {
        let mut text = String::with_capacity(local.len() + 1 + host.len());
        text.push_str(local);
        text.push('@');
        text.push_str(host);
        Self { at: local.len(), text: text.into() }
    }

    /// The whole mailbox as it goes on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as it goes on the wire: quoted where it must be.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    /// The local part as a name: without quotes and backslashes.
    #[must_use]
    pub fn local_name(&self) -> Cow<'_, str> {
        let local = self.local_part();
        if local.starts_with('"') { Cow::Owned(unquote(local)) } else { Cow::Borrowed(local) }
    }

    /// What stands after the `@`, as it was written: a domain, or a literal with its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }

    /// True if the host is an address literal.
    #[must_use]
    pub fn has_literal(&self) -> bool {
        self.host().starts_with('[')
    }

    /// True if every octet is ASCII, so that the mailbox can be used without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

/// The left side of a mailbox, in wire form: a Dot-string where that suffices, else a Quoted-string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalPart(Box<str>);

impl LocalPart {
    /// Makes the wire form of a plain name; quotes and backslashes are added where RFC 5321 §4.1.2 wants them.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty, too long, or holds a control character.
    pub fn unquoted(name: &str) -> Result<Self, Invalid> {
        const WHAT: &str = "local part";
        if name.chars().any(char::is_control) {
            return Err(Invalid::new(WHAT, "no control characters (RFC 5321 §4.1.2)"));
        }
        let text = if dot_string_len(name) == Ok(name.len()) {
            String::from(name)
        } else {
            let mut text = String::with_capacity(name.len() + 2);
            text.push('"');
            for c in name.chars() {
                if matches!(c, '"' | '\\') {
                    text.push('\\');
                }
                text.push(c);
            }
            text.push('"');
            text
        };
        if text.len() > LOCAL_PART_MAX {
            return Err(Invalid::new(WHAT, "at most 255 octets"));
        }
        Ok(Self(text.into_boxed_str()))
    }

    /// As it goes on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How many octets at the start of `text` are a local part.
#[inline]
fn local_part_len(text: &str) -> Result<usize, Invalid> {
    const WHAT: &str = "local part";
    let len = if text.starts_with('"') { quoted_len(text)? } else { dot_string_len(text)? };
    if len > LOCAL_PART_MAX {
        return Err(Invalid::new(WHAT, "at most 255 octets"));
    }
    Ok(len)
}

/// `Dot-string = Atom *("."  Atom)`: how many octets at the start of `text` are one.
#[inline]
fn dot_string_len(text: &str) -> Result<usize, Invalid> {
    const WHAT: &str = "local part";
    let mut rest = text.as_bytes();
    let behind = loop {
        let (atom, behind) = split_span(rest, ATEXT);
        if atom.is_empty() {
            return Err(Invalid::new(WHAT, "atoms with dots between (RFC 5321 §4.1.2); quote it otherwise"));
        }
        match behind {
            [b'.', behind @ ..] => rest = behind,
            _ => break behind.len(),
        }
    };
    let len = text.len() - behind;
    let local = text.get(..len).unwrap_or_default();
    if is_beyond_ascii(local) && local.chars().any(char::is_control) {
        return Err(Invalid::new(WHAT, "no control characters (RFC 5321 §4.1.2)"));
    }
    Ok(len)
}

/// `Quoted-string = DQUOTE *QcontentSMTP DQUOTE`: printable US-ASCII, blanks, and any printable after a backslash.
fn quoted_len(text: &str) -> Result<usize, Invalid> {
    const WHAT: &str = "local part";
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        if c.is_control() {
            return Err(Invalid::new(WHAT, "no control characters in quotes (RFC 5321 §4.1.2)"));
        }
        match c {
            _ if escaped => {
                if !c.is_ascii() {
                    return Err(Invalid::new(WHAT, "only US-ASCII after a backslash (RFC 6531 §3.3)"));
                }
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Ok(i + 1),
            _ => {}
        }
    }
    Err(Invalid::new(WHAT, "the closing quote is missing (RFC 5321 §4.1.2)"))
}

fn unquote(quoted: &str) -> String {
    let inner = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(quoted);
    let mut name = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            name.push(c);
            escaped = false;
        }
    }
    name
}

impl PartialEq for Mailbox {
    fn eq(&self, other: &Self) -> bool {
        self.local_part() == other.local_part() && self.host().eq_ignore_ascii_case(other.host())
    }
}

impl Eq for Mailbox {}

impl core::hash::Hash for Mailbox {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.local_part().hash(state);
        for byte in self.host().bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Mailbox {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn taken() {
        for good in [
            "a@b.example",
            "a.b+c=d@b.example",
            "!#$%&'*+-/=?^_`{|}~@x",
            "\"a b\"@x.example",
            "\"a@b\"@x.example",
            "\"\"@x",
            "a@[192.0.2.1]",
            "a@[IPv6:2001:db8::1]",
            "a@[x400:c>de]",
            "jösé@bücher.example",
        ] {
            assert_eq!(Mailbox::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@b@c",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "\"a@b",
            "\"a\"b@c",
            "a@b c",
            "a\r\n@b",
            "\"a\r\nb\"@c",
            "\"a\0\"@c",
            "a@b\r\n",
            "a@-b",
            "<a@b>",
            "a@[1.2.3]",
            "a\u{7f}@b",
            "\"a\\\"@b",
        ] {
            assert!(Mailbox::new(bad).is_err(), "{bad:?}");
        }
        assert!(Mailbox::new(&format!("{}@b", "a".repeat(256))).is_err());
    }

    #[test]
    fn quotes_that_are_not_needed_go() {
        let mailbox = Mailbox::new("\"jo\\hn\"@X.example").unwrap();
        assert_eq!(mailbox.as_str(), "john@X.example");
        assert_eq!(mailbox, Mailbox::new("john@x.EXAMPLE").unwrap());
        assert_ne!(mailbox, Mailbox::new("John@x.example").unwrap());
        assert_eq!(Mailbox::new("\"a \\\"b\"@x").unwrap().local_name(), "a \"b");
    }

    proptest! {
        #[test]
        fn any_name_makes_a_mailbox_that_reads_back(name in "[^\\p{Cc}]{0,60}") {
            let local = LocalPart::unquoted(&name).unwrap();
            let mailbox = Mailbox::from_parts(&local, &"x.example".parse().unwrap());
            // RFC 6531 §3.3 allows no non-ASCII after a backslash, and none is ever written there.
            let back = Mailbox::new(mailbox.as_str()).unwrap();
            prop_assert_eq!(&*back.local_name(), name.as_str());
            prop_assert_eq!(back, mailbox);
        }

        #[test]
        fn a_dot_string_is_what_it_is_to_the_reference(local in "([a-z.]{0,6}|[ -~ü\u{85}]{1,6}|.{1,4})") {
            // Atoms with dots between, character by character.
            let is_atext = |c: char| match c {
                c if c.is_ascii() => c.is_ascii_graphic() && !"()<>[]:;@\\,.\"".contains(c),
                c => !c.is_control(),
            };
            let expected = local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
            prop_assume!(!local.starts_with('"'));
            prop_assert_eq!(Mailbox::new(&format!("{local}@x.example")).is_ok(), expected);
        }

        #[test]
        fn no_accepted_text_holds_a_control_character(text in any::<String>()) {
            if let Ok(mailbox) = Mailbox::new(&text) {
                prop_assert!(!mailbox.as_str().chars().any(char::is_control));
            }
        }
    }
}
