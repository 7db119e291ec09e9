//! A mail server. `cargo run --bin hello`, then send something to anybody@localhost on port 2525.

use smtp_core::{driver, session::server::Config, stream::Listener};
use smtp_server::{Mailboxes, Maildir, Server, Settings};
use smtp_transport_tcp::{ListenOptions, TcpListener};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let domain = "localhost".parse()?;
    let mailboxes = Mailboxes::new(&domain)?; // the policy: who gets mail here
    let maildir = Maildir::open("hello-mail", &domain)?; // the delivery: where it goes
    let config = Config::new(domain).promising(Maildir::PROMISES);

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:2525".into());
    let listener = TcpListener::bind(address.parse()?, ListenOptions::default())?;
    println!("listening {}", listener.url());

    let settings = Settings::new(driver::Settings::new(config));
    let server = Server::new(settings, move |_session| (mailboxes.clone(), maildir.clone()));
    server.listen(listener).run(CancellationToken::new()).await;
    Ok(())
}
