//! What a mail costs over TCP and over QUIC, on a link with delay and loss: real sockets, our client's octets, our
//! server. As root:
//!
//! ```console
//! # cargo run --release -p smtp-netem --example measure -- --rounds 30
//! ```
//!
//! Prints Markdown. All ways take turns, so that what the machine does meanwhile happens to all of them.

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod ways;

fn main() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    return run::main();
    #[cfg(not(target_os = "linux"))]
    return Err(std::io::Error::other("network namespaces are Linux's; nothing was measured"));
}
