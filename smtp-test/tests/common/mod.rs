//! What the integration tests share.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

pub mod model;
#[path = "../../../tests/src/scenarios.rs"]
pub mod scenarios;

use std::time::Duration;

use proptest::test_runner::Config as ProptestConfig;
use scenarios::{Delivered, Reference};
use smtp_core::stream::ByteStream;
use smtp_test::memory::{Knobs, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How a client sends its octets.
#[derive(Debug, Clone, Copy)]
pub enum Pieces {
    /// In pieces of so many octets, one right after the other.
    Of(usize),
    /// In two pieces, cut there; the second when the server has done all it can with the first.
    CutAt(usize),
}

/// All that the server says to `input` on a channel with these knobs, and what it delivers, on a runtime of its own in
/// virtual time.
pub fn talk(reference: &Reference, knobs: &Knobs, input: &[u8], pieces: Pieces) -> (String, Vec<Delivered>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(talk_in(reference, knobs, input, pieces))
}

async fn talk_in(reference: &Reference, knobs: &Knobs, input: &[u8], pieces: Pieces) -> (String, Vec<Delivered>) {
    let before = reference.delivered().len();
    let (client, server) = pair(knobs.clone());
    let session = tokio::spawn({
        let reference = reference.clone();
        async move { reference.serve(Box::new(server)).await }
    });
    let (mut read, mut write) = tokio::io::split(Box::new(client) as Box<dyn ByteStream>);
    let input = input.to_vec();
    let writer = tokio::spawn(async move {
        match pieces {
            Pieces::Of(n) => {
                for piece in input.chunks(n.max(1)) {
                    if write.write_all(piece).await.is_err() {
                        break;
                    }
                    let _ = write.flush().await;
                    tokio::task::yield_now().await;
                }
            }
            Pieces::CutAt(at) => {
                let (first, second) = input.split_at(at);
                let _ = write.write_all(first).await;
                let _ = write.flush().await;
                // Time passes when nobody has anything to do; less than any deadline.
                tokio::time::sleep(Duration::from_secs(20)).await;
                let _ = write.write_all(second).await;
            }
        }
        let _ = write.shutdown().await;
    });
    let mut said = Vec::new();
    // A reset ends the conversation as well.
    let _ = read.read_to_end(&mut said).await;
    writer.await.unwrap();
    let _ = session.await.unwrap();
    let delivered = reference.delivered().split_off(before);
    (String::from_utf8(said).unwrap(), delivered)
}

/// The code of each reply.
pub fn codes(said: &str) -> Vec<&str> {
    said.lines().filter(|l| l.as_bytes().get(3) == Some(&b' ')).map(|l| &l[..3]).collect()
}

/// So many cases; `PROPTEST_CASES=1000000` for a long run.
pub fn proptest_config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    // Failures go into the tests by name, not into a file of seeds.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
