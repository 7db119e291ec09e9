//! A delivery of one's own: it prints each message as it comes, piece by piece, and refuses what looks like a virus.

use std::io::Write;

use smtp_core::service::{BoxError, Chunk, Outcome, Receipt, Transaction};
use smtp_core::stream::Listener;
use smtp_core::types::Refusal;
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Server, Settings};
use smtp_transport_tcp::{ListenOptions, TcpListener};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

async fn print(mut transaction: Transaction) -> Result<Outcome, BoxError> {
    let n = transaction.envelope.recipients.len();
    for rcpt in &transaction.envelope.recipients {
        println!("to {}", rcpt.to);
    }
    loop {
        match transaction.body.next().await? {
            Chunk::Data(data) if data.windows(5).any(|w| w == b"EICAR") => {
                let refusal = Refusal::fixed(554, (5, 7, 1), "we do not want this");
                return Ok(Outcome::all(Err(refusal), n));
            }
            Chunk::Data(data) => std::io::stdout().write_all(&data)?,
            // Only here, at the end of the content, is there something to make a receipt of. It is honest about what
            // happened: nothing was stored.
            Chunk::End(complete) => return Ok(Outcome::all(Ok(Receipt::discarded(complete).with_text("printed")), n)),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let domain = "localhost".parse()?;
    let mailboxes = Mailboxes::new(&domain)?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:2525".into());
    let listener = TcpListener::bind(address.parse()?, ListenOptions::default())?;
    println!("listening {}", listener.url());

    let settings = Settings::new(driver::Settings::new(Config::new(domain)));
    let server = Server::new(settings, move |_session| (mailboxes.clone(), service_fn(print)));
    server.listen(listener).run(CancellationToken::new()).await;
    Ok(())
}
