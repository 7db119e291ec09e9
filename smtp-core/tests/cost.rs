//! What a message costs, counted and not timed: allocations, octets that are copied, and instructions under callgrind. A
//! count above its bound fails; one that went down for good is to be written down here.
//!
//! The bounds hold for the profile of tests. Allocations are exact; instructions, which do not vary from run to run, have
//! 5 % beside for another compiler or C library.

#![allow(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use smtp_core::channel::{ChannelInfo, SessionInfo};
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{Chunk, Outcome, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::Plain;
use smtp_core::types::Refusal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

/// The client, and the most that a message of it may cost.
struct Case {
    name: &'static str,
    flights: &'static [&'static [u8]],
    allocations: u64,
    instructions: u64,
}

const CONTENT: &[u8] = &content();

/// 4 KiB of content in lines of 64 octets, and the end of data.
const fn content() -> [u8; 4096 + 3] {
    let mut octets = [b'x'; 4096 + 3];
    let mut line = 64;
    while line <= 4096 {
        octets[line - 2] = b'\r';
        octets[line - 1] = b'\n';
        line += 64;
    }
    octets[4096] = b'.';
    octets[4097] = b'\r';
    octets[4098] = b'\n';
    octets
}

const CASES: [Case; 3] = [
    Case {
        name: "lock-step",
        flights: &[
            b"MAIL FROM:<sender@example.org>\r\n",
            b"RCPT TO:<recipient@example.com>\r\n",
            b"DATA\r\n",
            CONTENT,
        ],
        allocations: 2,
        instructions: 25_800,
    },
    Case {
        name: "pipelined",
        flights: &[b"MAIL FROM:<sender@example.org>\r\nRCPT TO:<recipient@example.com>\r\nDATA\r\n", CONTENT],
        allocations: 2,
        instructions: 22_900,
    },
    Case {
        name: "ten-recipients",
        flights: &[
            b"MAIL FROM:<sender@example.org> SIZE=4096 BODY=8BITMIME\r\n\
              RCPT TO:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nRCPT TO:<d@example.com>\r\n\
              RCPT TO:<e@example.com>\r\nRCPT TO:<f@example.com>\r\nRCPT TO:<g@example.com>\r\nRCPT TO:<h@example.com>\r\n\
              RCPT TO:<i@example.com>\r\nRCPT TO:<j@example.com>\r\nDATA\r\n",
            CONTENT,
        ],
        allocations: 4,
        instructions: 65_100,
    },
];

/// A client that says its flights again and again, each when it is read for, and never listens. It has no cost of its own.
struct Client {
    flights: &'static [&'static [u8]],
    said: usize,
    messages: usize,
}

const HELLO: &[u8] = b"EHLO client.example\r\n";
const QUIT: &[u8] = b"QUIT\r\n";

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (turn, all) = (self.said, self.messages * self.flights.len());
        let flight = match turn.checked_sub(1) {
            None => HELLO,
            Some(n) if n < all => self.flights[n % self.flights.len()],
            Some(n) if n == all => QUIT,
            Some(_) => return Poll::Ready(Ok(())),
        };
        assert!(flight.len() <= buf.remaining(), "a flight is read in one piece");
        buf.put_slice(flight);
        self.said += 1;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The most that a session's future may take, in octets, beside what its services take.
const FUTURE: usize = 1_200;

/// A session of so many messages, on this thread. Panics unless all of them were taken.
fn session(case: &Case, messages: usize) {
    run(Client { flights: case.flights, said: 0, messages }, messages, |_| {});
}

fn run<C: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    client: C,
    messages: usize,
    seen: impl Fn(&[u8]) + Clone + Send + Sync + 'static,
) {
    let channel = ChannelInfo::memory("cost");
    let info = Arc::new(SessionInfo::new(1, channel.clone()));
    let settings = Arc::new(Settings::new(Config::new("mx.example".parse().unwrap())));
    let taken = Arc::new(AtomicUsize::new(0));
    let policy = service_fn(async |_: Request| Ok::<_, Infallible>(Verdict::Proceed));
    let count = Arc::clone(&taken);
    let delivery = service_fn(move |mut transaction: Transaction| {
        let (count, seen) = (Arc::clone(&count), seen.clone());
        async move {
            let recipients = transaction.envelope.recipients.len();
            loop {
                match transaction.body.next().await {
                    Ok(Chunk::Data(data)) => seen(&data),
                    Ok(Chunk::End(complete)) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        return Ok::<_, Infallible>(Outcome::all(Ok(Receipt::discarded(complete)), recipients));
                    }
                    Err(_) => return Ok(Outcome::all(Err(Refusal::fixed(451, (4, 4, 2), "cut short")), recipients)),
                }
            }
        }
    });
    let io = Box::new(Plain::new(client, channel));
    let services = size_of_val(&policy) + size_of_val(&delivery);
    let served = serve(io, info, policy, delivery, settings, CancellationToken::new());
    // Every session has it, whether it does something or not.
    let octets = size_of_val(&served) - services;
    assert!(octets <= FUTURE, "a session's future takes {octets} octets, at most {FUTURE}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(served).unwrap();
    assert_eq!(taken.load(Ordering::Relaxed), messages);
}

