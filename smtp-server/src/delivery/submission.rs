//! What a message server adds to a message that its author hands in (RFC 6409 §8).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use pin_project_lite::pin_project;
use smtp_core::service::{Body, Chunk, Outcome, Source, Transaction, Truncated};
use smtp_core::stream::BoxFuture;
use smtp_core::types::Domain;
use tower_layer::Layer;
use tower_service::Service;

use super::received::date;
use super::truncated;
use crate::name;

/// How much of a message is read for its header, in octets. One that is longer is left as it is.
const HEADER_MAX: usize = 64 << 10;

/// Puts `Date` and `Message-ID` before the content where the header has none (RFC 6409 §8.2, §8.3), if it comes from a
/// user who has authenticated. What comes from other hosts is not to be changed (RFC 5321 §6.4).
#[derive(Debug, Clone)]
pub struct SubmissionLayer {
    shared: Arc<Shared>,
    processes: bool,
}

#[derive(Debug)]
struct Shared {
    hostname: Box<str>,
    count: AtomicU64,
    random: RandomState,
    clock: fn() -> SystemTime,
}

impl SubmissionLayer {
    /// Message-IDs of the host `hostname`.
    #[must_use]
    pub fn new(hostname: &Domain) -> Self {
        let ascii = name::domain(hostname.as_str()).map_or_else(|| "localhost".into(), |ascii| ascii.to_string());
        let (count, random) = (AtomicU64::new(0), RandomState::new());
        let shared = Arc::new(Shared { hostname: ascii.into(), count, random, clock: SystemTime::now });
        Self { shared, processes: false }
    }

    /// Whether a process on this machine, known by its user, is a user too. Default: false.
    #[must_use]
    pub fn processes(self, processes: bool) -> Self {
        Self { processes, ..self }
    }
}

impl<S> Layer<S> for SubmissionLayer {
    type Service = Submission<S>;

    fn layer(&self, inner: S) -> Submission<S> {
        Submission { inner, layer: self.clone() }
    }
}

/// The service that [`SubmissionLayer`] makes.
#[derive(Debug, Clone)]
pub struct Submission<S> {
    inner: S,
    layer: SubmissionLayer,
}

impl<S> Service<Transaction> for Submission<S>
where
    S: Service<Transaction, Response = Outcome> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = SubmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let session = &transaction.session;
        let process = session.channel.peer.is_process();
        if session.user().is_none() && !(self.layer.processes && process) {
            return SubmissionFuture { way: Way::Unchanged { call: self.inner.call(transaction) } };
        }
        // The one that is ready is called; the clone takes its place.
        let mut inner = self.inner.clone();
        std::mem::swap(&mut inner, &mut self.inner);
        let shared = Arc::clone(&self.layer.shared);
        let call = Box::pin(async move {
            let Transaction { session, envelope, body } = transaction;
            let Ok(body) = shared.complete(body).await else { return Ok(truncated(envelope.recipients.len())) };
            inner.call(Transaction { session, envelope, body }).await
        });
        SubmissionFuture { way: Way::Completed { call } }
    }
}

pin_project! {
    /// The future of [`Submission`].
    pub struct SubmissionFuture<F: Future> {
        #[pin]
        way: Way<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum Way<F: Future> {
        /// What comes from other hosts.
        Unchanged { #[pin] call: F },
        /// Once its header has come.
        Completed { call: BoxFuture<'static, F::Output> },
    }
}

impl<F: Future> Future for SubmissionFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().way.project() {
            Projected::Unchanged { call } => call.poll(cx),
            Projected::Completed { call } => call.as_mut().poll(cx),
        }
    }
}

impl<F: Future> fmt::Debug for SubmissionFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmissionFuture").finish_non_exhaustive()
    }
}

