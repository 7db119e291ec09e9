//! Early data: what may be in it, and what becomes of it if it is refused.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smtp_client::sasl::Credentials;
use smtp_client::{Client, Connection, Error, Settings, Unanswered};
use smtp_core::channel::{ChannelInfo, SessionInfo, TlsInfo};
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{BoxFuture, ByteStream, Plain, TlsPolicy};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::watch;
use tower::{Service, ServiceExt};

use crate::peer::{Peer, clear, envelope, envelope_with, options, results, several, target};

/// How the handshake stands: not complete, well, failed.
type Handshake = Option<bool>;

/// A stream that is in use before its handshake is complete. When that fails, reading fails.
struct Early {
    plain: Plain<DuplexStream>,
    handshake: watch::Receiver<Handshake>,
    waiting: Option<BoxFuture<'static, bool>>,
}

impl Early {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let mut handshake = self.handshake.clone();
            Box::pin(async move { handshake.wait_for(Option::is_some).await.is_ok_and(|well| *well == Some(true)) })
        });
        let well = std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(well)
    }
}

impl AsyncRead for Early {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_handshake(cx) == Poll::Ready(false) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.plain).poll_read(cx, buf)
    }
}

impl AsyncWrite for Early {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.plain).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_shutdown(cx)
    }
}

impl ByteStream for Early {
    fn info(&self) -> ChannelInfo {
        let mut info = self.plain.info();
        let done = *self.handshake.borrow() == Some(true);
        if let Some(tls) = info.tls.as_mut().filter(|_| done) {
            tls.exporter = Some([7; 32]);
        }
        info
    }

    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_handshake(cx).map(|well| if well { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) })
    }
}

/// A stream, its server's end, and the handshake's end.
fn early() -> (Box<dyn ByteStream>, Peer, watch::Sender<Handshake>) {
    let (client, server) = duplex(64 * 1024);
    let (done, handshake) = watch::channel(None);
    let tls = TlsInfo { version: "TLSv1.3", verified: true, ..TlsInfo::default() };
    let implied = &["PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES"];
    let info = ChannelInfo { secure: true, tls: Some(tls.into()), client_speaks_first: true, implied, ..clear() };
    let plain = Plain::new(client, info);
    (Box::new(Early { plain, handshake, waiting: None }), Peer::new(server), done)
}

async fn send(client: &mut Client) -> Vec<String> {
    let transaction = Transaction {
        session: SessionInfo::local("test"),
        envelope: envelope(&["a@x.test"]),
        body: Body::from_bytes("hi\r\n"),
    };
    results(client.ready().await.unwrap().call(transaction).await.unwrap())
}

const FLIGHT: &str = "EHLO client.test\nMAIL FROM:<from@client.test>\nRCPT TO:<a@x.test>\nBDAT 4 LAST\nhi";

