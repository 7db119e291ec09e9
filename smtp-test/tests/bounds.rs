//! However much a client sends, a session holds no more than it needs (Linux: measured as resident memory).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

mod common;

use common::scenarios::reference_stack;
use smtp_core::stream::ByteStream;
use smtp_test::memory::{Knobs, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

/// How much more memory may be resident afterwards, in octets: the message that is kept, and some slack for the allocator.
const GROWTH: usize = 3 << 20;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Sends `begin`, then `unit` so many times, in one stream without waiting; gives the number of octets that came back.
/// The server may close before it has all.
async fn flood(begin: &str, unit: &[u8], times: usize) -> usize {
    let (client, server) = pair(Knobs::default());
    let session = tokio::spawn(async move { reference_stack().serve(Box::new(server)).await });
    let (mut read, mut write) = split(Box::new(client) as Box<dyn ByteStream>);
    let (begin, unit) = (begin.as_bytes().to_vec(), unit.repeat(1_000));
    let writer = tokio::spawn(async move {
        let mut open = write.write_all(&begin).await.is_ok();
        for _ in 0..times / 1_000 {
            open = open && write.write_all(&unit).await.is_ok();
        }
        let _ = write.shutdown().await;
    });
    let (mut said, mut buf) = (0, vec![0; 65_536]);
    while let Ok(n) = read.read(&mut buf).await {
        if n == 0 {
            break;
        }
        said += n;
    }
    writer.await.unwrap();
    let _ = session.await.unwrap();
    said
}

/// One test, so that nothing else in this process moves the figure.
#[tokio::test(start_paused = true)]
async fn floods_leave_no_trace() {
    const MAIL: &str = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\n";
    const DATA: &str = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@here.example>\r\nDATA\r\n";
    let long = [b'x'; 100];
    // What the process needs once, whatever comes.
    flood(MAIL, b"BDAT 2\r\n\r\n", 10_000).await;
    for (name, begin, unit, times) in [
        ("chunks of two octets", MAIL, &b"BDAT 2\r\n\r\n"[..], 450_000),
        ("chunks of none", MAIL, b"BDAT 0\r\n", 300_000),
        ("recipients", MAIL, b"RCPT TO:<bob@here.example>\r\n", 300_000),
        ("unknown recipients", MAIL, b"RCPT TO:<nobody@here.example>\r\n", 300_000),
        ("greetings", "", b"EHLO client.example\r\n", 100_000),
        ("transactions that come to nothing", "EHLO c\r\n", b"MAIL FROM:<>\r\nEHLO c\r\n", 100_000),
        ("commands that do nothing", "EHLO c\r\n", b"NOOP\r\n", 1_000_000),
        ("a line without end", "EHLO c\r\n", &long, 2_000_000),
        ("bare line feeds", "EHLO c\r\n", b"\n", 1_000_000),
        ("content without end", DATA, &long, 2_000_000),
        ("content in lines without end", DATA, b"x\r\n", 2_000_000),
        ("a SASL line without end", "EHLO c\r\nAUTH PLAIN\r\n", &long, 2_000_000),
        ("SASL exchanges", "EHLO c\r\n", b"AUTH LOGIN dXNlcg==\r\n*\r\n", 100_000),
        ("a chunk that is refused", "BDAT 18446744073709551615 LAST\r\n", &long, 2_000_000),
    ] {
        let before = resident();
        let said = flood(begin, unit, times).await;
        let growth = resident().saturating_sub(before);
        println!("{name}: {said} octets came back, {growth} octets more are resident");
        assert!(growth < GROWTH, "{name}: {growth} octets more are resident");
    }
}
