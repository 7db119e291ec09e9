//! What was answered with 250 is never lost, whatever happens to the server: senders write down every 250, a next hop
//! writes down every arrival, and the server is ended by force in between, again and again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use tempfile::TempDir;

use crate::play::{PATIENCE, Server, run, smtp};

/// How often servers are ended by force: 20 times, or as often as SMTP_TEST_KILLS says.
pub(crate) fn kills() -> u32 {
    std::env::var("SMTP_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// Chance, and the seed that it comes from, which is printed.
pub(crate) fn chance() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

/// What a next hop says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
    /// Takes mail; refuses recipients called `nobody`.
    Well,
    /// 451 to every recipient.
    Later,
    /// Closes each connection at once.
    Gone,
    /// Takes mail, and says nothing about it until it is in another mood.
    Slow,
}

/// When what arrived.
pub(crate) type Arrival = (SystemTime, Vec<u8>);

/// When the message with which number arrived.
type Times = HashMap<u64, Vec<SystemTime>>;

/// A next hop that writes down what arrives.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) url: String,
    mood: Arc<AtomicU8>,
    arrived: Arc<Mutex<Vec<Arrival>>>,
    checked: Arc<Mutex<Times>>,
    peers: Arc<Mutex<HashSet<IpAddr>>>,
}

impl Hop {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("smtp://{}?tls=none", listener.local_addr().unwrap());
        let hop =
            Self { url, mood: Arc::default(), arrived: Arc::default(), checked: Arc::default(), peers: Arc::default() };
        let serving = hop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let hop = serving.clone();
                // A connection that breaks is one.
                std::thread::spawn(move || hop.serve(stream));
            }
        });
        hop
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    /// Who has connected.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        self.peers.lock().unwrap().iter().copied().collect()
    }

    /// All that arrived, dot-stuffed as it came.
    pub(crate) fn arrived(&self) -> Vec<Arrival> {
        self.arrived.lock().unwrap().clone()
    }

    /// Checks what has arrived since the last time, and keeps no more of it than its number: of a thousand kills there
    /// is more than fits into memory.
    pub(crate) fn check(&self) {
        for (at, message) in std::mem::take(&mut *self.arrived.lock().unwrap()) {
            let n = number(&message).unwrap();
            assert_eq!(without_received(&message), content(n), "message {n} was changed");
            self.checked.lock().unwrap().entry(n).or_default().push(at);
        }
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        self.peers.lock().unwrap().insert(stream.peer_addr()?.ip());
        if self.is(Mood::Gone) {
            return Ok(());
        }
        let mut stream = BufReader::new(stream);
        let say = |stream: &mut BufReader<TcpStream>, text: &str| stream.get_mut().write_all(text.as_bytes());
        say(&mut stream, "220 hop.example\r\n")?;
        let mut line = String::new();
        let mut recipients = 0;
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 || self.is(Mood::Gone) {
                return Ok(());
            }
            let answer = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
                "EHLO" => "250-hop.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
                "RCPT" if self.is(Mood::Later) => "451 4.7.1 not now\r\n",
                "RCPT" if line.contains("<nobody@") => "550 5.1.1 no such mailbox\r\n",
                "RCPT" => {
                    recipients += 1;
                    "250 2.1.5 fine\r\n"
                }
                "DATA" if recipients == 0 => "554 5.5.1 no valid recipients\r\n",
                "DATA" => {
                    recipients = 0;
                    say(&mut stream, "354 go on\r\n")?;
                    let mut content = Vec::new();
                    while !content.ends_with(b"\r\n.\r\n") {
                        if stream.read_until(b'\n', &mut content)? == 0 {
                            return Ok(());
                        }
                    }
                    content.truncate(content.len() - 3);
                    self.arrived.lock().unwrap().push((SystemTime::now(), content));
                    while self.is(Mood::Slow) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    "250 2.0.0 taken\r\n"
                }
                "QUIT" => {
                    say(&mut stream, "221 bye\r\n")?;
                    return Ok(());
                }
                _ => {
                    recipients = 0;
                    "250 2.0.0 fine\r\n"
                }
            };
            say(&mut stream, answer)?;
        }
    }
}

/// The message with this number: its content follows from it. No line begins with a dot.
pub(crate) fn content(n: u64) -> Vec<u8> {
    let size = if n.is_multiple_of(16) { 300_000 } else { 500 + usize::try_from(n % 4_000).unwrap() };
    let mut text = format!("X-Id: {n}\r\nSubject: ledger\r\n\r\n").into_bytes();
    let mut random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < size {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        text.extend_from_slice(format!("{random:016x}{:016x}\r\n", random.rotate_left(32)).as_bytes());
    }
    text
}

