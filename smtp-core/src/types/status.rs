//! The registered enhanced status codes: subject and detail, which hold for each class (RFC 3463 §3, RFC 5248).
//!
//! ```
//! use smtp_core::types::{EnhancedCode, status};
//!
//! let code: EnhancedCode = "5.1.1".parse()?;
//! assert_eq!(code.status(), Some(status::BAD_MAILBOX));
//! assert_eq!(code.status().map(|s| s.meaning()), Some("Bad destination mailbox address"));
//! assert_eq!(status::MAILBOX_FULL.as_transient().to_string(), "4.2.2");
//! # Ok::<(), smtp_core::types::Invalid>(())
//! ```

use super::EnhancedCode;

/// A registered pair of subject and detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    subject: u16,
    detail: u16,
    meaning: &'static str,
    reference: &'static str,
}

impl Status {
    /// The second number of the code.
    #[must_use]
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The third number of the code.
    #[must_use]
    pub const fn detail(self) -> u16 {
        self.detail
    }

    /// What it says, in the registry's words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        self.meaning
    }

    /// Where it is defined.
    #[must_use]
    pub const fn reference(self) -> &'static str {
        self.reference
    }

    /// 2.subject.detail
    #[must_use]
    pub const fn as_success(self) -> EnhancedCode {
        EnhancedCode::of(2, self.subject, self.detail)
    }

    /// 4.subject.detail
    #[must_use]
    pub const fn as_transient(self) -> EnhancedCode {
        EnhancedCode::of(4, self.subject, self.detail)
    }

    /// 5.subject.detail
    #[must_use]
    pub const fn as_permanent(self) -> EnhancedCode {
        EnhancedCode::of(5, self.subject, self.detail)
    }
}

impl EnhancedCode {
    /// What the registry has about it; `None` if it is not registered.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        ALL.iter().copied().find(|s| (s.subject, s.detail) == (self.subject(), self.detail()))
    }
}

/// One constant for each, and the list of all.
macro_rules! registry {
    ($($name:ident = $subject:literal $detail:literal $meaning:literal $reference:literal;)*) => {
        $(
            #[doc = concat!("X.", $subject, ".", $detail, ": ", $meaning, " (", $reference, ").")]
            pub const $name: Status =
                Status { subject: $subject, detail: $detail, meaning: $meaning, reference: $reference };
        )*

        /// Every registered pair, in order.
        pub const ALL: &[Status] = &[$($name),*];
    };
}

