//! Large bodies: bounded memory, back-pressure, dots.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use proptest::prelude::*;
use smtp_client::{Connection, SendOptions, Transfer};
use smtp_core::service::{Body, Source};
use smtp_core::stream::TlsPolicy;
use smtp_core::wire::{Content, DataDecoder};

use crate::peer::{Peer, clear, envelope, options, pair_of, results};

/// So many pieces, counting those that were asked for.
struct Counted {
    piece: Bytes,
    left: u64,
    given: Arc<AtomicU64>,
}

impl Source for Counted {
    fn poll_chunk(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<Option<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        self.left -= 1;
        self.given.fetch_add(self.piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Ok(Some(self.piece.clone())))
    }
}

async fn client(stream: Box<dyn smtp_core::stream::ByteStream>, body: Body, options_: &SendOptions) -> Vec<String> {
    let mut connection = Connection::over(stream, &TlsPolicy::NONE, options()).await.unwrap();
    connection.hello().await.unwrap();
    results(connection.send(&envelope(&["a@x.test"]), body, options_).await.unwrap())
}

async fn to_content(peer: &mut Peer, keywords: &str) {
    peer.greet(keywords).await;
    peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
    peer.on("RCPT TO:<a@x.test>", "250 ok").await;
    if !keywords.contains("CHUNKING") {
        peer.on("DATA", "354 go").await;
    }
}

const TOTAL: u64 = 64 << 20;

/// What may be under way between the source and the server, in octets: a block or a chunk, a piece, the channel.
const IN_FLIGHT: u64 = (256 + 64 + 64 + 16) << 10;

fn body() -> (Body, Arc<AtomicU64>, u64) {
    // Lines with dots in front: the worst that DATA has.
    let piece: Bytes = b"..dots\r\n.\r\nand a line that has none of them\r\n".repeat(700).into();
    let (left, given) = (TOTAL / piece.len() as u64, Arc::new(AtomicU64::new(0)));
    let size = left * piece.len() as u64;
    (Body::from_source(Counted { piece, left, given: Arc::clone(&given) }, None), given, size)
}

#[tokio::test(start_paused = true)]
async fn sixty_four_mebioctets_by_data_through_four_kibioctets() {
    let (stream, mut peer) = pair_of(4096, clear());
    let (body, given, size) = body();
    let server = async {
        to_content(&mut peer, "PIPELINING").await;
        let (mut decoder, mut input, mut taken) = (DataDecoder::new(1000), bytes::BytesMut::new(), 0u64);
        loop {
            match decoder.next(&mut input) {
                Content::Data(data) => taken += data.len() as u64,
                Content::End => break,
                Content::Need => input.extend_from_slice(&peer.some().await),
            }
            // The source is never far ahead of the server.
            assert!(given.load(Ordering::Relaxed) - taken < IN_FLIGHT);
        }
        assert_eq!((taken, decoder.bad_line()), (size, None));
        peer.say("250 taken").await;
    };
    let options = SendOptions { transfer: Transfer::Data, ..SendOptions::default() };
    let (results, ()) = tokio::join!(client(stream, body, &options), server);
    assert_eq!(results, ["250 taken"]);
}

#[tokio::test(start_paused = true)]
async fn sixty_four_mebioctets_by_chunks_through_four_kibioctets() {
    for keywords in ["PIPELINING\nCHUNKING", "CHUNKING"] {
        let (stream, mut peer) = pair_of(4096, clear());
        let (body, given, size) = body();
        let server = async {
            to_content(&mut peer, keywords).await;
            let mut taken = 0u64;
            loop {
                let line = peer.line().await;
                let mut words = line.strip_prefix("BDAT ").unwrap().split(' ');
                let n: usize = words.next().unwrap().parse().unwrap();
                assert!(n <= SendOptions::default().chunk_size);
                peer.octets(n).await;
                taken += n as u64;
                assert!(given.load(Ordering::Relaxed) - taken < IN_FLIGHT);
                let last = words.next().is_some();
                peer.say(if last { "250 taken" } else { "250 more" }).await;
                if last {
                    break;
                }
            }
            assert_eq!(taken, size);
        };
        let options = SendOptions::default();
        let (results, ()) = tokio::join!(client(stream, body, &options), server);
        assert_eq!(results, ["250 taken"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_chunks_slowly_and_reads_nothing_meanwhile_is_no_deadlock() {
    // More replies than fit into the channel, while the client has more to write than fits.
    let (stream, mut peer) = pair_of(512, clear());
    let piece = Bytes::from_static(b"0123456789012345678901234567\r\n");
    let body = Body::from_source(Counted { piece, left: 2000, given: Arc::default() }, None);
    let server = async {
        to_content(&mut peer, "PIPELINING\nCHUNKING").await;
        loop {
            let line = peer.line().await;
            let mut words = line.strip_prefix("BDAT ").unwrap().split(' ');
            let n: usize = words.next().unwrap().parse().unwrap();
            peer.octets(n).await;
            peer.say(&format!("250 {}", "x".repeat(400))).await;
            if words.next().is_some() {
                break;
            }
        }
    };
    let options = SendOptions { chunk_size: 64, ..SendOptions::default() };
    let (results, ()) = tokio::join!(client(stream, body, &options), server);
    assert!(results[0].starts_with("250 xxx"));
}

/// A small body by DATA over a channel of `size`; what the server read, dots removed.
async fn round_trip(pieces: Vec<Bytes>, size: usize) -> Vec<u8> {
    struct List(std::vec::IntoIter<Bytes>);
    impl Source for List {
        fn poll_chunk(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<Option<Bytes>>> {
            Poll::Ready(Ok(self.0.next()))
        }
    }
    let (stream, mut peer) = pair_of(size, clear());
    let body = Body::from_source(List(pieces.into_iter()), None);
    let server = async {
        to_content(&mut peer, "PIPELINING").await;
        let (mut decoder, mut input, mut message) = (DataDecoder::new(1000), bytes::BytesMut::new(), Vec::new());
        loop {
            match decoder.next(&mut input) {
                Content::Data(data) => message.extend_from_slice(&data),
                Content::End => break,
                Content::Need => input.extend_from_slice(&peer.some().await),
            }
        }
        assert!(input.is_empty() && decoder.bad_line().is_none());
        peer.say("250 taken").await;
        message
    };
    let options = SendOptions::default();
    let (results, message) = tokio::join!(client(stream, body, &options), server);
    assert_eq!(results, ["250 taken"]);
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sent_by_data_arrives_as_it_was(
        lines in proptest::collection::vec(proptest::sample::select(vec!["", ".", "..", "x", ".x", "\u{fc}"]), 1..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
        size in 1usize..40,
    ) {
        let text: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % text.len()).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|w| Bytes::copy_from_slice(&text[w[0]..w[1]])).filter(|p| !p.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        prop_assert_eq!(runtime.block_on(round_trip(pieces.collect(), size)), text);
    }
}
