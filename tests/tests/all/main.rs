//! All integration tests of the workspace, one binary: it is linked once.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used)]

mod docs;
mod extensions;
mod interop;
mod interop_extensions;
mod lmtp;
mod proxies;
mod replay;
mod rust_clients;
mod served;
mod transports;
