//! CHUNKING and BINARYMIME (RFC 3030). The BDAT command itself is part of the session, as it carries content.

use super::Extension;

/// CHUNKING: BDAT (RFC 3030 §2).
pub static CHUNKING: Extension = Extension::keyword("CHUNKING", "RFC 3030");

/// BINARYMIME: content that is not lines (RFC 3030 §3), where the delivery can keep it.
pub static BINARYMIME: Extension = Extension { needs_promise: true, ..Extension::keyword("BINARYMIME", "RFC 3030") };
