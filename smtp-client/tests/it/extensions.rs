//! What each extension is to a client: used where it is offered, and what becomes of it where it is not.

use std::sync::Arc;

use smtp_client::{Client, Connection, Options, SendOptions, Settings};
use smtp_core::channel::SessionInfo;
use smtp_core::extension::{Extension, ParameterRule};
use smtp_core::service::{Body, Omitted, Outcome, Source, Transaction};
use smtp_core::stream::TlsPolicy;
use smtp_core::types::{Envelope, Parameters};
use tower::{Service, ServiceExt};

use crate::peer::{
    Peer, Scripted, connected, connected_with, envelope, envelope_with, inside_tls, options, pair, results, target,
};

fn message(mail: &str, recipients: &[(&str, &str)]) -> Envelope {
    let names: Vec<&str> = recipients.iter().map(|(name, _)| *name).collect();
    let mut message = envelope_with(mail, &names);
    for (rcpt, (_, parameters)) in message.recipients.iter_mut().zip(recipients) {
        rcpt.parameters = Parameters::new(parameters).unwrap();
    }
    message
}

async fn send(connection: &mut Connection, message: &Envelope) -> Outcome {
    connection.send(message, Body::from_bytes("hi\r\n"), &SendOptions::default()).await.unwrap()
}

/// Takes one message to one recipient by DATA, in lock step; the parameters that MAIL and RCPT came with.
async fn take_one(peer: &mut Peer) -> [String; 2] {
    let mut heard = Vec::new();
    for (start, reply) in [("MAIL FROM:<from@client.test>", "250 ok"), ("RCPT TO:<a@x.test>", "250 ok")] {
        let line = peer.line().await;
        heard.push(line.strip_prefix(start).unwrap_or_else(|| panic!("{line}")).trim_start().to_owned());
        peer.say(reply).await;
    }
    peer.on("DATA", "354 go").await;
    peer.on("hi\n.", "250 taken").await;
    heard.try_into().unwrap()
}

/// Keywords, parameters of MAIL and RCPT as they are given, and as they are sent.
async fn fits(keywords: &str, given: [&str; 2], sent: [&str; 2]) -> Omitted {
    let (mut connection, mut peer) = connected(keywords).await;
    let message = message(given[0], &[("a@x.test", given[1])]);
    let (outcome, heard) = tokio::join!(send(&mut connection, &message), take_one(&mut peer));
    assert_eq!(heard, sent, "{keywords}");
    outcome.single().unwrap().omitted()
}

#[tokio::test(start_paused = true)]
async fn dsn_is_passed_on_or_left_out_with_a_note() {
    let mail = "RET=HDRS ENVID=QQ314159";
    let rcpt = "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@Example.COM";
    assert_eq!(fits("DSN", [mail, rcpt], [mail, rcpt]).await, Omitted::NOTHING);
    assert_eq!(fits("", [mail, rcpt], ["", ""]).await, Omitted::DSN);
    // Nobody waits for a notice that would not come.
    assert_eq!(fits("", [mail, "NOTIFY=FAILURE"], ["", ""]).await, Omitted::NOTHING);
    // A form that every server with DSN takes.
    let unicode = "ORCPT=utf-8;jörg@x.test";
    assert_eq!(fits("DSN", ["", unicode], ["", "ORCPT=utf-8;j\\x{F6}rg@x.test"]).await, Omitted::NOTHING);
    fits("DSN\nSMTPUTF8", ["SMTPUTF8", unicode], ["SMTPUTF8", unicode]).await;
}

#[tokio::test(start_paused = true)]
async fn a_note_is_about_the_recipient_that_asked() {
    let (mut connection, mut peer) = connected("PIPELINING").await;
    let message = message("", &[("a@x.test", "NOTIFY=SUCCESS"), ("b@x.test", "NOTIFY=NEVER")]);
    let server = async {
        peer.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nRCPT TO:<b@x.test>\nDATA").await;
        peer.say("250 ok\n250 ok\n250 ok\n354 go").await;
        peer.on("hi\n.", "250 taken").await;
    };
    let (outcome, ()) = tokio::join!(send(&mut connection, &message), server);
    let omitted: Vec<Omitted> = outcome.iter().map(|r| r.as_ref().unwrap().omitted()).collect();
    assert_eq!(omitted, [Omitted::DSN, Omitted::NOTHING]);
}

