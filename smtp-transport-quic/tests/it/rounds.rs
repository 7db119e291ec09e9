//! Round trips, counted: what a mail costs in them is what the mapping is for.

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
async fn measure(sim: &Sim, way: Way) -> u128 {
    measure_size(sim, way, SIZE).await
}

async fn measure_size(sim: &Sim, way: Way, size: usize) -> u128 {
    let begin = Instant::now();
    let mut stream = sim.connect().await.open().await.unwrap();
    let hello = b"EHLO client.example\r\n";
    let envelope = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@mx.example>\r\n";
    let body = body(1, size);
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
        assert_eq!(measure(&Sim::new(1, path()), way).await, milliseconds);
    }
}

#[tokio::test(start_paused = true)]
async fn an_initial_window_that_holds_the_mail_saves_one() {
    let (server, client) = tuned();
    let sim = Sim::with(1, path(), server, client);
    // quinn sends ten packets at once, and has a pause before the rest: 12,000 octets at 1.25 windows a round trip.
    assert_eq!(measure(&sim, Way::OneFlight).await, 100 + 10);
}

/// What quinn's pacer costs a mail that the window holds, by window and packet size: it lets some ten packets out at once,
/// and waits until it may send ten more.
#[tokio::test(start_paused = true)]
async fn the_pause_behind_ten_packets_is_the_shorter_the_larger_the_window() {
    for initial_mtu in [1200, 1232, 1252, 1400, 1452] {
        for initial_window in [48_000, 64 << 10, 96 << 10, 128 << 10, 256 << 10, 512 << 10] {
            for size in [14_000, 16_000, 17_000, 18_000, 19_000, 20_000, 24_000] {
                let (mut server, mut client) = tuned();
                for transport in [&mut server.transport, &mut client.transport] {
                    (transport.initial_mtu, transport.initial_window) = (initial_mtu, Some(initial_window));
                }
                for kx in [X25519, X25519MLKEM768] {
                    let sim = Sim::by(kx, 1, path(), server.clone(), client.clone());
                    println!("{initial_mtu} {initial_window} {size} {:?} {}", kx.name(), measure_size(&sim, Way::OneFlight, size).await);
                }
            }
        }
    }
}
