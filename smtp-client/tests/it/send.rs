use smtp_client::{Connection, Error, Local, SendOptions, Step, Transfer};
use smtp_core::service::{Body, Source};
use smtp_core::types::Parameters;

use crate::peer::{connected, envelope, envelope_with, results};

const TWO: &str = "MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nRCPT TO:<b@x.test>";

/// A body whose size nobody knows, in pieces; `Err` truncates it.
struct Pieces(std::vec::IntoIter<Piece>);

type Piece = Result<&'static str, ()>;

impl Source for Pieces {
    fn poll_chunk(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<Option<bytes::Bytes>>> {
        let next = self.0.next().transpose();
        std::task::Poll::Ready(next.map(|p| p.map(bytes::Bytes::from)).map_err(|()| std::io::Error::other("gone")))
    }
}

fn pieces<const N: usize>(pieces: [Piece; N]) -> Body {
    Body::from_source(Pieces(Vec::from(pieces).into_iter()), None)
}

async fn send(connection: &mut Connection, body: Body, recipients: &[&str]) -> Result<Vec<String>, Error> {
    connection.send(&envelope(recipients), body, &SendOptions::default()).await.map(results)
}

async fn send_two(connection: &mut Connection, body: &'static str) -> Result<Vec<String>, Error> {
    send(connection, Body::from_bytes(body), &["a@x.test", "b@x.test"]).await
}

#[tokio::test(start_paused = true)]
async fn lock_step_without_pipelining() {
    let (mut connection, mut peer) = connected("").await;
    let server = async {
        for (line, reply) in [
            ("MAIL FROM:<from@client.test>", "250 ok"),
            ("RCPT TO:<a@x.test>", "250 ok"),
            ("RCPT TO:<b@x.test>", "550 5.1.1 nobody"),
            ("DATA", "354 go"),
            ("hi\n.", "250 2.0.0 taken"),
        ] {
            peer.expect(line).await;
            peer.silent().await;
            peer.say(reply).await;
        }
    };
    let (result, ()) = tokio::join!(send_two(&mut connection, "hi\r\n"), server);
    assert_eq!(result.unwrap(), ["250 2.0.0 taken", "550 5.1.1 nobody"]);
    assert!(connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn lock_step_stops_where_it_is_pointless() {
    let (mut connection, mut peer) = connected("").await;
    let server = async {
        peer.on("MAIL FROM:<from@client.test>", "550 5.7.1 not you").await;
        // No RSET either: there is no transaction.
        peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>", "450 later").await;
        peer.on("RCPT TO:<b@x.test>", "550 never").await;
        // No DATA, but something to clear.
        peer.on("RSET", "250 ok").await;
        peer.on("MAIL FROM:<from@client.test>", "421 4.3.2 going down").await;
    };
    let client = async {
        let no = "550 5.7.1 not you";
        assert_eq!(send_two(&mut connection, "hi\r\n").await.unwrap(), [no, no]);
        assert_eq!(send_two(&mut connection, "hi\r\n").await.unwrap(), ["450 later", "550 never"]);
        // 421 is about that session, not about the one the message came by.
        let down = "451 4.3.2 next hop: 421 4.3.2 going down";
        assert_eq!(send_two(&mut connection, "hi\r\n").await.unwrap(), [down, down]);
        assert!(!connection.is_usable());
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn a_pipelined_group_is_one_flight_and_partial_refusal_is_normal() {
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let server = async {
        peer.expect(TWO).await;
        peer.expect("DATA").await;
        peer.say_at_once("250 ok\n550 5.1.1 nobody\n250 ok\n354 go").await;
        peer.on("hi\n.", "250 taken").await;
    };
    let (result, ()) = tokio::join!(send_two(&mut connection, "hi\r\n"), server);
    assert_eq!(result.unwrap(), ["550 5.1.1 nobody", "250 taken"]);
    assert!(connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn one_recipient_too_many_is_a_matter_of_time() {
    for (reply, expected) in [
        ("552 too many recipients", "452 4.5.3 next hop: 552 too many recipients"),
        ("552 5.5.3 too many", "452 4.5.3 next hop: 552 5.5.3 too many"),
        ("552 5.2.2 mailbox full", "552 5.2.2 mailbox full"),
    ] {
        let (mut connection, mut peer) = connected("PIPELINING").await;
        let server = async {
            peer.expect(TWO).await;
            peer.say(&format!("250 ok\n250 ok\n{reply}\n354 go")).await;
            peer.on("DATA\nhi\n.", "250 taken").await;
        };
        let (result, ()) = tokio::join!(send_two(&mut connection, "hi\r\n"), server);
        assert_eq!(result.unwrap(), ["250 taken", expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_354_after_no_valid_recipient_gets_a_lone_dot() {
    for last in ["554 5.5.1 no valid recipients", "250 taken, whatever it was"] {
        let (mut connection, mut peer) = connected("PIPELINING").await;
        let server = async {
            peer.expect(TWO).await;
            peer.expect("DATA").await;
            peer.say_at_once("250 ok\n550 a\n450 b\n354 go").await;
            peer.on(".", last).await;
            peer.on("NOOP", "250 ok").await;
        };
        let client = async {
            assert_eq!(send_two(&mut connection, "secret\r\n").await.unwrap(), ["550 a", "450 b"]);
            connection.noop().await.unwrap();
        };
        tokio::join!(server, client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_sender_is_the_answer_for_every_recipient() {
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING").await;
    let server = async {
        peer.expect(TWO).await;
        peer.expect("BDAT 4 LAST\nhi").await;
        peer.say_at_once("553 5.1.8 no such sender\n503 a\n503 b\n503 c").await;
        peer.expect("RSET").await;
        peer.expect(TWO).await;
        peer.expect("BDAT 4 LAST\nhi").await;
        peer.say_at_once("250 reset\n250 ok\n250 ok\n250 ok\n250 taken").await;
    };
    let client = async {
        let no = "553 5.1.8 no such sender";
        assert_eq!(send_two(&mut connection, "hi\r\n").await.unwrap(), [no, no]);
        assert_eq!(send_two(&mut connection, "hi\r\n").await.unwrap(), ["250 taken", "250 taken"]);
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn a_small_message_is_a_single_flight() {
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING\nSIZE").await;
    let server = async {
        peer.expect("MAIL FROM:<from@client.test> SIZE=5\nRCPT TO:<a@x.test>\nBDAT 5 LAST\n.hi").await;
        peer.say_at_once("250 ok\n250 ok\n250 2.6.0 taken").await;
    };
    let (result, ()) = tokio::join!(send(&mut connection, Body::from_bytes(".hi\r\n"), &["a@x.test"]), server);
    assert_eq!(result.unwrap(), ["250 2.6.0 taken"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_chunk_in_mid_pipeline() {
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING").await;
    let options = SendOptions { chunk_size: 4, single_flight_max: 0, ..SendOptions::default() };
    let server = async {
        peer.expect(TWO).await;
        peer.say_at_once("250 ok\n250 ok\n550 b").await;
        // Chunks fly without waiting.
        peer.expect("BDAT 4\n12").await;
        peer.expect("BDAT 4\n34").await;
        peer.expect("BDAT 4 LAST\n56").await;
        peer.say_at_once("250 a\n452 4.3.1 full\n503 c").await;
        peer.expect("RSET").await;
        peer.expect(TWO).await;
        peer.say_at_once("250 reset\n250 ok\n250 ok\n250 ok").await;
        peer.on("BDAT 4 LAST\nok", "250 taken").await;
    };
    let client = async {
        let two = envelope(&["a@x.test", "b@x.test"]);
        let outcome = connection.send(&two, Body::from_bytes("12\r\n34\r\n56\r\n"), &options).await.unwrap();
        assert_eq!(results(outcome), ["452 4.3.1 full", "550 b"]);
        let outcome = connection.send(&two, pieces([Ok("ok\r\n")]), &options).await.unwrap();
        assert_eq!(results(outcome), ["250 taken", "250 taken"]);
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn no_more_chunks_after_a_refusal() {
    let (mut connection, mut peer) = connected("CHUNKING").await;
    let options = SendOptions { chunk_size: 4, single_flight_max: 0, ..SendOptions::default() };
    let server = async {
        peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>", "250 ok").await;
        peer.on("BDAT 4\n12", "554 5.6.0 no").await;
        peer.on("QUIT", "221 bye").await;
    };
    let client = async {
        let outcome = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("12\r\n34\r\n"), &options).await;
        assert_eq!(results(outcome.unwrap()), ["554 5.6.0 no"]);
        connection.quit().await.unwrap();
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn content_that_the_server_refuses_midway() {
    for (reply, expected) in
        [("552 5.3.4 enough", "552 5.3.4 enough"), ("421 4.3.2 bye", "451 4.3.2 next hop: 421 4.3.2 bye")]
    {
        let (mut connection, mut peer) = connected("").await;
        let body = Body::from_source(Endless, None);
        let server = async {
            peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
            peer.on("RCPT TO:<a@x.test>", "250 ok").await;
            peer.on("DATA", "354 go").await;
            peer.octets(500_000).await;
            peer.say(reply).await;
            let rest = peer.rest().await;
            assert!(!rest.contains("\r\n.\r\n"));
        };
        let client = async {
            assert_eq!(send(&mut connection, body, &["a@x.test"]).await.unwrap(), [expected]);
            assert!(!connection.is_usable());
            drop(connection);
        };
        tokio::join!(client, server);
    }
}

struct Endless;

impl Source for Endless {
    fn poll_chunk(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<Option<bytes::Bytes>>> {
        std::task::Poll::Ready(Ok(Some(
            bytes::Bytes::from_static(&[b'x'; 70]).slice(..68).into_iter().chain(*b"\r\n").collect(),
        )))
    }
}

#[tokio::test(start_paused = true)]
async fn content_refused_at_its_end() {
    for keywords in ["", "PIPELINING", "PIPELINING\nCHUNKING"] {
        let (mut connection, mut peer) = connected(keywords).await;
        let server = async {
            peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
            peer.on("RCPT TO:<a@x.test>", "250 ok").await;
            if keywords.contains("CHUNKING") {
                peer.on("BDAT 4 LAST\nhi", "554 5.7.1 spam").await;
            } else {
                peer.on("DATA", "354 go").await;
                peer.on("hi\n.", "554 5.7.1 spam").await;
            }
        };
        let (result, ()) = tokio::join!(send(&mut connection, Body::from_bytes("hi\r\n"), &["a@x.test"]), server);
        assert_eq!(result.unwrap(), ["554 5.7.1 spam"]);
        assert!(connection.is_usable());
    }
}

#[tokio::test(start_paused = true)]
async fn a_421_at_each_step_of_a_pipelined_transaction() {
    let bye = "451 4.3.2 next hop: 421 bye";
    for (replies, expected) in [
        ("421 bye", [bye, bye]),
        ("250 ok\n421 bye", [bye, bye]),
        ("250 ok\n550 a\n421 bye", ["550 a", bye]),
        ("250 ok\n550 a\n250 ok\n421 bye", ["550 a", bye]),
        ("250 ok\n550 a\n250 ok\n354 go\n421 bye", ["550 a", bye]),
    ] {
        let (mut connection, mut peer) = connected("PIPELINING").await;
        let server = async {
            peer.expect(TWO).await;
            peer.expect("DATA").await;
            peer.say(replies).await;
            drop(peer);
        };
        let (result, ()) = tokio::join!(send_two(&mut connection, "hi\r\n"), server);
        assert_eq!(result.unwrap(), expected, "{replies}");
        assert!(!connection.is_usable());
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_breaks_after_some_were_refused_does_not_lose_their_answer() {
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let server = async {
        peer.expect(TWO).await;
        peer.expect("DATA").await;
        peer.say("250 ok\n550 a\n250 ok\n354 go").await;
        peer.expect("hi\n.").await;
        drop(peer);
    };
    let (result, ()) = tokio::join!(send_two(&mut connection, "hi\r\n"), server);
    let lost =
        "451 4.4.2 next hop: end of content: the channel closed before the reply; the message may have been delivered";
    assert_eq!(result.unwrap(), ["550 a", lost]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_after_the_end_is_in_doubt_and_before_it_is_not() {
    // All in one flight: the first reply missing is as bad as the last.
    for (keywords, replies, step, doubt) in [
        ("PIPELINING\nCHUNKING", "", Step::EndOfContent, true),
        ("PIPELINING\nCHUNKING", "250 ok\n250 ok", Step::EndOfContent, true),
        ("PIPELINING", "250 ok\n250 ok", Step::Data, false),
        ("PIPELINING", "250 ok\n250 ok\n354 go", Step::EndOfContent, true),
        ("", "", Step::Mail, false),
    ] {
        let (mut connection, mut peer) = connected(keywords).await;
        let server = async {
            peer.expect("MAIL FROM:<from@client.test>").await;
            peer.say(replies).await;
            // Time to send all there is to send.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            drop(peer);
        };
        let (result, ()) = tokio::join!(send(&mut connection, Body::from_bytes("hi\r\n"), &["a@x.test"]), server);
        let error = result.unwrap_err();
        assert_eq!((error.step(), error.is_in_doubt()), (step, doubt), "{keywords} {replies}");
        assert!(error.refusal().to_string().starts_with("451 4.4.2 "));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_whole_is_not_sent_as_if_it_had() {
    // In mid-DATA there is no way back.
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let server = async {
        peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>\nDATA", "250 ok\n354 go").await;
        assert!(!peer.rest().await.contains("\r\n.\r\n"));
    };
    let client = async {
        let error = send(&mut connection, pieces([Ok("a\r\n"), Err(())]), &["a@x.test"]).await.unwrap_err();
        assert!(matches!(error, Error::Local { cause: Local::Truncated(_), .. }), "{error}");
        assert!(!connection.is_usable());
    };
    tokio::join!(client, server);

    // Between chunks there is.
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING").await;
    let options = SendOptions { chunk_size: 3, ..SendOptions::default() };
    let server = async {
        peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>", "250 ok").await;
        peer.on("BDAT 3\na", "250 ok").await;
        peer.on("RSET", "250 ok").await;
        peer.on("NOOP", "250 ok").await;
    };
    let client = async {
        let body = pieces([Ok("a\r\n"), Ok("b"), Err(())]);
        let error = connection.send(&envelope(&["a@x.test"]), body, &options).await.unwrap_err();
        assert!(matches!(error, Error::Local { cause: Local::Truncated(_), .. }), "{error}");
        connection.noop().await.unwrap();
    };
    tokio::join!(client, server);

    // A body that lies about its size is found out before anything is sent.
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING").await;
    for size in [2, 4] {
        let body = Body::from_source(Pieces(vec![Ok("a\r\n")].into_iter()), Some(size));
        assert!(send(&mut connection, body, &["a@x.test"]).await.is_err());
    }
    peer.silent().await;
    assert!(connection.is_usable());
}

#[tokio::test(start_paused = true)]
async fn bare_line_ends_never_leave() {
    for body in ["a\nb\r\n", "a\rb\r\n", "a\r\n.\n.\r\n", "a\r"] {
        for keywords in ["", "PIPELINING\nCHUNKING"] {
            let (mut connection, mut peer) = connected(keywords).await;
            let server = async {
                while let Ok(Some(line)) =
                    tokio::time::timeout(std::time::Duration::from_secs(1), peer.line_or_end()).await
                {
                    peer.say(if line == "DATA" { "354 go" } else { "250 ok" }).await;
                }
                peer
            };
            let client = async {
                let error = send(&mut connection, Body::from_bytes(body), &["a@x.test"]).await.unwrap_err();
                assert!(error.refusal().to_string().starts_with("554 5.6.0 "), "{error}");
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                drop(connection);
            };
            let ((), mut peer) = tokio::join!(client, server);
            assert_eq!(peer.rest().await, "");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_cannot_take_is_refused_before_anything_is_sent() {
    let all = SendOptions::default();
    let by_data = SendOptions { transfer: Transfer::Data, ..SendOptions::default() };
    let by_chunks = SendOptions { transfer: Transfer::Chunks, ..SendOptions::default() };
    for (keywords, parameters, body, options, expected) in [
        ("SIZE 10", "", "0123456789\r\n", &all, "552 5.3.4 "),
        ("SIZE 10", "SIZE=11", "x\r\n", &all, ""),
        ("", "BODY=8BITMIME", "ü\r\n", &all, "554 5.6.3 "),
        ("", "BODY=8BITMIME", "x\r\n", &all, ""),
        ("", "", "ü\r\n", &all, "554 5.6.3 "),
        ("8BITMIME", "", "ü\r\n", &all, ""),
        ("8BITMIME\nCHUNKING", "BODY=BINARYMIME", "x\r\n", &all, "554 5.6.1 "),
        ("BINARYMIME", "BODY=BINARYMIME", "x\r\n", &all, "554 5.6.1 "),
        ("BINARYMIME\nCHUNKING", "BODY=BINARYMIME", "x\r\n", &by_data, "554 5.6.1 "),
        ("BINARYMIME\nCHUNKING", "BODY=BINARYMIME", "x\n", &all, ""),
        ("", "SMTPUTF8", "ü\r\n", &all, "553 5.6.7 "),
        ("", "SMTPUTF8", "x\r\n", &all, ""),
        ("", "", "x\r\n", &by_chunks, "555 5.5.4 "),
        ("", "HOLDFOR=60", "x\r\n", &all, "555 5.5.4 MAIL parameter HOLDFOR needs FUTURERELEASE"),
        ("", "XCOLOUR=BLUE", "x\r\n", &all, "555 5.5.4 MAIL parameter XCOLOUR needs XCOLOUR"),
        ("XCOLOUR", "XCOLOUR=BLUE", "x\r\n", &all, ""),
        ("", "REQUIRETLS", "x\r\n", &all, "550 5.7.30 "),
        ("REQUIRETLS", "REQUIRETLS", "x\r\n", &all, "550 5.7.10 "),
        ("", "BY=60;R", "x\r\n", &all, "550 5.4.7 "),
        ("DELIVERBY 61", "BY=60;R", "x\r\n", &all, "550 5.4.7 "),
        ("DELIVERBY 61", "BY=60;N", "x\r\n", &all, ""),
        ("", "BY=60;N RET=HDRS ENVID=x MT-PRIORITY=3 SOLICIT=x PRDR", "x\r\n", &all, ""),
        ("DSN", "RET=HDRS ENVID=x", "x\r\n", &all, ""),
        ("", "SIZE=9 BODY=7BIT AUTH=<>", "x\r\n", &all, ""),
    ] {
        let (mut connection, mut peer) = connected(keywords).await;
        let server = async {
            if !expected.is_empty() {
                peer.silent().await;
                return;
            }
            while let Ok(Some(line)) = tokio::time::timeout(std::time::Duration::from_secs(1), peer.line_or_end()).await
            {
                match line.as_str() {
                    "DATA" => peer.say("354 go").await,
                    "BDAT 2 LAST" => {
                        peer.octets(2).await;
                        peer.say("250 taken").await;
                    }
                    "." => peer.say("250 taken").await,
                    line if line.starts_with("MAIL") || line.starts_with("RCPT") => peer.say("250 ok").await,
                    _ => {}
                }
            }
        };
        let message = envelope_with(parameters, &["a@x.test"]);
        let client = connection.send(&message, Body::from_bytes(body), options);
        let (outcome, ()) = tokio::join!(client, server);
        let result = results(outcome.unwrap()).remove(0);
        let expected = if expected.is_empty() { "250 taken" } else { expected };
        assert!(result.starts_with(expected), "{keywords} {parameters} {body:?}: {result}");
    }
}

#[tokio::test(start_paused = true)]
async fn parameters_are_fitted_to_the_server() {
    for (keywords, given, sent) in [
        ("", "SIZE=4 BODY=7BIT AUTH=<>", "MAIL FROM:<from@client.test>"),
        ("SIZE", "SIZE=9", "MAIL FROM:<from@client.test> SIZE=4"),
        (
            "SIZE\n8BITMIME\nAUTH PLAIN",
            "BODY=8BITMIME AUTH=<>",
            "MAIL FROM:<from@client.test> BODY=8BITMIME AUTH=<> SIZE=4",
        ),
    ] {
        let (mut connection, mut peer) = connected(keywords).await;
        let server = async {
            peer.on(sent, "550 enough").await;
        };
        let message = envelope_with(given, &["a@x.test"]);
        let options = SendOptions::default();
        let (outcome, ()) = tokio::join!(connection.send(&message, Body::from_bytes("hi\r\n"), &options), server);
        assert_eq!(results(outcome.unwrap()), ["550 enough"]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_recipient_that_cannot_be_asked_about_does_not_stop_the_others() {
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let mut message = envelope(&["a@x.test", "jösé@x.test", "c@x.test"]);
    message.recipients[2].parameters = Parameters::new("RRVS=2014-04-03T23:01:00Z").unwrap();
    let server = async {
        peer.on("MAIL FROM:<from@client.test>", "250 ok").await;
        peer.on("RCPT TO:<a@x.test>", "250 ok").await;
        peer.on("DATA", "354 go").await;
        peer.on("hi\n.", "250 taken").await;
    };
    let options = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&message, Body::from_bytes("hi\r\n"), &options), server);
    let results = results(outcome.unwrap());
    assert_eq!(results[0], "250 taken");
    assert!(results[1].starts_with("553 5.6.7 ") && results[2].starts_with("550 5.7.19 "), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn internationalized_mail() {
    let (mut connection, mut peer) = connected("SMTPUTF8\nPIPELINING").await;
    let message = envelope_with("SMTPUTF8", &["jösé@x.test"]);
    let server = async {
        peer.on("MAIL FROM:<from@client.test> SMTPUTF8", "250 ok").await;
        peer.on("RCPT TO:<jösé@x.test>", "250 ok").await;
        peer.on("DATA", "354 go").await;
        peer.on("hi\n.", "250 taken").await;
    };
    let options = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&message, Body::from_bytes("hi\r\n"), &options), server);
    assert_eq!(results(outcome.unwrap()), ["250 taken"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_content_that_was_not_sent_is_no_answer() {
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let server = async {
        peer.expect("MAIL FROM:<from@client.test>").await;
        peer.say_at_once("250 ok\n250 ok\n354 go\n250 taken").await;
    };
    let (result, ()) = tokio::join!(send(&mut connection, Body::from_bytes("hi\r\n"), &["a@x.test"]), server);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Misbehaved { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_does_not_help_says_nothing_of_the_recipients() {
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let server = async {
        peer.on("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA", "250 ok\n550 no\n503 no").await;
        peer.expect("RSET\nMAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA").await;
        peer.say_at_once("500 what\n503 nested\n550 no\n503 no").await;
    };
    let client = async {
        assert_eq!(send(&mut connection, Body::from_bytes("x"), &["a@x.test"]).await.unwrap(), ["550 no"]);
        let result = send(&mut connection, Body::from_bytes("x"), &["a@x.test"]).await.unwrap();
        assert_eq!(result, ["451 4.4.2 next hop: RSET: refused: 500 what"]);
    };
    tokio::join!(server, client);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stalls_is_given_up_by_its_own_deadline() {
    struct Stalled;
    impl Source for Stalled {
        fn poll_chunk(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<Option<bytes::Bytes>>> {
            std::task::Poll::Pending
        }
    }
    for size in [None, Some(5)] {
        let (mut connection, mut peer) = connected("PIPELINING").await;
        let since = tokio::time::Instant::now();
        let server = async {
            if size.is_none() {
                peer.on("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA", "250 ok\n250 ok\n354 go").await;
            }
        };
        let (result, ()) = tokio::join!(send(&mut connection, Body::from_source(Stalled, size), &["a@x.test"]), server);
        assert!(matches!(result.unwrap_err(), Error::Local { cause: Local::Truncated(_), .. }));
        assert_eq!(since.elapsed(), smtp_client::Timeouts::default().source);
        assert_eq!(connection.is_usable(), size.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn mail_before_ehlo_is_refused_here() {
    let (stream, mut peer) = crate::peer::pair();
    let client = Connection::over(stream, &smtp_core::stream::TlsPolicy::NONE, crate::peer::options());
    let (connection, ()) = tokio::join!(client, peer.say("220 mx"));
    let error = send(&mut connection.unwrap(), Body::from_bytes("x"), &["a@x.test"]).await.unwrap_err();
    assert!(matches!(error, Error::Local { step: Step::Mail, .. }));
}
