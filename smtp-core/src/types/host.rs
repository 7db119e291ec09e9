//! Domains and address literals (RFC 5321 §4.1.2, §4.1.3).

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use super::Invalid;
use super::octets::is_beyond_ascii;

/// A domain name: `Domain = sub-domain *("." sub-domain)`, `sub-domain = Let-dig [Ldh-str]` or a U-label
/// (RFC 5321 §4.1.2, RFC 6531 §3.3), at most 255 octets, 63 to a label (RFC 5321 §4.5.3.1.2).
///
/// Kept as it was written; [`PartialEq`] compares without ASCII case, as domains do.
#[derive(Clone)]
pub struct Domain(Box<str>);

impl Domain {
    /// Parses a domain.
    ///
    /// # Errors
    /// [`Invalid`] names the broken rule.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        check_domain(text, false)?;
        Ok(Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if every octet is ASCII, so that the name can be used without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }
}

/// The longest label, in octets (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// The rule of [`Domain`], for a slice; `lenient` lets `_` stand where a letter may, as in the names that many hosts
/// greet with.
#[inline]
pub(super) fn check_domain(text: &str, lenient: bool) -> Result<(), Invalid> {
    const WHAT: &str = "domain";
    if text.len() > 255 {
        return Err(Invalid::new(WHAT, "at most 255 octets (RFC 5321 §4.5.3.1.2)"));
    }
    let octets = text.as_bytes();
    // It begins as a label behind a dot does.
    if octets.first().is_none_or(|first| is_misplaced(b'.', *first, lenient))
        || matches!(octets, [.., b'.' | b'-'])
        || any_pair(octets, |before, octet| is_misplaced(before, octet, lenient))
        || (is_beyond_ascii(text) && text.chars().any(|c| c.is_control() || c.is_whitespace()))
    {
        return Err(Invalid::new(WHAT, "labels of letters, digits and inner '-', a dot between (RFC 5321 §4.1.2)"));
    }
    if text.len() > LABEL_MAX && text.split('.').any(|label| label.len() > LABEL_MAX) {
        return Err(Invalid::new(WHAT, "at most 63 octets a label (RFC 1035 §2.3.4)"));
    }
    Ok(())
}

/// True if `octet` must not follow `before` in a domain. Without branches, so that many are judged together.
#[inline]
fn is_misplaced(before: u8, octet: u8, lenient: bool) -> bool {
    let letter = ((octet | 0x20).wrapping_sub(b'a') < 26) | !octet.is_ascii() | ((octet == b'_') & lenient);
    let digit = octet.wrapping_sub(b'0') < 10;
    let hyphen = (octet == b'-') & (before != b'.');
    let dot = (octet == b'.') & (before != b'.') & (before != b'-');
    !(letter | digit | hyphen | dot)
}

/// True if `wrong` holds for any octet with the one before it. Eight pairs are looked at together; the last eight may
/// overlap with those before.
#[inline]
fn any_pair(octets: &[u8], wrong: impl Fn(u8, u8) -> bool) -> bool {
    let any = |before: &[u8], octets: &[u8]| {
        before.iter().zip(octets).fold(false, |any, (before, octet)| any | wrong(*before, *octet))
    };
    let (Some((_, before)), Some((_, octets))) = (octets.split_last(), octets.split_first()) else { return false };
    match (before.last_chunk::<8>(), octets.last_chunk::<8>()) {
        (Some(last_before), Some(last)) => {
            before.as_chunks::<8>().0.iter().zip(octets.as_chunks::<8>().0).any(|(before, octets)| any(before, octets))
                || any(last_before, last)
        }
        _ => any(before, octets),
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Domain {}

impl core::hash::Hash for Domain {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

/// An address literal: `"[" ( IPv4 / "IPv6:" IPv6 / Standardized-tag ":" 1*dcontent ) "]"` (RFC 5321 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AddressLiteral {
    /// `[192.0.2.1]`
    V4(Ipv4Addr),
    /// `[IPv6:2001:db8::1]`
    V6(Ipv6Addr),
    /// `[tag:content]`, some other registered form.
    General(GeneralLiteral),
}

/// The tag and content of a literal that is neither IPv4 nor IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GeneralLiteral {
    text: Box<str>,
}

impl GeneralLiteral {
    /// `tag:content`, without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for AddressLiteral {
    type Err = Invalid;

    /// Parses the form with brackets.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        const WHAT: &str = "address literal";
        let inner = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .ok_or(Invalid::new(WHAT, "stands in '[' and ']' (RFC 5321 §4.1.3)"))?;
        if inner.len() > 255 {
            return Err(Invalid::new(WHAT, "at most 255 octets (RFC 5321 §4.5.3.1.2)"));
        }
        if let Ok(v4) = inner.parse::<Ipv4Addr>() {
            return Ok(Self::V4(v4));
        }
        let (tag, content) = inner
            .split_once(':')
            .ok_or(Invalid::new(WHAT, "an IPv4 address, or a tag, ':' and content (RFC 5321 §4.1.3)"))?;
        if tag.eq_ignore_ascii_case("IPv6") {
            return content
                .parse::<Ipv6Addr>()
                .map(Self::V6)
                .map_err(|_| Invalid::new(WHAT, "not an IPv6 address (RFC 5321 §4.1.3)"));
        }
        let tag_ok = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && tag.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric());
        if !tag_ok {
            return Err(Invalid::new(WHAT, "the tag is letters, digits and '-' (RFC 5321 §4.1.3)"));
        }
        // dcontent = %d33-90 / %d94-126
        if content.is_empty() || !content.bytes().all(|b| matches!(b, 33..=90 | 94..=126)) {
            return Err(Invalid::new(WHAT, "the content is printable US-ASCII without '[', '\\', ']'"));
        }
        Ok(Self::General(GeneralLiteral { text: inner.into() }))
    }
}

impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(v4) => write!(f, "[{v4}]"),
            Self::V6(v6) => write!(f, "[IPv6:{v6}]"),
            Self::General(general) => write!(f, "[{}]", general.text),
        }
    }
}

impl From<core::net::IpAddr> for AddressLiteral {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::V4(v4),
            core::net::IpAddr::V6(v6) => Self::V6(v6),
        }
    }
}

/// What stands after the `@` of a mailbox, and what a client greets with: a domain or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// An address literal.
    Literal(AddressLiteral),
}

impl FromStr for Host {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('[') { text.parse().map(Self::Literal) } else { Domain::new(text).map(Self::Domain) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(literal) => literal.fmt(f),
        }
    }
}

/// The name in EHLO, HELO or LHLO: a domain or an address literal (RFC 5321 §4.1.1.1).
///
/// `_` is let through, and so is a literal that is not well formed as long as it is printable and without spaces:
/// real hosts greet with such names and RFC 5321 §4.1.4 forbids refusing mail over it. What *we* send is built from
/// a [`Host`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EhloName(Box<str>);

impl EhloName {
    /// Parses what a client said.
    ///
    /// # Errors
    /// [`Invalid`] if it is empty, longer than 255 octets, or not a name.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('[') {
            if text.len() > 255 || !text.ends_with(']') || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Invalid::new("EHLO name", "an address literal stands in '[' and ']' (RFC 5321 §4.1.3)"));
            }
        } else {
            check_domain(text, true)?;
        }
        Ok(Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Host> for EhloName {
    fn from(host: Host) -> Self {
        let mut text = String::new();
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{host}"));
        Self(text.into_boxed_str())
    }
}

impl From<Domain> for EhloName {
    fn from(domain: Domain) -> Self {
        Self(domain.0)
    }
}

impl FromStr for EhloName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl fmt::Debug for EhloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for EhloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    /// The rule said as plainly as possible: label by label.
    fn reference(text: &str, lenient: bool) -> bool {
        let fine = |c: char| match c {
            '_' => lenient,
            c if c.is_ascii() => c.is_ascii_alphanumeric() || c == '-',
            c => !c.is_control() && !c.is_whitespace(),
        };
        text.len() <= 255
            && text.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.chars().all(fine)
            })
    }

    proptest! {
        #[test]
        fn a_domain_is_what_it_is_to_the_reference(
            text in "([a-z0-9._-]{0,12}|[A-Za-z0-9._ü-]{0,80}|.{0,8}|[ab-]{61,64}(\\.[a-z]{1,70}){0,4})",
            lenient: bool,
        ) {
            prop_assert_eq!(check_domain(&text, lenient).is_ok(), reference(&text, lenient));
        }
    }

    #[test]
    fn domains() {
        for good in ["localhost", "a.b.example", "xn--bcher-kva.example", "bücher.example", "1.2.3.4x", "EXAMPLE.Org"]
        {
            assert_eq!(Domain::new(good).unwrap().to_string(), good);
        }
        for bad in ["", ".", "a..b", "a.", ".a", "-a.b", "a-.b", "a b", "a_b", "a\r\nb", "a\0", "[1.2.3.4]", "a@b"] {
            assert!(Domain::new(bad).is_err(), "{bad:?}");
        }
        assert!(Domain::new(&"a".repeat(64)).is_err());
        assert!(Domain::new(&["abcdefg"; 33].join(".")).is_err());
        assert_eq!(Domain::new("Example.ORG").unwrap(), Domain::new("example.org").unwrap());
    }

    #[test]
    fn literals() {
        for good in ["[192.0.2.1]", "[IPv6:2001:db8::1]", "[x400:c=de]"] {
            assert_eq!(good.parse::<AddressLiteral>().unwrap().to_string(), good);
        }
        for bad in
            ["[]", "[1.2.3]", "[256.1.1.1]", "[IPv6:zz]", "[tag:]", "[:x]", "[t-:x]", "[a:b]c", "1.2.3.4", "[a:b]]"]
        {
            assert!(bad.parse::<AddressLiteral>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ehlo_names_from_the_field() {
        for good in ["my_pc", "localhost", "[127.0.0.1]", "[garbage]"] {
            assert!(EhloName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "[a b]", "a\rb", "[x"] {
            assert!(EhloName::new(bad).is_err(), "{bad:?}");
        }
    }
}
