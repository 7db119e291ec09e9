//! What a server said it can do.

use alloc::string::String;

use super::TransactionLimits;

/// What a server said it can do, from its reply to EHLO: keywords with their parameters (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(String);

impl Capabilities {
    /// From the text of an EHLO reply; its first line is the server's name and is left out.
    #[must_use]
    pub fn from_ehlo(text: &str) -> Self {
        let mut lines = String::new();
        for line in text.split('\n').skip(1) {
            // `AUTH=LOGIN` is how servers before RFC 2554 wrote it; some still do, beside the proper line.
            lines.push_str(line.trim());
            lines.push('\n');
        }
        Self(lines)
    }

    /// These and `keywords`, for channels that imply some.
    #[must_use]
    pub fn implied(keywords: &[&str]) -> Self {
        let mut lines = String::new();
        for keyword in keywords {
            lines.push_str(keyword);
            lines.push('\n');
        }
        Self(lines)
    }

    /// Every keyword with its parameters, in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter(|line| !line.is_empty()).map(|line| line.split_once(' ').unwrap_or((line, "")))
    }

    /// The parameters of `keyword`: `None` if the server does not offer it.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.eq_ignore_ascii_case(keyword)).map(|(_, parameters)| parameters.trim())
    }

    /// True if the server offers `keyword`.
    #[must_use]
    pub fn has(&self, keyword: &str) -> bool {
        self.get(keyword).is_some()
    }

    /// The largest message the server takes, in octets, if it names one (RFC 1870 §4; 0 means no fixed limit).
    #[must_use]
    pub fn max_size(&self) -> Option<u64> {
        self.get("SIZE").and_then(|size| size.parse().ok()).filter(|size| *size > 0)
    }

    /// What the server's LIMITS says (RFC 9422); nothing if it says nothing.
    #[must_use]
    pub fn limits(&self) -> TransactionLimits {
        self.get("LIMITS").map(TransactionLimits::parse).unwrap_or_default()
    }

    /// The SASL mechanisms that the server offers.
    pub fn mechanisms(&self) -> impl Iterator<Item = &str> {
        self.get("AUTH").unwrap_or_default().split_ascii_whitespace()
    }
}
