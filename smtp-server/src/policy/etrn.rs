//! ETRN, answered by whoever keeps a queue.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pin_project_lite::pin_project;
use smtp_core::extension::EtrnNode;
use smtp_core::service::{Request, Verdict};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Code, Command, Domain, Refusal, Reply, status};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::Decided;
use crate::name;

/// Starts the delivery of what waits for a node.
#[async_trait]
pub trait StartQueue: Send + Sync + 'static {
    /// Starts it, and does not wait for its end.
    async fn start(&self, node: &EtrnNode) -> Started;
}

/// What became of it (RFC 1985 §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It runs: 250.
    Running,
    /// It runs, over so many messages: 253.
    Messages(u32),
    /// Nothing waits: 251.
    Nothing,
    /// Not now: 458.
    Unable,
}

/// Answers ETRN for configured domains, each at most once in a while.
///
/// A node that is not configured: 459 4.7.1. One that was asked for too recently: 458 4.7.0, whoever asked. A host may
/// be a configured domain or lie beneath one; `@domain` has to be one; `#queue` has to be configured by name.
///
/// Whoever asks gets nothing but a reply: the mail goes where it always goes (RFC 1985 §5), so that no password is
/// needed. EHLO shows ETRN if [`Promises`](smtp_core::extension::Promises) has the keyword.
#[derive(Clone)]
pub struct EtrnLayer {
    queue: Arc<dyn StartQueue>,
    shared: Arc<Mutex<Nodes>>,
    every: Duration,
}

/// What is configured, and when it was last asked for. Never larger than the configuration.
#[derive(Debug, Default)]
struct Nodes {
    domains: HashMap<String, Option<Instant>>,
    queues: HashMap<String, Option<Instant>>,
}

impl EtrnLayer {
    /// For no node yet; each at most once a minute.
    #[must_use]
    pub fn new(queue: impl StartQueue) -> Self {
        Self { queue: Arc::new(queue), shared: Arc::default(), every: Duration::from_secs(60) }
    }

    /// Also for `domain` and what lies beneath it.
    #[must_use]
    pub fn domain(self, domain: &Domain) -> Self {
        let key = name::domain(domain.as_str()).map_or_else(|| domain.as_str().to_ascii_lowercase(), Into::into);
        self.lock(|nodes| nodes.domains.insert(key, None));
        self
    }

    /// Also for the queue that is called `name`, without the `#`.
    #[must_use]
    pub fn queue(self, name: &str) -> Self {
        self.lock(|nodes| nodes.queues.insert(name.into(), None));
        self
    }

    /// How long after a request the next one for the same node is refused. Default 60 s.
    #[must_use]
    pub const fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    fn lock<T>(&self, f: impl FnOnce(&mut Nodes) -> T) -> T {
        f(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The node, if it may be asked for now.
    fn admit(&self, arguments: &str) -> Result<EtrnNode, Refusal> {
        let bad = |invalid| Refusal::new(501, (5, 5, 4), format!("{invalid}"));
        let node: EtrnNode = arguments.parse().map_err(bad)?;
        self.lock(|nodes| {
            let last = nodes.find(&node).ok_or_else(|| {
                Refusal::new(459, (4, 7, 1), format!("node {node} not allowed: no queue is kept for it here"))
            })?;
            let now = Instant::now();
            if last.is_some_and(|last| now.duration_since(last) < self.every) {
                return Err(Refusal::new(458, (4, 7, 0), format!("node {node} was asked for too recently")));
            }
            *last = Some(now);
            Ok(())
        })?;
        Ok(node)
    }
}

impl Nodes {
    fn find(&mut self, node: &EtrnNode) -> Option<&mut Option<Instant>> {
        match node {
            EtrnNode::Queue(queue) => self.queues.get_mut(&**queue),
            EtrnNode::Domain(domain) => self.domains.get_mut(&*name::domain(domain.as_str())?),
            EtrnNode::Host(host) => {
                let host = name::domain(host.as_str())?;
                let known = |domain: &&str| self.domains.contains_key(*domain);
                let domain = std::iter::successors(Some(&*host), |d| Some(d.split_once('.')?.1)).find(known)?;
                self.domains.get_mut(domain)
            }
        }
    }
}

impl std::fmt::Debug for EtrnLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtrnLayer").field("every", &self.every).finish_non_exhaustive()
    }
}

