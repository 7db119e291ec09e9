//! Mail over networks that lose, reorder, repeat and die: nothing is lost silently, and every run can be repeated.

use std::collections::HashMap;
use std::time::Duration;

use smtp_core::stream::{CloseCode, Connector};
use smtp_transport_quic::QuicError;
use smtp_transport_quic::sim::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::*;

const MAILS: usize = 5;

/// What a client knows of a mail when its session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has the 250.
    Delivered,
    /// It has not, and the last octet of the body was never given to QUIC.
    Failed,
    /// It has not, and the body was on its way: another try may be a duplicate (RFC 1047).
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    known: Vec<Known>,
    delivered: HashMap<usize, usize>,
    digest: u64,
    took: Duration,
}

async fn mail(mut stream: Stream, number: usize) -> Known {
    let flight = flight(number, 20_000);
    let (body, quit) = flight.split_at(flight.len() - 6);
    if stream.write_all(body).await.is_err() {
        return Known::Failed;
    }
    let mut said = Vec::new();
    let mut buf = [0; 2048];
    let _ = stream.write_all(quit).await;
    let _ = stream.shutdown().await;
    // An idle connection dies by itself; nothing here can hang.
    while let Ok(n @ 1..) = stream.read(&mut buf).await {
        said.extend_from_slice(&buf[..n]);
    }
    match codes(&String::from_utf8(said).unwrap()).get(4) {
        Some(&"250") => Known::Delivered,
        Some(_) => Known::Failed,
        None => Known::Unknown,
    }
}

async fn run(seed: u64, path: Path, cut: Option<Duration>) -> Run {
    let sim = Sim::new(seed, path);
    let begin = Instant::now();
    if let Some(cut) = cut {
        sim.network.cut_at(begin + cut);
    }
    let mut known = vec![Known::Failed; MAILS];
    if let Ok(mut connection) = sim.connector.connect(&target(), &UNVERIFIED).await {
        let mut sessions = tokio::task::JoinSet::new();
        for number in 0..MAILS {
            let Ok(stream) = connection.open().await else { break };
            sessions.spawn(async move { (number, mail(stream, number).await) });
        }
        while let Some(result) = sessions.join_next().await {
            let (number, outcome) = result.unwrap();
            known[number] = outcome;
        }
    }
    let took = begin.elapsed();
    let mut delivered = HashMap::new();
    for body in taken(&sim.served.taken) {
        *delivered.entry(number_in(&body)).or_default() += 1;
    }
    Run { known, delivered, digest: sim.network.digest(), took }
}

/// A run in a runtime of its own, so that nothing of one is left for the next.
fn isolated(seed: u64, path: Path, cut: Option<Duration>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(seed, path, cut))
}

pub(crate) fn storm(seed: u64) -> Path {
    Path {
        delay: HALF_RTT,
        jitter: Duration::from_millis(seed % 7 * 5),
        loss: u16::try_from(seed % 5 * 20).unwrap(),
        duplicate: u16::try_from(seed % 3 * 30).unwrap(),
    }
}

/// How many seeds a test tries. `SMTP_SIM_SEEDS` asks for more.
pub(crate) fn seeds() -> u64 {
    std::env::var("SMTP_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

#[test]
fn every_mail_arrives_once_whatever_the_network_does() {
    for seed in 0..seeds() {
        let run = isolated(seed, storm(seed), None);
        assert_eq!(run.known, [Known::Delivered; MAILS], "seed {seed}");
        assert_eq!(run.delivered, (0..MAILS).map(|n| (n, 1)).collect(), "seed {seed}");
    }
}

#[test]
fn a_network_that_dies_leaves_no_mail_in_doubt_without_need() {
    let mut tally = HashMap::new();
    for seed in 0..seeds() {
        // Somewhere between the first packet and the last.
        let cut = Duration::from_millis(seed * 7 % 400);
        let run = isolated(seed, storm(seed), Some(cut));
        for (number, known) in run.known.iter().enumerate() {
            let delivered = run.delivered.get(&number).copied().unwrap_or(0);
            let possible = match known {
                Known::Delivered => delivered == 1,
                Known::Failed => delivered == 0,
                Known::Unknown => delivered <= 1,
            };
            assert!(possible, "seed {seed}, mail {number}: {known:?}, delivered {delivered} times");
            *tally.entry((format!("{known:?}"), delivered)).or_insert(0) += 1;
        }
        assert!(run.took < Duration::from_secs(1_000), "seed {seed} took {:?}", run.took);
    }
    println!("mails by what the client knows, and how often they were delivered: {tally:?}");
    assert!(tally.contains_key(&("Delivered".to_owned(), 1)) && tally.keys().any(|(known, _)| known == "Unknown"));
}

#[test]
fn a_rerun_is_the_same_to_the_datagram() {
    for seed in 0..seeds() / 2 {
        let cut = seed.is_multiple_of(4).then(|| Duration::from_millis(seed * 11 % 300));
        assert_eq!(isolated(seed, storm(seed), cut), isolated(seed, storm(seed), cut), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_network_is_noticed_and_told() {
    let sim = Sim::new(1, path());
    let mut stream = sim.connect().await.open().await.unwrap();
    stream.write_all(b"EHLO c\r\n").await.unwrap();
    until(&mut stream, "250").await;
    let begin = Instant::now();
    sim.network.cut_at(begin);
    let error = stream.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let inner = error.get_ref().unwrap().downcast_ref::<QuicError>().unwrap();
    assert!(matches!(inner, QuicError::Silent) && inner.code().is_none() && !inner.is_permanent());
    assert!((650..=680).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_alive_while_a_session_waits_and_closed_when_there_is_none() {
    let sim = Sim::new(1, path());
    let mut connection = sim.connect().await;
    let mut stream = connection.open().await.unwrap();
    stream.write_all(b"EHLO c\r\n").await.unwrap();
    until(&mut stream, "250").await;
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(codes(&talk(&mut stream, b"QUIT\r\n").await.unwrap()), ["221"]);
    drop(stream);
    // No session for half a minute.
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut stream = connection.open().await.unwrap();
    assert_eq!(codes(&talk(&mut stream, &flight(1, 100)).await.unwrap()), FLIGHT_CODES);
    drop(stream);
    let mut unused = Vec::new();
    let error = loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match connection.open().await {
            // A stream that nobody has written to does not exist for the server.
            Ok(stream) => unused.push(stream),
            Err(error) => break error,
        }
    };
    let inner = error.get_ref().unwrap().downcast_ref::<QuicError>().unwrap();
    assert_eq!(inner.code(), Some(CloseCode::NoError), "{inner}");
    assert!((50..=53).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}
