//! The server that the files in `tests/scenarios` are about.
//!
//! | | |
//! |---|---|
//! | name | `mx.example` |
//! | mailboxes | `alice`, `bob` and `postmaster` at `here.example`; anybody else there: 550 5.1.1 |
//! | other domains | 550 5.7.1, unless the client has authenticated |
//! | users | `user` with the password `pass`, by PLAIN and LOGIN |
//! | limits | 1,000,000 octets, 5 recipients, and the defaults of the core |
//! | promises | `BINARYMIME`, `SMTPUTF8` |
//!
//! Deliveries are kept in memory. [`Reference::slow`] lets every answer of the policy take some time, which must not
//! change a single reply.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp_core::channel::{Identity, SessionInfo};
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{BoxError, Delivery, Outcome, Policy, Promises, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::{Config, Limits, MechanismOffer};
use smtp_core::stream::ByteStream;
use smtp_core::types::{Command, ForwardPath, Mailbox, Refusal, Secret};
use tower::service_fn;

/// Where the scenario files are.
#[must_use]
pub fn folder() -> PathBuf {
    // Both this crate and smtp-test stand right below the workspace.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios")
}

/// The stack that the scenarios are about.
#[must_use]
pub fn reference_stack() -> Reference {
    let mechanisms = ["PLAIN", "LOGIN"].map(|name| MechanismOffer { name, needs_secure: true });
    let limits = Limits { message_size: 1_000_000, recipients: 5, ..Limits::default() };
    let config = Config::new("mx.example".parse().unwrap_or_else(|_| unreachable!("it is a domain")))
        .promising(Promises::of(&["BINARYMIME", "SMTPUTF8"]))
        .with_mechanisms(mechanisms.into())
        .with_limits(limits);
    Reference { config, pause: Duration::ZERO, recorder: Recorder::default(), sessions: Arc::default() }
}

/// A server stack with a recorder at its end. Clones share the recorder.
#[derive(Debug, Clone)]
pub struct Reference {
    config: Config,
    pause: Duration,
    recorder: Recorder,
    sessions: Arc<AtomicU64>,
}

impl Reference {
    /// The same with every answer of the policy, and every delivery, taking so long: for MAIL, DATA and the like so
    /// long, for RCPT up to twice that, so that recipients overtake each other.
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
        self.recorder.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves one session.
    ///
    /// # Errors
    /// When the channel breaks.
    pub async fn serve(&self, io: Box<dyn ByteStream>) -> io::Result<()> {
        let id = self.sessions.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(SessionInfo::new(id, io.info()));
        let settings = Arc::new(Settings::new(self.config.clone()));
        // The token of a drain that never comes; named through its default, to need no dependency for it.
        serve(io, session, self.policy(), self.delivery(), settings, Default::default()).await
    }

    /// The policy of one session.
    fn policy(&self) -> impl Policy + use<> {
        let (pause, session) = (self.pause, Arc::new(Mutex::new(Login::default())));
        service_fn(move |request: Request| {
            let session = Arc::clone(&session);
            async move {
                if !pause.is_zero() {
                    tokio::time::sleep(pause + pause.mul_f32(hurry(&request.command))).await;
                }
                let mut login = session.lock().unwrap_or_else(PoisonError::into_inner);
                Ok::<_, Infallible>(judge(&request, &mut login))
            }
        })
    }

    fn delivery(&self) -> impl Delivery + use<> {
        let (recorder, pause) = (self.recorder.clone(), self.pause);
        service_fn(move |mut transaction: Transaction| {
            let recorder = recorder.clone();
            async move {
                let recipients = &transaction.envelope.recipients;
                let mut delivered = Delivered {
                    from: transaction.envelope.mail.from.to_string(),
                    to: recipients.iter().map(|rcpt| rcpt.to.to_string()).collect(),
                    content: Vec::new(),
                };
                tokio::time::sleep(pause).await;
                let (content, complete) = transaction.body.collect(2_000_000).await?;
                tokio::time::sleep(pause).await;
                delivered.content = content.to_vec();
                let n = delivered.to.len();
                recorder.0.lock().unwrap_or_else(PoisonError::into_inner).push(delivered);
                Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), n))
            }
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

#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Delivered>>>);

/// Between 0 and 1, different for each recipient, so that later ones are done earlier.
fn hurry(command: &Command) -> f32 {
    match command {
        Command::Rcpt(rcpt) => {
            let sum: u32 = rcpt.to.to_string().bytes().map(u32::from).sum();
            f32::from(u8::try_from(sum % 7).unwrap_or(0)) / 7.0
        }
        _ => 0.0,
    }
}

fn judge(request: &Request, login: &mut Login) -> Verdict {
    match &request.command {
        Command::Rcpt(rcpt) => recipient(&rcpt.to, request.session.identity.is_some()),
        Command::Auth { mechanism, initial } => {
            *login = Login { mechanism: mechanism.to_string(), name: None };
            match initial {
                None if mechanism.as_ref() == "PLAIN" => Verdict::Challenge(Default::default()),
                None => Verdict::Challenge("Username:".into()),
                Some(response) => login.go_on(response),
            }
        }
        Command::Response(response) => login.go_on(response),
        _ => Verdict::Proceed,
    }
}

fn recipient(to: &ForwardPath, authenticated: bool) -> Verdict {
    let ForwardPath::Mailbox(mailbox) = to else { return Verdict::Proceed };
    if !mailbox.host().eq_ignore_ascii_case("here.example") {
        return match authenticated {
            true => Verdict::Proceed,
            false => Refusal::fixed(550, (5, 7, 1), "relaying denied").into(),
        };
    }
    match is_known(mailbox) {
        true => Verdict::Proceed,
        false => Refusal::fixed(550, (5, 1, 1), "no such mailbox here").into(),
    }
}

fn is_known(mailbox: &Mailbox) -> bool {
    ["alice", "bob", "postmaster"].iter().any(|name| mailbox.local_name().eq_ignore_ascii_case(name))
}

/// A SASL exchange under way.
#[derive(Debug, Default)]
struct Login {
    mechanism: String,
    name: Option<Secret>,
}

impl Login {
    fn go_on(&mut self, response: &Secret) -> Verdict {
        let right = match (self.mechanism.as_str(), self.name.take()) {
            ("PLAIN", _) => response.expose() == b"\0user\0pass",
            (_, Some(name)) => name.expose() == b"user" && response.expose() == b"pass",
            (_, None) => {
                self.name = Some(response.clone());
                return Verdict::Challenge("Password:".into());
            }
        };
        match right {
            true => Verdict::Authenticated(Identity { user: "user".into(), mechanism: self.mechanism.as_str().into() }),
            false => Refusal::fixed(535, (5, 7, 8), "authentication credentials invalid").into(),
        }
    }
}
