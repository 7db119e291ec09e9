use std::time::Duration;

use smtp_client::{Client, Error, Local, Settings, Step, Unanswered};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, BoxError, Outcome, Source, Transaction, reply_for};
use tower::{Service, ServiceExt};

use crate::peer::{Peer, Scripted, envelope, options, pair, results, target};

fn client(connector: Scripted, change: impl FnOnce(&mut Settings)) -> Client {
    let mut settings = Settings { options: (*options()).clone(), ..Settings::default() };
    change(&mut settings);
    Client::new(connector, target(), settings)
}

fn transaction(body: Body) -> Transaction {
    Transaction { session: SessionInfo::local("test"), envelope: envelope(&["a@x.test"]), body }
}

async fn send(client: &mut Client) -> Result<Outcome, BoxError> {
    client.ready().await?.call(transaction(Body::from_bytes("hi\r\n"))).await
}

async fn sent(client: &mut Client) {
    assert_eq!(results(send(client).await.unwrap()), ["250 taken"]);
}

/// The server's side of one message, in a single flight.
async fn take(peer: &mut Peer) {
    peer.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
    peer.say_at_once("250 ok\n250 ok\n250 taken").await;
}

/// The same after the session was idle for a while: the content waits for the envelope's replies.
async fn take_carefully(peer: &mut Peer) {
    peer.on("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>", "250 ok\n250 ok").await;
    peer.on("BDAT 4 LAST\nhi", "250 taken").await;
}

const KEYWORDS: &str = "PIPELINING\nCHUNKING";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_session_is_reused_and_closed_after_its_share() {
    let ((first, mut a), (second, mut b)) = (pair(), pair());
    let mut client = client(Scripted::of([first, second]), |settings| settings.max_messages = 3);
    let server = async {
        a.greet(KEYWORDS).await;
        take(&mut a).await;
        take(&mut a).await;
        take_carefully(&mut a).await;
        a.on("QUIT", "221 bye").await;
        assert_eq!(a.rest().await, "");
        b.greet(KEYWORDS).await;
        take(&mut b).await;
    };
    let work = async {
        sent(&mut client).await;
        assert_eq!(client.idle_sessions(), 1);
        sent(&mut client).await;
        tokio::time::sleep(seconds(2)).await;
        sent(&mut client).await;
        assert_eq!(client.idle_sessions(), 0);
        sent(&mut client).await;
    };
    tokio::join!(server, work);
}

#[tokio::test(start_paused = true)]
async fn the_server_may_want_fewer_messages_a_session() {
    let ((first, mut a), (second, mut b)) = (pair(), pair());
    let mut client = client(Scripted::of([first, second]), |_| {});
    let server = async {
        a.greet(&format!("{KEYWORDS}\nLIMITS RCPTMAX=100 MAILMAX=1")).await;
        take(&mut a).await;
        a.on("QUIT", "221 bye").await;
        b.greet(KEYWORDS).await;
        take(&mut b).await;
    };
    let work = async {
        sent(&mut client).await;
        sent(&mut client).await;
    };
    tokio::join!(server, work);
}

/// The server closes an idle session in one of its ways; the next message takes a new connection, whatever it was.
#[tokio::test(start_paused = true)]
async fn the_servers_idle_close_is_survived() {
    for way in ["eof", "421", "421 and eof", "garbage"] {
        let ((first, mut a), (second, mut b)) = (pair(), pair());
        let mut client = client(Scripted::of([first, second]), |_| {});
        let server = async {
            a.greet(KEYWORDS).await;
            take(&mut a).await;
            tokio::time::sleep(seconds(5)).await;
            match way {
                "421" => a.say("421 4.4.2 idle").await,
                "421 and eof" => a.say("421 4.4.2 idle").await,
                "garbage" => a.say_octets(b"x").await,
                _ => {}
            }
            if way.ends_with("eof") {
                drop(a);
            } else {
                assert_eq!(a.rest().await, "");
            }
            b.greet(KEYWORDS).await;
            take(&mut b).await;
        };
        let work = async {
            sent(&mut client).await;
            tokio::time::sleep(seconds(10)).await;
            sent(&mut client).await;
        };
        tokio::join!(server, work);
    }
}

/// The close arrives only after MAIL was sent.
#[tokio::test(start_paused = true)]
async fn a_close_in_the_moment_of_reuse_is_survived_as_long_as_the_content_is_whole() {
    for farewell in [None, Some("421 4.4.2 idle")] {
        let ((first, mut a), (second, mut b)) = (pair(), pair());
        let mut client = client(Scripted::of([first, second]), |_| {});
        let server = async {
            a.greet(KEYWORDS).await;
            take(&mut a).await;
            a.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>").await;
            if let Some(farewell) = farewell {
                a.say(farewell).await;
            }
            drop(a);
            b.greet(KEYWORDS).await;
            take(&mut b).await;
        };
        let work = async {
            sent(&mut client).await;
            tokio::time::sleep(seconds(5)).await;
            sent(&mut client).await;
        };
        tokio::join!(server, work);
    }
}