registry! {
    UNDEFINED = 0 0 "Other undefined status" "RFC 3463";
    ADDRESS = 1 0 "Other address status" "RFC 3463";
    BAD_MAILBOX = 1 1 "Bad destination mailbox address" "RFC 3463";
    BAD_SYSTEM = 1 2 "Bad destination system address" "RFC 3463";
    BAD_MAILBOX_SYNTAX = 1 3 "Bad destination mailbox address syntax" "RFC 3463";
    AMBIGUOUS_MAILBOX = 1 4 "Destination mailbox address ambiguous" "RFC 3463";
    ADDRESS_VALID = 1 5 "Destination address valid" "RFC 3463";
    MAILBOX_MOVED = 1 6 "Destination mailbox has moved, no forwarding address" "RFC 3463";
    BAD_SENDER_SYNTAX = 1 7 "Bad sender's mailbox address syntax" "RFC 3463";
    BAD_SENDER_SYSTEM = 1 8 "Bad sender's system address" "RFC 3463";
    RELAYED_WITHOUT_NOTICES = 1 9 "Message relayed to non-compliant mailer" "RFC 3886";
    NULL_MX = 1 10 "Recipient address has null MX" "RFC 7505";
    MAILBOX = 2 0 "Other or undefined mailbox status" "RFC 3463";
    MAILBOX_DISABLED = 2 1 "Mailbox disabled, not accepting messages" "RFC 3463";
    MAILBOX_FULL = 2 2 "Mailbox full" "RFC 3463";
    MESSAGE_TOO_LONG = 2 3 "Message length exceeds administrative limit" "RFC 3463";
    EXPANSION_PROBLEM = 2 4 "Mailing list expansion problem" "RFC 3463";
    SYSTEM = 3 0 "Other or undefined mail system status" "RFC 3463";
    SYSTEM_FULL = 3 1 "Mail system full" "RFC 3463";
    NOT_ACCEPTING = 3 2 "System not accepting network messages" "RFC 3463";
    NOT_CAPABLE = 3 3 "System not capable of selected features" "RFC 3463";
    MESSAGE_TOO_BIG = 3 4 "Message too big for system" "RFC 3463";
    MISCONFIGURED = 3 5 "System incorrectly configured" "RFC 3463";
    PRIORITY_CHANGED = 3 6 "Requested priority was changed" "RFC 6710";
    NETWORK = 4 0 "Other or undefined network or routing status" "RFC 3463";
    NO_ANSWER = 4 1 "No answer from host" "RFC 3463";
    BAD_CONNECTION = 4 2 "Bad connection" "RFC 3463";
    DIRECTORY_FAILURE = 4 3 "Directory server failure" "RFC 3463";
    NO_ROUTE = 4 4 "Unable to route" "RFC 3463";
    CONGESTION = 4 5 "Mail system congestion" "RFC 3463";
    LOOP = 4 6 "Routing loop detected" "RFC 3463";
    TIME_EXPIRED = 4 7 "Delivery time expired" "RFC 3463";
    PROTOCOL = 5 0 "Other or undefined protocol status" "RFC 3463";
    INVALID_COMMAND = 5 1 "Invalid command" "RFC 3463";
    SYNTAX = 5 2 "Syntax error" "RFC 3463";
    TOO_MANY_RECIPIENTS = 5 3 "Too many recipients" "RFC 3463";
    INVALID_ARGUMENTS = 5 4 "Invalid command arguments" "RFC 3463";
    WRONG_VERSION = 5 5 "Wrong protocol version" "RFC 3463";
    AUTH_LINE_TOO_LONG = 5 6 "Authentication exchange line is too long" "RFC 4954";
    MEDIA = 6 0 "Other or undefined media error" "RFC 3463";
    MEDIA_NOT_SUPPORTED = 6 1 "Media not supported" "RFC 3463";
    CONVERSION_PROHIBITED = 6 2 "Conversion required and prohibited" "RFC 3463";
    CONVERSION_NOT_SUPPORTED = 6 3 "Conversion required but not supported" "RFC 3463";
    CONVERSION_WITH_LOSS = 6 4 "Conversion with loss performed" "RFC 3463";
    CONVERSION_FAILED = 6 5 "Conversion failed" "RFC 3463";
    CONTENT_NOT_AVAILABLE = 6 6 "Message content not available" "RFC 4468";
    NON_ASCII_ADDRESS = 6 7 "Non-ASCII addresses not permitted for that sender/recipient" "RFC 6531";
    UTF8_REPLY_NEEDED = 6 8 "UTF-8 string reply is required, but not permitted by the SMTP client" "RFC 6531";
    UTF8_HEADER = 6 9 "UTF-8 header message cannot be transferred to one or more recipients" "RFC 6531";
    UTF8_REPLY_NEEDED_TOO = 6 10 "Duplicate of X.6.8" "RFC 6531";
    SECURITY = 7 0 "Other or undefined security status" "RFC 3463";
    NOT_AUTHORIZED = 7 1 "Delivery not authorized, message refused" "RFC 3463";
    EXPANSION_PROHIBITED = 7 2 "Mailing list expansion prohibited" "RFC 3463";
    SECURITY_CONVERSION = 7 3 "Security conversion required but not possible" "RFC 3463";
    SECURITY_NOT_SUPPORTED = 7 4 "Security features not supported" "RFC 3463";
    CRYPTOGRAPHIC_FAILURE = 7 5 "Cryptographic failure" "RFC 3463";
    ALGORITHM_NOT_SUPPORTED = 7 6 "Cryptographic algorithm not supported" "RFC 3463";
    INTEGRITY_FAILURE = 7 7 "Message integrity failure" "RFC 3463";
    CREDENTIALS_INVALID = 7 8 "Authentication credentials invalid" "RFC 4954";
    MECHANISM_TOO_WEAK = 7 9 "Authentication mechanism is too weak" "RFC 4954";
    ENCRYPTION_NEEDED = 7 10 "Encryption needed" "RFC 5248";
    ENCRYPTION_FOR_MECHANISM = 7 11 "Encryption required for requested authentication mechanism" "RFC 4954";
    PASSWORD_TRANSITION = 7 12 "A password transition is needed" "RFC 4954";
    ACCOUNT_DISABLED = 7 13 "User account disabled" "RFC 5248";
    TRUST_REQUIRED = 7 14 "Trust relationship required" "RFC 5248";
    PRIORITY_TOO_LOW = 7 15 "Priority level is too low" "RFC 6710";
    TOO_BIG_FOR_PRIORITY = 7 16 "Message is too big for the specified priority" "RFC 6710";
    MAILBOX_OWNER_CHANGED = 7 17 "Mailbox owner has changed" "RFC 7293";
    DOMAIN_OWNER_CHANGED = 7 18 "Domain owner has changed" "RFC 7293";
    RRVS_NOT_COMPLETED = 7 19 "RRVS test cannot be completed" "RFC 7293";
    NO_PASSING_DKIM = 7 20 "No passing DKIM signature found" "RFC 7372";
    NO_ACCEPTABLE_DKIM = 7 21 "No acceptable DKIM signature found" "RFC 7372";
    NO_AUTHOR_DKIM = 7 22 "No valid author-matched DKIM signature found" "RFC 7372";
    SPF_FAILED = 7 23 "SPF validation failed" "RFC 7372";
    SPF_ERROR = 7 24 "SPF validation error" "RFC 7372";
    REVERSE_DNS_FAILED = 7 25 "Reverse DNS validation failed" "RFC 7372";
    MULTIPLE_CHECKS_FAILED = 7 26 "Multiple authentication checks failed" "RFC 7372";
    SENDER_NULL_MX = 7 27 "Sender address has null MX" "RFC 7505";
    FLOOD = 7 28 "Mail flood detected" "IANA";
    ARC_FAILED = 7 29 "ARC validation failure" "RFC 8617";
    REQUIRETLS_NEEDED = 7 30 "REQUIRETLS support required" "RFC 8689";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_and_without_doubles() {
        assert!(ALL.windows(2).all(|w| (w[0].subject, w[0].detail) < (w[1].subject, w[1].detail)));
        assert_eq!(EnhancedCode::new(5, 7, 30).unwrap().status(), Some(REQUIRETLS_NEEDED));
        assert_eq!(EnhancedCode::new(5, 7, 99).unwrap().status(), None);
    }
}