/// The number of the message in `text`, wherever its header is.
fn number(text: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(text);
    let after = text.split("X-Id: ").nth(1)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The message without the field that the server put before it.
fn without_received(message: &[u8]) -> &[u8] {
    assert!(message.starts_with(b"Received: "), "{}", String::from_utf8_lossy(&message[..message.len().min(200)]));
    let mut at = 0;
    for (n, line) in message.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if n > 0 && !line.starts_with(b"\t") {
            break;
        }
        at += line.len();
    }
    &message[at..]
}

/// Sends until it is told to stop; writes down whose 250 came.
pub(crate) fn sender(port: u16, next: &AtomicU64, stop: &AtomicBool, ledger: &Mutex<HashSet<u64>>) {
    while !stop.load(Ordering::SeqCst) {
        let _ = session(port, next, stop, ledger);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn session(port: u16, next: &AtomicU64, stop: &AtomicBool, ledger: &Mutex<HashSet<u64>>) -> std::io::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let mut ask = |text: &[u8]| -> std::io::Result<String> {
        stream.get_mut().write_all(text)?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    };
    ask(b"")?;
    ask(b"EHLO sender.example\r\n")?;
    while !stop.load(Ordering::SeqCst) {
        // Enough to be in the middle of something at every moment, and no more than a slow machine can deliver.
        std::thread::sleep(Duration::from_millis(5));
        let n = next.fetch_add(1, Ordering::SeqCst);
        let to = match n % 8 {
            // For a mailbox here; for one that the next hop refuses; for both; else for one there.
            0 => "RCPT TO:<box@localhost>\r\n",
            1 => "RCPT TO:<nobody@remote.example>\r\n",
            2 => "RCPT TO:<box@localhost>\r\nRCPT TO:<jo@remote.example>\r\n",
            _ => "RCPT TO:<jo@remote.example>\r\n",
        };
        ask(b"MAIL FROM:<ledger@localhost>\r\n")?;
        for rcpt in to.split_inclusive('\n') {
            ask(rcpt.as_bytes())?;
        }
        if !ask(b"DATA\r\n")?.starts_with("354") {
            continue;
        }
        let mut text = content(n);
        text.extend_from_slice(b".\r\n");
        if ask(&text)?.starts_with("250") {
            ledger.lock().unwrap().insert(n);
        }
    }
    Ok(())
}

/// Messages in the queue of a server with this data folder.
pub(crate) fn queued(data: &Path) -> u64 {
    let shown = run(smtp(["queue", "stats", "--json", "--data-dir", data.to_str().unwrap()]));
    shown.json()["messages"].as_u64().unwrap()
}

/// Where a server is that relays to a next hop, and keeps its data while it comes and goes.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) port: u16,
    route: String,
}

impl Place {
    pub(crate) fn new(hop: &Hop) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder: TempDir::new().unwrap(), port, route: format!("remote.example={}", hop.url) }
    }

    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = smtp([
            "serve",
            "--listen",
            &format!("smtp://127.0.0.1:{}?tls=none", self.port),
            "--relay-domain",
            "remote.example",
            "--route",
            &self.route,
            "--queue-retry",
            "1s",
            "--log",
            "warn",
        ]);
        command.current_dir(self.folder.path());
        command
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("smtp-data")
    }

    /// Messages in the queue, as its administrator sees them.
    pub(crate) fn queued(&self) -> u64 {
        queued(&self.data())
    }
}

/// Every file of a mailbox, and when it was written.
fn mailbox(data: &Path, user: &str) -> impl Iterator<Item = Arrival> {
    let entries = fs::read_dir(data.join("mail/localhost").join(user).join("new"));
    let arrival = |path: PathBuf| (fs::metadata(&path).unwrap().modified().unwrap(), fs::read(path).unwrap());
    entries.into_iter().flatten().map(move |entry| arrival(entry.unwrap().path()))
}

/// From when to when something was wrong that explains a duplicate: a kill is a moment.
pub(crate) type Trouble = (SystemTime, SystemTime);

/// How many of these copies are duplicates. Each needs trouble about the one before it: the server ended between a
/// delivery and its being written down, or could not write it down. The next hop stamps what it has read, so the stamp may
/// be later than the kill that lost its 250.
fn duplicates(what: &str, mut times: Vec<SystemTime>, troubles: &[Trouble]) -> usize {
    let slack = Duration::from_secs(2);
    times.sort_unstable();
    for pair in times.windows(2) {
        let explained =
            troubles.iter().any(|(from, to)| *to + slack >= pair[0] && *from <= pair[0] + slack && *from <= pair[1]);
        assert!(explained, "{what} arrived twice, at {pair:?}, and nothing explains it: {troubles:?}");
    }
    times.len() - 1
}

