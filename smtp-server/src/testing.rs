//! What the unit tests share.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use smtp_core::channel::{ChannelInfo, Identity, Peer, SessionInfo};
use smtp_core::service::{Body, Outcome, Request, Source, Transaction, Verdict};
use smtp_core::types::{Command, Envelope, Hello, HelloKind, Mail, Rcpt};
use tower_service::Service;

/// Asserts that a verdict is a refusal with this code and enhanced code.
macro_rules! assert_code {
    ($verdict:expr, $code:expr, $enhanced:expr) => {{
        let verdict = $verdict;
        let smtp_core::service::Verdict::Refuse(refusal) = &verdict else {
            panic!("{verdict:?} is no refusal");
        };
        let enhanced = refusal.reply().enhanced().map(|code| code.to_string());
        assert_eq!((refusal.reply().code().get(), enhanced.as_deref()), ($code, Some($enhanced)));
    }};
}

/// Asks a policy as the driver does: readiness first.
pub(crate) async fn ask<P>(policy: &mut P, session: &Arc<SessionInfo>, command: Command) -> Verdict
where
    P: Service<Request, Response = Verdict>,
    P::Error: std::fmt::Debug,
{
    std::future::poll_fn(|cx| policy.poll_ready(cx)).await.unwrap();
    policy.call(Request { session: Arc::clone(session), command }).await.unwrap()
}

/// Hands a delivery a message from `<a@sender.example>` to `recipients`.
pub(crate) async fn deliver<D>(delivery: &mut D, recipients: &[&str], body: Body) -> Outcome
where
    D: Service<Transaction, Response = Outcome>,
    D::Error: std::fmt::Debug,
{
    deliver_transaction(delivery, transaction(recipients, body)).await
}

pub(crate) async fn deliver_transaction<D>(delivery: &mut D, transaction: Transaction) -> Outcome
where
    D: Service<Transaction, Response = Outcome>,
    D::Error: std::fmt::Debug,
{
    std::future::poll_fn(|cx| delivery.poll_ready(cx)).await.unwrap();
    delivery.call(transaction).await.unwrap()
}

/// A body in pieces of `piece` octets, each of which comes after having been waited for once.
pub(crate) fn pieces(content: &[u8], piece: usize) -> Body {
    let pieces = content.chunks(piece).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Body::from_source(Pieces { pieces, pending: true }, Some(content.len() as u64))
}

/// The same, which breaks off at the end.
pub(crate) fn broken(content: &[u8], piece: usize) -> Body {
    let mut pieces: VecDeque<_> = content.chunks(piece).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    pieces.push_back(Err(std::io::ErrorKind::ConnectionReset.into()));
    Body::from_source(Pieces { pieces, pending: true }, None)
}

struct Pieces {
    pieces: VecDeque<std::io::Result<Bytes>>,
    pending: bool,
}

impl Source for Pieces {
    fn poll_chunk(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<Option<Bytes>>> {
        if std::mem::replace(&mut self.pending, false) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pending = true;
        Poll::Ready(self.pieces.pop_front().transpose())
    }
}

pub(crate) fn transaction(recipients: &[&str], body: Body) -> Transaction {
    Transaction { session: SessionInfo::local("test"), envelope: envelope("<a@sender.example>", recipients), body }
}

pub(crate) fn envelope(from: &str, recipients: &[&str]) -> Envelope {
    Envelope {
        mail: Mail::new(from.parse::<smtp_core::types::ReversePath>().unwrap()),
        recipients: recipients
            .iter()
            .map(|to| Rcpt::new(to.parse::<smtp_core::types::ForwardPath>().unwrap()))
            .collect(),
    }
}

pub(crate) fn rcpt(to: &str) -> Command {
    Command::Rcpt(Rcpt::new(to.parse::<smtp_core::types::ForwardPath>().unwrap()))
}

pub(crate) fn mail(from: &str) -> Command {
    Command::Mail(Mail::new(from.parse::<smtp_core::types::ReversePath>().unwrap()))
}

pub(crate) fn hello(kind: HelloKind, name: &str) -> Hello {
    Hello { kind, name: name.parse().unwrap() }
}

/// A session in clear with a peer at `address`.
pub(crate) fn remote_session(address: &str) -> Arc<SessionInfo> {
    Arc::new(SessionInfo::new(7, ChannelInfo::new("tcp", Peer::Ip(address.parse().unwrap()))))
}

pub(crate) fn secure(session: &SessionInfo) -> Arc<SessionInfo> {
    let mut session = session.clone();
    session.channel.secure = true;
    Arc::new(session)
}

pub(crate) fn authenticated(session: &SessionInfo, user: &str) -> Arc<SessionInfo> {
    let identity = Some(Identity { user: user.into(), mechanism: "PLAIN".into() });
    Arc::new(SessionInfo { identity, ..session.clone() })
}

pub(crate) fn anonymous(session: &SessionInfo) -> Arc<SessionInfo> {
    let identity = Some(Identity { user: "anonymous".into(), mechanism: "ANONYMOUS".into() });
    Arc::new(SessionInfo { identity, ..session.clone() })
}

/// A log in memory.
#[derive(Clone)]
pub(crate) struct Log {
    text: Arc<std::sync::Mutex<Vec<u8>>>,
    level: tracing::Level,
}

impl Log {
    pub(crate) fn new(level: tracing::Level) -> Self {
        Self { text: Arc::default(), level }
    }

    /// Runs `future` on a runtime of its own and collects what it logs.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(self.level)
            .with_writer(move || log.clone())
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(subscriber, || runtime.block_on(future))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
