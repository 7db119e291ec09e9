//! The client against the server of the same house, over every kind of channel that the memory transport can be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use smtp_client::{Client, SendOptions, Settings, Transfer, Unanswered};
use smtp_core::channel::SessionInfo;
use smtp_core::driver::{self, serve};
use smtp_core::service::{Body, BoxError, Delivery, Outcome, Promises, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::{Config, Protocol};
use smtp_core::stream::{Listener, TlsMode, TlsPolicy, Verification};
use smtp_core::types::{Command, Domain, Mail, Mailbox, Parameters, Refusal};
use smtp_test::memory::{Cut, Knobs, MemoryConnector, MemoryListener, Pace, Tls};
use tower::{Service, ServiceExt, service_fn};

use crate::peer::{envelope, options, results, target};

/// What was delivered: recipients and content.
#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<Vec<Message>>>);

type Message = (Vec<String>, Bytes);

impl Delivered {
    fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A delivery that writes down what it gets. `full@` has no room, whatever the content.
    fn delivery(&self) -> impl Delivery + Clone {
        let taken = self.clone();
        service_fn(move |mut mail: Transaction| {
            let taken = taken.clone();
            async move {
                let (content, complete) = mail.body.collect(64 << 20).await?;
                let to: Vec<String> = mail.envelope.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect();
                let receipt = Receipt::discarded(complete);
                let results = to.iter().map(|to| {
                    let full = to.starts_with("<full@");
                    if full { Err(Refusal::fixed(452, (4, 2, 2), "full")) } else { Ok(receipt.clone()) }
                });
                let outcome = Outcome::each(results.collect());
                taken.0.lock().unwrap().push((to, content));
                Ok::<_, BoxError>(outcome)
            }
        })
    }
}

/// A policy that knows no `nobody@`.
async fn policy(request: Request) -> Result<Verdict, BoxError> {
    match &request.command {
        Command::Rcpt(rcpt) if rcpt.to.to_string().starts_with("<nobody@") => {
            Ok(Refusal::fixed(550, (5, 1, 1), "no such mailbox").into())
        }
        _ => Ok(Verdict::Proceed),
    }
}

/// Starts a server behind `knobs`; what connects to it, and how many connections were made.
fn server(
    knobs: Knobs,
    config: Config,
    delivery: impl Delivery + Clone + Sync,
) -> (MemoryConnector, Arc<Mutex<usize>>) {
    let (listener, count) = (MemoryListener::new(knobs), Arc::new(Mutex::new(0)));
    let (connector, counted) = (listener.connector(), Arc::clone(&count));
    let settings = Arc::new(driver::Settings::new(config));
    tokio::spawn(async move {
        while let Ok(mut connection) = listener.accept().await {
            *counted.lock().unwrap() += 1;
            let (delivery, settings) = (delivery.clone(), Arc::clone(&settings));
            tokio::spawn(async move {
                while let Ok(Some(stream)) = connection.accept().await {
                    let session = Arc::new(SessionInfo::new(1, stream.info()));
                    let (delivery, settings) = (delivery.clone(), Arc::clone(&settings));
                    tokio::spawn(serve(stream, session, service_fn(policy), delivery, settings, Default::default()));
                }
            });
        }
    });
    (connector, count)
}

fn config() -> Config {
    Config::new(Domain::new("mx.test").unwrap())
}

fn client(connector: MemoryConnector, change: impl FnOnce(&mut Settings)) -> Client {
    let mut settings = Settings { options: (*options()).clone(), ..Settings::default() };
    change(&mut settings);
    Client::new(connector, target(), settings)
}

async fn send(client: &mut Client, to: &[&str], body: Body) -> Result<Outcome, BoxError> {
    let transaction = Transaction { session: SessionInfo::local("test"), envelope: envelope(to), body };
    client.ready().await?.call(transaction).await
}

/// A body without a size, in pieces of `piece` octets.
fn streamed(content: Bytes, piece: usize) -> Body {
    struct Cut(Bytes, usize);
    impl smtp_core::service::Source for Cut {
        fn poll_chunk(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<Option<Bytes>>> {
            let n = self.1.min(self.0.len());
            std::task::Poll::Ready(Ok((n > 0).then(|| self.0.split_to(n))))
        }
    }
    Body::from_source(Cut(content, piece), None)
}

#[tokio::test(start_paused = true)]
async fn over_every_kind_of_channel() {
    let starttls = TlsPolicy { mode: TlsMode::Required, verification: Verification::None };
    let implicit = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::None };
    let slow = Knobs { latency: Duration::from_millis(50), ..Knobs::default() };
    for (name, knobs, tls) in [
        ("plain", Knobs::default(), TlsPolicy::NONE),
        ("octet by octet", Knobs::default().paced(Pace::OCTET_BY_OCTET), TlsPolicy::NONE),
        ("stormy", Knobs::default().paced(Pace::STORMY), TlsPolicy::NONE),
        ("lazy", Knobs::default().paced(Pace::LAZY), TlsPolicy::NONE),
        ("narrow", Knobs { capacity: 7, ..Knobs::default() }, TlsPolicy::NONE),
        ("far away", slow, TlsPolicy::NONE),
        ("starttls", Knobs::starttls(), starttls.clone()),
        ("starttls, lazy", Knobs::starttls().paced(Pace::LAZY), starttls),
        ("starttls, opportunistic", Knobs::starttls(), TlsPolicy::OPPORTUNISTIC),
        ("starttls that is broken", Knobs { tls: Tls::Broken, ..Knobs::clear() }, TlsPolicy::OPPORTUNISTIC),
        ("implicit TLS", Knobs { tls: Tls::Implicit, ..Knobs::default() }, implicit.clone()),
        ("streams", Knobs::streams(), implicit),
    ] {
        for transfer in [Transfer::Auto, Transfer::Data] {
            let delivered = Delivered::default();
            let (connector, _) = server(knobs.clone(), config(), delivered.delivery());
            let mut client = client(connector, |settings| {
                settings.tls = tls.clone();
                settings.send = SendOptions { transfer, chunk_size: 1000, ..SendOptions::default() };
            });
            let small = Bytes::from_static(b"Subject: x\r\n\r\n.dots\r\n..\r\n.\r\n");
            let large = Bytes::from("..0123456789\r\n".repeat(1000));
            for body in [Body::from_bytes(small.clone()), streamed(small.clone(), 3), streamed(large.clone(), 777)] {
                let outcome = send(&mut client, &["a@x.test", "nobody@x.test", "b@x.test"], body).await;
                let results = results(outcome.unwrap_or_else(|error| panic!("{name}, {transfer:?}: {error}")));
                assert!(results[0].starts_with("250 ") && results[2].starts_with("250 "), "{name}: {results:?}");
                assert_eq!(results[1], "550 5.1.1 no such mailbox");
            }
            let delivered = delivered.take();
            let contents: Vec<&Bytes> = delivered.iter().map(|(_, content)| content).collect();
            assert_eq!(contents, [&small, &small, &large], "{name}, {transfer:?}");
            assert!(delivered.iter().all(|(to, _)| to == &["<a@x.test>", "<b@x.test>"]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_share_a_connection_where_it_carries_many() {
    let delivered = Delivered::default();
    let knobs = Knobs { max_parallel: 8, latency: Duration::from_millis(10), ..Knobs::streams() };
    let (connector, connections) = server(knobs, config(), delivered.delivery());
    let client = client(connector, |settings| {
        settings.tls = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::None };
    });
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { send(&mut client, &["a@x.test"], Body::from_bytes("x\r\n")).await.unwrap() })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().single().is_ok());
    }
    assert_eq!(delivered.take().len(), 100);
    // 20 at a time, 8 on each.
    assert_eq!(*connections.lock().unwrap(), 3);
    assert_eq!(client.idle_sessions(), 20);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.idle_sessions(), 4);
}

/// The ledger: whatever octet the channel breaks behind, in either direction, what was accepted was delivered once,
/// what failed without doubt was not delivered, and nothing is ever delivered in part.
#[tokio::test(start_paused = true)]
async fn the_channel_breaks_behind_every_octet() {
    let content = Bytes::from_static(b"Subject: x\r\n\r\n.hello\r\n");
    let mut seen = [0u32; 3];
    for transfer in [Transfer::Auto, Transfer::Data] {
        for size_known in [true, false] {
            for direction in 0..2 {
                for after in 0..600 {
                    let cut = if after % 2 == 0 { Cut::eof(after) } else { Cut::reset(after) };
                    let knobs = match direction {
                        0 => Knobs { from_client: Some(cut), ..Knobs::default() },
                        _ => Knobs { from_server: Some(cut), ..Knobs::default() },
                    };
                    let delivered = Delivered::default();
                    let (connector, _) = server(knobs, config(), delivered.delivery());
                    let mut client = client(connector, |settings| {
                        settings.tls = TlsPolicy::NONE;
                        settings.send = SendOptions { transfer, chunk_size: 10, ..SendOptions::default() };
                    });
                    let body =
                        if size_known { Body::from_bytes(content.clone()) } else { streamed(content.clone(), 4) };
                    let result = send(&mut client, &["a@x.test"], body).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let delivered = delivered.take();
                    let place = format!("{transfer:?}, {size_known}, {direction}, {after}");
                    assert!(delivered.iter().all(|(_, got)| *got == content), "{place}");
                    match result {
                        Ok(outcome) => {
                            assert!(outcome.single().is_ok(), "{place}");
                            assert_eq!(delivered.len(), 1, "{place}");
                            seen[0] += 1;
                        }
                        Err(error) => {
                            let doubt = error.downcast_ref::<Unanswered>().unwrap().error().is_in_doubt();
                            assert!(delivered.len() <= usize::from(doubt), "{place}: {error}");
                            seen[1 + usize::from(doubt)] += 1;
                        }
                    }
                }
            }
        }
    }
    // Each of the three was met often enough to mean something.
    assert!(seen.iter().all(|n| *n > 100), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn lmtp_tells_for_each() {
    let delivered = Delivered::default();
    let mut config = config();
    config.protocol = Protocol::Lmtp;
    let (connector, _) = server(Knobs::default(), config, delivered.delivery());
    for transfer in [Transfer::Auto, Transfer::Data] {
        let mut client = client(connector.clone(), |settings| {
            settings.options.lmtp = true;
            settings.send.transfer = transfer;
        });
        for _ in 0..2 {
            let to = ["a@x.test", "full@x.test", "nobody@x.test", "b@x.test"];
            let results = results(send(&mut client, &to, Body::from_bytes("x\r\n")).await.unwrap());
            assert!(results[0].starts_with("250 ") && results[3].starts_with("250 "), "{results:?}");
            assert_eq!(results[1..3], ["452 4.2.2 full", "550 5.1.1 no such mailbox"]);
        }
    }
}

/// Whatever a server says no to, and when, both sides agree on how many replies there are: the next message works.
#[tokio::test(start_paused = true)]
async fn lmtp_sides_agree_on_the_number_of_replies() {
    // Refuses before it reads, after a part, or not at all, as the sender's name has it.
    let delivery = service_fn(async |mut mail: Transaction| {
        let recipients = mail.envelope.recipients.len();
        let how = mail.envelope.mail.from.to_string();
        let no = || Ok(Outcome::all(Err(Refusal::fixed(451, (4, 3, 0), "not now")), recipients));
        if how.starts_with("<early@") {
            return no();
        }
        if how.starts_with("<midway@") {
            mail.body.next().await?;
            return no();
        }
        let (_, complete) = mail.body.collect(1 << 20).await?;
        Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), recipients))
    });
    let mut config = config();
    config.protocol = Protocol::Lmtp;
    config.limits.message_size = 5_000;
    let (connector, connections) = server(Knobs::default(), config, delivery);
    for (transfer, chunk_size) in [(Transfer::Auto, 1 << 20), (Transfer::Chunks, 100), (Transfer::Data, 1)] {
        for pipelined in [true, false] {
            let mut client = client(connector.clone(), |settings| {
                settings.options.lmtp = true;
                settings.send = SendOptions { transfer, chunk_size, ..SendOptions::default() };
            });
            let before = *connections.lock().unwrap();
            for (from, size, expected) in [
                ("early@x.test", 400, "451 4.3.0 not now"),
                ("midway@x.test", 400, "451 4.3.0 not now"),
                ("fine@x.test", 6_000, "552 5.3.4"),
                ("fine@x.test", 400, "250 2.0.0"),
            ] {
                let mut envelope = envelope(&["a@x.test", "nobody@x.test", "b@x.test", "a@x.test"]);
                envelope.mail = Mail::new(from.parse::<Mailbox>().unwrap());
                let content = Bytes::from("12345678\r\n".repeat(size / 10));
                let body = if pipelined { Body::from_bytes(content) } else { streamed(content, 50) };
                let transaction = Transaction { session: SessionInfo::local("test"), envelope, body };
                let outcome = client.ready().await.unwrap().call(transaction).await.unwrap();
                let results = results(outcome);
                let place = format!("{transfer:?}, {pipelined}, {from}, {size}: {results:?}");
                assert!([0, 2, 3].iter().all(|n| results[*n].starts_with(expected)), "{place}");
                let unasked = size == 6_000 && pipelined;
                assert_eq!(results[1].starts_with("550 5.1.1"), !unasked, "{place}");
            }
            assert_eq!(*connections.lock().unwrap(), before + 1, "all over one session");
        }
    }
}

