//! Mailboxes (RFC 5321 §4.1.2, RFC 6531 §3.3).

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;

use super::host::check_domain;
use super::{AddressLiteral, Host, Invalid};

/// The longest local part that is taken, in octets as written.
///
/// RFC 5321 §4.5.3.1.1 guarantees 64 and asks implementations not to be bound by it; generated addresses (VERP, SRS,
/// BATV) are longer in the field.
const LOCAL_PART_MAX: usize = 255;

/// A mailbox: `Mailbox = Local-part "@" ( Domain / address-literal )`, `Local-part = Dot-string / Quoted-string`
/// (RFC 5321 §4.1.2), with UTF-8 in both where SMTPUTF8 allows it (RFC 6531 §3.3).
///
/// A quoted local part is kept in its shortest form, so that `"jo"@x` and `jo@x` are one mailbox. Comparison is by
/// octet for the local part and without ASCII case for the domain. The text is one shared allocation: a
/// clone costs nothing, and no read buffer is pinned.
#[derive(Clone)]
pub struct Mailbox {
    text: Arc<str>,
    at: usize,
}

impl Mailbox {
    /// Parses `local@host`.
    ///
    /// # Errors
    /// [`Invalid`] names the broken rule.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        const WHAT: &str = "mailbox";
        let local_end = local_part_len(text)?;
        let (local, rest) = text.split_at(local_end);
        let host = rest.strip_prefix('@').ok_or(Invalid::new(WHAT, "local-part, '@', domain (RFC 5321 §4.1.2)"))?;
        if host.starts_with('[') {
            host.parse::<AddressLiteral>()?;
        } else {
            check_domain(host, false)?;
        }
        if local.starts_with('"') {
            let local = LocalPart::unquoted(&unquote(local))?;
            return Ok(Self::join(&local.0, host));
        }
        Ok(Self { text: text.into(), at: local_end })
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
        let text = if is_dot_string(name) {
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

/// What an atom may be made of: `atext` (RFC 5322 §3.2.3), and what UTF-8 has beyond US-ASCII (RFC 6531 §3.3).
static ATEXT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'/'
                    | b'='
                    | b'?'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'{'
                    | b'|'
                    | b'}'
                    | b'~'
            )
            || !byte.is_ascii();
        match byte.checked_add(1) {
            Some(next) => byte = next,
            None => break table,
        }
    }
};

fn is_atext(byte: u8) -> bool {
    ATEXT[usize::from(byte)]
}

/// Atoms, with a dot between each and the next.
fn is_dot_string(text: &str) -> bool {
    text.as_bytes().split(|b| *b == b'.').all(|atom| !atom.is_empty() && atom.iter().copied().all(is_atext))
}

/// How many octets at the start of `text` are a local part.
fn local_part_len(text: &str) -> Result<usize, Invalid> {
    const WHAT: &str = "local part";
    let len = if text.starts_with('"') { quoted_len(text)? } else { dot_string_len(text)? };
    if len == 0 {
        return Err(Invalid::new(WHAT, "must not be empty (RFC 5321 §4.1.2)"));
    }
    if len > LOCAL_PART_MAX {
        return Err(Invalid::new(WHAT, "at most 255 octets"));
    }
    Ok(len)
}

/// `Dot-string = Atom *("."  Atom)`: what of `text` is one.
fn dot_string_len(text: &str) -> Result<usize, Invalid> {
    const WHAT: &str = "local part";
    const DOTS: Invalid = Invalid::new(WHAT, "dots stand between atoms only (RFC 5321 §4.1.2); quote it otherwise");
    let mut after_dot = true;
    let end = text.bytes().position(|byte| {
        // A dot that follows another ends the string, too.
        let stop = !is_atext(byte) && (after_dot || byte != b'.');
        after_dot = byte == b'.';
        stop
    });
    let len = end.unwrap_or(text.len());
    let local = text.get(..len).unwrap_or_default();
    if local.ends_with('.') || text.as_bytes().get(len) == Some(&b'.') {
        return Err(DOTS);
    }
    if !local.is_ascii() && local.chars().any(char::is_control) {
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
        fmt::Debug::fmt(&*self.text, f)
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
