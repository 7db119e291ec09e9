//! Round trips, counted: what a mail costs in them is what the mapping is for.

use std::time::Duration;

use smtp_transport_quic::{ConnectOptions, QuicOptions, TransportOptions};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::*;

/// Octets of the mail: two initial windows.
const SIZE: usize = 20_000;

fn tuned() -> (QuicOptions, ConnectOptions) {
    let transport =
        TransportOptions { initial_window: Some(48_000), initial_rtt: Some(HALF_RTT * 4), ..Default::default() };
    let server = QuicOptions { transport: transport.clone(), ..Default::default() };
    (server, ConnectOptions { transport, ..Default::default() })
}

/// The time from the beginning of the handshake to the 250 for the content, in milliseconds.
async fn measure(sim: &Sim, way: Way) -> u128 {
    let begin = Instant::now();
    let mut stream = sim.connect().await.open().await.unwrap();
    let hello = b"EHLO client.example\r\n";
    let envelope = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@mx.example>\r\n";
    let body = body(1, SIZE);
    let chunk = format!("BDAT {} LAST\r\n", body.len());
    match way {
        Way::Data | Way::EagerData => {
            stream.write_all(hello).await.unwrap();
            if matches!(way, Way::Data) {
                until(&mut stream, "250").await;
            }
            stream.write_all(&[&envelope[..], b"DATA\r\n"].concat()).await.unwrap();
            until(&mut stream, "354").await;
            stream.write_all(&[&body[..], b".\r\n"].concat()).await.unwrap();
        }
        Way::BdatAfterEhlo => {
            stream.write_all(hello).await.unwrap();
            until(&mut stream, "250").await;
            stream.write_all(&[&envelope[..], chunk.as_bytes(), &body].concat()).await.unwrap();
        }
        Way::OneFlight => stream.write_all(&[&hello[..], envelope, chunk.as_bytes(), &body].concat()).await.unwrap(),
    }
    let mut taken_at = None;
    while taken_at.is_none() {
        until_n(&mut stream, sim).await;
        taken_at = (!taken(&sim.served.taken).is_empty()).then(|| begin.elapsed());
    }
    stream.write_all(b"QUIT\r\n").await.unwrap();
    taken_at.unwrap_or(Duration::MAX).as_millis()
}

/// Reads until something was said after the delivery had the mail.
async fn until_n(stream: &mut Stream, sim: &Sim) {
    let said = until(stream, "250").await;
    assert!(!taken(&sim.served.taken).is_empty() || !said.is_empty());
}

#[derive(Clone, Copy)]
enum Way {
    /// Pipelined, with DATA: EHLO's reply and the 354 are waited for.
    Data,
    /// The same without waiting for EHLO's reply.
    EagerData,
    /// BDAT, but not before EHLO is answered, as RFC 2920 has it for TCP.
    BdatAfterEhlo,
    /// Everything at once.
    OneFlight,
}

#[tokio::test(start_paused = true)]
async fn a_mail_costs_whole_round_trips() {
    for (way, milliseconds) in [(Way::Data, 250), (Way::EagerData, 200), (Way::BdatAfterEhlo, 200), (Way::OneFlight, 150)] {
        assert_eq!(measure(&Sim::new(1, path()), way).await, milliseconds);
    }
}

#[tokio::test(start_paused = true)]
async fn an_initial_window_that_holds_the_mail_saves_one() {
    let (server, client) = tuned();
    let sim = Sim::with(1, path(), server, client);
    assert_eq!(measure(&sim, Way::OneFlight).await, 100);
}
