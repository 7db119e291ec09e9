//! mailin-embedded that takes all mail and discards it: `mailin_sink PORT`, on 127.0.0.1.

use mailin_embedded::{Handler, Server, SslConfig};

#[derive(Clone)]
struct Discard;

/// Says 250 to everything, unless told otherwise.
impl Handler for Discard {}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::new(Discard);
    server.with_name("mailin.test").with_ssl(SslConfig::None)?;
    // A thread for each session, and no session without one.
    server.with_num_threads(64).with_addr(("127.0.0.1", bench_peers::number(1)?))?;
    Ok(server.serve()?)
}
