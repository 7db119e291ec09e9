//! Round trips, counted: what a mail costs in them is what the mapping is for.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
use smtp_transport_quic::{ConnectOptions, QuicOptions, TransportOptions};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::*;

/// Octets of the mail: two initial windows.
pub(crate) const SIZE: usize = 20_000;

pub(crate) fn tuned() -> (QuicOptions, ConnectOptions) {
    let transport =
        TransportOptions { initial_window: Some(48_000), initial_rtt: Some(HALF_RTT * 4), ..Default::default() };
    let server = QuicOptions { transport: transport.clone(), ..Default::default() };
    (server, ConnectOptions { transport, ..Default::default() })
}

/// The time from the beginning of the handshake to the 250 for the content, in milliseconds.
async fn measure(sim: &Sim, way: Way, octets: usize) -> u128 {
    let begin = Instant::now();
    let mut stream = sim.connect().await.open().await.unwrap();
    let hello = b"EHLO client.example\r\n";
    let envelope = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@mx.example>\r\n";
    let body = body(1, octets);
    let chunk = format!("BDAT {} LAST\r\n", body.len());
    let mut said = String::new();
    match way {
        Way::Data | Way::EagerData => {
            stream.write_all(hello).await.unwrap();
            if matches!(way, Way::Data) {
                said = until(&mut stream, "250").await;
            }
            stream.write_all(&[&envelope[..], b"DATA\r\n"].concat()).await.unwrap();
            said.push_str(&until(&mut stream, "354").await);
            stream.write_all(&[&body[..], b".\r\n"].concat()).await.unwrap();
        }
        Way::BdatAfterEhlo => {
            stream.write_all(hello).await.unwrap();
            said = until(&mut stream, "250").await;
            stream.write_all(&[&envelope[..], chunk.as_bytes(), &body].concat()).await.unwrap();
        }
        Way::OneFlight => stream.write_all(&[&hello[..], envelope, chunk.as_bytes(), &body].concat()).await.unwrap(),
    }
    // The greeting, EHLO, MAIL, RCPT and the content, with DATA its 354.
    let replies = if matches!(way, Way::Data | Way::EagerData) { 6 } else { 5 };
    while codes(&said).len() < replies {
        said.push_str(&until(&mut stream, "250").await);
    }
    let took = begin.elapsed();
    stream.write_all(b"QUIT\r\n").await.unwrap();
    took.as_millis()
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
    for (way, milliseconds) in
        [(Way::Data, 250), (Way::EagerData, 200), (Way::BdatAfterEhlo, 200), (Way::OneFlight, 150)]
    {
        assert_eq!(measure(&Sim::new(1, path()), way, SIZE).await, milliseconds);
    }
}

/// quinn's pacer lets so many packets out: what is left of ten when the handshake is over, and ten more. What does not go
/// into them waits until it may send ten again, which takes the less the larger the window is.
#[tokio::test(start_paused = true)]
async fn what_the_pacer_lets_out_at_once_costs_two_round_trips_and_the_rest_a_pause() {
    for (octets, initial_mtu, initial_window, milliseconds, hybrid) in [
        (17_000, 1200, 48_000, 100, 100),
        (18_000, 1200, 48_000, 100, 110),
        (SIZE, 1200, 48_000, 110, 110),
        (SIZE, 1200, 64 << 10, 108, 108),
        (SIZE, 1200, 128 << 10, 104, 104),
        (SIZE, 1200, 512 << 10, 101, 101),
        (SIZE, 1452, 48_000, 100, 100),
    ] {
        let (mut server, mut client) = tuned();
        for transport in [&mut server.transport, &mut client.transport] {
            (transport.initial_mtu, transport.initial_window) = (initial_mtu, Some(initial_window));
        }
        // The larger key share has one of the first ten packets.
        let exchanges: [(&'static dyn SupportedKxGroup, _); 2] = [(X25519, milliseconds), (X25519MLKEM768, hybrid)];
        for (exchange, milliseconds) in exchanges {
            let sim = Sim::by(exchange, 1, path(), server.clone(), client.clone());
            let took = measure(&sim, Way::OneFlight, octets).await;
            assert_eq!(took, milliseconds, "{octets} octets, {initial_mtu}, {initial_window}, {:?}", exchange.name());
        }
    }
}
