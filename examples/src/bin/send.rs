//! Sends a message and shows the result for each recipient: `send HOST:PORT FROM TO...`.

use smtp_client::{Connection, Options, SendOptions};
use smtp_core::service::{Body, Claim};
use smtp_core::stream::{Target, TlsPolicy};
use smtp_core::types::{Domain, Envelope, ForwardPath, Mail, Mailbox, Rcpt};
use smtp_transport_tcp::TcpConnector;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, from, to @ ..] = arguments.as_slice() else { return Err("send HOST:PORT FROM TO...".into()) };
    let (host, port) = server.rsplit_once(':').ok_or("HOST:PORT")?;
    let host = host.parse::<std::net::IpAddr>().map_or_else(|_| host.parse(), |ip| Ok(literal(ip)))?;

    let to = to.iter().map(|to| Ok(Rcpt::new(ForwardPath::from(to.parse::<Mailbox>()?))));
    let envelope =
        Envelope { mail: Mail::new(from.parse::<Mailbox>()?), recipients: to.collect::<Result<_, Invalid>>()? };
    let content = format!("From: <{from}>\r\nSubject: hello\r\n\r\nworld\r\n");

    // In clear. With certificates to verify, or a pin: TcpConnector::new(tls) and TlsPolicy::REQUIRED.
    let options = Options::new("client.example".parse::<Domain>()?).into();
    let target = Target::host(host, port.parse()?);
    let mut connection = Connection::connect(&TcpConnector::without_tls(), &target, &TlsPolicy::NONE, options).await?;
    connection.hello().await?;
    let outcome = connection.send(&envelope, Body::from_bytes(content), &SendOptions::default()).await?;
    connection.quit().await?;

    for (rcpt, result) in envelope.recipients.iter().zip(outcome.iter()) {
        match result {
            Ok(receipt) => match receipt.claim() {
                // The server's own words.
                Claim::Relayed(reply) => println!("{} accepted: {}", rcpt.to, reply.reply()),
                claim => println!("{} accepted: {claim:?}", rcpt.to),
            },
            Err(refusal) => println!("{} refused: {refusal}", rcpt.to),
        }
    }
    Ok(())
}

type Invalid = smtp_core::types::Invalid;

fn literal(ip: std::net::IpAddr) -> smtp_core::types::Host {
    smtp_core::types::Host::Literal(ip.into())
}