/// One mail from its beginning, and nothing else.
async fn take(peer: &mut Peer) {
    peer.expect(FLIGHT).await;
    peer.say_at_once("220 mx.test\n250-mx.test\n250 CHUNKING\n250 ok\n250 ok\n250 taken").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_goes_once_more_on_a_new_stream_of_the_pool() {
    let ((first, mut a, refused), (second, mut b, taken)) = (early(), early());
    let connector = several([vec![first, second]]);
    let mut client = Client::new(connector, target(), Settings { options: (*options()).clone(), ..Default::default() });
    let server = async {
        a.expect(FLIGHT).await;
        refused.send_replace(Some(false));
        taken.send_replace(Some(true));
        take(&mut b).await;
        assert_eq!(a.rest().await, "");
    };
    let (results, ()) = tokio::join!(send(&mut client), server);
    assert_eq!(results, ["250 taken"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_ones_own_does_the_same() {
    let ((first, mut a, refused), (second, mut b, taken)) = (early(), early());
    let connector = several([vec![first, second]]);
    let client = async {
        let mut connection = Connection::connect(&connector, &target(), &TlsPolicy::IMPLICIT, options()).await.unwrap();
        let outcome = connection.send(&envelope(&["a@x.test"]), Body::from_bytes("hi\r\n"), &Default::default()).await;
        results(outcome.unwrap())
    };
    let server = async {
        a.expect(FLIGHT).await;
        refused.send_replace(Some(false));
        taken.send_replace(Some(true));
        take(&mut b).await;
    };
    let (results, ()) = tokio::join!(client, server);
    assert_eq!(results, ["250 taken"]);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_fails_leads_to_a_new_connection_once() {
    let ((first, a, failed), (second, mut b, taken)) = (early(), early());
    let connector = several([vec![first], vec![second]]);
    let mut client = Client::new(connector, target(), Settings { options: (*options()).clone(), ..Default::default() });
    let server = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        failed.send_replace(Some(false));
        taken.send_replace(Some(true));
        take(&mut b).await;
        drop(a);
    };
    let (results, ()) = tokio::join!(send(&mut client), server);
    assert_eq!(results, ["250 taken"]);
}

/// EHLO alone, where something else has to be known first, does the same.
#[tokio::test(start_paused = true)]
async fn an_ehlo_of_its_own_goes_once_more_too() {
    let ((first, mut a, refused), (second, mut b, taken)) = (early(), early());
    let connector = several([vec![first, second]]);
    let client = async {
        let mut connection = Connection::connect(&connector, &target(), &TlsPolicy::IMPLICIT, options()).await.unwrap();
        connection.hello().await.unwrap();
    };
    let server = async {
        assert_eq!(a.line().await, "EHLO client.test");
        refused.send_replace(Some(false));
        taken.send_replace(Some(true));
        b.expect("EHLO client.test").await;
        b.say_at_once("220 mx.test\n250 mx.test").await;
    };
    tokio::join!(client, server);
}

#[tokio::test(start_paused = true)]
async fn tries_are_counted() {
    let all = (0..10).map(|_| early());
    let (streams, ends): (Vec<_>, Vec<_>) = all.map(|(io, peer, done)| (vec![io], (peer, done))).unzip();
    for (_, done) in &ends {
        done.send_replace(Some(false));
    }
    let connector = several(streams);
    let mut client =
        Client::new(connector.clone(), target(), Settings { options: (*options()).clone(), ..Default::default() });
    let transaction = Transaction {
        session: SessionInfo::local("test"),
        envelope: envelope(&["a@x.test"]),
        body: Body::from_bytes("hi\r\n"),
    };
    let error = client.ready().await.unwrap().call(transaction).await.unwrap_err();
    assert!(error.downcast_ref::<Unanswered>().is_some_and(|error| !error.error().is_in_doubt()));
    assert_eq!(connector.left(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_after_its_handshake_is_not_tried_again() {
    let ((first, a, done), (second, mut b, _other)) = (early(), early());
    let connector = several([vec![first, second]]);
    let mut connection = Connection::connect(&connector, &target(), &TlsPolicy::IMPLICIT, options()).await.unwrap();
    let server = async {
        done.send_replace(Some(true));
        drop(a);
    };
    let (result, ()) = tokio::join!(connection.hello(), server);
    assert!(matches!(result.unwrap_err(), Error::Closed { .. }));
    b.silent().await;
}

/// EHLO is answered, the handshake is not complete: `act` must say nothing until it is.
async fn held_back(line: &str, act: impl AsyncFnOnce(&mut Connection)) {
    let (stream, mut peer, done) = early();
    let connector = several([vec![stream]]);
    let mut connection = Connection::connect(&connector, &target(), &TlsPolicy::IMPLICIT, options()).await.unwrap();
    let server = async {
        assert!(peer.line().await.starts_with("EHLO "));
        // Replies that overtake the end of the handshake do not exist in QUIC; the rule must not rest on that.
        peer.say_at_once("220 mx.test\n250-mx.test\n250-AUTH PLAIN\n250-REQUIRETLS\n250 CHUNKING").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        peer.silent().await;
        done.send_replace(Some(true));
        assert_eq!(peer.line().await, line);
        peer.say("550 no").await;
    };
    let client = async {
        connection.ehlo().await.unwrap();
        act(&mut connection).await;
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(client, server) } => {}
        () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("{line}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_offered_to_whoever_has_shown_a_certificate_is_asked_for_after_the_handshake() {
    for (offered, code) in [("PLAIN EXTERNAL", Some(235)), ("PLAIN", None)] {
        let (stream, mut peer, done) = early();
        let connector = several([vec![stream]]);
        let mut connection = Connection::connect(&connector, &target(), &TlsPolicy::IMPLICIT, options()).await.unwrap();
        let server = async {
            assert!(peer.line().await.starts_with("EHLO "));
            peer.say_at_once("220 mx.test\n250-mx.test\n250 AUTH PLAIN").await;
            done.send_replace(Some(true));
            assert!(peer.line().await.starts_with("EHLO "));
            peer.say(&format!("250-mx.test\n250 AUTH {offered}")).await;
            if code.is_some() {
                assert_eq!(peer.line().await, "AUTH EXTERNAL =");
                peer.say("235 ok").await;
            }
        };
        let client = async {
            connection.ehlo().await.unwrap();
            connection.auth(&Credentials::external()).await
        };
        let (said, ()) = tokio::join!(client, server);
        assert_eq!(said.as_ref().ok().map(|reply| reply.code().get()), code, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_stay_secret_waits_for_the_handshake() {
    let jo = Credentials::new("jo", "hunter2").unwrap();
    held_back("AUTH PLAIN AGpvAGh1bnRlcjI=", async |connection| {
        let exporter = |connection: &Connection| connection.info().tls.as_ref().unwrap().exporter;
        assert_eq!(exporter(connection), None);
        drop(connection.auth(&jo).await);
        // A mechanism with channel binding would have had something to bind to.
        assert_eq!(exporter(connection), Some([7; 32]));
    })
    .await;
    held_back("VRFY jo", async |connection| drop(connection.vrfy("jo").await)).await;
    held_back("EXPN all", async |connection| drop(connection.expn("all").await)).await;
    held_back("ETRN example", async |connection| drop(connection.raw("ETRN example").await)).await;
    held_back("BURL imap://x LAST", async |connection| drop(connection.raw("BURL imap://x LAST").await)).await;
    let secret = envelope_with(" REQUIRETLS", &["a@x.test"]);
    held_back("MAIL FROM:<from@client.test> REQUIRETLS", async |connection| {
        drop(connection.mail(&secret.mail).await);
    })
    .await;
}
