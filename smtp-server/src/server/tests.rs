//! The server on an in-memory transport.

mod stack;

use super::*;
use crate::{AnyRecipient, Recorder};
use async_trait::async_trait;
use smtp_core::channel::ChannelInfo;
use smtp_core::service::{BoxError, Outcome, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{ByteStream, Connection, Plain, Single};
use smtp_core::types::Command;
use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tower::service_fn;
use tower_layer::Layer;

/// Connections are made by whoever holds the other end.
struct Memory(tokio::sync::Mutex<mpsc::Receiver<Box<dyn Connection>>>);

type Dialer = mpsc::Sender<Box<dyn Connection>>;

fn memory() -> (Dialer, Memory) {
    let (dialer, queue) = mpsc::channel(1);
    (dialer, Memory(tokio::sync::Mutex::new(queue)))
}

#[async_trait]
impl Listener for Memory {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        self.0.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn url(&self) -> String {
        "memory:".into()
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// A connection of many streams.
struct Many {
    streams: mpsc::Receiver<Box<dyn ByteStream>>,
    most: usize,
}

#[async_trait]
impl Connection for Many {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(self.streams.recv().await)
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn max_parallel(&self) -> usize {
        self.most
    }
}

fn stream() -> (Client, Plain<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    (Client(ours), Plain::new(theirs, ChannelInfo::memory("test")))
}

async fn dial(dialer: &Dialer) -> Client {
    let (client, stream) = stream();
    dialer.send(Box::new(Single::new(stream))).await.unwrap();
    client
}

struct Client(DuplexStream);

impl Client {
    /// The next reply's code; empty at the end.
    async fn reply(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            match self.0.read_u8().await {
                Ok(b'\n') if line.get(3) == Some(&b' ') => return String::from_utf8(line[..3].to_vec()).unwrap(),
                Ok(b'\n') => line.clear(),
                Ok(byte) => line.push(byte),
                Err(_) => return String::new(),
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.0.write_all(line.as_bytes()).await.unwrap();
        self.0.write_all(b"\r\n").await.unwrap();
        self.reply().await
    }

    /// A whole message; the reply to its end.
    async fn mail(&mut self) -> String {
        assert_eq!(self.say("EHLO c.example").await, "250");
        self.transaction().await
    }

    async fn transaction(&mut self) -> String {
        assert_eq!(self.say("MAIL FROM:<a@b.example>").await, "250");
        assert_eq!(self.say("RCPT TO:<x@y.example>").await, "250");
        assert_eq!(self.say("DATA").await, "354");
        self.say("Subject: x\r\n\r\ny\r\n.").await
    }
}

fn settings() -> Settings {
    Settings::new(driver::Settings::new(Config::new("mx.example".parse().unwrap())))
}

/// A running server: how to connect, how to stop, how it ended.
struct Started {
    dialer: Dialer,
    stop: CancellationToken,
    task: JoinHandle<Summary>,
}

fn start<P: Policy, D: Delivery>(
    settings: Settings,
    make_stack: impl Fn(&Arc<SessionInfo>) -> (P, D) + Send + Sync + 'static,
) -> Started {
    let (dialer, listener) = memory();
    let stop = CancellationToken::new();
    let task = tokio::spawn(Server::new(settings, make_stack).listen(listener).run(stop.clone()));
    Started { dialer, stop, task }
}

impl Started {
    async fn stop(self) -> Summary {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn mail_comes_in_and_sessions_have_numbers_of_their_own() {
    let recorder = Recorder::new();
    let server = start(settings(), {
        let recorder = recorder.clone();
        move |_| (AnyRecipient::new(), recorder.clone())
    });
    for _ in 0..3 {
        let mut client = dial(&server.dialer).await;
        assert_eq!(client.reply().await, "220");
        assert_eq!(client.mail().await, "250");
        assert_eq!(client.say("QUIT").await, "221");
    }
    let ids: Vec<_> =
        recorder.wait_for(3, Duration::from_secs(5)).await.unwrap().iter().map(|m| m.session.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(server.stop().await, Summary { sessions: 3, aborted: 0, panicked: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_session_and_no_other() {
    let recorder = Recorder::new();
    let server = start(settings(), {
        let recorder = recorder.clone();
        move |session| {
            assert_ne!(session.id, 4, "planted in the making of a stack");
            let session = session.id;
            let policy = service_fn(move |request: Request| async move {
                assert!(session != 2 || !matches!(request.command, Command::Mail(_)), "planted in a policy");
                Ok::<_, Infallible>(Verdict::Proceed)
            });
            let mut recorder = recorder.clone();
            let delivery = service_fn(move |transaction: Transaction| {
                assert_ne!(session, 3, "planted in a delivery");
                tower_service::Service::call(&mut recorder, transaction)
            });
            (policy, delivery)
        }
    });
    let mut patient = dial(&server.dialer).await;
    assert_eq!(patient.reply().await, "220");
    for (id, hears) in [(2, "220"), (3, "220"), (4, "")] {
        let mut client = dial(&server.dialer).await;
        assert_eq!(client.reply().await, hears, "session {id}");
        if !hears.is_empty() {
            client.0.write_all(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@y>\r\nDATA\r\n").await.unwrap();
            let mut rest = String::new();
            client.0.read_to_string(&mut rest).await.unwrap();
            assert!(!rest.contains("354"), "{rest}");
        }
    }
    assert_eq!(patient.mail().await, "250", "it never noticed");
    assert_eq!(patient.say("QUIT").await, "221");
    assert_eq!(recorder.messages().len(), 1);
    assert_eq!(server.stop().await, Summary { sessions: 4, aborted: 0, panicked: 3 });
}

#[test]
fn what_is_logged_stands_in_spans_from_the_connection_down() {
    let log = crate::testing::Log::new(tracing::Level::DEBUG);
    log.run(async {
        let recorder = Recorder::new();
        let server = start(settings(), move |_| {
            (crate::TraceLayer.layer(AnyRecipient::new()), crate::TraceDeliveryLayer.layer(recorder.clone()))
        });
        let mut client = dial(&server.dialer).await;
        for line in ["", "EHLO c.example", "XYZZY", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>", "DATA"] {
            if line.is_empty() {
                client.reply().await
            } else {
                client.say(line).await
            };
        }
        assert_eq!(client.say("Subject: x\r\n\r\ny\r\n.").await, "250");
        drop(client);
        server.stop().await;
    });
    let text = log.text();
    let session = "connection{listener=\"memory:\"}:session{id=1 peer=\"";
    let line = |what: &str| text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(
        line("RCPT TO").contains(session) && line("RCPT TO").contains(":recipient{to=\"<x@y.example>\"}"),
        "{text}"
    );
    assert!(line(" accepted session=1 id=").contains(":transaction{session=1 number=1}"), "{text}");
    assert!(line("500 5.5.1").contains(session), "what no policy sees is told too: {text}");
}

#[tokio::test(start_paused = true)]
async fn the_drain_lets_transactions_finish_and_tells_the_idle() {
    let recorder = Recorder::new();
    let server = start(settings(), {
        let recorder = recorder.clone();
        move |_| (AnyRecipient::new(), recorder.clone())
    });
    let (mut idle, mut busy) = (dial(&server.dialer).await, dial(&server.dialer).await);
    assert_eq!(idle.reply().await, "220");
    assert_eq!(busy.reply().await, "220");
    assert_eq!(busy.say("EHLO c.example").await, "250");
    assert_eq!(busy.say("MAIL FROM:<a@b.example>").await, "250");
    assert_eq!(busy.say("RCPT TO:<x@y.example>").await, "250");
    assert_eq!(busy.say("DATA").await, "354");
    server.stop.cancel();
    assert_eq!(idle.reply().await, "421");
    assert_eq!(idle.reply().await, "");
    assert_eq!(busy.say("Subject: x\r\n\r\ny\r\n.").await, "250");
    assert_eq!(busy.reply().await, "421");
    drop(busy);
    assert_eq!(server.stop().await, Summary { sessions: 2, aborted: 0, panicked: 0 });
    assert_eq!(recorder.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_in_time_is_aborted() {
    let server = start(settings(), |_| {
        (AnyRecipient::new(), service_fn(|_: Transaction| std::future::pending::<Result<Outcome, BoxError>>()))
    });
    let mut client = dial(&server.dialer).await;
    assert_eq!(client.reply().await, "220");
    for line in ["EHLO x", "MAIL FROM:<>", "RCPT TO:<x@y>"] {
        assert_eq!(client.say(line).await, "250");
    }
    client.0.write_all(b"DATA\r\n").await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(server.stop().await, Summary { sessions: 1, aborted: 1, panicked: 0 });
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(client.reply().await, "");
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_connections_wait_for_a_place() {
    let settings = Settings { connections: Places::new(2), ..settings() };
    let server = start(settings, |_| (AnyRecipient::new(), Recorder::new()));
    let (mut first, mut second) = (dial(&server.dialer).await, dial(&server.dialer).await);
    assert_eq!(first.reply().await, "220");
    assert_eq!(second.reply().await, "220");
    let mut third = dial(&server.dialer).await;
    let soon = tokio::time::timeout(Duration::from_secs(60), third.reply()).await;
    assert!(soon.is_err(), "there is no place: {soon:?}");
    assert_eq!(first.say("QUIT").await, "221");
    assert_eq!(third.reply().await, "220");
    drop((second, third));
    assert_eq!(server.stop().await.sessions, 3);
}

#[tokio::test(start_paused = true)]
async fn servers_with_the_same_settings_share_the_places() {
    let settings = Settings { connections: Places::new(2), ..settings() };
    let [one, other] = [settings.clone(), settings].map(|s| start(s, |_| (AnyRecipient::new(), Recorder::new())));
    // One of them may have them all.
    let (mut first, mut second) = (dial(&one.dialer).await, dial(&one.dialer).await);
    assert_eq!(first.reply().await, "220");
    assert_eq!(second.reply().await, "220");
    let mut third = dial(&other.dialer).await;
    let soon = tokio::time::timeout(Duration::from_secs(60), third.reply()).await;
    assert!(soon.is_err(), "there is no place: {soon:?}");
    assert_eq!(second.say("QUIT").await, "221");
    assert_eq!(third.reply().await, "220");
    // The end of one is not the end of the other, and gives back what it had.
    drop(first);
    assert_eq!(one.stop().await.sessions, 2);
    let mut fourth = dial(&other.dialer).await;
    assert_eq!(fourth.reply().await, "220");
    drop((third, fourth));
    assert_eq!(other.stop().await.sessions, 2);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_gives_its_place_back() {
    let settings = Settings { connections: Places::new(1), ..settings() };
    let server = start(settings, |_| (AnyRecipient::new(), Recorder::new()));
    let (_silent, streams) = mpsc::channel(1);
    server.dialer.send(Box::new(Many { streams, most: 1 })).await.unwrap();
    let start = tokio::time::Instant::now();
    let mut client = dial(&server.dialer).await;
    assert_eq!(client.reply().await, "220");
    assert_eq!(start.elapsed().as_secs(), 60);
    assert_eq!(client.say("QUIT").await, "221");
    assert_eq!(server.stop().await.sessions, 1);
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_connection_run_side_by_side_up_to_its_limit() {
    let open = Arc::new(Mutex::new((0, 0)));
    let recorder = Recorder::new();
    let server = start(settings(), {
        let (open, recorder) = (Arc::clone(&open), recorder.clone());
        move |session| {
            let seen = Seen::new(&open);
            assert_ne!(session.id, 2, "planted");
            let policy = service_fn(move |_: Request| {
                let _ = &seen;
                std::future::ready(Ok::<_, Infallible>(Verdict::Proceed))
            });
            (policy, recorder.clone())
        }
    });
    let (opener, streams) = mpsc::channel::<Box<dyn ByteStream>>(16);
    server.dialer.send(Box::new(Many { streams, most: 3 })).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (client, stream) = stream();
        opener.send(Box::new(stream)).await.unwrap();
        clients.push(client);
    }
    assert_eq!(clients.remove(1).reply().await, "", "the second panicked");
    // Three are served while none of them ends; then the next ones.
    for client in clients.iter_mut().take(3) {
        assert_eq!(client.reply().await, "220");
    }
    assert!(tokio::time::timeout(Duration::from_secs(60), clients[3].reply()).await.is_err());
    for mut client in clients {
        let first = client.say("EHLO c.example").await;
        if first == "220" {
            assert_eq!(client.reply().await, "250");
        }
        assert_eq!(client.transaction().await, "250");
        assert_eq!(client.say("QUIT").await, "221");
    }
    assert_eq!(recorder.messages().len(), 7);
    assert_eq!(open.lock().unwrap().1, 3);
    drop(opener);
    assert_eq!(server.stop().await, Summary { sessions: 8, aborted: 0, panicked: 1 });
}

/// Counts how many stacks there are, and the most there were.
struct Seen(Arc<Mutex<(usize, usize)>>);

impl Seen {
    fn new(open: &Arc<Mutex<(usize, usize)>>) -> Self {
        let mut now = open.lock().unwrap();
        now.0 += 1;
        now.1 = now.1.max(now.0);
        Self(Arc::clone(open))
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_until_its_last_stream_has_drained() {
    let server = start(settings(), |_| (AnyRecipient::new(), Recorder::new()));
    let (opener, streams) = mpsc::channel::<Box<dyn ByteStream>>(16);
    server.dialer.send(Box::new(Many { streams, most: 3 })).await.unwrap();
    let (mut busy, stream) = stream();
    opener.send(Box::new(stream)).await.unwrap();
    assert_eq!(busy.reply().await, "220");
    assert_eq!(busy.say("EHLO c.example").await, "250");
    assert_eq!(busy.say("MAIL FROM:<a@b.example>").await, "250");
    server.stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!opener.is_closed(), "the connection is still there");
    // RFC 5321 §3.8: who comes now is told, not left to wait.
    let (mut late, stream) = self::stream();
    opener.send(Box::new(stream)).await.unwrap();
    let greeting = tokio::time::timeout(Duration::from_secs(5), late.reply()).await;
    assert_eq!(greeting.as_deref(), Ok("220"));
    assert_eq!(late.reply().await, "421");
    drop(late);
    assert_eq!(busy.say("RSET").await, "250");
    assert_eq!(busy.reply().await, "421");
    drop(busy);
    // One that does not end by itself is not waited for much longer.
    assert_eq!(server.stop().await, Summary { sessions: 2, aborted: 0, panicked: 0 });
    assert!(opener.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_fails_takes_no_other_with_it() {
    let ((first, listener), (second, other)) = (memory(), memory());
    let stop = CancellationToken::new();
    let server = Server::new(settings(), |_| (AnyRecipient::new(), Recorder::new())).listen(listener).listen(other);
    assert_eq!(format!("{server:?}").matches("memory:").count(), 2);
    let task = tokio::spawn(server.run(stop.clone()));
    drop(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut client = dial(&second).await;
    assert_eq!(client.reply().await, "220");
    assert_eq!(client.say("QUIT").await, "221");
    // Without any listener there is nothing left to do.
    drop(second);
    assert_eq!(task.await.unwrap().sessions, 1);
    assert!(!stop.is_cancelled());
}
