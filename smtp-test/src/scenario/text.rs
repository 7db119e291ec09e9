//! Texts of a scenario: raw octets with escapes, and patterns.

use std::fmt;

/// Octets as they stand behind `C+:` and `S+:`.
pub(crate) fn escape(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for (i, octet) in octets.iter().enumerate() {
        // A blank at either end would get lost in the file.
        let at_an_end = i == 0 || i + 1 == octets.len() || matches!(octets.get(i + 1), Some(b'\r' | b'\n'));
        match octet {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            0 => text.push_str("\\0"),
            b'\\' => text.push_str("\\\\"),
            b' ' if at_an_end => text.push_str("\\x20"),
            b' '..=b'~' => text.push(char::from(*octet)),
            _ => text.push_str(&format!("\\x{octet:02x}")),
        }
    }
    text
}

/// The octets of a text with escapes.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        octets.extend_from_slice(plain.as_bytes());
        let mut chars = escaped.chars();
        let octet = match chars.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits = escaped.get(1..3).ok_or("two hexadecimal digits follow \\x")?;
                chars = escaped[3..].chars();
                u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits}: not hexadecimal"))?
            }
            other => return Err(format!("\\{}: not an escape", other.map_or(String::new(), String::from))),
        };
        octets.push(octet);
        rest = chars.as_str();
    }
    octets.extend_from_slice(rest.as_bytes());
    Ok(octets)
}

/// A line as it stands behind `S:`, so that it matches itself only.
pub(crate) fn escape_pattern(line: &str) -> String {
    line.replace('\\', "\\\\").replace('*', "\\*")
}

/// What a line has to look like: text, where `*` stands for any octets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    source: String,
    /// What stands between the wildcards; one part means that there is none.
    parts: Vec<String>,
}

impl Pattern {
    /// A pattern where `\*` and `\\` stand for the characters themselves.
    pub(super) fn parse(source: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut chars = source.chars();
        while let Some(c) = chars.next() {
            let c = match c {
                '*' => {
                    parts.push(String::new());
                    continue;
                }
                '\\' => match chars.next() {
                    Some(c @ ('*' | '\\')) => c,
                    _ => return Err("only \\* and \\\\ are escapes here".to_owned()),
                },
                c => c,
            };
            if let Some(last) = parts.last_mut() {
                last.push(c);
            }
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    /// A pattern without escapes, for what a client says, where a backslash is a backslash.
    pub(crate) fn of_client(line: &str) -> Self {
        Self { source: line.to_owned(), parts: line.split('*').map(str::to_owned).collect() }
    }

    pub(crate) fn matches(&self, line: &[u8]) -> bool {
        let Some((first, rest)) = self.parts.split_first() else { return line.is_empty() };
        let Some(mut line) = line.strip_prefix(first.as_bytes()) else { return false };
        let Some((last, middle)) = rest.split_last() else { return line.is_empty() };
        for part in middle {
            // The leftmost place leaves most for the parts behind it.
            match find(line, part.as_bytes()) {
                Some(at) => line = &line[at + part.len()..],
                None => return false,
            }
        }
        line.ends_with(last.as_bytes())
    }

    /// True if only a line that is not the last of its reply can match.
    pub(crate) fn is_within_reply(&self) -> bool {
        self.parts.first().is_some_and(|part| part.as_bytes().get(3) == Some(&b'-'))
    }

    /// The code of a reply line, as far as it stands there in digits, and the enhanced code behind it (RFC 3463).
    pub(super) fn codes(&self) -> (&str, Option<Self>) {
        let digits = self.source.bytes().take(3).take_while(u8::is_ascii_digit).count();
        let word = self.source.get(4..).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let is_enhanced = word.len() > 1
            && word.starts_with(['2', '4', '5'])
            && word.contains('.')
            && word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '*'));
        (self.source.get(..digits).unwrap_or_default(), is_enhanced.then(|| Self::of_client(word)))
    }

    /// The first word behind the code: in a reply to EHLO, its keyword.
    pub(super) fn keyword(&self) -> &str {
        self.source.get(4..).and_then(|rest| rest.split([' ', '=']).next()).unwrap_or_default()
    }

    /// A reply line that matches: wildcards become `any`, those in a code zeros.
    pub(crate) fn example(&self) -> String {
        let Some((first, rest)) = self.parts.split_first() else { return String::new() };
        let mut line = first.clone();
        for part in rest {
            if line.len() <= 3 && line.bytes().all(|octet| octet.is_ascii_digit()) {
                while line.len() < 3 {
                    line.push('0');
                }
                line.push_str(if part.starts_with([' ', '-']) { "" } else { " any" });
            } else {
                line.push_str("any");
            }
            line.push_str(part);
        }
        line
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_octets_read_back() {
        for octets in [&b""[..], b" a ", b"a\r\n\t\0\\\xff", "ü".as_bytes(), b"\\x41"] {
            assert_eq!(unescape(&escape(octets)).unwrap(), octets);
        }
        assert_eq!(unescape("\\x41b").unwrap(), b"Ab");
        for bad in ["\\", "\\q", "\\x1", "\\xzz", "\\x1ü"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        let matches = |pattern: &str, line: &str| Pattern::parse(pattern).unwrap().matches(line.as_bytes());
        for (pattern, line) in [
            ("250 ok", "250 ok"),
            ("250*", "250"),
            ("250 *", "250 2.1.0 fine"),
            ("*ok", "250 ok"),
            ("2*o*k", "250 ook"),
            ("a*a", "aa"),
            ("a*ab*", "aab"),
            ("\\*\\\\", "*\\"),
        ] {
            assert!(matches(pattern, line), "{pattern} {line}");
        }
        for (pattern, line) in
            [("250 ok", "250 ok "), ("250 *", "250"), ("a*a", "a"), ("\\*", "x"), ("", "x"), ("*b*a", "ab")]
        {
            assert!(!matches(pattern, line), "{pattern} {line}");
        }
        for (pattern, line) in
            [("250 *", "250 any"), ("5*", "500 any"), ("50* 5.5.1 *", "500 5.5.1 any"), ("334*", "334 any")]
        {
            assert_eq!(Pattern::parse(pattern).unwrap().example(), line);
            assert!(matches(pattern, line));
        }
        assert!(Pattern::parse("\\n").is_err());
        assert!(Pattern::parse(&escape_pattern("250 a*b\\c")).unwrap().matches(b"250 a*b\\c"));
        assert!(Pattern::of_client("MAIL FROM:<\"\\a\"@*>").matches(b"MAIL FROM:<\"\\a\"@b>"));
    }
}
