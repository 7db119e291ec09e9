//! mail-send, 20 sessions on one thread: `mail_send_source PORT MESSAGES`, to 127.0.0.1.

use std::sync::Arc;

use bench_peers::{content, in_sessions, number};
use mail_send::SmtpClientBuilder;
use mail_send::smtp::message::Message;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), bench_peers::Failure> {
    let builder = Arc::new(SmtpClientBuilder::new("127.0.0.1", number(1)?)?);
    let messages = number(2)?;
    let content = content();
    in_sessions(messages, |n| {
        let (builder, content) = (builder.clone(), content.clone());
        async move {
            let mut client = builder.connect_plain().await?;
            for _ in 0..n {
                client.send(Message::new("a@perf.test", ["b@perf.test"], content.as_slice())).await?;
            }
            client.quit().await?;
            Ok(())
        }
    })
    .await
}
