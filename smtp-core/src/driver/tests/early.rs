//! A channel that is in use before its handshake is complete, and whose facts change then.

use core::pin::Pin;
use core::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::*;
use crate::channel::{Identity, TlsInfo};
use crate::session::server::{MechanismOffer, Needs};
use crate::stream::BoxFuture;
use crate::types::Verb;

/// How the handshake stands: not complete, well, failed.
type Handshake = Option<bool>;

struct Early {
    plain: Plain<DuplexStream>,
    handshake: watch::Receiver<Handshake>,
    waiting: Option<BoxFuture<'static, bool>>,
}

impl AsyncRead for Early {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
    /// A client certificate and the exporter are known at the end of the handshake.
    fn info(&self) -> ChannelInfo {
        let mut info = self.plain.info();
        let mut tls = TlsInfo { version: "TLSv1.3", ..TlsInfo::default() };
        if *self.handshake.borrow() == Some(true) {
            tls.exporter = Some([7; 32]);
            tls.verified = true;
            tls.peer_certificates = alloc::vec![alloc::vec![0]];
        }
        info.tls = Some(tls.into());
        info
    }

    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let mut handshake = self.handshake.clone();
            Box::pin(async move { handshake.wait_for(Option::is_some).await.is_ok_and(|well| *well == Some(true)) })
        });
        let well = core::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(if well { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) })
    }
}

/// What the policy was asked, and whether it knew of an exporter then.
type Asked = Arc<Mutex<Vec<(Verb, bool)>>>;

fn noting(asked: &Asked) -> impl Policy + Clone + use<> {
    let asked = Arc::clone(asked);
    service_fn(move |request: Request| {
        let knows = request.session.channel.tls.as_ref().is_some_and(|tls| tls.exporter.is_some());
        let verb = request.command.verb();
        asked.lock().unwrap_or_else(PoisonError::into_inner).push((verb, knows));
        async move {
            Ok::<_, Infallible>(match verb {
                Verb::Auth => Verdict::Authenticated(Identity { user: "jo".into(), mechanism: "EXTERNAL".into() }),
                _ => Verdict::Proceed,
            })
        }
    })
}

/// The client's end, the handshake's end, and the session.
fn start_early(
    asked: &Asked,
) -> (DuplexStream, watch::Sender<Handshake>, impl Future<Output = io::Result<()>> + Send + use<>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (done, handshake) = watch::channel(None);
    let channel = ChannelInfo { client_speaks_first: true, ..ChannelInfo::memory("test") };
    let io = Early { plain: Plain::new(theirs, channel), handshake, waiting: None };
    let info = Arc::new(SessionInfo::new(1, io.info()));
    let offers = [("EXTERNAL", Needs::Identity), ("PLAIN", Needs::Secrecy)];
    let offers = offers.map(|(name, needs)| MechanismOffer { name, needs }).to_vec();
    let settings = Settings::new(Config::new("mx.example".parse().unwrap()).with_mechanisms(offers));
    let drain = CancellationToken::new();
    let session =
        serve(Box::new(io), info, noting(asked), record(&Taken::default()), Arc::new(settings), drain.clone());
    (ours, done, async move {
        let _drain = drain;
        session.await
    })
}

async fn hear(ours: &mut DuplexStream, replies: usize) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&said);
        if codes(&text).len() >= replies && text.ends_with("\r\n") {
            return codes(&text).into_iter().map(Into::into).collect();
        }
        assert_ne!(ours.read_buf(&mut said).await.unwrap(), 0, "the session ended");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_handshake_proves_is_known_before_auth_is_judged() {
    for first in ["EHLO c\r\n", "EHLO c\r\nAUTH EXTERNAL =\r\n"] {
        let asked = Asked::default();
        let (mut ours, done, session) = start_early(&asked);
        let session = tokio::spawn(session);
        ours.write_all(first.as_bytes()).await.unwrap();
        assert_eq!(hear(&mut ours, 2).await, ["220", "250"]);
        // Whether the session waits for it, or finds it complete at its next command.
        done.send_replace(Some(true));
        if !first.contains("AUTH") {
            ours.write_all(b"AUTH EXTERNAL =\r\n").await.unwrap();
        }
        assert_eq!(hear(&mut ours, 1).await, ["235"], "{first:?}");
        ours.write_all(b"EHLO c\r\nQUIT\r\n").await.unwrap();
        assert_eq!(hear(&mut ours, 2).await, ["250", "221"]);
        session.await.unwrap().unwrap();
        let asked = asked.lock().unwrap().clone();
        let wanted = [(Verb::Connect, false), (Verb::Hello, false), (Verb::Auth, true), (Verb::Hello, true)];
        assert_eq!(asked, wanted, "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_behind_ehlo_is_looked_at_before_the_handshake_is_complete() {
    for behind in ["QUIT\r\n", "bogus\r\n", "AUTH CRAM-MD5\r\n", "EHLO c\r\n", "MAIL FROM:<a@b>\r\n", "MA"] {
        let asked = Asked::default();
        let (mut ours, done, session) = start_early(&asked);
        let session = tokio::spawn(session);
        ours.write_all(format!("EHLO c\r\n{behind}").as_bytes()).await.unwrap();
        assert_eq!(hear(&mut ours, 2).await, ["220", "250"]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        done.send_replace(Some(false));
        let mut rest = String::new();
        ours.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "", "{behind:?}");
        assert!(session.await.unwrap().is_err());
        assert_eq!(*asked.lock().unwrap(), [(Verb::Connect, false), (Verb::Hello, false)], "{behind:?}");
    }
}
