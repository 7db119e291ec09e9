//! A server that falls silent, at every step: the error names the step, at the exact time.

use std::time::Duration;

use smtp_client::{Connection, Error, SendOptions, Step, Timeouts, Transfer};
use smtp_core::service::Body;
use smtp_core::stream::TlsPolicy;
use tokio::time::Instant;

use crate::peer::{Peer, Upgrade, envelope, options, pair, pair_of, upgradable};

/// Sends one message with everything there is, up to where the server falls silent.
async fn session(mut stream: Option<Box<dyn smtp_core::stream::ByteStream>>, transfer: Transfer) -> Result<(), Error> {
    let stream = stream.take().unwrap();
    let mut connection = Connection::over(stream, &TlsPolicy::OPPORTUNISTIC, options()).await?;
    connection.hello().await?;
    let options = SendOptions { transfer, chunk_size: 4, single_flight_max: 0, ..SendOptions::default() };
    let outcome = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("12345\r\n"), &options).await?;
    assert!(outcome.single().is_ok());
    connection.quit().await?;
    Ok(())
}

/// What a server says, up to a point, and what then does not come in time.
struct Case {
    script: &'static [(&'static str, &'static str)],
    step: Step,
    after: Duration,
    transfer: Transfer,
}

const GREET: (&str, &str) = ("", "220 mx");
const EHLO: (&str, &str) = ("EHLO client.test", "250-mx\n250 CHUNKING");
const MAIL: (&str, &str) = ("MAIL FROM:<from@client.test>", "250 ok");
const RCPT: (&str, &str) = ("RCPT TO:<a@x.test>", "250 ok");
const DATA: (&str, &str) = ("DATA", "354 go");
const BODY: (&str, &str) = ("12345\n.", "250 taken");
const CHUNK: (&str, &str) = ("BDAT 4", "250 ok");

fn cases() -> Vec<Case> {
    let t = Timeouts::default();
    let case = |script, step, after| Case { script, step, after, transfer: Transfer::Data };
    let chunked = |script, step, after| Case { script, step, after, transfer: Transfer::Chunks };
    vec![
        case(&[], Step::Greeting, t.greeting),
        case(&[GREET], Step::Hello, t.command),
        case(&[GREET, EHLO], Step::Mail, t.mail),
        case(&[GREET, EHLO, MAIL], Step::Rcpt, t.rcpt),
        case(&[GREET, EHLO, MAIL, RCPT], Step::Data, t.data),
        case(&[GREET, EHLO, MAIL, RCPT, DATA], Step::EndOfContent, t.end_of_content),
        case(&[GREET, EHLO, MAIL, RCPT, DATA, BODY], Step::Quit, t.quit),
        chunked(&[GREET, EHLO, MAIL, RCPT], Step::Content, t.block),
        chunked(&[GREET, EHLO, MAIL, RCPT, CHUNK], Step::EndOfContent, t.end_of_content),
    ]
}

async fn play(peer: &mut Peer, script: &[(&str, &str)]) {
    for (line, reply) in script {
        peer.on(line, reply).await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_at_every_step_ends_at_the_deadline_and_names_the_step() {
    for Case { script, step, after, transfer } in cases() {
        let (stream, mut peer) = pair();
        let start = Instant::now();
        let server = async {
            play(&mut peer, script).await;
            // Half a reply is silence too.
            peer.say_octets(b"250").await;
            peer
        };
        let (result, mut peer) = tokio::join!(session(Some(stream), transfer), server);
        match result.unwrap_err() {
            Error::Timeout { step: got, after: waited } => assert_eq!((got, waited), (step, after)),
            other => panic!("{step}: {other}"),
        }
        assert_eq!(start.elapsed(), after, "{step}");
        // The connection is closed, so that no later octet can be taken for a command.
        peer.rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_closes_at_every_step_names_the_step() {
    for Case { script, step, transfer, .. } in cases() {
        let (stream, mut peer) = pair();
        let server = async {
            play(&mut peer, script).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            peer.say_octets(b"250").await;
            drop(peer);
        };
        let (result, ()) = tokio::join!(session(Some(stream), transfer), server);
        match result.unwrap_err() {
            Error::Closed { step: got, .. } => assert_eq!(got, step),
            other => panic!("{step}: {other}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_at_every_step_names_the_step() {
    for Case { script, step, transfer, .. } in cases() {
        for garbage in
            [&b"HTTP/1.1 200 OK\r\n"[..], b"25\r\n", b"250 a\n", b"999 x\r\n", b"250-a\r\n550 b\r\n", b"\xff\xfe\r\n"]
        {
            let (stream, mut peer) = pair();
            let server = async {
                play(&mut peer, script).await;
                peer.line_or_nothing().await;
                peer.say_octets(garbage).await;
                peer
            };
            let (result, mut peer) = tokio::join!(session(Some(stream), transfer), server);
            match result.unwrap_err() {
                Error::Misbehaved { step: got, .. } => assert_eq!(got, step),
                other => panic!("{step}: {other}"),
            }
            peer.rest().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_trickles_does_not_extend_the_deadline() {
    let (stream, mut peer) = pair();
    let start = Instant::now();
    let server = async {
        for octet in b"220-this will never end" {
            peer.say_octets(&[*octet]).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    let client = async {
        let error = session(Some(stream), Transfer::Auto).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { step: Step::Greeting, .. }));
        assert_eq!(start.elapsed(), Timeouts::default().greeting);
    };
    tokio::join!(client, server);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_ends() {
    let (stream, mut peer) = upgradable(Upgrade::Hangs);
    let start = Instant::now();
    let server = async {
        peer.greet("STARTTLS").await;
        peer.on("STARTTLS", "220 go").await;
    };
    let (result, ()) = tokio::join!(session(Some(stream), Transfer::Auto), server);
    assert!(matches!(result.unwrap_err(), Error::Timeout { step: Step::Tls, .. }));
    assert_eq!(start.elapsed(), Timeouts::default().tls);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_reading_ends_at_the_deadline_of_a_block() {
    let (stream, mut peer) = pair_of(4096, crate::peer::clear());
    let server = async {
        play(&mut peer, &[GREET, ("EHLO client.test", "250 mx"), MAIL, RCPT, DATA]).await;
        peer
    };
    let start = Instant::now();
    let client = async {
        let mut connection = Connection::over(stream, &TlsPolicy::NONE, options()).await?;
        connection.hello().await?;
        let body = Body::from_bytes(
            b"x".repeat(60_000).chunks(60).map(|l| [l, b"\r\n"].concat()).collect::<Vec<_>>().concat(),
        );
        connection
            .send(&envelope(&["a@x.test"]), body, &SendOptions { single_flight_max: 0, ..SendOptions::default() })
            .await
    };
    let (result, _peer) = tokio::join!(client, server);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Timeout { step: Step::EndOfContent | Step::Content, .. }), "{error}");
    assert_eq!(start.elapsed(), Timeouts::default().block);
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_end_is_not_an_overflow() {
    let (stream, mut peer) = pair();
    let options = smtp_client::Options { timeouts: Timeouts::all(Duration::MAX), ..(*options()).clone() };
    let server = async {
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        peer.say("220 at last").await;
    };
    let client = Connection::over(stream, &TlsPolicy::NONE, options.into());
    let (result, ()) = tokio::join!(client, server);
    result.unwrap();
}
