//! Round trips, counted: what a mail costs in them is what the mapping is for.

use smtp_transport_quic::sim::Path;
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
    let begin = Instant::now();
    let mut stream = sim.connect().await.open().await.unwrap();
    let hello = b"EHLO client.example\r\n";
    let envelope = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@mx.example>\r\n";
    let body = body(1, SIZE);
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

/// When each of twenty mails that are sent at once is accepted, in milliseconds from the end of the handshake.
async fn twenty(seed: u64, loss: u16) -> Vec<u128> {
    let sim = Sim::new(seed, path());
    let mut connection = sim.connect().await;
    sim.network.set_path(Path { loss, ..path() });
    let begin = Instant::now();
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..20 {
        let mut stream = connection.open().await.unwrap();
        let flight = flight(number, SIZE);
        stream.write_all(&flight[..flight.len() - 6]).await.unwrap();
        sessions.spawn(async move {
            let mut said = String::new();
            while codes(&said).len() < 5 {
                said.push_str(&until(&mut stream, "250").await);
            }
            (begin.elapsed().as_millis(), stream)
        });
    }
    let mut times: Vec<_> = sessions.join_all().await.into_iter().map(|(at, _stream)| at).collect();
    times.sort_unstable();
    times
}

#[tokio::test(start_paused = true)]
async fn of_many_mails_at_once_the_first_is_not_as_late_as_the_last() {
    let times = twenty(1, 0).await;
    assert_eq!(times[0], 100, "{times:?}");
    // 400 KB in slow start, whatever the order.
    assert!(times[19] <= 320, "{times:?}");
    assert!(times[9] < times[19], "{times:?}");
    println!("twenty at once, no loss: median {}, all {}", times[9], times[19]);
}

#[test]
fn loss_does_not_make_every_mail_wait_for_the_last() {
    let (mut medians, mut ends) = (Vec::new(), Vec::new());
    for seed in 0..40 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let times = runtime.block_on(twenty(seed, 20));
        medians.push(times[9]);
        ends.push(times[19]);
    }
    medians.sort_unstable();
    ends.sort_unstable();
    println!("twenty at once, 2 % loss, 40 seeds: median mail {}, all done {}", medians[20], ends[20]);
    // Round robin had 675 where this order had 350.
    assert!(medians[20] < 500, "{medians:?}");
}
