//! When a client tells its stream that it waits: TCP's acknowledgements depend on it, and each costs.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use smtp_client::{Connection, SendOptions};
use smtp_core::channel::ChannelInfo;
use smtp_core::service::Body;
use smtp_core::stream::{ByteStream, Plain, TlsPolicy};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::peer::{Peer, clear, envelope, options, results};

/// Notes what is done with it: `r` for octets that are read, `w` for octets that are written, `.` for a wait.
struct Noted(Plain<DuplexStream>, Arc<Mutex<String>>);

impl Noted {
    fn note(&self, what: char) {
        self.1.lock().unwrap().push(what);
    }
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.0).poll_read(cx, buf);
        if poll.is_ready() {
            self.note('r');
        }
        poll
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.note('w');
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl ByteStream for Noted {
    fn info(&self) -> ChannelInfo {
        self.0.info()
    }

    fn waits(&mut self) {
        self.note('.');
    }
}

/// What is done with the stream of a client that sends two messages by DATA, pipelined.
async fn notes(in_pieces: bool) -> String {
    let notes = Arc::new(Mutex::new(String::new()));
    let (client, server) = duplex(64 * 1024);
    let (stream, mut peer) = (Noted(Plain::new(client, clear()), Arc::clone(&notes)), Peer::new(server));
    let client = async {
        let mut connection = Connection::over(Box::new(stream), &TlsPolicy::NONE, options()).await.unwrap();
        connection.hello().await.unwrap();
        connection
    };
    let (mut connection, ()) = tokio::join!(client, peer.greet("PIPELINING"));
    notes.lock().unwrap().clear();
    let server = async {
        for _ in 0..2 {
            peer.expect("MAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nDATA").await;
            if in_pieces {
                peer.say("250 ok").await;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                peer.say_at_once("250 ok\n354 go").await;
            } else {
                peer.say_at_once("250 ok\n250 ok\n354 go").await;
            }
            peer.on("hi\n.", "250 taken").await;
        }
    };
    let client = async {
        for _ in 0..2 {
            let (envelope, body) = (envelope(&["a@x.test"]), Body::from_bytes("hi\r\n"));
            let sent = connection.send(&envelope, body, &SendOptions::default()).await;
            assert_eq!(results(sent.unwrap()), ["250 taken"]);
        }
    };
    tokio::join!(client, server);
    let notes = notes.lock().unwrap();
    // However often it looks.
    notes.replace("..", ".").replace("..", ".")
}

#[tokio::test(start_paused = true)]
async fn it_waits_when_it_has_read_a_part_and_has_nothing_to_write() {
    assert!(notes(true).await.contains("r.r"));
}

#[tokio::test(start_paused = true)]
async fn it_does_not_wait_when_it_has_read_all_and_goes_on() {
    let notes = notes(false).await;
    assert!(notes.contains("w.r") && !notes.contains("r."), "{notes}");
}