/// A relay is a server whose delivery is a client: content flows through two of them over narrow pipes, and the
/// answer of the last comes back to the first.
#[tokio::test(start_paused = true)]
async fn a_relay_is_a_server_whose_delivery_is_a_client() {
    let narrow = Knobs { capacity: 4096, ..Knobs::default() };
    let delivered = Delivered::default();
    let (last, _) = server(narrow.clone(), config(), delivered.delivery());
    let (middle, _) = server(narrow.clone(), config().promising(Client::PROMISES), client(last, |_| {}));
    let (first, _) = server(
        narrow,
        config().promising(Client::PROMISES),
        client(middle, |settings| {
            settings.send.transfer = Transfer::Data;
        }),
    );
    let mut sender = client(first, |_| {});
    let large = Bytes::from("..a line that is neither short nor long, with dots before it\r\n".repeat(100_000));
    for body in [Body::from_bytes("small\r\n"), Body::from_bytes(large.clone()), streamed(large.clone(), 10_000)] {
        let outcome = send(&mut sender, &["a@x.test"], body).await.unwrap();
        assert!(outcome.single().is_ok());
    }
    let delivered = delivered.take();
    assert_eq!(delivered.len(), 3);
    assert!(delivered[1].1 == large && delivered[2].1 == large);

    // All that the last one says no to is said no to by the first.
    let outcome = send(&mut sender, &["full@x.test"], Body::from_bytes("x\r\n")).await.unwrap();
    assert_eq!(results(outcome), ["452 4.2.2 full"]);
    assert_eq!(
        results(send(&mut sender, &["nobody@x.test"], Body::from_bytes("x\r\n")).await.unwrap()),
        ["550 5.1.1 no such mailbox"]
    );
}