#[tokio::test(start_paused = true)]
async fn the_retry_is_one_and_over_a_new_connection() {
    let ((first, mut a), (second, mut b)) = (pair(), pair());
    let mut client = client(Scripted::of([first, second]), |_| {});
    let server = async {
        a.greet(KEYWORDS).await;
        take(&mut a).await;
        a.expect("MAIL FROM:<from@client.test>").await;
        drop(a);
        b.greet(KEYWORDS).await;
        b.expect("MAIL FROM:<from@client.test>").await;
        drop(b);
    };
    let work = async {
        sent(&mut client).await;
        tokio::time::sleep(seconds(5)).await;
        let error = send(&mut client).await.unwrap_err();
        assert!(reply_for(&error).to_string().starts_with("451 4.4.2 "));
    };
    tokio::join!(server, work);
}

/// A message that was sent to its end is never sent twice by the client's own doing.
#[tokio::test(start_paused = true)]
async fn a_hot_session_that_breaks_after_the_whole_flight_is_in_doubt() {
    let (first, mut a) = pair();
    let mut client = client(Scripted::of([first]), |_| {});
    let server = async {
        a.greet(KEYWORDS).await;
        take(&mut a).await;
        a.expect("MAIL FROM:<from@client.test>").await;
        drop(a);
    };
    let work = async {
        sent(&mut client).await;
        let error = send(&mut client).await.unwrap_err();
        let unanswered = error.downcast_ref::<Unanswered>().unwrap();
        assert!(unanswered.error().is_in_doubt());
        assert_eq!(client.idle_sessions(), 0);
        assert!(reply_for(&error).to_string().contains("may have been delivered"));
    };
    tokio::join!(server, work);
}

