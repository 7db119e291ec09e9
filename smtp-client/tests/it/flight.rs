//! A message in the session's first flight, on channels where the client speaks first and extensions are implied.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use smtp_client::sasl::Credentials;
use smtp_client::{Client, Connection, Error, Options, SendOptions, Settings, Step, Transfer, Unanswered};
use smtp_core::channel::{ChannelInfo, SessionInfo, TlsInfo};
use smtp_core::service::{Body, BoxError, Outcome, Source, Transaction};
use smtp_core::stream::{self, ByteStream, ConnectError, Connector, Target, TlsPolicy};
use smtp_core::types::{Envelope, Mail, Parameters, ReversePath};
use tower::{Service, ServiceExt};

use crate::peer::{Peer, Streams, clear, envelope, envelope_with, mailbox, options, pair_of, results, several, target};

/// A channel like a QUIC stream.
fn channel() -> ChannelInfo {
    let tls = TlsInfo { version: "TLSv1.3", verified: true, ..TlsInfo::default() };
    let implied = &["PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES"];
    ChannelInfo { secure: true, tls: Some(tls.into()), client_speaks_first: true, implied, ..clear() }
}

fn stream() -> (Box<dyn ByteStream>, Peer) {
    pair_of(64 * 1024, channel())
}

async fn over(stream: Box<dyn ByteStream>, options: Arc<Options>) -> Connection {
    Connection::over(stream, &TlsPolicy::IMPLICIT, options).await.unwrap()
}

const FLIGHT: &str = "EHLO client.test\nMAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi";
const HELLO: &str = "220 mx.test\n250-mx.test\n250-PIPELINING\n250 CHUNKING\n";

#[tokio::test(start_paused = true)]
async fn a_whole_message_goes_before_the_server_has_said_anything() {
    let (stream, mut peer) = stream();
    let mut connection = over(stream, options()).await;
    let server = async {
        peer.expect(FLIGHT).await;
        peer.silent().await;
        peer.say_at_once(&format!("{HELLO}250 ok\n250 ok\n250 taken")).await;
        // The session goes on like any other.
        peer.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
        peer.say_at_once("250 ok\n250 ok\n250 again").await;
    };
    let client = async {
        for taken in ["250 taken", "250 again"] {
            let body = Body::from_bytes("hi\r\n");
            let outcome = connection.send(&envelope(&["a@x.test"]), body, &SendOptions::default()).await;
            assert_eq!(results(outcome.unwrap()), [taken]);
        }
    };
    tokio::join!(client, server);
    assert_eq!(connection.greeting().unwrap().text(), "mx.test");
    assert!(connection.capabilities().has("CHUNKING"));
}

#[tokio::test(start_paused = true)]
async fn quit_goes_along_with_the_only_message() {
    let once = SendOptions { quit: true, ..SendOptions::default() };
    let (stream, mut peer) = stream();
    let mut connection = over(stream, options()).await;
    let server = async {
        peer.expect(&format!("{FLIGHT}\nQUIT")).await;
        peer.say_at_once(&format!("{HELLO}250 ok\n250 ok\n250 taken")).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        peer.say("221 bye").await;
        assert_eq!(peer.rest().await, "");
    };
    let client = async {
        let outcome = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("hi\r\n"), &once).await;
        // Nobody waits for the 221 to know what became of the message.
        assert_eq!(results(outcome.unwrap()), ["250 taken"]);
        assert!(!connection.is_usable());
        assert_eq!(connection.quit().await.unwrap().code().get(), 221);
    };
    tokio::join!(client, server);
}