#[test]
fn a_client_is_a_delivery() {
    fn is_one<D: Delivery + Clone + Sync>() {}
    is_one::<Client>();
}

/// What a sender asks for reaches the last hop, or comes back; and each recipient has its own answer, by PRDR, through
/// two relays.
#[tokio::test(start_paused = true)]
async fn through_relays_nothing_that_was_asked_for_is_lost() {
    let promises = Promises::of(&["DSN", "DELIVERBY", "MT-PRIORITY", "REQUIRETLS", "RRVS", "SMTPUTF8"]);
    let tls = Knobs { tls: Tls::Implicit, ..Knobs::default() };
    let implicit = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::None };
    let envelopes = Arc::new(Mutex::new(Vec::new()));
    let (delivered, kept) = (Delivered::default(), Arc::clone(&envelopes));
    let inner = delivered.delivery();
    let last = service_fn(move |mail: Transaction| {
        kept.lock().unwrap().push(mail.envelope.clone());
        inner.clone().oneshot(mail)
    });
    let (last, _) = server(tls.clone(), config().promising(promises), last);
    let relay = client(last, |settings| settings.tls = implicit.clone());
    let (middle, _) = server(tls.clone(), config().promising(promises), relay);
    let mut sender = client(middle, |settings| settings.tls = implicit.clone());

    let mut message = envelope(&["a@x.test", "full@x.test"]);
    let asked = "RET=HDRS ENVID=QQ314159 BY=120;RT MT-PRIORITY=6";
    message.mail.parameters = Parameters::new(asked).unwrap();
    message.recipients[0].parameters =
        Parameters::new("NOTIFY=SUCCESS ORCPT=rfc822;orig@x.test RRVS=2014-04-03T23:01:00Z").unwrap();
    let transaction = |envelope| {
        let (session, body) = (SessionInfo::local("test"), Body::from_bytes("x\r\n"));
        Transaction { session, envelope, body }
    };
    let outcome = sender.ready().await.unwrap().call(transaction(message.clone())).await.unwrap();
    let told = results(outcome);
    assert!(told[0].starts_with("250 ") && told[1] == "452 4.2.2 full", "{told:?}");
    let got = envelopes.lock().unwrap().remove(0);
    for (keyword, value) in message.mail.parameters.iter() {
        assert_eq!(got.mail.parameters.value(keyword), Some(value), "{keyword}");
    }
    assert_eq!(got.recipients, message.recipients);

    // The channel has TLS; whether the server proved who it is decides.
    message.mail.parameters = Parameters::new("REQUIRETLS").unwrap();
    message.recipients.truncate(1);
    let outcome = sender.ready().await.unwrap().call(transaction(message)).await.unwrap();
    assert!(results(outcome)[0].starts_with("550 5.7.10 "));
}
