//! A program that sends with lettre, over QUIC: `lettre_quic HOST PORT PIN FROM TO`. PIN is the server's, as `smtp serve`
//! shows it.

use std::error::Error;

use lettre::{AsyncTransport, Message};
use smtp_client::{Client, Settings};
use smtp_core::stream::{Target, TlsMode, TlsPolicy};
use smtp_tls::{ClientTls, Pin};
use smtp_transport_quic::{ConnectOptions, QuicConnector};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, pin, from, to] = arguments.as_slice() else {
        return Err("lettre_quic HOST PORT PIN FROM TO".into());
    };
    let message =
        Message::builder().from(from.parse()?).to(to.parse()?).subject("hello").body("from lettre".to_owned())?;

    // The one line. It was: let mailer = AsyncSmtpTransport::<Tokio1Executor>::relay(host)?.build();
    let mailer = over_quic(host, port.parse()?, pin)?;

    let outcome = mailer.send(message).await?;
    println!("sent to {}", outcome.len());
    mailer.shutdown().await;
    Ok(())
}

fn over_quic(host: &str, port: u16, pin: &str) -> Result<Client, Box<dyn Error>> {
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let connector = QuicConnector::new(&ClientTls::builder().provider(provider).build()?, ConnectOptions::default())?;
    let tls = TlsPolicy { mode: TlsMode::Implicit, verification: pin.parse::<Pin>()?.into() };
    let host = host.parse::<std::net::IpAddr>().map_or_else(|_| host.parse(), |ip| Ok(literal(ip)))?;
    Ok(Client::new(connector, Target::host(host, port), Settings { tls, ..Settings::default() }))
}

fn literal(ip: std::net::IpAddr) -> smtp_core::types::Host {
    smtp_core::types::Host::Literal(ip.into())
}
