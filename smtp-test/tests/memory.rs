//! What the knobs of the memory transport do, and what its connections are.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the exception for tests covers only their functions")]

use std::io::ErrorKind;
use std::time::Duration;

use smtp_core::stream::{
    ByteStream, CloseCode, ConnectStep, Connector, Listener, Target, TlsMode, TlsPolicy, Verification,
};
use smtp_core::types::Host;
use smtp_test::memory::{Cut, Knobs, MemoryListener, Pace, Tls, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_millis(10);

fn target() -> Target {
    Target::host(Host::Domain("mx.example".parse().unwrap()), 25)
}

fn policy(mode: TlsMode) -> TlsPolicy {
    TlsPolicy { mode, verification: Verification::None }
}

#[tokio::test]
async fn reads_and_writes_are_as_small_as_asked() {
    let (mut client, mut server) = pair(Knobs {
        client: Pace { write: 3, ..Pace::default() },
        server: Pace { read: 2, ..Pace::default() },
        ..Knobs::default()
    });
    assert_eq!(client.write(b"abcdef").await.unwrap(), 3);
    let mut buf = [0; 10];
    assert_eq!(server.read(&mut buf).await.unwrap(), 2);
    assert_eq!(server.read(&mut buf).await.unwrap(), 1);
    assert_eq!(server.write(b"abcdef").await.unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_full_channel_makes_the_writer_wait() {
    let (mut client, mut server) = pair(Knobs { capacity: 4, ..Knobs::default() });
    assert_eq!(client.write(b"abcdef").await.unwrap(), 4);
    assert!(timeout(SOON, client.write(b"ef")).await.is_err());
    server.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(client.write(b"efgh").await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn octets_arrive_when_their_time_has_come() {
    let (mut client, mut server) = pair(Knobs { latency: Duration::from_millis(70), ..Knobs::default() });
    let begin = Instant::now();
    client.write_all(b"a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.write_all(b"b").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'a');
    assert_eq!(begin.elapsed().as_millis(), 70);
    assert_eq!(server.read_u8().await.unwrap(), b'b');
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(begin.elapsed().as_millis(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_lazy_end_keeps_back_what_is_not_flushed() {
    let (mut client, mut server) = pair(Knobs { client: Pace::LAZY, ..Knobs::default() });
    client.write_all(b"abc").await.unwrap();
    assert!(timeout(SOON, server.read_u8()).await.is_err());
    client.flush().await.unwrap();
    server.read_exact(&mut [0; 3]).await.unwrap();
    client.write_all(b"lost").await.unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_eof_cut_lets_exactly_so_many_octets_through() {
    for after in 0..6 {
        let (mut client, mut server) = pair(Knobs { from_client: Some(Cut::eof(after)), ..Knobs::default() });
        // Who writes does not notice.
        client.write_all(b"abcd").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, &b"abcd"[..usize::try_from(after.min(4)).unwrap()]);
        // The other direction is whole.
        server.write_all(b"still here").await.unwrap();
        client.read_exact(&mut [0; 10]).await.unwrap();
    }
}

#[tokio::test]
async fn a_reset_cut_breaks_both_directions() {
    let (mut client, mut server) = pair(Knobs { from_server: Some(Cut::reset(2)), ..Knobs::default() });
    client.write_all(b"x").await.unwrap();
    server.write_all(b"abcd").await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // What had arrived before can be read.
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn under_tls_only_the_peer_can_end_the_stream() {
    let tls = || Knobs { tls: Tls::Implicit, ..Knobs::default() };
    let (mut client, mut server) = pair(tls());
    client.shutdown().await.unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    let (client, mut server) = pair(tls());
    drop(client);
    assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let (mut client, mut server) = pair(Knobs { from_client: Some(Cut::eof(1)), ..tls() });
    client.write_all(b"ab").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'a');
    assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_harsh_close_takes_the_last_words_along() {
    for harsh_close in [false, true] {
        let (mut client, mut server) = pair(Knobs { harsh_close, ..Knobs::default() });
        client.write_all(b"unread").await.unwrap();
        server.write_all(b"221 bye").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let mut got = Vec::new();
        match client.read_to_end(&mut got).await {
            Ok(_) => assert!(!harsh_close && got == b"221 bye"),
            Err(error) => assert!(harsh_close && error.kind() == ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn an_abort_is_seen_and_loses_what_was_under_way() {
    let (mut client, mut server) = pair(Knobs::default());
    client.write_all(b"lost").await.unwrap();
    (Box::new(client) as Box<dyn ByteStream>).abort(CloseCode::Protocol);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_upgrade_fails_where_it_should() {
    let upgrade = async |knobs: Knobs| {
        let (client, server) = pair(knobs);
        let (client, server) = tokio::join!(Box::new(client).upgrade(), Box::new(server).upgrade());
        (client.err().map(|e| e.kind()), server.err().map(|e| e.kind()))
    };
    assert_eq!(upgrade(Knobs::starttls()).await, (None, None));
    assert_eq!(upgrade(Knobs::default()).await, (Some(ErrorKind::Unsupported), Some(ErrorKind::Unsupported)));
    let broken = Knobs { tls: Tls::Broken, ..Knobs::starttls() };
    assert_eq!(upgrade(broken).await, (Some(ErrorKind::InvalidData), Some(ErrorKind::InvalidData)));
    // A server that goes on in clear.
    let (client, mut server) = pair(Knobs::starttls());
    server.write_all(b"250 2.0.0 injected\r\n").await.unwrap();
    assert_eq!(Box::new(client).upgrade().await.err().unwrap().kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_single_stream_connection_is_its_stream() {
    let listener = MemoryListener::new(Knobs::default());
    let mut client = listener.connector().connect(&target(), &TlsPolicy::NONE).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    // The server can greet before the client asks for the stream.
    let mut ours = server.accept().await.unwrap().unwrap();
    ours.write_all(b"220\r\n").await.unwrap();
    let mut theirs = client.open().await.unwrap();
    theirs.read_exact(&mut [0; 5]).await.unwrap();
    assert_eq!((client.max_parallel(), server.max_parallel()), (1, 1));
    assert_eq!(client.open().await.err().unwrap().kind(), ErrorKind::NotConnected);
    assert!(server.accept().await.unwrap().is_none());
    assert_eq!(server.open().await.err().unwrap().kind(), ErrorKind::Unsupported);
    assert!(client.accept().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn streams_are_invisible_before_their_first_octet_and_no_more_than_allowed() {
    let listener = MemoryListener::new(Knobs { max_parallel: 2, ..Knobs::streams() });
    let mut client = listener.connector().connect(&target(), &policy(TlsMode::Implicit)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    let mut first = client.open().await.unwrap();
    let mut second = client.open().await.unwrap();
    assert!(timeout(SOON, server.accept()).await.is_err());
    second.write_all(b"2").await.unwrap();
    let mut theirs = server.accept().await.unwrap().unwrap();
    assert_eq!(theirs.read_u8().await.unwrap(), b'2');
    // An end without an octet is seen, too.
    first.shutdown().await.unwrap();
    let mut empty = server.accept().await.unwrap().unwrap();
    assert_eq!(empty.read(&mut [0]).await.unwrap(), 0);
    // Both places are taken until both ends of a stream are gone.
    assert!(timeout(SOON, client.open()).await.is_err());
    drop(second);
    assert!(timeout(SOON, client.open()).await.is_err());
    drop(theirs);
    let _third = timeout(SOON, client.open()).await.unwrap().unwrap();
    drop(server);
    drop((first, empty));
    assert!(client.open().await.is_err());
}

#[tokio::test]
async fn connecting_fails_like_anywhere_else() {
    let listener = MemoryListener::new(Knobs::default());
    let connector = listener.connector();
    let error = connector.connect(&target(), &policy(TlsMode::Implicit)).await.err().unwrap();
    assert_eq!((error.step, error.transient), (ConnectStep::Tls, false));
    drop(listener);
    let error = connector.connect(&target(), &TlsPolicy::NONE).await.err().unwrap();
    assert_eq!((error.step, error.transient), (ConnectStep::Connect, true));
    assert_eq!(error.to_string(), "mx.example:25: connecting: connection refused");
}
