//! A relay: a server whose inner service is the client. `relay LISTEN NEXT-HOP`, such as
//! `relay 127.0.0.1:2526 127.0.0.1:2525`: what is sent to the first for localhost goes on to the second, as it comes.

use std::net::SocketAddr;

use smtp_client::Client;
use smtp_core::stream::{Listener, Target, TlsPolicy};
use smtp_core::types::Host;
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, ReceivedLayer, Server, Settings};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments.next().unwrap_or("127.0.0.1:2526".into()).parse()?;
    let next_hop: SocketAddr = arguments.next().unwrap_or("127.0.0.1:2525".into()).parse()?;

    // The delivery is a client. The next hop's answer becomes ours: it says 250 only when the next hop has.
    let target = Target::host(Host::Literal(next_hop.ip().into()), next_hop.port());
    let client = smtp_client::Settings { tls: TlsPolicy::NONE, ..Default::default() };
    let client = Client::new(TcpConnector::without_tls(), target, client);

    // The policy: only mail for localhost is relayed, whoever asks. A relay for everybody has to be spelt out.
    let domain = "localhost".parse()?;
    let mailboxes = Mailboxes::new(&domain)?;
    let received = ReceivedLayer::new(&domain);

    let settings = Settings::new(driver::Settings::new(Config::new(domain).promising(Client::PROMISES)));
    let listener = TcpListener::bind(listen, ListenOptions::default())?;
    println!("listening {}", listener.url());
    let server = Server::new(settings, move |_session| {
        (mailboxes.clone(), ServiceBuilder::new().layer(received.clone()).service(client.clone()))
    });
    server.listen(listener).run(CancellationToken::new()).await;
    Ok(())
}
