//! The scripted server, and what it says of clients that do not keep to the script.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

use smtp_core::stream::{ByteStream, Connector, Target, TlsPolicy};
use smtp_core::types::Host;
use smtp_test::memory::Knobs;
use smtp_test::scenario::{Got, Scenario};
use smtp_test::server::ScriptedServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn script(text: &str) -> Scenario {
    Scenario::parse("script", text).unwrap()
}

async fn stream(server: &ScriptedServer) -> Box<dyn ByteStream> {
    let target = Target::host(Host::Domain("mx.example".parse().unwrap()), 25);
    server.connector().connect(&target, &TlsPolicy::OPPORTUNISTIC).await.unwrap().open().await.unwrap()
}

async fn read(io: &mut Box<dyn ByteStream>, len: usize) -> String {
    let mut got = vec![0; len];
    io.read_exact(&mut got).await.unwrap();
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn scripts_are_played_one_after_the_other() {
    let server = ScriptedServer::start(vec![script("S: 220 one\nC: EHLO *\nS!\n"), script("S: 421 two\nS!\n")]);
    let mut first = stream(&server).await;
    assert_eq!(read(&mut first, 9).await, "220 one\r\n");
    first.write_all(b"EHLO anybody\r\n").await.unwrap();
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
    let mut second = stream(&server).await;
    assert_eq!(read(&mut second, 9).await, "421 two\r\n");
    server.finish().await.unwrap();
}

#[tokio::test]
async fn replies_that_stand_together_leave_together_and_an_open_reply_is_ended() {
    let server = ScriptedServer::start(vec![script("C: EHLO x\nS: 250-mx\nS: ...\nS: 250 *\nS+: 250 raw\\n\nS!\n")]);
    let mut io = stream(&server).await;
    io.write_all(b"EHLO x\r\n").await.unwrap();
    let mut said = String::new();
    io.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "250-mx\r\n250 any\r\n250 any\r\n250 raw\n");
    server.finish().await.unwrap();
}

#[tokio::test]
async fn a_client_that_says_something_else_is_found_out() {
    let server = ScriptedServer::start(vec![script("S: 220 mx\nC: EHLO *\nS: 250 mx\n")]);
    let mut io = stream(&server).await;
    io.write_all(b"HELO x\r\n").await.unwrap();
    let mismatch = server.finish().await.unwrap_err();
    assert_eq!((mismatch.line, mismatch.expected.as_str()), (2, "C: EHLO *"));
    assert!(matches!(&mismatch.got, Got::Octets(octets) if octets == b"HELO x"), "{mismatch}");
}

#[tokio::test]
async fn starttls_in_a_script() {
    let text = "S: 220 mx\nC: STARTTLS\nS: 220 go\nUPGRADE\nC: EHLO *\nS: 250 mx\nS!\n";
    let server = ScriptedServer::start_on(Knobs::starttls(), vec![script(text), script(text)]);
    let mut io = stream(&server).await;
    read(&mut io, 8).await;
    io.write_all(b"STARTTLS\r\n").await.unwrap();
    read(&mut io, 8).await;
    let mut io = io.upgrade().await.unwrap();
    io.write_all(b"EHLO x\r\n").await.unwrap();
    assert_eq!(read(&mut io, 8).await, "250 mx\r\n");
    // A client that goes on in clear gets no further than this.
    let mut io = stream(&server).await;
    read(&mut io, 8).await;
    io.write_all(b"STARTTLS\r\nEHLO x\r\n").await.unwrap();
    let mismatch = server.finish().await.unwrap_err();
    assert_eq!(mismatch.expected, "UPGRADE");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "scripts are left")]
async fn a_client_that_does_not_come_back_is_missed() {
    let server = ScriptedServer::start(vec![script("S: 220 mx\nS!\n")]);
    let _ = server.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_is_not_waited_for_for_ever() {
    let server = ScriptedServer::start(vec![script("S: 220 mx\nC: EHLO *\n")]);
    let _io = stream(&server).await;
    // Its own patience ends before that of whoever waits for it.
    tokio::time::sleep(std::time::Duration::from_secs(29)).await;
    let mismatch = server.finish().await.unwrap_err();
    assert!(matches!(mismatch.got, Got::Silence(..)), "{mismatch}");
}
