//! Routes that somebody has set.

use std::collections::HashMap;

use smtp_core::types::{Domain, Invalid};

use crate::own::canonical;

/// What was set for some domains. `T` says how to get there.
///
/// `example.org` means that domain alone, `.example.org` all below it; the longest that fits counts, and a domain of its
/// own before all. Names compare without case and as A-labels.
#[derive(Debug, Clone)]
pub struct Routes<T>(HashMap<Box<str>, T>);

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Routes<T> {
    /// Sets a route; gives what was set before for the same.
    ///
    /// # Errors
    /// [`Invalid`] if it is neither a domain nor a domain behind a dot.
    pub fn set(&mut self, pattern: &str, route: T) -> Result<Option<T>, Invalid> {
        Ok(self.0.insert(key(pattern)?, route))
    }

    /// The route for mail to a domain, and under which pattern it was set, in its canonical form. An address literal
    /// has none.
    #[must_use]
    pub fn find(&self, domain: &str) -> Option<(&str, &T)> {
        let name = canonical(&Domain::new(domain).ok()?)?;
        // The name itself, then what is behind each of its dots, the dot included.
        let below = name.match_indices('.').filter_map(|(at, _)| name.get(at..));
        std::iter::once(&*name)
            .chain(below)
            .find_map(|key| self.0.get_key_value(key))
            .map(|(key, route)| (&**key, route))
    }

    /// The route that was set under exactly this pattern.
    #[must_use]
    pub fn get(&self, pattern: &str) -> Option<&T> {
        self.0.get(&key(pattern).ok()?)
    }

    /// All of them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(key, route)| (&**key, route))
    }
}

fn key(pattern: &str) -> Result<Box<str>, Invalid> {
    const WHAT: Invalid = Invalid::new("destination", "a domain such as example.org, or .example.org for all below it");
    let name = pattern.strip_prefix('.').unwrap_or(pattern);
    let name = Domain::new(name).ok().and_then(|name| canonical(&name)).ok_or(WHAT)?;
    Ok(if pattern.starts_with('.') { format!(".{name}").into() } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_that_fits() {
        let mut routes = Routes::default();
        for pattern in ["example.org", ".example.org", ".deep.example.org", "Bücher.example", ".net"] {
            assert_eq!(routes.set(pattern, pattern).unwrap(), None);
        }
        for (domain, expected) in [
            ("example.org", Some("example.org")),
            ("EXAMPLE.ORG", Some("example.org")),
            ("a.example.org", Some(".example.org")),
            ("deep.example.org", Some(".example.org")),
            ("x.y.deep.example.org", Some(".deep.example.org")),
            ("notexample.org", None),
            ("xn--bcher-kva.example", Some("Bücher.example")),
            ("a.net", Some(".net")),
            ("net", None),
            ("[192.0.2.1]", None),
        ] {
            assert_eq!(routes.find(domain).map(|(_, route)| *route), expected, "{domain}");
        }
        assert_eq!(routes.find("a.EXAMPLE.org").unwrap().0, ".example.org");
        assert_eq!(routes.set("EXAMPLE.org", "again").unwrap(), Some("example.org"));
        for bad in ["", ".", "*", "a b", "a..b", "[192.0.2.1]"] {
            assert!(routes.set(bad, bad).is_err(), "{bad}");
        }
    }
}
