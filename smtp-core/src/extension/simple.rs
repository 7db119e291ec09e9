//! Extensions that are a keyword and no more.

use super::Extension;

/// PIPELINING: commands in groups without waiting (RFC 2920).
pub static PIPELINING: Extension = Extension::keyword("PIPELINING", "RFC 2920");

/// ENHANCEDSTATUSCODES: codes of RFC 3463 in every reply (RFC 2034).
pub static ENHANCED_STATUS_CODES: Extension = Extension::keyword("ENHANCEDSTATUSCODES", "RFC 2034");

/// STARTTLS (RFC 3207): offered while the channel can still be upgraded.
pub static STARTTLS: Extension =
    Extension { offered: |context| context.channel.can_upgrade, ..Extension::keyword("STARTTLS", "RFC 3207") };

/// HELP (RFC 5321 §4.1.1.8).
pub static HELP: Extension = Extension::keyword("HELP", "RFC 5321 §4.1.1.8");

/// VRFY (RFC 5321 §3.5.2 asks for the keyword where the command is implemented).
pub static VRFY: Extension = Extension::keyword("VRFY", "RFC 5321 §3.5");

/// EXPN (RFC 5321 §3.5): only where a delivery promises it, since an expansion is an answer that a service has to give.
pub static EXPN: Extension = Extension { needs_promise: true, ..Extension::keyword("EXPN", "RFC 5321 §3.5") };
