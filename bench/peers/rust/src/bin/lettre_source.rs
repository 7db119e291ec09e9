//! lettre, its pool of 20 connections, from one thread: `lettre_source PORT MESSAGES`, to 127.0.0.1.

use bench_peers::{SESSIONS, content, in_sessions, number};
use lettre::address::Envelope;
use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), bench_peers::Failure> {
    let envelope = Envelope::new(Some("a@perf.test".parse()?), vec!["b@perf.test".parse()?])?;
    let content = content();
    let messages = number(2)?;
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
        .port(number(1)?)
        .pool_config(PoolConfig::new().max_size(SESSIONS as u32))
        .build();
    in_sessions(messages, |n| {
        let (transport, envelope, content) = (transport.clone(), envelope.clone(), content.clone());
        async move {
            for _ in 0..n {
                transport.send_raw(&envelope, &content).await?;
            }
            Ok(())
        }
    })
    .await
}