#[tokio::test(start_paused = true)]
async fn deliver_by_and_priority_are_passed_on_or_noted() {
    assert_eq!(fits("DELIVERBY 60", ["BY=60;R", ""], ["BY=60;R", ""]).await, Omitted::NOTHING);
    assert_eq!(fits("", ["BY=60;NT", ""], ["", ""]).await, Omitted::DELIVER_BY);
    assert_eq!(fits("MT-PRIORITY MIXER", ["MT-PRIORITY=-3", ""], ["MT-PRIORITY=-3", ""]).await, Omitted::NOTHING);
    let both = Omitted::DELIVER_BY.and(Omitted::PRIORITY);
    assert_eq!(fits("", ["MT-PRIORITY=3 BY=1;N", ""], ["", ""]).await, both);
}

#[tokio::test(start_paused = true)]
async fn future_release_solicit_and_rrvs_are_passed_on() {
    for (keyword, given) in [
        ("FUTURERELEASE 1000 2014-04-03T23:17:40Z", ["HOLDFOR=60", ""]),
        ("FUTURERELEASE 1000 2014-04-03T23:17:40Z", ["HOLDUNTIL=2014-04-03T23:17:40Z", ""]),
        ("NO-SOLICITING", ["SOLICIT=net.example:ADV", ""]),
        ("RRVS", ["", "RRVS=2014-04-03T23:01:00Z"]),
        ("SIZE\n8BITMIME\nSMTPUTF8", ["BODY=8BITMIME SMTPUTF8 SIZE=4", ""]),
        ("CHECKPOINT\nMTRK\nCONPERM\nCONNEG", ["TRANSID=<1@x> MTRK=abc:60 CONPERM", "CONNEG"]),
    ] {
        assert_eq!(fits(keyword, given, given).await, Omitted::NOTHING);
    }
    fits("", ["SOLICIT=x TRANSID=<1@x> MTRK=abc CONPERM", "RRVS=2014-04-03T23:01:00Z;C CONNEG"], ["", ""]).await;
}

#[tokio::test(start_paused = true)]
async fn requiretls_goes_only_to_a_server_that_is_verified_and_offers_it() {
    for (verified, keywords, sent) in [(true, "REQUIRETLS", true), (false, "REQUIRETLS", false), (true, "", false)] {
        let (stream, mut peer) = inside_tls(verified);
        let server = async {
            peer.greet(keywords).await;
            if sent {
                assert_eq!(take_one(&mut peer).await, ["REQUIRETLS", ""]);
            } else {
                assert_eq!(peer.rest().await, "");
            }
        };
        let client = async {
            let mut connection = Connection::over(stream, &TlsPolicy::NONE, options()).await.unwrap();
            connection.hello().await.unwrap();
            results(send(&mut connection, &envelope_with("REQUIRETLS", &["a@x.test"])).await).remove(0)
        };
        let (result, ()) = tokio::join!(client, server);
        let expected = match (sent, verified) {
            (true, _) => "250",
            (false, false) => "550 5.7.10 ",
            (false, true) => "550 5.7.30 ",
        };
        assert!(result.starts_with(expected), "{verified} {keywords}: {result}");
    }
}

/// What follows the content, and what each of two recipients gets.
#[tokio::test(start_paused = true)]
async fn prdr_gives_each_recipient_its_own_reply() {
    for (keywords, replies, expected) in [
        ("PRDR\nPIPELINING", "353 each\n250 a\n550 5.7.1 b\n250 all", ["250 a", "550 5.7.1 b"]),
        ("PRDR\nPIPELINING\nCHUNKING", "353 each\n452 4.2.2 a\n250 b\n250 all", ["452 4.2.2 a", "250 b"]),
        ("PRDR", "353 each\n250 a\n250 b\n250 all", ["250 a", "250 b"]),
        // The last word is about the message.
        ("PRDR", "353 each\n250 a\n550 5.7.1 b\n451 4.3.0 lost", ["451 4.3.0 lost", "550 5.7.1 b"]),
        ("PRDR", "353 each\n550 a\n550 b\n550 all", ["550 a", "550 b"]),
        // A server may leave it at one.
        ("PRDR", "250 all", ["250 all", "250 all"]),
        ("PRDR", "554 all", ["554 all", "554 all"]),
    ] {
        let (mut connection, mut peer) = connected(keywords).await;
        let server = async {
            peer.on("MAIL FROM:<from@client.test> PRDR", "250 ok").await;
            peer.on("RCPT TO:<a@x.test>", "250 ok").await;
            peer.on("RCPT TO:<b@x.test>", "250 ok").await;
            if keywords.contains("CHUNKING") {
                peer.expect("BDAT 4 LAST\nhi").await;
            } else {
                peer.on("DATA", "354 go").await;
                peer.expect("hi\n.").await;
            }
            peer.say(replies).await;
        };
        let message = envelope(&["a@x.test", "b@x.test"]);
        let (outcome, ()) = tokio::join!(send(&mut connection, &message), server);
        assert_eq!(results(outcome), expected, "{replies}");
        assert!(connection.is_usable(), "{replies}");
    }
}

