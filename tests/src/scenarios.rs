//! The server that the files in `tests/scenarios` are about.
//!
//! | | |
//! |---|---|
//! | name | `mx.example` |
//! | mailboxes | `alice`, `bob` and `postmaster` at `here.example`; anybody else there: 550 5.1.1 |
//! | other domains | 550 5.7.1, unless the client has authenticated |
//! | users | `user` with the password `pass`, by SCRAM-SHA-256, PLAIN and LOGIN |
//! | limits | 1,000,000 octets, 5 recipients, 20 messages a session, and the defaults of the core |
//! | promises | every extension that needs one, and one of its own, `XCOLOUR`; not `CONNEG` |
//! | terms | DELIVERBY from 60 s, MT-PRIORITY as MIXER, held up to 1,000 s; it is always 2014-04-03T23:01:00Z |
//! | no soliciting | `net.example:ADV` |
//! | lists | `staff`, for users |
//! | owners | every mailbox has had its own since 2014-01-01; whose `postmaster` is, nobody knows |
//! | ETRN | `here.example` and below, with 3 messages waiting; as often as you like |
//! | proxies | clients from `127.0.0.1` may use XCLIENT, with LOGIN, and XFORWARD |
//! | content | a message with `X-Refuse: name` in it is refused for the mailboxes of that name, 550 5.7.1 |
//!
//! Files that need more of this than a mailbox say so in a line `SERVER`; `SERVER reference` is for what only this server
//! has.
//!
//! Deliveries are kept in memory. [`Reference::slow`] lets every answer take some time, which must not change a single
//! reply.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::channel::SessionInfo;
use smtp_core::driver::{Settings, serve};
use smtp_core::extension::{EtrnNode, Extension, Forwarders, ParameterRule, Promises, Terms};
use smtp_core::service::{Delivery, Outcome, Policy, Request, Transaction, Verdict};
use smtp_core::session::server::{Config, Limits, Protocol};
use smtp_core::stream::{BoxFuture, ByteStream};
use smtp_core::types::{Command, Invalid, Mailbox, Rcpt, Refusal, Reply, Secret};
use smtp_server::auth::{Check, Hash, Keys, Login, Plain, ScramUsers, Throttle, Unavailable, Users};
use smtp_server::policy::{Owner, StartQueue, Started, Told};
use smtp_server::{AuthLayer, EtrnLayer, ExpandLayer, Mailboxes, Recorder, RrvsLayer, VerifyLayer};
use tower_layer::Layer;
use tower_service::Service;

/// Where the scenario files are.
#[must_use]
pub fn folder() -> PathBuf {
    // Whichever crate of the workspace this is compiled into.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios")
}

