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
struct Tally {
    /// Of all mails of all runs.
    mails: Vec<u128>,
    /// The median mail of each run, and its last.
    medians: Vec<u128>,
    lasts: Vec<u128>,
}

fn at(sorted: &[u128], percent: usize) -> u128 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn mean(times: &[u128]) -> u128 {
    times.iter().sum::<u128>() / times.len() as u128
}

impl Tally {
    fn of(runs: &[Vec<u128>]) -> Self {
        let sorted = |mut times: Vec<u128>| {
            times.sort_unstable();
            times
        };
        Self {
            mails: sorted(runs.iter().flatten().copied().collect()),
            medians: sorted(runs.iter().map(|run| (run[9] + run[10]) / 2).collect()),
            lasts: sorted(runs.iter().map(|run| run[MAILS - 1]).collect()),
        }
    }

    fn show(&self, what: &str) {
        let Self { mails, medians, lasts } = self;
        println!(
            "{what}: mail median {} mean {} p90 {}; median mail {}; last mail median {} mean {} p90 {}",
            at(mails, 50), mean(mails), at(mails, 90), at(medians, 50), at(lasts, 50), mean(lasts), at(lasts, 90)
        );
    }
}

#[test]
fn streams_of_their_own_are_no_slower_than_one_pipelined_stream() {
    let seeds: u64 = std::env::var("SMTP_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for (name, options) in [("default", <(QuicOptions, ConnectOptions)>::default()), ("tuned", tuned())] {
        for loss in [0, 10, 20, 50] {
            let runs = |way| {
                let n = if loss == 0 { 1 } else { seeds };
                (0..n).map(|seed| isolated(seed, options.clone(), way, loss)).collect::<Vec<_>>()
            };
            let (one, many) = (runs(Way::OneStream), runs(Way::Streams));
            let (a, b) = (Tally::of(&one), Tally::of(&many));
            let percent = f64::from(loss) / 10.0;
            a.show(&format!("{name}, {percent} % loss, one stream"));
            b.show(&format!("{name}, {percent} % loss, 20 streams"));
            let mut differences: Vec<i128> = one.iter().zip(&many)
                .map(|(one, many)| many[MAILS - 1] as i128 - one[MAILS - 1] as i128).collect();
            differences.sort_unstable();
            let n = differences.len();
            println!("   last mail, streams less one stream, paired: median {} mean {}, later in {} of {n}",
                differences[n / 2], differences.iter().sum::<i128>() / n as i128,
                differences.iter().filter(|d| **d > 0).count());
        }
    }
}
