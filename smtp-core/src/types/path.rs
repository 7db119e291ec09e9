//! Reverse-path and forward-path (RFC 5321 §4.1.1.2, §4.1.1.3).

use core::fmt;
use core::str::FromStr;

use super::host::check_domain;
use super::{Invalid, Mailbox};

const WHAT: &str = "path";
const POSTMASTER: &str = "postmaster";

/// Where notices about a message go: `Reverse-path = Path / "<>"` (RFC 5321 §4.1.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: the message is a notice itself, and nothing may be sent about it (RFC 5321 §4.5.5).
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, unless the path is null.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

/// Where a message goes: `"<Postmaster>" / Forward-path` (RFC 5321 §4.1.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain, in any case: the postmaster of this host.
    Postmaster,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// The mailbox, unless it is the bare Postmaster.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Postmaster => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl From<Mailbox> for ReversePath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

impl From<Mailbox> for ForwardPath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

/// What stands behind the `<` of a path.
///
/// A source route (`@a,@b:`) is checked and dropped, as RFC 5321 §4.1.1.3 and appendix C ask.
#[inline]
fn open(text: &str) -> Result<&str, Invalid> {
    let inner = text.strip_prefix('<').ok_or(Invalid::new(WHAT, "stands in '<' and '>' (RFC 5321 §4.1.2)"))?;
    if inner.starts_with('@') { without_source_route(inner) } else { Ok(inner) }
}

/// The mailbox at the start of `text`, and what stands behind the `>` that closes its path.
#[inline]
fn closed_mailbox(text: &str) -> Result<(Mailbox, &str), Invalid> {
    let (mailbox, rest) = Mailbox::parse(text)?;
    match rest.strip_prefix('>') {
        Some(rest) => Ok((mailbox, rest)),
        None => Err(Invalid::new(WHAT, "'>' stands right behind the mailbox (RFC 5321 §4.1.2)")),
    }
}

fn without_source_route(inner: &str) -> Result<&str, Invalid> {
    let (route, mailbox) =
        inner.split_once(':').ok_or(Invalid::new("source route", "ends with ':' (RFC 5321 §4.1.2)"))?;
    for hop in route.split(',') {
        let domain = hop.strip_prefix('@').ok_or(Invalid::new("source route", "'@' before each domain"))?;
        check_domain(domain, false)?;
    }
    Ok(mailbox)
}

impl ReversePath {
    /// Parses a path with its brackets; gives what follows.
    #[inline]
    pub(crate) fn parse(text: &str) -> Result<(Self, &str), Invalid> {
        let inner = open(text)?;
        if let Some(rest) = inner.strip_prefix('>') {
            return Ok((Self::Null, rest));
        }
        closed_mailbox(inner).map(|(mailbox, rest)| (Self::Mailbox(mailbox), rest))
    }
}

impl ForwardPath {
    /// Parses a path with its brackets; gives what follows.
    #[inline]
    pub(crate) fn parse(text: &str) -> Result<(Self, &str), Invalid> {
        let inner = open(text)?;
        if let Some((name, rest)) = inner.split_at_checked(POSTMASTER.len())
            && let Some(rest) = rest.strip_prefix('>')
            && name.eq_ignore_ascii_case(POSTMASTER)
        {
            return Ok((Self::Postmaster, rest));
        }
        closed_mailbox(inner).map(|(mailbox, rest)| (Self::Mailbox(mailbox), rest))
    }
}

/// The path alone, with nothing behind it.
fn whole<T>((path, rest): (T, &str)) -> Result<T, Invalid> {
    if rest.is_empty() { Ok(path) } else { Err(Invalid::new("path", "nothing may follow the '>'")) }
}

impl FromStr for ReversePath {
    type Err = Invalid;

    /// Parses the form with brackets.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text).and_then(whole)
    }
}

impl FromStr for ForwardPath {
    type Err = Invalid;

    /// Parses the form with brackets.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text).and_then(whole)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("<Postmaster>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn null_postmaster_and_plain() {
        assert_eq!("<>".parse::<ReversePath>().unwrap(), ReversePath::Null);
        assert!("<>".parse::<ForwardPath>().is_err());
        assert_eq!("<postMASTER>".parse::<ForwardPath>().unwrap().to_string(), "<Postmaster>");
        assert_eq!("<a@b.c>".parse::<ForwardPath>().unwrap().to_string(), "<a@b.c>");
        assert_eq!("<\"a>b\"@c>".parse::<ForwardPath>().unwrap().to_string(), "<\"a>b\"@c>");
        assert_eq!("<a@[x400:c>d]>".parse::<ForwardPath>().unwrap().to_string(), "<a@[x400:c>d]>");
    }

    #[test]
    fn source_routes_are_checked_and_dropped() {
        assert_eq!("<@a.example,@b.example:u@c>".parse::<ForwardPath>().unwrap().to_string(), "<u@c>");
        for bad in ["<@a.example>", "<@a.example,b:u@c>", "<@:u@c>", "<@a b:u@c>"] {
            assert!(bad.parse::<ForwardPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn brackets_are_needed() {
        for bad in ["a@b", "<a@b", "a@b>", "<a@b>x", "<<a@b>>", " <a@b>", "<a@[1.2.3.4]x>"] {
            assert!(bad.parse::<ReversePath>().is_err(), "{bad}");
        }
    }
}
