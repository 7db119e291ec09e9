//! Connects standard input and output with a Unix socket, so that a server on another machine can be reached by
//! `pipe:ssh host relay /run/smtp.sock` without a port of its own.

use smtp_core::service::BoxError;
use smtp_core::stream::{Address, Connector, Listener, Target, TlsPolicy};
use smtp_transport_unix::{Stdio, UnixConnector};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let path = std::env::args_os().nth(1).ok_or("usage: relay SOCKET")?;
    let target = Target { address: Address::Path(path.into()), server_name: None };
    let mut inside = UnixConnector::new().connect(&target, &TlsPolicy::NONE).await?.open().await?;
    let mut outside = Stdio::take()?.accept().await?.accept().await?.ok_or("no stream")?;
    // It passes half closes on.
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}