#[tokio::test(start_paused = true)]
async fn prdr_is_asked_for_only_where_it_says_something() {
    // One recipient; or one that is left. What an earlier hop asked for is its own business.
    fits("PRDR", ["PRDR", ""], ["", ""]).await;
    let (mut connection, mut peer) = connected("PRDR\nPIPELINING").await;
    let server = async {
        peer.expect("MAIL FROM:<from@client.test> PRDR\nRCPT TO:<a@x.test>\nRCPT TO:<b@x.test>\nDATA").await;
        peer.say("250 ok\n550 5.1.1 a\n250 ok\n354 go").await;
        peer.on("hi\n.", "250 taken").await;
    };
    let message = envelope(&["a@x.test", "b@x.test"]);
    let (outcome, ()) = tokio::join!(send(&mut connection, &message), server);
    assert_eq!(results(outcome), ["550 5.1.1 a", "250 taken"]);
}

/// The server's side of one transaction for these recipients, in a single flight.
async fn take(peer: &mut Peer, recipients: &[&str]) {
    peer.expect("MAIL FROM:<from@client.test>").await;
    for recipient in recipients {
        peer.expect(&format!("RCPT TO:<{recipient}>")).await;
    }
    peer.expect("BDAT 4 LAST\nhi").await;
    peer.say_at_once(&format!("250 ok\n{}250 taken {}", "250 ok\n".repeat(recipients.len()), recipients.join(" ")))
        .await;
}

#[tokio::test(start_paused = true)]
async fn limits_split_a_message_into_transactions() {
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING\nLIMITS RCPTMAX=2 RCPTDOMAINMAX=1").await;
    let server = async {
        take(&mut peer, &["a@x.test", "c@x.test"]).await;
        take(&mut peer, &["b@y.test"]).await;
        take(&mut peer, &["d@x.test"]).await;
    };
    let message = envelope(&["a@x.test", "b@y.test", "c@x.test", "d@x.test"]);
    let (outcome, ()) = tokio::join!(send(&mut connection, &message), server);
    let (first, second) = ("250 taken a@x.test c@x.test", "250 taken b@y.test");
    assert_eq!(results(outcome), [first, second, first, "250 taken d@x.test"]);
}

#[tokio::test(start_paused = true)]
async fn limits_on_messages_open_another_session() {
    let ((first, mut a), (second, mut b)) = (pair(), pair());
    let keywords = "PIPELINING\nCHUNKING\nLIMITS RCPTMAX=1 MAILMAX=2";
    let settings = Settings { options: (*options()).clone(), ..Settings::default() };
    let mut client = Client::new(Scripted::of([first, second]), target(), settings);
    let server = async {
        a.greet(keywords).await;
        take(&mut a, &["a@x.test"]).await;
        take(&mut a, &["b@x.test"]).await;
        a.on("QUIT", "221 bye").await;
        b.greet(keywords).await;
        take(&mut b, &["c@x.test"]).await;
    };
    let work = async {
        let envelope = envelope(&["a@x.test", "b@x.test", "c@x.test"]);
        let body = Body::from_bytes("hi\r\n");
        let transaction = Transaction { session: SessionInfo::local("test"), envelope, body };
        results(client.ready().await.unwrap().call(transaction).await.unwrap())
    };
    let (results, ()) = tokio::join!(work, server);
    assert_eq!(results, ["250 taken a@x.test", "250 taken b@x.test", "250 taken c@x.test"]);
}

