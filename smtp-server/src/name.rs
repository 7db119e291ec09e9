//! How an address becomes a name on disk, and what makes two addresses the same mailbox.
//!
//! Recipient policy and Maildir both ask here, so that what is accepted and where it goes cannot differ.

use std::borrow::Cow;
use std::fmt::Write;

use idna::AsciiDenyList;
use smtp_core::types::Mailbox;

/// The longest folder name that is made, in octets: below the 255 of common file systems, with room for suffixes.
pub(crate) const FOLDER_MAX: usize = 200;

/// The user that every domain has (RFC 5321 §4.5.1), as a folder name.
pub(crate) const POSTMASTER: &str = "postmaster";

/// The form in which domains are compared: A-labels in lower case (RFC 5890 §2.3.2.1). `None` if `host` is an address
/// literal or no name under IDNA.
///
/// Allocates nothing for a name that is in this form already.
pub(crate) fn domain(host: &str) -> Option<Cow<'_, str>> {
    if host.starts_with('[') {
        return None;
    }
    if host.is_ascii() {
        let lower = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        return Some(lower);
    }
    // Letters, digits and '-' only: without that list IDNA's mapping turns a full-width solidus into '/'.
    let ascii = idna::domain_to_ascii_cow(host.as_bytes(), AsciiDenyList::STD3).ok()?.into_owned();
    // The mapping can also make dots, and with them empty labels.
    smtp_core::types::Domain::new(&ascii).is_ok().then_some(Cow::Owned(ascii))
}

/// The folder name of a local part without its quotes: lower case, every octet outside `[a-z0-9._+=-]` and a leading
/// dot as `%XX`. `None` if it is empty or longer than 200 octets, which names no mailbox.
///
/// Different local parts have different names, but for case. Allocates nothing for a name that is in this form.
pub(crate) fn folder(local: &str) -> Option<Cow<'_, str>> {
    if !local.is_empty() && local.len() <= FOLDER_MAX && !local.starts_with('.') && local.bytes().all(is_plain) {
        return Some(Cow::Borrowed(local));
    }
    let mut name = String::with_capacity(local.len() + 8);
    for (i, byte) in local.to_lowercase().bytes().enumerate() {
        if is_plain(byte) && !(byte == b'.' && i == 0) {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    (!name.is_empty() && name.len() <= FOLDER_MAX).then_some(Cow::Owned(name))
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'=' | b'-')
}

/// True if two hosts are one: by [`domain`], or as the same address literal.
pub(crate) fn same_domain(one: &str, other: &str) -> bool {
    match (domain(one), domain(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// True if two local parts, without quotes, are one: case does not matter, as in [`folder`].
pub(crate) fn same_local_part(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

/// True if two mailboxes are one.
pub(crate) fn same_mailbox(one: &Mailbox, other: &Mailbox) -> bool {
    same_domain(one.host(), other.host()) && same_local_part(&one.local_name(), &other.local_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn domains_compare_as_lower_case_a_labels() {
        assert_eq!(domain("Example.ORG").unwrap(), "example.org");
        assert_eq!(domain("BÜCHER.example").unwrap(), "xn--bcher-kva.example");
        assert_eq!(domain("XN--bcher-KVA.example").unwrap(), "xn--bcher-kva.example");
        assert!(matches!(domain("example.org"), Some(Cow::Borrowed(_))));
        assert_eq!(domain("[127.0.0.1]"), None);
    }

    #[test]
    fn idna_mapping_makes_no_path() {
        // U+FF0E maps to '.', U+FF0F to '/', U+3002 to '.'.
        for hostile in
            ["\u{ff0e}\u{ff0e}", "\u{ff0e}\u{ff0e}\u{ff0f}x", "a\u{ff0f}b", "\u{3002}a", "a\u{3002}\u{3002}b"]
        {
            assert_eq!(domain(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn hostile_local_parts_become_plain_names() {
        for (local, name) in [
            ("John.Doe+Tag", "john.doe+tag"),
            ("../../x", "%2E.%2F..%2Fx"),
            (".hidden", "%2Ehidden"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
            ("%2e", "%252e"),
            ("a b", "a%20b"),
            ("JÖSÉ", "j%C3%B6s%C3%A9"),
            ("a\0b", "a%00b"),
        ] {
            assert_eq!(folder(local).unwrap(), name);
        }
        assert_eq!(folder(""), None);
        assert_eq!(folder(&"a".repeat(200)).unwrap().len(), 200);
        assert_eq!(folder(&"a".repeat(201)), None);
        assert_eq!(folder(&"/".repeat(67)), None);
    }

    proptest! {
        #[test]
        fn a_folder_is_one_visible_path_component(local in any::<String>()) {
            if let Some(name) = folder(&local) {
                prop_assert!(!name.starts_with('.') && name.len() <= FOLDER_MAX);
                prop_assert!(name.bytes().all(|b| is_plain(b) || b == b'%' || b.is_ascii_uppercase()));
            }
        }

        #[test]
        fn only_case_merges_names(a in "[a-zé./% ]{1,6}", b in "[a-zé./% ]{1,6}") {
            prop_assert_eq!(folder(&a) == folder(&b), a == b);
        }

        #[test]
        fn a_domain_stays_a_domain(host in any::<String>()) {
            if smtp_core::types::Domain::new(&host).is_ok() && let Some(ascii) = domain(&host) {
                prop_assert!(smtp_core::types::Domain::new(&ascii).is_ok() && !ascii.contains('/'));
            }
        }
    }
}