/// Only EHLO comes, and the rest when it is answered.
async fn waits(envelope: Envelope, body: Body, sending: SendOptions, options: Options, why: &str) {
    let (stream, mut peer) = stream();
    let mut connection = over(stream, Arc::new(options)).await;
    let server = async {
        assert_eq!(peer.line().await, "EHLO client.test", "{why}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        peer.silent().await;
        let all = "SMTPUTF8\n250-DSN\n250-REQUIRETLS\n250-BINARYMIME\n250-MT-PRIORITY\n250 CHUNKING";
        peer.say_at_once(&format!("220 mx.test\n250-mx.test\n250-PIPELINING\n250-8BITMIME\n250-{all}")).await;
        assert!(peer.line().await.starts_with("MAIL FROM:"), "{why}");
        peer.say("421 enough").await;
    };
    let (_, ()) = tokio::join!(connection.send(&envelope, body, &sending), server);
}

struct Unsized;

impl Source for Unsized {
    fn poll_chunk(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Poll::Ready(Ok(None))
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_to_be_known_first_is_waited_for() {
    let hi = || Body::from_bytes("hi\r\n");
    let (plain, sending) = (|| envelope(&["a@x.test"]), SendOptions::default);
    let client = || (*options()).clone();
    for parameters in [" SMTPUTF8", " RET=HDRS", " REQUIRETLS", " BODY=BINARYMIME", " MT-PRIORITY=3", " AUTH=<>"] {
        let envelope = envelope_with(parameters, &["a@x.test"]);
        waits(envelope, hi(), sending(), client(), parameters).await;
    }
    let mut notify = plain();
    notify.recipients[0].parameters = Parameters::new(" NOTIFY=NEVER").unwrap();
    waits(notify, hi(), sending(), client(), "a parameter of RCPT").await;
    let beyond = Envelope { mail: Mail::new(ReversePath::Mailbox(mailbox("dü@x.test"))), ..plain() };
    waits(beyond, hi(), sending(), client(), "a sender beyond US-ASCII").await;
    let many: Vec<String> = (0..101).map(|n| format!("r{n}@x.test")).collect();
    let many = envelope(&many.iter().map(String::as_str).collect::<Vec<_>>());
    waits(many, hi(), sending(), client(), "101 recipients").await;
    waits(plain(), Body::from_bytes(vec![b'x'; 70_000]), sending(), client(), "a large message").await;
    waits(plain(), Body::from_source(Unsized, None), sending(), client(), "a message of unknown size").await;
    let data = SendOptions { transfer: Transfer::Data, ..sending() };
    waits(plain(), hi(), data, client(), "DATA").await;
    let lock_step = Options { pipelining: false, ..client() };
    waits(plain(), hi(), sending(), lock_step, "lock step").await;
}

#[tokio::test(start_paused = true)]
async fn size_is_left_out_and_eight_bit_is_said() {
    let (stream, mut peer) = stream();
    let mut connection = over(stream, options()).await;
    let server = async {
        peer.expect("EHLO client.test\nMAIL FROM:<from@client.test> BODY=8BITMIME\nRCPT TO:<a@x.test>\nBDAT 4 LAST")
            .await;
        assert_eq!(peer.line().await, "ü");
        peer.say_at_once(&format!("{HELLO}250 ok\n250 ok\n250 taken")).await;
    };
    let envelope = envelope_with(" SIZE=4", &["a@x.test"]);
    let body = Body::from_bytes("ü\r\n".as_bytes().to_vec());
    let sending = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&envelope, body, &sending), server);
    assert_eq!(results(outcome.unwrap()), ["250 taken"]);
}

/// A flight to two recipients, and what it comes to when the server says this to it and closes.
async fn told(replies: &str) -> Result<Vec<String>, Error> {
    let (stream, mut peer) = stream();
    let mut connection = over(stream, options()).await;
    let server = async move {
        peer.expect("EHLO client.test\nMAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nRCPT TO:<b@x.test>").await;
        peer.expect("BDAT 4 LAST\nhi").await;
        peer.say_at_once(replies).await;
    };
    let (envelope, sending) = (envelope(&["a@x.test", "b@x.test"]), SendOptions::default());
    let (outcome, ()) = tokio::join!(connection.send(&envelope, Body::from_bytes("hi\r\n"), &sending), server);
    outcome.map(results)
}

#[tokio::test(start_paused = true)]
async fn refusals_at_every_step_reach_whom_they_are_about() {
    let after_hello = async |replies: &str| told(&format!("{HELLO}{replies}")).await.unwrap();
    let taken = after_hello("250 a\n250 b\n250 c\n250 taken").await;
    assert_eq!(taken, ["250 taken", "250 taken"]);
    let mail = after_hello("550 5.7.1 not you\n503 x\n503 y\n503 z").await;
    assert_eq!(mail, ["550 5.7.1 not you", "550 5.7.1 not you"]);
    let partial = after_hello("250 a\n550 5.1.1 who\n250 c\n250 taken").await;
    assert_eq!(partial, ["550 5.1.1 who", "250 taken"]);
    let nobody = after_hello("250 a\n550 5.1.1 who\n450 4.2.1 later\n503 z").await;
    assert_eq!(nobody, ["550 5.1.1 who", "450 4.2.1 later"]);
    let content = after_hello("250 a\n250 b\n550 5.1.1 who\n554 5.6.0 no").await;
    assert_eq!(content, ["554 5.6.0 no", "550 5.1.1 who"]);
    // It turns out that the server takes less than what was sent.
    let size = told("220 mx\n250-mx\n250 SIZE 3\n250 a\n250 b\n250 c\n552 5.3.4 too big").await;
    assert_eq!(size.unwrap(), ["552 5.3.4 too big", "552 5.3.4 too big"]);
    // A 421 ends it, and is the next hop's own.
    let closing = after_hello("250 a\n550 5.1.1 who\n421 4.3.2 down").await;
    assert_eq!(closing, ["550 5.1.1 who", "451 4.3.2 next hop: 421 4.3.2 down"]);
    let closing = after_hello("421 4.3.2 down").await;
    assert_eq!(closing, ["451 4.3.2 next hop: 421 4.3.2 down"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_greeting_or_ehlo_is_told_once_and_leaves_no_doubt() {
    for (replies, step, code) in [
        ("554 5.3.2 no service\n503 a\n503 b\n503 c\n503 d\n503 e", Step::Greeting, 554),
        ("554 5.3.2 no service", Step::Greeting, 554),
        ("421 4.3.2 down", Step::Greeting, 421),
        ("220 mx\n550 5.7.1 not that name\n503 b\n503 c\n503 d\n503 e", Step::Hello, 550),
        ("220 mx\n550 5.7.1 not that name\n503 b", Step::Hello, 550),
        ("220 mx\n421 4.3.2 down", Step::Hello, 421),
    ] {
        let error = told(replies).await.unwrap_err();
        assert_eq!((error.step(), error.reply().unwrap().code().get()), (step, code), "{replies}");
        assert!(!error.is_in_doubt(), "{replies}");
    }
    // A server that does not mind has taken it.
    let taken = told("220 mx\n500 what\n250 b\n250 c\n250 d\n250 taken").await;
    assert_eq!(taken.unwrap(), ["250 taken", "250 taken"]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_breaks_leaves_doubt_exactly_if_the_message_may_have_been_taken() {
    for replies in ["", "220 mx", "220 mx\n250 mx", "220 mx\n250 mx\n250 a", "220 mx\n250 mx\n250 a\n250 b\n250 c"] {
        let error = told(replies).await.unwrap_err();
        assert!(error.is_in_doubt(), "{replies:?}: {error}");
    }
    // Nobody's message can have been taken without a sender.
    let refused = told(&format!("{HELLO}550 5.7.1 not you")).await.unwrap();
    assert_eq!(refused, ["550 5.7.1 not you", "550 5.7.1 not you"]);
    // EHLO was refused, and nothing said to MAIL: some servers do not insist on EHLO.
    assert!(told("220 mx\n550 5.7.1 not that name").await.unwrap_err().is_in_doubt());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_not_left_whole_is_in_no_doubt() {
    for read in [0, 30_000, 59_000, 60_085] {
        let (io, mut peer) = pair_of(1024, channel());
        let mut connection = over(io, options()).await;
        let server = async move {
            if read > 0 {
                peer.octets(read).await;
            }
        };
        let (envelope, body) = (envelope(&["a@x.test"]), Body::from_bytes(vec![b'x'; 60_000]));
        let sending = SendOptions::default();
        let (outcome, ()) = tokio::join!(connection.send(&envelope, body, &sending), server);
        assert_eq!(outcome.unwrap_err().is_in_doubt(), read > 60_000, "{read}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_midway_is_believed() {
    let (io, mut peer) = pair_of(1024, channel());
    let mut connection = over(io, options()).await;
    let server = async {
        assert_eq!(peer.line().await, "EHLO client.test");
        peer.say_at_once(&format!("{HELLO}250 a\n250 b\n552 5.3.4 too big")).await;
    };
    let (envelope, body) = (envelope(&["a@x.test"]), Body::from_bytes(vec![b'x'; 60_000]));
    let sending = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&envelope, body, &sending), server);
    assert_eq!(results(outcome.unwrap()), ["552 5.3.4 too big"]);
    assert!(!connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn recipients_that_were_too_many_get_a_transaction_of_their_own() {
    let (io, mut peer) = stream();
    let mut connection = over(io, options()).await;
    let server = async {
        peer.expect("EHLO client.test\nMAIL FROM:<from@client.test>").await;
        peer.expect("RCPT TO:<a@x.test>\nRCPT TO:<b@x.test>\nRCPT TO:<c@x.test>\nBDAT 4 LAST\nhi").await;
        let hello = "220 mx\n250-mx\n250-CHUNKING\n250-PIPELINING\n250 LIMITS RCPTMAX=1";
        peer.say_at_once(&format!("{hello}\n250 a\n250 b\n452 4.5.3 many\n452 4.5.3 many\n250 one")).await;
        for (name, reply) in [("b", "250 two"), ("c", "550 5.1.1 who\n503 x")] {
            peer.expect(&format!("MAIL FROM:<from@client.test>\nRCPT TO:<{name}@x.test>\nBDAT 4 LAST\nhi")).await;
            let rcpt = if name == "b" { "250 ok\n" } else { "" };
            peer.say_at_once(&format!("250 ok\n{rcpt}{reply}")).await;
        }
    };
    let envelope = envelope(&["a@x.test", "b@x.test", "c@x.test"]);
    let sending = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&envelope, Body::from_bytes("hi\r\n"), &sending), server);
    assert_eq!(results(outcome.unwrap()), ["250 one", "250 two", "550 5.1.1 who"]);
}

fn client(
    connections: impl IntoIterator<Item = Vec<Box<dyn ByteStream>>>,
    change: impl FnOnce(&mut Settings),
) -> Client {
    let mut settings = Settings { options: (*options()).clone(), ..Settings::default() };
    change(&mut settings);
    Client::new(several(connections), target(), settings)
}

async fn deliver(client: &mut Client, envelope: Envelope) -> Result<Outcome, BoxError> {
    let transaction = Transaction { session: SessionInfo::local("test"), envelope, body: Body::from_bytes("hi\r\n") };
    client.ready().await.unwrap().call(transaction).await
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_pool_says_quit_in_the_same_flight() {
    let ((one, mut a), (two, mut b)) = (stream(), stream());
    let mut client = client([vec![one, two]], |settings| settings.max_idle = 0);
    let server = async {
        for peer in [&mut a, &mut b] {
            peer.expect(&format!("{FLIGHT}\nQUIT")).await;
            peer.say_at_once(&format!("{HELLO}250 ok\n250 ok\n250 taken\n221 bye")).await;
            assert_eq!(peer.rest().await, "");
        }
    };
    let work = async {
        for _ in 0..2 {
            assert_eq!(results(deliver(&mut client, envelope(&["a@x.test"])).await.unwrap()), ["250 taken"]);
        }
        client
    };
    tokio::join!(work, server);
}

/// Says when it is gone.
struct Watched(Streams, Arc<Mutex<Option<tokio::time::Instant>>>);

impl Drop for Watched {
    fn drop(&mut self) {
        *self.1.lock().unwrap() = Some(tokio::time::Instant::now());
    }
}

#[async_trait]
impl stream::Connection for Watched {
    async fn accept(&mut self) -> io::Result<Option<Box<dyn ByteStream>>> {
        Ok(None)
    }

    async fn open(&mut self) -> io::Result<Box<dyn ByteStream>> {
        self.0.open().await
    }

    fn max_parallel(&self) -> usize {
        4
    }
}

struct Once(Mutex<Option<Watched>>);

#[async_trait]
impl Connector for Once {
    async fn connect(&self, _: &Target, _: &TlsPolicy) -> Result<Box<dyn stream::Connection>, ConnectError> {
        Ok(Box::new(self.0.lock().unwrap().take().expect("one is enough")))
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_session_is_closed_after_a_while_even_without_a_pool() {
    let (streams, mut peers): (VecDeque<_>, Vec<_>) = (0..4).map(|_| stream()).unzip();
    let gone = Arc::new(Mutex::new(None));
    let connector = Once(Mutex::new(Some(Watched(Streams(streams), Arc::clone(&gone)))));
    let settings = Settings { options: (*options()).clone(), max_idle: 0, ..Settings::default() };
    let mut client = Client::new(connector, target(), settings);
    let server = async {
        for peer in &mut peers {
            peer.expect(&format!("{FLIGHT}\nQUIT")).await;
            peer.say_at_once(&format!("{HELLO}250 ok\n250 ok\n250 taken\n221 bye")).await;
        }
    };
    let work = async {
        for _ in 0..4 {
            deliver(&mut client, envelope(&["a@x.test"])).await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        // It has not been idle for longer than 20 s, and is 80 s old.
        assert_eq!(*gone.lock().unwrap(), None);
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(gone.lock().unwrap().is_some());
    };
    tokio::join!(work, server);
}

#[tokio::test(start_paused = true)]
async fn what_one_session_has_heard_holds_for_the_next_on_the_same_connection() {
    let ((one, mut a), (two, mut b), (three, mut c), (four, mut d)) = (stream(), stream(), stream(), stream());
    let mut client = client([vec![one, two], vec![three, four]], |settings| settings.max_idle = 0);
    let secret = || envelope_with(" RET=HDRS", &["a@x.test"]);
    let server = async {
        a.expect("EHLO client.test").await;
        a.silent().await;
        a.say_at_once(&HELLO.replace("PIPELINING", "DSN\n250-PIPELINING\n250-SIZE 100")).await;
        a.expect("MAIL FROM:<from@client.test> RET=HDRS SIZE=4\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
        a.say_at_once("250 ok\n250 ok\n250 taken").await;
        a.on("QUIT", "221 bye").await;
        b.expect("EHLO client.test\nMAIL FROM:<from@client.test> RET=HDRS SIZE=4\nRCPT TO:<a@x.test>").await;
        b.expect("BDAT 4 LAST\nhi\nQUIT").await;
        b.say_at_once("421 4.3.2 down").await;
        drop(b);
        // Another connection may lead to another server: nothing is known of it, not even that it shuts down.
        c.expect("EHLO client.test").await;
        c.silent().await;
        c.say_at_once(&HELLO.replace("PIPELINING", "DSN\n250-PIPELINING")).await;
        c.expect("MAIL FROM:<from@client.test> RET=HDRS\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
        c.say_at_once("250 ok\n250 ok\n250 again").await;
        c.on("QUIT", "221 bye").await;
        d.expect("EHLO client.test\nMAIL FROM:<from@client.test> RET=HDRS").await;
    };
    let work = async {
        assert_eq!(results(deliver(&mut client, secret()).await.unwrap()), ["250 taken"]);
        assert_eq!(results(deliver(&mut client, secret()).await.unwrap()), ["250 again"]);
        let _ = tokio::time::timeout(Duration::from_secs(1), deliver(&mut client, secret())).await;
    };
    tokio::join!(work, server);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_ehlo_was_refused_is_not_kept() {
    let (one, mut peer) = stream();
    let mut client = client([vec![one]], |_| {});
    let server = async {
        peer.expect(FLIGHT).await;
        peer.say_at_once("220 mx\n550 5.7.1 not that name\n503 a\n503 b\n503 c").await;
        peer.on("QUIT", "221 bye").await;
        assert_eq!(peer.rest().await, "");
    };
    let work = async {
        let error = deliver(&mut client, envelope(&["a@x.test"])).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Unanswered>().unwrap().error().step(), Step::Hello);
        assert_eq!(client.idle_sessions(), 0);
    };
    tokio::join!(work, server);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_password_shows_it_before_mail() {
    let (one, mut peer) = stream();
    let credentials = Some(Credentials::new("jo", "hunter2").unwrap());
    let mut client = client([vec![one]], |settings| settings.credentials = credentials);
    let server = async {
        peer.expect("EHLO client.test").await;
        peer.silent().await;
        peer.say_at_once("220 mx\n250-mx\n250-CHUNKING\n250 AUTH PLAIN").await;
        assert!(peer.line().await.starts_with("AUTH PLAIN "));
        peer.say("235 ok").await;
        peer.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
        peer.say_at_once("250 ok\n250 ok\n250 taken").await;
    };
    let (outcome, ()) = tokio::join!(deliver(&mut client, envelope(&["a@x.test"])), server);
    assert_eq!(results(outcome.unwrap()), ["250 taken"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_to_a_server_whose_certificate_was_not_verified_as_the_policy_wants() {
    let tls = TlsInfo { version: "TLSv1.3", verified: false, ..TlsInfo::default() };
    let (io, mut peer) = pair_of(64 * 1024, ChannelInfo { tls: Some(tls.into()), ..channel() });
    let mut connection = over(io, options()).await;
    let error = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("hi\r\n"), &SendOptions::default()).await;
    assert!(matches!(error.unwrap_err(), Error::Tls(_)));
    assert_eq!(peer.rest().await, "");
}
