//! All integration tests of the workspace, one binary: it is linked once.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used)]

mod discovery;
mod docs;
mod extensions;
mod interop;
mod interop_extensions;
mod lmtp;
mod mx_over_quic;
mod proxies;
mod quic_client;
mod quic_server;
mod replay;
mod routing;
mod rust_clients;
mod sasl;
mod served;
mod strict;
mod tls_policy;
mod transports;

/// The one that TLS uses where nobody names another.
fn provider() {
    // A second test may have been faster.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
