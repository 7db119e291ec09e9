//! Testing a program that sends mail: a real server, in memory, whose delivery records what came. No socket, no port,
//! no sleep.

use smtp_client::{Client, Settings as ClientSettings};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{Target, TlsPolicy};
use smtp_core::types::{Envelope, ForwardPath, Mail, Mailbox, Rcpt};
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Recorder, Server, Settings};
use smtp_test::memory::{Knobs, MemoryListener};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

/// The program under test: it says good morning, by whatever delivery it is given.
async fn good_morning(mut mailer: Client) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let (from, to): (Mailbox, Mailbox) = ("rooster@farm.example".parse()?, "hen@farm.example".parse()?);
    let envelope = Envelope { mail: Mail::new(from), recipients: vec![Rcpt::new(ForwardPath::from(to))] };
    let body = Body::from_bytes(&b"Subject: Good morning\r\n\r\nKikeriki\r\n"[..]);
    let transaction = Transaction { session: SessionInfo::local("rooster"), envelope, body };
    Ok(mailer.ready().await?.call(transaction).await?.single().is_ok())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let domain = "farm.example".parse()?;
    let (mailboxes, recorder) = (Mailboxes::new(&domain)?, Recorder::new());
    let listener = MemoryListener::new(Knobs::clear());
    let target = Target::host("farm.example".parse()?, 25);
    let settings = ClientSettings { tls: TlsPolicy::NONE, ..ClientSettings::default() };
    let mailer = Client::new(listener.connector(), target, settings);

    let (stop, delivery) = (CancellationToken::new(), recorder.clone());
    let settings = Settings::new(driver::Settings::new(Config::new(domain)));
    let server = Server::new(settings, move |_session| (mailboxes.clone(), delivery.clone())).listen(listener);
    let server = tokio::spawn(server.run(stop.clone()));

    assert!(good_morning(mailer).await?);
    let messages = recorder.messages();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].content.starts_with(b"Subject: Good morning\r\n"));
    println!("the hen was greeted");
    stop.cancel();
    server.await?;
    Ok(())
}