/// A body that can be read once only.
struct Once(Option<&'static str>);

impl Source for Once {
    fn poll_chunk(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<Option<bytes::Bytes>>> {
        std::task::Poll::Ready(Ok(self.0.take().map(bytes::Bytes::from)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_streamed_body_is_retried_only_while_it_is_untouched() {
    for touched in [false, true] {
        let ((first, mut a), (second, mut b)) = (pair(), pair());
        let mut client = client(Scripted::of([first, second]), |_| {});
        let server = async {
            a.greet("PIPELINING").await;
            a.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA").await;
            a.say("250 ok\n250 ok\n354 go").await;
            a.on("hi\n.", "250 taken").await;
            a.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA").await;
            if touched {
                a.say("250 ok\n250 ok\n354 go").await;
                a.expect("hi\n.").await;
                return drop(a);
            }
            drop(a);
            b.greet("PIPELINING").await;
            b.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA").await;
            b.say("250 ok\n250 ok\n354 go").await;
            b.on("hi\n.", "250 taken").await;
        };
        let work = async {
            sent(&mut client).await;
            let body = Body::from_source(Once(Some("hi\r\n")), None);
            let result = client.ready().await.unwrap().call(transaction(body)).await;
            assert_eq!(result.is_err(), touched);
        };
        tokio::join!(server, work);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_are_closed_with_quit_after_their_time() {
    let (first, mut a) = pair();
    let mut client = client(Scripted::of([first]), |_| {});
    let server = async {
        a.greet(KEYWORDS).await;
        take(&mut a).await;
        let since = tokio::time::Instant::now();
        a.on("QUIT", "221 bye").await;
        assert_eq!(since.elapsed(), seconds(30));
    };
    let work = async {
        sent(&mut client).await;
        tokio::time::sleep(seconds(60)).await;
        assert_eq!(client.idle_sessions(), 0);
    };
    tokio::join!(server, work);
}

#[tokio::test(start_paused = true)]
async fn no_more_sessions_than_allowed_and_no_more_idle_than_wanted() {
    let pairs: Vec<_> = (0..3).map(|_| pair()).collect();
    let (streams, peers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let client = client(Scripted::of(streams), |settings| {
        settings.max_sessions = 2;
        settings.max_idle = 1;
    });
    for mut peer in peers {
        tokio::spawn(async move {
            peer.greet(KEYWORDS).await;
            loop {
                match peer.line().await.as_str() {
                    "QUIT" => break peer.say("221 bye").await,
                    "MAIL FROM:<from@client.test>" => {
                        peer.expect("RCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
                        tokio::time::sleep(seconds(10)).await;
                        peer.say_at_once("250 ok\n250 ok\n250 taken").await;
                    }
                    other => panic!("{other}"),
                }
            }
        });
    }
    let start = tokio::time::Instant::now();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { sent(&mut client).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    // Two at a time, so the third waited; it took the session that one of them left.
    assert_eq!(start.elapsed(), seconds(20));
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(client.idle_sessions(), 1);
    client.close_idle().await;
    assert_eq!(client.idle_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_takes_its_session_with_it() {
    let ((first, mut a), (second, mut b)) = (pair(), pair());
    let mut client = client(Scripted::of([first, second]), |settings| settings.max_sessions = 1);
    let server = async {
        a.greet(KEYWORDS).await;
        a.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi").await;
        a.say("250 ok").await;
        assert_eq!(a.rest().await, "");
        b.greet(KEYWORDS).await;
        take(&mut b).await;
    };
    let work = async {
        let call = client.ready().await.unwrap().call(transaction(Body::from_bytes("hi\r\n")));
        assert!(tokio::time::timeout(seconds(5), call).await.is_err());
        assert_eq!(client.idle_sessions(), 0);
        // Its place is free again.
        sent(&mut client).await;
    };
    tokio::join!(server, work);
}

#[tokio::test(start_paused = true)]
async fn every_failure_has_a_reply_for_the_sender() {
    // Nobody listens.
    let mut nobody = client(Scripted::default(), |_| {});
    // The sender is told nothing of our hosts and addresses.
    let reply = reply_for(&send(&mut nobody).await.unwrap_err()).to_string();
    assert_eq!(reply, "451 4.4.1 next hop: no connection; try again later");
    // Turned away, for good as the server has it; the sender only waits.
    let (stream, mut peer) = pair();
    let mut turned_away = client(Scripted::of([stream]), |_| {});
    let (result, ()) = tokio::join!(send(&mut turned_away), async {
        peer.say("554 5.7.1 blocked").await;
        peer.on("QUIT", "221 bye").await;
    });
    assert_eq!(reply_for(&result.unwrap_err()).to_string(), "451 4.7.1 next hop: greeting: refused: 554 5.7.1 blocked");
    // No AUTH where one is wanted.
    let (stream, mut peer) = pair();
    let mut wants_auth = client(Scripted::of([stream]), |settings| {
        settings.credentials = Some(smtp_client::sasl::Credentials::new("jo", "pw").unwrap());
    });
    let (result, ()) = tokio::join!(send(&mut wants_auth), async {
        peer.greet(KEYWORDS).await;
        peer.on("QUIT", "221 bye").await;
    });
    let error = result.unwrap_err();
    let unanswered = error.downcast_ref::<Unanswered>().unwrap();
    assert!(matches!(unanswered.error(), Error::Local { step: Step::Auth, cause: Local::NoMechanism { .. } }));
    assert!(reply_for(&error).to_string().starts_with("451 4.7.0 "));
}

#[tokio::test(start_paused = true)]
async fn a_truncated_body_by_chunks_leaves_a_session_for_the_next_message() {
    let (stream, mut peer) = pair();
    let mut client = client(Scripted::of([stream]), |settings| settings.send.chunk_size = 2);
    struct Broken(bool);
    impl Source for Broken {
        fn poll_chunk(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<Option<bytes::Bytes>>> {
            let first = std::mem::replace(&mut self.0, false);
            std::task::Poll::Ready(if first { Ok(Some("a\r\n".into())) } else { Err(std::io::Error::other("x")) })
        }
    }
    let server = async {
        peer.greet(KEYWORDS).await;
        peer.on("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>", "250 ok\n250 ok").await;
        peer.expect("BDAT 2").await;
        assert_eq!(peer.octets(2).await, b"a\r");
        peer.say("250 ok").await;
        peer.on("RSET", "250 ok").await;
        take(&mut peer).await;
    };
    let work = async {
        let body = Body::from_source(Broken(true), None);
        assert!(client.ready().await.unwrap().call(transaction(body)).await.is_err());
        assert_eq!(client.idle_sessions(), 1);
        sent(&mut client).await;
    };
    tokio::join!(server, work);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_skips_readiness_waits_in_the_call() {
    let (stream, mut peer) = pair();
    let client = client(Scripted::of([stream]), |settings| settings.max_sessions = 1);
    let (mut one, mut two) = (client.clone(), client.clone());
    let server = async {
        peer.greet(KEYWORDS).await;
        take(&mut peer).await;
        take(&mut peer).await;
    };
    let calls = async {
        tokio::join!(
            one.call(transaction(Body::from_bytes("hi\r\n"))),
            two.call(transaction(Body::from_bytes("hi\r\n"))),
        )
    };
    let (results, ()) = tokio::join!(calls, server);
    assert!(results.0.is_ok() && results.1.is_ok());
}