/// The service that [`EtrnLayer`] makes.
#[derive(Debug, Clone)]
pub struct Etrn<S> {
    inner: S,
    layer: EtrnLayer,
}

impl<S> Layer<S> for EtrnLayer {
    type Service = Etrn<S>;

    fn layer(&self, inner: S) -> Etrn<S> {
        Etrn { inner, layer: self.clone() }
    }
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for Etrn<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = EtrnFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let kind = match &request.command {
            Command::Other { verb, arguments } if &**verb == "ETRN" => match self.layer.admit(arguments) {
                Err(refusal) => Kind::Decided { decided: Decided::refused(refusal) },
                Ok(node) => {
                    let queue = Arc::clone(&self.layer.queue);
                    Kind::Started { started: Box::pin(async move { answer(queue.start(&node).await, &node) }) }
                }
            },
            _ => Kind::Decided { decided: Decided::inner(self.inner.call(request)) },
        };
        EtrnFuture { kind }
    }
}

fn answer(started: Started, node: &EtrnNode) -> Verdict {
    let (code, text) = match started {
        Started::Running => (250, format!("queuing for node {node} started")),
        Started::Nothing => (251, format!("no messages waiting for node {node}")),
        Started::Messages(n) => (253, format!("{n} pending messages for node {node} started")),
        Started::Unable => {
            return Refusal::new(458, (4, 3, 0), format!("unable to queue messages for node {node}")).into();
        }
    };
    match Code::new(code) {
        Ok(code) => Verdict::Answer(Reply::new(code, Some(status::UNDEFINED.as_success()), text)),
        Err(_) => Refusal::fixed(451, (4, 3, 0), "local error").into(),
    }
}

pin_project! {
    /// The answer of [`Etrn`].
    pub struct EtrnFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F> {
        Decided { #[pin] decided: Decided<F> },
        Started { started: BoxFuture<'static, Verdict> },
    }
}

impl<F> std::fmt::Debug for EtrnFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtrnFuture").finish_non_exhaustive()
    }
}

impl<F: Future<Output = Result<Verdict, E>>, E> Future for EtrnFuture<F> {
    type Output = Result<Verdict, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Decided { decided } => decided.poll(cx),
            KindProjection::Started { started } => started.as_mut().poll(cx).map(Ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnyRecipient;
    use crate::testing::{ask, remote_session};

    struct Fixed(Started);

    #[async_trait]
    impl StartQueue for Fixed {
        async fn start(&self, _: &EtrnNode) -> Started {
            self.0
        }
    }

    async fn etrn(policy: &mut Etrn<AnyRecipient>, arguments: &str) -> String {
        let command = Command::Other { verb: "ETRN".into(), arguments: arguments.into() };
        match ask(policy, &remote_session("192.0.2.1:4000"), command).await {
            Verdict::Answer(reply) => reply.to_string(),
            Verdict::Refuse(refusal) => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn policy(started: Started) -> Etrn<AnyRecipient> {
        let layer = EtrnLayer::new(Fixed(started)).domain(&"example.org".parse().unwrap()).queue("uucp");
        layer.layer(AnyRecipient::exposed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_replies_of_rfc_1985() {
        for (started, says) in [
            (Started::Running, "250 2.0.0 queuing for node example.org started"),
            (Started::Nothing, "251 2.0.0 no messages waiting for node example.org"),
            (Started::Messages(3), "253 2.0.0 3 pending messages for node example.org started"),
            (Started::Unable, "458 4.3.0 unable to queue messages for node example.org"),
        ] {
            assert_eq!(etrn(&mut policy(started), "example.org").await, says);
        }
        assert!(etrn(&mut policy(Started::Running), "").await.starts_with("501 5.5.4"));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_configured_and_not_too_often() {
        let mut policy = policy(Started::Running);
        for node in ["example.com", "@mx.example.org", "#other", "org"] {
            assert!(etrn(&mut policy, node).await.starts_with("459 4.7.1"), "{node}");
        }
        assert!(etrn(&mut policy, "mx.EXAMPLE.org").await.starts_with("250"));
        // The domain is one place, by whatever name it is asked for.
        assert!(etrn(&mut policy, "@example.org").await.starts_with("458 4.7.0"));
        assert!(etrn(&mut policy, "#uucp").await.starts_with("250"));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(etrn(&mut policy, "@example.org").await.starts_with("250"));
    }
}
