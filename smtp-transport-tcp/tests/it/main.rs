//! TCP and TLS on real sockets of the loopback interface: here the socket is the subject.

// The helpers are test code too, which the lint cannot see.
#![allow(clippy::unwrap_used)]

mod closing;
mod connecting;
mod exhaustion;
mod listening;
mod openssl;
mod policies;
mod proxies;
mod starttls;
mod support;