/// The folders of scenario files, each with the protocol that its server speaks.
#[must_use]
pub fn folders() -> [(PathBuf, Protocol); 2] {
    [(folder(), Protocol::Smtp), (folder().join("lmtp"), Protocol::Lmtp)]
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

/// What the reference's recorder, policies and terms can keep together.
pub const PROMISES: Promises = Promises::of(&[
    "8BITMIME",
    "BINARYMIME",
    "CHUNKING",
    "DELIVERBY",
    "DSN",
    "ETRN",
    "EXPN",
    "FUTURERELEASE",
    "MT-PRIORITY",
    "REQUIRETLS",
    "RRVS",
    "SMTPUTF8",
    "XCOLOUR",
]);

/// An extension of one's own, declared outside the core.
static XCOLOUR: Extension = Extension {
    needs_promise: true,
    announce: |_, out| out.push_str(" RED BLUE"),
    mail: &[ParameterRule {
        check: |_, value, _| match value {
            Some("RED" | "BLUE") => Ok(()),
            _ => Err(Refusal::fixed(501, (5, 5, 4), "XCOLOUR is RED or BLUE")),
        },
        ..ParameterRule::keyword("XCOLOUR")
    }],
    verbs: &["XCOLOUR"],
    ..Extension::keyword("XCOLOUR", "this file")
};

/// 2014-04-03T23:01:00Z
const NOW: i64 = 1_396_566_060;
/// 2014-01-01T00:00:00Z
const OWNED_SINCE: i64 = 1_388_534_400;

/// Who may speak for others.
const PROXIES: &str = "127.0.0.1";

/// A server stack with a recorder at its end. Clones share the recorder.
#[derive(Debug, Clone)]
pub struct Reference {
    config: Config,
    mailboxes: Mailboxes,
    auth: AuthLayer,
    etrn: EtrnLayer,
    expand: ExpandLayer,
    rrvs: RrvsLayer,
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
        let limits =
            Limits { message_size: 1_000_000, recipients: 5, messages: Some(20), overshoot: 100, ..Limits::default() };
        let terms = Terms {
            deliver_by_min: 60,
            priority_profile: Some("MIXER"),
            hold_max: 1_000,
            clock: Some(|| NOW),
            no_soliciting: Some("net.example:ADV".into()),
        };
        let mut config = Config::new("mx.example".parse()?)
            .promising(PROMISES)
            .with_mechanisms(auth.offers())
            .with_terms(terms)
            .with_forwarders(Forwarders {
                login: PROXIES.parse()?,
                xforward: PROXIES.parse()?,
                ..Forwarders::default()
            })
            .with_limits(limits);
        config.registry = config.registry.with(&XCOLOUR);
        let (alice, bob): (Mailbox, Mailbox) = ("alice@here.example".parse()?, "bob@here.example".parse()?);
        let etrn = EtrnLayer::new(Waiting).domain(&"here.example".parse()?).every(Duration::ZERO);
        let staff = vec![alice.clone(), bob.clone()];
        let expand = ExpandLayer::new().told(Told::Authenticated).list("staff", staff)?;
        let rrvs = RrvsLayer::new(|mailbox| match &*mailbox.local_name() {
            "postmaster" => Owner::Unknown,
            _ => Owner::Since(OWNED_SINCE),
        });
        let mailboxes = Mailboxes::new(&"here.example".parse()?)?.only(&[alice, bob])?.relay_for_authenticated(true);
        let recorder = Recorder::bounded(100_000, 1 << 30);
        let (pause, sessions) = (Duration::ZERO, Arc::default());
        Ok(Self { config, mailboxes, auth, etrn, expand, rrvs, recorder, pause, sessions })
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

    /// The same, speaking this protocol.
    #[must_use]
    pub fn speaking(self, protocol: Protocol) -> Self {
        self.with(|config| config.protocol = protocol)
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

    /// What was delivered so far, with all that is known of it.
    #[must_use]
    pub fn recorded(&self) -> Vec<smtp_server::delivery::Recorded> {
        self.recorder.messages()
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
        let recipients = VerifyLayer::new().told(Told::Authenticated).layer(self.mailboxes.clone());
        let services = self.etrn.layer(self.expand.layer(Colour(self.rrvs.layer(recipients))));
        let (policy, delivery) = (self.auth.layer(services), Picky(self.recorder.clone()));
        (Slow { inner: policy, pause: self.pause }, Slow { inner: delivery, pause: self.pause })
    }
}

/// Three messages wait for everybody.
struct Waiting;

#[async_trait]
impl StartQueue for Waiting {
    async fn start(&self, _: &EtrnNode) -> Started {
        Started::Messages(3)
    }
}

/// Answers the verb of [`XCOLOUR`].
#[derive(Debug, Clone)]
struct Colour<S>(S);

impl<S> Service<Request> for Colour<S>
where
    S: Service<Request, Response = Verdict, Error: Send + 'static, Future: Send + 'static>,
{
    type Response = Verdict;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Verdict, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if matches!(&request.command, Command::Other { verb, .. } if &**verb == "XCOLOUR") {
            return Box::pin(async { Ok(Verdict::Answer(Reply::fixed(250, (2, 0, 0), "RED BLUE"))) });
        }
        Box::pin(self.0.call(request))
    }
}

/// Refuses content for the mailboxes that it names at its start.
#[derive(Debug, Clone)]
struct Picky<S>(S);

impl<S> Service<Transaction> for Picky<S>
where
    S: Service<Transaction, Response = Outcome, Error: Send + 'static, Future: Send + 'static>,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Outcome, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut transaction: Transaction) -> Self::Future {
        const LOOKED_AT: usize = 200;
        let start = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&start);
        transaction.body = transaction.body.inspect(move |data| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let room = LOOKED_AT.saturating_sub(seen.len());
            seen.extend(data.iter().take(room));
            Ok(())
        });
        let name = |rcpt: &Rcpt| rcpt.to.mailbox().map(|m| m.local_name().into_owned()).unwrap_or_default();
        let names: Vec<String> = transaction.envelope.recipients.iter().map(name).collect();
        let answer = self.0.call(transaction);
        Box::pin(async move {
            let outcome = answer.await?;
            let start = start.lock().unwrap_or_else(PoisonError::into_inner);
            let start = String::from_utf8_lossy(&start);
            let refused = |name: &str| start.lines().any(|line| line.strip_prefix("X-Refuse: ") == Some(name));
            if !names.iter().any(|name| refused(name)) {
                return Ok(outcome);
            }
            let unwanted = || Err(Refusal::fixed(550, (5, 7, 1), "not wanted"));
            let results = outcome.into_results().into_iter().zip(&names);
            Ok(Outcome::each(results.map(|(r, name)| if refused(name) { unwanted() } else { r }).collect()))
        })
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