fn addresses(octets: &[u8]) -> Range<usize> {
    let start = octets.as_ptr().addr();
    start..start + octets.len()
}

#[test]
fn no_octet_of_content_is_copied_on_its_way_from_the_stream_to_the_delivery() {
    const ENVELOPE: &[u8] = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n";
    let dots = b"..\r\n...\r\nplain\r\n..x\r\n".repeat(100);
    let dotted: &'static [u8] = [&dots[..], b".\r\n"].concat().leak();
    let chunks: &'static [u8] =
        [b"BDAT 4000\r\n", &CONTENT[..4000], b"BDAT 96 LAST\r\n", &CONTENT[4000..4096]].concat().leak();
    for (name, content, octets) in [
        ("DATA", &[ENVELOPE, b"DATA\r\n", CONTENT][..], 4096),
        ("DATA with dots", &[ENVELOPE, b"DATA\r\n", dotted], dots.len() - 300),
        ("BDAT", &[ENVELOPE, chunks], 4096),
    ] {
        let (last, copied, all) =
            (Arc::new(Mutex::new(0..0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (client, read) = (Client { flights: content.to_vec().leak(), said: 0, messages: 10 }, Arc::clone(&last));
        // Where the session had the last flight put.
        let client = InspectReader::new(client, move |octets: &[u8]| *read.lock().unwrap() = addresses(octets));
        let (counted, total) = (Arc::clone(&copied), Arc::clone(&all));
        run(client, 10, move |data| {
            let (read, data) = (last.lock().unwrap().clone(), addresses(data));
            total.fetch_add(data.len(), Ordering::Relaxed);
            if data.start < read.start || data.end > read.end {
                counted.fetch_add(data.len(), Ordering::Relaxed);
            }
        });
        assert_eq!(all.load(Ordering::Relaxed), 10 * octets, "{name}: octets of content");
        assert_eq!(copied.load(Ordering::Relaxed), 0, "{name}: octets that were copied");
    }
}

/// What one more message costs: what a session begins and ends with is left out.
const FEW: usize = 100;
const MANY: usize = 1_100;

fn for_one(few: u64, many: u64) -> u64 {
    (many - few).div_ceil((MANY - FEW) as u64)
}

#[test]
fn allocations_for_a_message_stay_below_their_bounds() {
    let mut over = Vec::new();
    for case in &CASES {
        let count = |messages| allocation_counter::measure(|| session(case, messages)).count_total;
        let counted = for_one(count(FEW), count(MANY));
        println!("{}: {counted} allocations for a message, at most {}", case.name, case.allocations);
        if counted > case.allocations {
            over.push((case.name, counted));
        }
    }
    assert!(over.is_empty(), "more allocations than the bounds in this file: {over:?}");
}

/// What callgrind runs: the session that the environment names, in a process of its own.
#[test]
fn a_session_for_callgrind() {
    let (Ok(name), Ok(messages)) = (std::env::var("COST_CASE"), std::env::var("COST_MESSAGES")) else { return };
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    session(case, messages.parse().unwrap());
}

#[test]
fn instructions_for_a_message_stay_below_their_bounds() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must not skip this: valgrind is not there (.ci/setup installs it)"
        );
        println!("skipped: valgrind is not there");
        return;
    }
    let mut over = Vec::new();
    for case in &CASES {
        let counted = for_one(instructions(case, FEW), instructions(case, MANY));
        println!("{}: {counted} instructions for a message, at most {}", case.name, case.instructions);
        if counted > case.instructions {
            over.push((case.name, counted));
        }
    }
    assert!(over.is_empty(), "more instructions than the bounds in this file: {over:?}");
}

/// All instructions of a process that runs a session of so many messages.
fn instructions(case: &Case, messages: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_session_for_callgrind", "--test-threads=1"])
        .env("COST_CASE", case.name)
        .env("COST_MESSAGES", messages.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // `==PID== Collected : 12345`
    let collected = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, number)| number.trim());
    collected.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count in {said}"))
}