#[test]
fn no_250_is_lost_by_twenty_kills_and_a_moody_next_hop() {
    let (kills, mut chance) = (kills(), chance());
    let hop = Hop::start();
    let place = Place::new(&hop);
    let (next, stop, ledger) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let mut killed = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| sender(place.port, &next, &stop, &ledger));
        }
        for _ in 0..kills {
            let mut server = Server::of(place.command(), TempDir::new().unwrap(), 1);
            hop.set([Mood::Well, Mood::Well, Mood::Later, Mood::Gone][chance.usize(..4)]);
            std::thread::sleep(Duration::from_millis(chance.u64(20..720)));
            let now = SystemTime::now();
            killed.push((now, now));
            // SIGKILL.
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            hop.check();
        }
        stop.store(true, Ordering::SeqCst);
    });
    let ledger = ledger.into_inner().unwrap();
    assert!(ledger.len() > 20, "only {} were taken: that proves little", ledger.len());

    hop.set(Mood::Well);
    let last = Server::of(place.command(), TempDir::new().unwrap(), 1);
    let until = Instant::now() + Duration::from_secs(60) + kills * Duration::from_millis(500);
    while place.queued() > 0 {
        assert!(Instant::now() < until, "{} are still queued", place.queued());
        std::thread::sleep(Duration::from_millis(100));
    }
    last.signal("TERM");
    let ended = last.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");

    check(&ledger, &hop, &[place.data()], &killed);
    let mut rest = Vec::new();
    let _ = fs::File::open(place.data().join("queue/spool.db")).and_then(|mut file| file.read_to_end(&mut rest));
    assert!(!rest.is_empty(), "the queue was where it is said to be");
}

/// What was found of what was to be relayed.
pub(crate) struct Summary {
    pub(crate) relayed: usize,
    /// So many times more often than once.
    pub(crate) twice: usize,
}

/// Holds the ledger of 250s against all that arrived: at the next hop, and in the mailboxes below these data folders.
pub(crate) fn check(ledger: &HashSet<u64>, hop: &Hop, data: &[PathBuf], troubles: &[Trouble]) -> Summary {
    hop.check();
    let relayed = hop.checked.lock().unwrap();
    let mut boxed = Times::new();
    for (at, message) in data.iter().flat_map(|data| mailbox(data, "box")) {
        let n = number(&message).unwrap();
        let whole = String::from_utf8(content(n)).unwrap().replace("\r\n", "\n");
        assert!(message.ends_with(whole.as_bytes()), "message {n} was changed");
        boxed.entry(n).or_default().push(at);
    }
    let mut bounced = HashMap::<u64, Vec<Arrival>>::new();
    for (at, notice) in data.iter().flat_map(|data| mailbox(data, "ledger")) {
        let text = String::from_utf8_lossy(&notice);
        assert!(text.starts_with("Return-Path: <>\n") && text.contains("Action: failed\n"), "{text}");
        bounced.entry(number(&notice).unwrap()).or_default().push((at, notice));
    }
    for n in ledger {
        let is = |there: bool, what: &str| assert!(there, "message {n} was answered with 250 and is not {what}");
        match n % 8 {
            0 => is(boxed.contains_key(n), "in its mailbox"),
            1 => is(bounced.contains_key(n), "bounced"),
            2 => is(boxed.contains_key(n) && relayed.contains_key(n), "in both places"),
            _ => is(relayed.contains_key(n), "delivered"),
        }
    }
    let twice: usize =
        relayed.iter().map(|(n, times)| duplicates(&format!("message {n}"), times.clone(), troubles)).sum();
    for (n, times) in &boxed {
        // One that went straight into the mailbox was answered, or not, and never written again.
        assert!(n % 8 == 2 || times.len() == 1, "message {n} is in its mailbox {} times", times.len());
        duplicates(&format!("message {n}"), times.clone(), troubles);
    }
    for (n, copies) in &bounced {
        // One notice about a message; it goes by the queue, so there may be two copies of it.
        assert!(copies.iter().all(|(_, text)| *text == copies[0].1), "two notices about message {n}");
        duplicates(&format!("the notice about {n}"), copies.iter().map(|(at, _)| *at).collect(), troubles);
    }
    println!(
        "{} answered with 250; {} relayed, {twice} of them twice; {} in the mailbox, {} bounced",
        ledger.len(),
        relayed.len(),
        boxed.len(),
        bounced.len()
    );
    Summary { relayed: relayed.len(), twice }
}
