//! The alphabets of the grammar, in one table. All but the keyword's hold what UTF-8 has beyond US-ASCII (RFC 6531 §3.3).

/// `atext` (RFC 5322 §3.2.3).
pub(super) const ATEXT: u8 = 1;
/// What a parameter's keyword is made of: a letter, a digit or `-` (RFC 5321 §4.1.2).
pub(super) const KEYWORD: u8 = 1 << 1;
/// What a parameter's value is made of (RFC 5321 §4.1.2), and `=`.
pub(super) const VALUE: u8 = 1 << 2;

static ALPHABETS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => ATEXT | KEYWORD | VALUE,
            b'"' | b'(' | b')' | b',' | b'.' | b':' | b';' | b'<' | b'>' | b'@' | b'[' | b'\\' | b']' => VALUE,
            b'!'..=b'~' | 0x80.. => ATEXT | VALUE,
            _ => 0,
        };
        match byte.checked_add(1) {
            Some(next) => byte = next,
            None => break table,
        }
    }
};

/// The octets of `alphabet` that `text` begins with, and what stands behind them: if anything, an octet of US-ASCII.
#[inline]
pub(super) fn split_span(text: &[u8], alphabet: u8) -> (&[u8], &[u8]) {
    let mut len = 0;
    while text.get(len).is_some_and(|byte| ALPHABETS[usize::from(*byte)] & alphabet != 0) {
        len += 1;
    }
    text.split_at_checked(len).unwrap_or_default()
}

/// True if a character beyond US-ASCII is in `text`. Eight octets are looked at together; the last eight may overlap with
/// those before.
#[inline]
pub(super) fn is_beyond_ascii(text: &str) -> bool {
    let beyond = |octets: &[u8; 8]| u64::from_ne_bytes(*octets) & 0x8080_8080_8080_8080 != 0;
    let octets = text.as_bytes();
    match octets.last_chunk() {
        Some(last) => octets.as_chunks().0.iter().any(beyond) || beyond(last),
        None => octets.iter().any(|octet| !octet.is_ascii()),
    }
}
