//! All integration tests of the workspace, one binary: it is linked once.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used)]

mod docs;
mod interop;
mod sasl;
mod transports;