/// A message that is too large for one flight is still small enough to be sent twice.
#[tokio::test(start_paused = true)]
async fn limits_split_a_larger_message_too() {
    let (mut connection, mut peer) = connected("PIPELINING\nCHUNKING\nLIMITS RCPTMAX=1").await;
    let content = "0123456789\r\n".repeat(10_000);
    let command = format!("BDAT {} LAST", content.len());
    let server = async {
        for to in ["a@x.test", "b@x.test"] {
            peer.expect(&format!("MAIL FROM:<from@client.test>\nRCPT TO:<{to}>")).await;
            peer.silent().await;
            peer.say("250 ok\n250 ok").await;
            peer.expect(&command).await;
            assert_eq!(peer.octets(content.len()).await, content.as_bytes());
            peer.say("250 taken").await;
        }
    };
    let message = envelope(&["a@x.test", "b@x.test"]);
    let options = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&message, Body::from_bytes(content.clone()), &options), server);
    assert_eq!(results(outcome.unwrap()), ["250 taken", "250 taken"]);
}

/// A body that cannot be had twice.
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
async fn limits_leave_the_rest_where_the_content_cannot_be_sent_twice() {
    let (mut connection, mut peer) = connected("PIPELINING\nLIMITS RCPTMAX=1").await;
    let server = async {
        peer.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA").await;
        peer.say("250 ok\n250 ok\n354 go").await;
        peer.on("hi\n.", "250 taken").await;
        peer.silent().await;
    };
    let message = envelope(&["a@x.test", "b@x.test"]);
    let body = Body::from_source(Once(Some("hi\r\n")), None);
    let options = SendOptions::default();
    let (outcome, ()) = tokio::join!(connection.send(&message, body, &options), server);
    let results = results(outcome.unwrap());
    assert_eq!(results[0], "250 taken");
    assert!(results[1].starts_with("452 4.5.3 "), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn pipelining_can_be_switched_off() {
    let options = Options { pipelining: false, ..(*options()).clone() };
    let (mut connection, mut peer) = connected_with("PIPELINING\nCHUNKING", Arc::new(options)).await;
    let server = async {
        for (line, reply) in [
            ("MAIL FROM:<from@client.test>", "250 ok"),
            ("RCPT TO:<a@x.test>", "250 ok"),
            ("RCPT TO:<b@x.test>", "550 5.1.1 nobody"),
            ("BDAT 4 LAST\nhi", "250 taken"),
        ] {
            peer.expect(line).await;
            peer.silent().await;
            peer.say(reply).await;
        }
    };
    let message = envelope(&["a@x.test", "b@x.test"]);
    let (outcome, ()) = tokio::join!(send(&mut connection, &message), server);
    assert_eq!(results(outcome), ["250 taken", "550 5.1.1 nobody"]);
}

/// An extension of one's own, on the client's side.
static XCOLOUR: Extension =
    Extension { mail: &[ParameterRule::keyword("XHUE").or_omitted()], ..Extension::keyword("XCOLOUR", "this file") };

#[tokio::test(start_paused = true)]
async fn an_extension_of_ones_own_has_its_own_downgrade() {
    for (keywords, sent) in [("XCOLOUR", " XHUE=BLUE"), ("", "")] {
        let mut options = (*options()).clone();
        options.registry = options.registry.with(&XCOLOUR);
        let (mut connection, mut peer) = connected_with(keywords, Arc::new(options)).await;
        let line = format!("MAIL FROM:<from@client.test>{sent}");
        let server = async { peer.on(&line, "550 enough").await };
        let message = envelope_with("XHUE=BLUE", &["a@x.test"]);
        let (outcome, ()) = tokio::join!(send(&mut connection, &message), server);
        assert_eq!(results(outcome), ["550 enough"]);
    }
}

#[tokio::test(start_paused = true)]
async fn etrn_and_other_verbs_are_asked_as_they_stand() {
    let (mut connection, mut peer) = connected("ETRN").await;
    let server = async {
        peer.on("ETRN @example.org", "253 2.0.0 3 pending messages").await;
        peer.on("BURL imap://x/y LAST", "502 5.5.1 no").await;
    };
    let client = async {
        assert_eq!(connection.verb("ETRN", "@example.org").await.unwrap().code().get(), 253);
        assert!(connection.verb("BURL", "imap://x/y LAST").await.is_err());
        // Nothing of a caller's starts a second line.
        assert!(connection.verb("ETRN", "x\r\nDATA").await.is_err());
    };
    tokio::join!(server, client);
}
