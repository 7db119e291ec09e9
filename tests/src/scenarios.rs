//! The server that the files in `tests/scenarios` are about.
//!
//! | | |
//! |---|---|
//! | name | `mx.example` |
//! | mailboxes | `alice`, `bob` and `postmaster` at `here.example`; anybody else there: 550 5.1.1 |
//! | other domains | 550 5.7.1, unless the client has authenticated |
//! | users | `user` with the password `pass`, by SCRAM-SHA-256, PLAIN and LOGIN |
//! | limits | 1,000,000 octets, 5 recipients, and the defaults of the core |
//! | promises | `8BITMIME`, `BINARYMIME`, `CHUNKING`, `SMTPUTF8` |
//!
//! Deliveries are kept in memory. [`Reference::slow`] lets every answer take some time, which must not change a single
//! reply.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::channel::SessionInfo;
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{Delivery, Policy, Request, Transaction};
use smtp_core::session::server::{Config, Limits};
use smtp_core::stream::{BoxFuture, ByteStream};
use smtp_core::types::{Command, Invalid, Secret};
use smtp_server::auth::{Check, Hash, Keys, Login, Plain, ScramUsers, Throttle, Unavailable, Users};
use smtp_server::{AuthLayer, Mailboxes, Recorder};
use tower_layer::Layer;
use tower_service::Service;

/// Where the scenario files are.
#[must_use]
pub fn folder() -> PathBuf {
    // Whichever crate of the workspace this is compiled into.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios")
}

/// The stack that the scenarios are about.
///
/// # Panics
/// Never: what is parsed in here is constant.
#[must_use]
#[allow(clippy::expect_used, reason = "constants")]
pub fn reference_stack() -> Reference {
    Reference::new().expect("names and mailboxes that are constants")
}

/// A server stack with a recorder at its end. Clones share the recorder.
#[derive(Debug, Clone)]
pub struct Reference {
    config: Config,
    mailboxes: Mailboxes,
    auth: AuthLayer,
    recorder: Recorder,
    pause: Duration,
    sessions: Arc<AtomicU64>,
}

impl Reference {
    fn new() -> Result<Self, Invalid> {
        // All scenarios come from one address, and many of them fail on purpose.
        let patient = Throttle::new(1_000_000, Duration::from_millis(1));
        let auth = AuthLayer::new()
            .scram(Hash::Sha256, Arc::new(OneUser))
            .mechanism(Plain::new(Arc::new(OneUser)))
            .mechanism(Login::new(Arc::new(OneUser)))
            .throttle(patient);
        let limits = Limits { message_size: 1_000_000, recipients: 5, ..Limits::default() };
        let config = Config::new("mx.example".parse()?)
            .promising(Recorder::PROMISES)
            .with_mechanisms(auth.offers())
            .with_limits(limits);
        let mailboxes = Mailboxes::new(&"here.example".parse()?)?
            .only(&["alice@here.example".parse()?, "bob@here.example".parse()?])?
            .relay_for_authenticated(true);
        let recorder = Recorder::bounded(100_000, 1 << 30);
        Ok(Self { config, mailboxes, auth, recorder, pause: Duration::ZERO, sessions: Arc::default() })
    }

    /// The same with every answer of the policy and of the delivery taking so long; some RCPT up to twice that, so that
    /// recipients overtake each other.
    #[must_use]
    pub const fn slow(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// The same with a change of its settings.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// What was delivered so far.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        let delivered = |m: smtp_server::delivery::Recorded| Delivered {
            from: m.envelope.mail.from.to_string(),
            to: m.envelope.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect(),
            content: m.content.to_vec(),
        };
        self.recorder.messages().into_iter().map(delivered).collect()
    }

    /// Serves one session.
    ///
    /// # Errors
    /// When the channel breaks.
    pub async fn serve(&self, io: Box<dyn ByteStream>) -> io::Result<()> {
        let id = self.sessions.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(SessionInfo::new(id, io.info()));
        let settings = Arc::new(Settings::new(self.config.clone()));
        let (policy, delivery) = self.stack();
        // A drain that never comes.
        serve(io, session, policy, delivery, settings, Default::default()).await
    }

    /// The services of one session.
    #[must_use]
    pub fn stack(&self) -> (impl Policy + use<>, impl Delivery + Clone + use<>) {
        let policy = self.auth.layer(self.mailboxes.clone());
        (Slow { inner: policy, pause: self.pause }, Slow { inner: self.recorder.clone(), pause: self.pause })
    }
}

/// One message as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The reverse-path, in brackets.
    pub from: String,
    /// The forward-paths, in brackets.
    pub to: Vec<String>,
    /// The content, dots removed.
    pub content: Vec<u8>,
}

/// The one user there is.
#[derive(Debug)]
struct OneUser;

#[async_trait]
impl Users for OneUser {
    async fn verify(&self, name: &str, password: &Secret) -> Check {
        if name == "user" && password.expose() == b"pass" { Check::Yes } else { Check::No }
    }
}

#[async_trait]
impl ScramUsers for OneUser {
    async fn keys(&self, hash: Hash, name: &str) -> Result<Keys, Unavailable> {
        static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::derive(Hash::Sha256, "pass", b"some salt", 4_096));
        let decoy = Keys::decoy(hash, b"a secret", name, 4_096);
        Ok(if name == "user" && hash == Hash::Sha256 { KEYS.clone() } else { decoy })
    }
}

/// Answers that take their time.
#[derive(Debug, Clone)]
struct Slow<S> {
    inner: S,
    pause: Duration,
}

/// How much longer than others a request takes.
trait Slowness {
    fn pause(&self, pause: Duration) -> Duration;
}

impl Slowness for Request {
    fn pause(&self, pause: Duration) -> Duration {
        match &self.command {
            Command::Rcpt(rcpt) => {
                let sum: u32 = rcpt.to.to_string().bytes().map(u32::from).sum();
                pause + pause * (sum % 7) / 7
            }
            _ => pause,
        }
    }
}

impl Slowness for Transaction {
    fn pause(&self, pause: Duration) -> Duration {
        pause
    }
}

impl<R, S> Service<R> for Slow<S>
where
    R: Slowness,
    S: Service<R>,
    S::Response: Send,
    S::Error: Send,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let pause = request.pause(self.pause);
        let answer = self.inner.call(request);
        Box::pin(async move {
            if pause.is_zero() {
                return answer.await;
            }
            tokio::time::sleep(pause).await;
            let answer = answer.await;
            tokio::time::sleep(pause).await;
            answer
        })
    }
}
