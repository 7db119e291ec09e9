//! Twenty mails at once, each on a stream of its own, against the same over one pipelined stream.

use smtp_transport_quic::sim::Path;
use smtp_transport_quic::{ConnectOptions, QuicOptions};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::rounds::{SIZE, tuned};
use crate::support::*;

const MAILS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    OneStream,
    Streams,
}

/// When the content of each of the mails is accepted, in milliseconds from the end of the handshake; in order.
async fn twenty(sim: Sim, way: Way, loss: u16) -> Vec<u128> {
    let mut connection = sim.connect().await;
    // From here on, so that no way has more luck with its handshake.
    sim.network.set_path(Path { loss, ..path() });
    let begin = Instant::now();
    let mut times = Vec::new();
    if way == Way::OneStream {
        let mut stream = connection.open().await.unwrap();
        let mut flight = Vec::from(&b"EHLO client.example\r\n"[..]);
        for number in 0..MAILS {
            let body = body(number, SIZE);
            let envelope = "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@mx.example>\r\n";
            flight.extend_from_slice(format!("{envelope}BDAT {} LAST\r\n", body.len()).as_bytes());
            flight.extend_from_slice(&body);
        }
        let (mut read, mut write) = tokio::io::split(stream.as_mut());
        let sending = async { write.write_all(&flight).await.unwrap() };
        let reading = async {
            let mut said = String::new();
            // The greeting and EHLO, then MAIL, RCPT and the content of each.
            while times.len() < MAILS {
                said.push_str(&some(&mut read).await);
                let answered = codes(&said).len().saturating_sub(2) / 3;
                times.resize(answered, begin.elapsed().as_millis());
            }
        };
        tokio::join!(sending, reading);
        return times;
    }
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..MAILS {
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
    times.extend(sessions.join_all().await.into_iter().map(|(at, _stream)| at));
    times.sort_unstable();
    times
}

/// In a runtime of its own, so that nothing of one run is left for the next.
fn isolated(seed: u64, options: (QuicOptions, ConnectOptions), way: Way, loss: u16) -> Vec<u128> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { twenty(Sim::with(seed, path(), options.0, options.1), way, loss).await })
}

#[test]
fn of_many_mails_at_once_the_first_is_not_as_late_as_the_last() {
    let times = isolated(1, Default::default(), Way::Streams, 0);
    assert_eq!(times[0], 100, "{times:?}");
    // 400 KB in slow start, whatever the order.
    assert!(times[19] <= 320, "{times:?}");
    assert!(times[9] < times[19], "{times:?}");
    println!("twenty at once, no loss: median {}, all {}", times[9], times[19]);
}

/// What many runs came to, in milliseconds.
#[derive(Debug)]
struct Tally {
    /// When the mails of all runs were accepted: their median, mean and 90th percentile.
    mails: [u128; 3],
    /// The same for the last mail of each run.
    lasts: [u128; 3],
}

impl Tally {
    fn of(runs: &[Vec<u128>]) -> Self {
        fn three(times: impl Iterator<Item = u128>) -> [u128; 3] {
            let mut times: Vec<u128> = times.collect();
            times.sort_unstable();
            let (n, sum) = (times.len(), times.iter().sum::<u128>());
            [times[n / 2], sum / n as u128, times[n * 9 / 10]]
        }
        Self { mails: three(runs.iter().flatten().copied()), lasts: three(runs.iter().map(|run| run[MAILS - 1])) }
    }
}

/// With the same seeds, 200 or as many as `SMTP_SIM_SEEDS` says. Other loss strikes other packets, so that one run says
/// nothing; what is compared are medians, means and 90th percentiles over all.
#[test]
fn streams_of_their_own_are_no_slower_than_one_pipelined_stream() {
    let seeds = std::env::var("SMTP_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for (name, options) in [("default", Default::default()), ("tuned", tuned())] {
        let lossless = |way| isolated(0, options.clone(), way, 0);
        assert_eq!(lossless(Way::OneStream), lossless(Way::Streams), "{name}");
        let tally =
            |way| Tally::of(&(0..seeds).map(|seed| isolated(seed, options.clone(), way, 20)).collect::<Vec<_>>());
        let (one, many) = (tally(Way::OneStream), tally(Way::Streams));
        println!("{name}, 2 % loss, {seeds} seeds, in ms: median, mean, 90th percentile");
        for (way, Tally { mails, lasts }) in [("one stream", &one), ("20 streams", &many)] {
            println!("  {way}: of all mails {mails:?}, of the last {lasts:?}");
        }
        // A twentieth more is what chance does with so many runs.
        let no_slower =
            |many: [u128; 3], one: [u128; 3]| many.iter().zip(one).all(|(many, one)| *many <= one * 21 / 20);
        assert!(no_slower(many.mails, one.mails) && no_slower(many.lasts, one.lasts), "{name}: {many:?}, {one:?}");
    }
}