impl Shared {
    async fn complete(&self, mut body: Body) -> Result<Body, Truncated> {
        let size = body.size();
        let mut head = BytesMut::new();
        let (mut ended, mut end) = (false, None);
        while end.is_none() && head.len() <= HEADER_MAX {
            match body.next().await? {
                Chunk::Data(data) => head.extend_from_slice(&data),
                Chunk::End(_) => {
                    ended = true;
                    break;
                }
            }
            end = end_of_header(&head);
        }
        let header = match end {
            Some(end) => head.get(..end),
            // All of it is header, or too much is.
            None => ended.then_some(&*head),
        };
        let mut added = String::new();
        if let Some(header) = header {
            let now = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
            if !has(header, b"date") {
                added.push_str(&format!("Date: {}\r\n", date(now.as_secs())));
            }
            if !has(header, b"message-id") {
                let n = self.count.fetch_add(1, Ordering::Relaxed);
                let random = self.random.hash_one((n, now));
                added.push_str(&format!("Message-ID: <{:x}.{random:016x}@{}>\r\n", now.as_millis(), self.hostname));
            }
        }
        let size = size.map(|size| size + added.len() as u64);
        let parts = [Bytes::from(added), head.freeze()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        let rest = (!ended).then_some(body);
        Ok(Body::from_source(Joined { parts: parts.into_iter(), rest }, size))
    }
}

/// Where the header ends: behind its last line, before the empty one.
fn end_of_header(head: &[u8]) -> Option<usize> {
    if head.starts_with(b"\r\n") {
        return Some(0);
    }
    memchr::memmem::find(head, b"\r\n\r\n").map(|at| at + 2)
}

/// Whether the header has a field of this name, in lower case here and any case there.
fn has(header: &[u8], name: &[u8]) -> bool {
    header.split(|byte| *byte == b'\n').any(|line| match line.split_at_checked(name.len()) {
        Some((start, rest)) => start.eq_ignore_ascii_case(name) && rest.trim_ascii_start().starts_with(b":"),
        None => false,
    })
}

/// What was read already, and then the rest.
struct Joined {
    parts: std::vec::IntoIter<Bytes>,
    rest: Option<Body>,
}

impl Source for Joined {
    fn poll_chunk(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(part) = self.parts.next() {
            return Poll::Ready(Ok(Some(part)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(None)) };
        Poll::Ready(match ready!(rest.poll_next(cx)) {
            Ok(Chunk::Data(data)) => Ok(Some(data)),
            Ok(Chunk::End(_)) => {
                self.rest = None;
                Ok(None)
            }
            Err(truncated) => Err(io::Error::other(truncated)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Recorder;
    use crate::testing::{authenticated, deliver, deliver_transaction, envelope, pieces, remote_session};

    async fn through(content: &str, piece: usize) -> String {
        let recorder = Recorder::new();
        let layer = SubmissionLayer::new(&"mx.example".parse().unwrap());
        let transaction = Transaction {
            session: authenticated(&remote_session("192.0.2.1:4000"), "jo"),
            envelope: envelope("<a@b.example>", &["<x@y.example>"]),
            body: pieces(content.as_bytes(), piece),
        };
        let outcome = deliver_transaction(&mut layer.layer(recorder.clone()), transaction).await;
        assert!(outcome.single().is_ok(), "{outcome:?}");
        String::from_utf8(recorder.messages()[0].content.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_is_missing_is_added_and_nothing_else_changes() {
        for piece in [1, 7, 1 << 20] {
            for (content, date, id) in [
                ("Subject: x\r\n\r\nDate: body\r\n", true, true),
                ("DATE: now\r\nSubject: x\r\n\r\ny\r\n", false, true),
                ("Subject: x\r\nmessage-id : <1@x>\r\n\r\ny\r\n", true, false),
                ("Date: now\r\nMessage-ID:\r\n\t<1@x>\r\n\r\ny\r\n", false, false),
                ("Date-Of: x\r\nX-Date: y\r\n\r\n", true, true),
                ("\r\nonly a body\r\n", true, true),
                ("Subject: no body\r\n", true, true),
            ] {
                let got = through(content, piece).await;
                assert!(got.ends_with(content), "{got}");
                let added = got.strip_suffix(content).unwrap();
                assert_eq!(added.starts_with("Date: "), date, "{content:?}: {added}");
                assert_eq!(added.contains("Message-ID: <") && added.contains("@mx.example>\r\n"), id, "{added}");
                assert_eq!(added.lines().count(), usize::from(date) + usize::from(id), "{added}");
            }
        }
    }

    #[tokio::test]
    async fn what_strangers_send_stays_as_it_is() {
        let recorder = Recorder::new();
        let mut delivery = SubmissionLayer::new(&"mx.example".parse().unwrap()).layer(recorder.clone());
        deliver(&mut delivery, &["<x@y.example>"], pieces(b"Subject: x\r\n\r\n", 3)).await;
        assert_eq!(&recorder.messages()[0].content[..], b"Subject: x\r\n\r\n");
    }

    #[tokio::test]
    async fn an_endless_header_is_left_alone() {
        let content = format!("X: {}\r\n\r\ny\r\n", "a".repeat(HEADER_MAX + 5_000));
        assert_eq!(through(&content, 1000).await, content);
        assert_ne!(through("A: b\r\n\r\n", 9).await, through("A: b\r\n\r\n", 9).await, "ids differ");
    }
}
