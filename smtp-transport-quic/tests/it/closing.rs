//! How sessions end: no reply is lost, and no half of a mail is taken for the whole.

use std::sync::atomic::Ordering;
use std::time::Duration;

use smtp_core::service::{BoxError, Outcome, Receipt, Transaction};
use smtp_core::stream::CloseCode;
use smtp_core::types::Refusal;
use smtp_transport_quic::{ConnectOptions, QuicError, QuicOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::service_fn;

use crate::support::*;

const HALF: &[u8] = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1000 LAST\r\nonly the beginning";

fn inner(error: &std::io::Error) -> &QuicError {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

/// Lets everything that is under way arrive.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_or_ended_or_dropped_within_a_mail_delivers_nothing() {
    for way in ["reset", "fin", "drop", "close"] {
        let sim = Sim::new(1, path());
        let mut connection = sim.connect().await;
        let mut other = connection.open().await.unwrap();
        other.write_all(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n").await.unwrap();
        until(&mut other, "250").await;
        let mut stream = connection.open().await.unwrap();
        stream.write_all(HALF).await.unwrap();
        until(&mut stream, "250").await;
        match way {
            "reset" => stream.abort(CloseCode::Cancelled),
            "fin" => {
                let mut said = String::new();
                stream.shutdown().await.unwrap();
                stream.read_to_string(&mut said).await.unwrap();
                assert!(!said.contains("250 2.0.0"), "{said}");
            }
            "drop" => drop(stream),
            _ => {
                drop((other, stream, connection));
                settle().await;
                assert!(taken(&sim.served.taken).is_empty(), "{way}");
                continue;
            }
        }
        settle().await;
        assert!(taken(&sim.served.taken).is_empty(), "{way}");
        // The neighbour did not notice.
        let said = talk(&mut other, b"BDAT 3 LAST\r\nx\r\nQUIT\r\n").await.unwrap();
        assert!(said.ends_with("closing channel\r\n"), "{way}: {said}");
        assert_eq!(taken(&sim.served.taken), [b"x\r\n"], "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_at_every_octet_delivers_nothing_half() {
    let flight = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 4\r\nab\r\nBDAT 4 LAST\r\ncd\r\n";
    let sim = Sim::new(1, path());
    let mut connection = sim.connect().await;
    for cut in 0..=flight.len() {
        let before = taken(&sim.served.taken).len();
        let mut stream = connection.open().await.unwrap();
        let said = talk(&mut stream, &flight[..cut]).await.unwrap();
        let after = taken(&sim.served.taken).len();
        assert_eq!(after - before, usize::from(cut == flight.len()), "cut at {cut}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_more_ends_its_session_and_no_other() {
    let sim = Sim::new(1, path());
    let mut connection = sim.connect().await;
    let mut other = connection.open().await.unwrap();
    other.write_all(b"EHLO c\r\n").await.unwrap();
    until(&mut other, "250").await;
    let mut stream = connection.open().await.unwrap();
    stream.write_all(b"EHLO c\r\n").await.unwrap();
    until(&mut stream, "250").await;
    // RESET_STREAM and STOP_SENDING.
    stream.abort(CloseCode::Cancelled);
    settle().await;
    assert_eq!(codes(&talk(&mut other, &flight(3, 500)).await.unwrap()), FLIGHT_CODES[1..]);
    assert_eq!(taken(&sim.served.taken).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_in_mid_body_replies_first_and_then_stops_the_sender() {
    let (_network, listener, connector) = Sim::parts(1, path(), QuicOptions::default(), ConnectOptions::default());
    let full = service_fn(async |t: Transaction| {
        let n = t.envelope.recipients.len();
        Ok::<_, BoxError>(Outcome::all(Err(Refusal::fixed(452, (4, 3, 1), "full")), n))
    });
    let _served = serve_with(listener, Taken::default(), accept_all(), full);
    let mut stream = connect(&connector).await.open().await.unwrap();
    // More than the server says it takes at all.
    let begin = format!("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT {} LAST\r\n", 200 << 20);
    stream.write_all(begin.as_bytes()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sender = tokio::spawn(async move {
        let block = vec![b'x'; 64 << 10];
        let mut sent = 0;
        loop {
            match write.write_all(&block).await {
                Ok(()) => sent += block.len(),
                Err(error) => return (sent, error),
            }
        }
    });
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("\r\n552 "), "{said}");
    let (sent, error) = sender.await.unwrap();
    assert!(matches!(inner(&error), QuicError::Stopped(_)), "{error}");
    assert!(sent < 150 << 20, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_under_load_loses_no_reply() {
    for seed in 0..20 {
        let (network, listener, connector) =
            Sim::parts(seed, path(), QuicOptions::default(), ConnectOptions::default());
        let record_to = Taken::default();
        let slow = {
            let to = record_to.clone();
            service_fn(move |mut t: Transaction| {
                let to = to.clone();
                async move {
                    let n = t.envelope.recipients.len();
                    let (content, complete) = t.body.collect(1 << 20).await?;
                    tokio::time::sleep(Duration::from_millis(90)).await;
                    to.lock().unwrap().push(content.to_vec());
                    Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), n))
                }
            })
        };
        let served = serve_with(listener, record_to, accept_all(), slow);
        let mut connection = connect(&connector).await;
        let drain = served.drain.clone();
        let mut sessions = tokio::task::JoinSet::new();
        let mut ending = None;
        for number in 0..60 {
            if number == 20 {
                let drain = drain.clone();
                ending = Some(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(40 + seed * 13)).await;
                    drain.cancel();
                }));
            }
            // From here on the server may be gone; nothing of such a mail was sent.
            let Ok(mut stream) = connection.open().await else { break };
            sessions.spawn(async move {
                let mut flight = flight(number, 3_000);
                flight.truncate(flight.len() - 6);
                let mut said = Vec::new();
                let written = stream.write_all(&flight).await;
                let read = stream.read_to_end(&mut said).await;
                let refused = written.and(read.map(drop)).err();
                (number, String::from_utf8(said).unwrap(), refused)
            });
        }
        let (mut delivered, mut farewells, mut refused) = (Vec::new(), 0, 0);
        while let Some(result) = sessions.join_next().await {
            let (number, said, error) = result.unwrap();
            let codes = codes(&said);
            if let Some(error) = error {
                // The connection was over before the server saw the stream: not a word was said on it.
                assert!(said.is_empty(), "seed {seed}: {number} {error}: {said}");
                assert_eq!(inner(&error).code(), Some(CloseCode::Shutdown), "seed {seed}: {error}");
                refused += 1;
                continue;
            }
            assert_eq!(codes.last(), Some(&"421"), "seed {seed}: {number} {said}");
            farewells += 1;
            if codes.iter().filter(|code| **code == "250").count() == 4 {
                delivered.push(number);
            }
        }
        ending.unwrap().await.unwrap();
        settle().await;
        let mut known: Vec<_> = taken(&served.taken).iter().map(|body| number_in(body)).collect();
        known.sort_unstable();
        delivered.sort_unstable();
        // Who has a mail has said so, and who was told so has it.
        assert_eq!(delivered, known, "seed {seed}");
        assert!(farewells >= 20, "seed {seed}: {farewells} farewells, {refused} refused");
        let error = connection.open().await.err().expect("the connection is over");
        assert_eq!(inner(&error).code(), Some(CloseCode::Shutdown), "seed {seed}: {error}");
        drop(network);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_after_221_leaves_nothing_behind() {
    let sim = Sim::new(1, path());
    let mut connection = sim.connect().await;
    let mut stream = connection.open().await.unwrap();
    assert_eq!(codes(&talk(&mut stream, &flight(1, 100)).await.unwrap()), FLIGHT_CODES);
    drop((stream, connection));
    // CONNECTION_CLOSE, and three times the probe timeout until all state may go.
    let begin = tokio::time::Instant::now();
    sim.connector.wait_idle().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(sim.served.sessions.load(Ordering::Relaxed), 1);
}
