//! The pooled client: a delivery, like any other.

mod carrier;
mod pool;

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::sync::Arc;

use smtp_core::extension::Forwarded;
use smtp_core::service::{BoxError, Outcome, Promises, Transaction};
use smtp_core::stream::{Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tower_service::Service;

use self::carrier::Carriers;
use self::pool::Pool;
use crate::error::{Error, TlsError, Unanswered};
use crate::sasl::Credentials;
use crate::send::{Delivered, Failure, Outgoing};
use crate::{Connection, Options, SendOptions};

/// How often a message goes to another session because the one that it went to was not seen by the server.
const AGAIN: u32 = 2;

/// How a [`Client`] works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What each connection is made with: the name to greet with, deadlines, LMTP, an observer.
    pub options: Options,
    /// How each message is sent.
    pub send: SendOptions,
    /// TLS. [`TlsPolicy::OPPORTUNISTIC`] by default: right between strangers, too little for a relay with a password.
    pub tls: TlsPolicy,
    /// Under [`TlsMode::Opportunistic`] without verification: try once more in clear if the handshake fails, as it
    /// does with servers of the last century. On. An active attacker could as well have stripped STARTTLS.
    pub clear_after_failed_tls: bool,
    /// Authenticate with these before the first message. Nobody.
    pub credentials: Option<Credentials>,
    /// What the next hop is told of the client that each message came from. Nothing.
    pub pass_on: PassOn,
    /// How many transactions run at the same time, each on a session of its own: 20. `poll_ready` waits for a place.
    pub max_sessions: usize,
    /// How many sessions are kept for reuse that have been idle for more than a second: 4. 0 closes each after its
    /// message.
    pub max_idle: usize,
    /// How long a session may be idle before it is closed: 30 s, well below the 5 min after which servers may close
    /// it (RFC 5321 §4.5.3.2.7). A connection that carries many is closed when it has carried none for so long.
    pub idle: Duration,
    /// How many messages a session may carry: 100. 0 is without limit. A server's LIMITS MAILMAX (RFC 9422) counts
    /// if it is lower.
    pub max_messages: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            options: Options::default(),
            send: SendOptions::default(),
            tls: TlsPolicy::OPPORTUNISTIC,
            clear_after_failed_tls: true,
            credentials: None,
            pass_on: PassOn::Nothing,
            max_sessions: 20,
            max_idle: 4,
            idle: Duration::from_secs(30),
            max_messages: 100,
        }
    }
}

/// What a next hop is told of the client that a message came from, where it offers the extension to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PassOn {
    /// Nothing: to the next hop the message comes from us.
    #[default]
    Nothing,
    /// XFORWARD, for its log. One more exchange before each message; where LIMITS (RFC 9422) split it, it is about the
    /// first transaction.
    XForward,
    /// XCLIENT: it treats the session as that client's, in policy too. Two more exchanges before each message.
    ///
    /// What AUTH has proved of us ends with our own session, and is not proved again: it would be the client that the
    /// next hop takes for us. Who has authenticated here goes along as LOGIN, where the next hop takes that from us.
    XClient,
}

/// A delivery that hands messages to one next hop: a `tower::Service<Transaction, Response = Outcome>`.
///
/// Clones share the pool. A response has a result for each recipient; the receipt of an acceptance carries the next
/// hop's reply. An error is an [`Unanswered`], which `smtp_core::service::reply_for` turns into a 451; if it came
/// after the end of the content, the message may have been delivered, and sending it again may make a duplicate.
///
/// A session is reused only if nothing is open on it and nothing has come while it was idle. If the server closes it
/// in the moment of reuse, the message goes once more, over a new connection, provided its last octet had not been
/// sent and its content can be had again. A future that is dropped in mid-call takes its session with it.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    places: Places,
}

pub(crate) struct Shared {
    connector: Box<dyn Connector>,
    target: Target,
    settings: Settings,
    options: Arc<Options>,
    carriers: Carriers,
    pool: Pool,
}

impl Client {
    /// What can be promised before the next hop is known, because a message that needs it is refused if the next hop
    /// turns out not to offer it (SMTPUTF8 5.6.7, REQUIRETLS 5.7.30 or 5.7.10), or nothing is lost without (MT-PRIORITY). Whoever
    /// knows the next hop may promise more; DSN and DELIVERBY only who can write the notices that
    /// [`Receipt::omitted`](smtp_core::service::Receipt::omitted) asks for. Not RRVS: it would be refused for one recipient
    /// among others, and plain SMTP has no word for that (451, until the sender gives up, and copies for the others).
    pub const PROMISES: Promises = Promises::of(&["SMTPUTF8", "REQUIRETLS", "MT-PRIORITY"]);

    /// A client for the server at `target`.
    #[must_use]
    pub fn new(connector: impl Connector, target: Target, settings: Settings) -> Self {
        let places = Places::new(settings.max_sessions.clamp(1, Semaphore::MAX_PERMITS));
        let one_message_each = settings.max_idle == 0 || settings.max_messages == 1;
        let shared = Shared {
            connector: Box::new(connector),
            target,
            options: Arc::new(settings.options.clone()),
            carriers: Carriers::default(),
            pool: Pool::new(settings.max_idle, settings.idle, settings.max_messages),
            settings: Settings { send: SendOptions { quit: one_message_each, ..settings.send.clone() }, ..settings },
        };
        Self { shared: Arc::new(shared), places }
    }

    /// Where messages go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.shared.target
    }

    /// How many sessions are idle in the pool.
    #[must_use]
    pub fn idle_sessions(&self) -> usize {
        self.shared.pool.len()
    }

    /// Closes the idle sessions with QUIT. Without it they are dropped with the last clone of the client.
    pub async fn close_idle(&self) {
        for mut connection in self.shared.pool.take_all() {
            let _ = connection.quit().await;
        }
    }
}

impl Service<Transaction> for Client {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

    /// Ready once there is a place among [`Settings::max_sessions`]; it is held until the call's future ends.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.places.poll_reserve(cx)
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let place = self.places.take();
        Box::pin(async move {
            let _place = place.get().await;
            let Transaction { session, envelope, body } = transaction;
            let client = match shared.settings.pass_on {
                PassOn::Nothing => Forwarded::default(),
                PassOn::XForward | PassOn::XClient => Forwarded::of(&session),
            };
            shared
                .deliver(&client, &envelope, Outgoing::new(body))
                .await
                .map_err(|error| Unanswered::from(error).into())
        })
    }
}

impl Shared {
    async fn deliver(
        self: &Arc<Self>,
        client: &Forwarded,
        envelope: &smtp_core::types::Envelope,
        mut content: Outgoing,
    ) -> Result<Outcome, Error> {
        if let Some((mut connection, hot)) = self.pool.take().await
            && connection.pass_on(self.settings.pass_on, client).await.is_ok()
        {
            // A session that was idle for a while may be closed by the server at this very moment. The content must
            // not be part of that race: if it were lost with the channel, nobody could say whether it was taken.
            match connection.deliver(envelope, &mut content, &self.settings.send, hot).await {
                Ok(done) if !(done.turned_away && content.rewind()) => {
                    self.pool.put(self, connection);
                    return Ok(self.deliver_rest(client, envelope, content, done).await);
                }
                Ok(_) => {}
                Err(failure) if failure.is_stale() && content.rewind() => {}
                Err(failure) => {
                    self.pool.put(self, connection);
                    return Err(failure.error);
                }
            }
            tracing::debug!(target = %self.target.address, "the server closed an idle session; connecting anew");
        }
        let done = self.deliver_anew(client, envelope, &mut content).await?;
        Ok(self.deliver_rest(client, envelope, content, done).await)
    }

    /// Over a new session. As long as nothing that was sent on it was acted on, another one is tried: a connection that
    /// the server was about to close, or wanted no more sessions on, then early data that went nowhere.
    async fn deliver_anew(
        self: &Arc<Self>,
        client: &Forwarded,
        envelope: &smtp_core::types::Envelope,
        content: &mut Outgoing,
    ) -> Result<Delivered, Error> {
        let mut tries = 0;
        loop {
            let mut connection = self.connect().await?;
            if let Err(error) = connection.pass_on(self.settings.pass_on, client).await {
                // It is the client that was refused, and whoever comes next is another.
                pool::retire(connection);
                let refused = error.reply().filter(|reply| reply.code().get() != 421).cloned();
                let refusal = refused.and_then(|reply| Refusal::try_from(reply).ok()).ok_or(error)?;
                return Ok(Delivered::nobody(envelope.recipients.len(), &refusal));
            }
            let result = connection.deliver(envelope, content, &self.settings.send, true).await;
            let in_vain = match &result {
                Err(Failure { error, .. }) => {
                    connection.wire.is_unseen() || error.is_turned_away() && connection.forsake()
                }
                Ok(_) => false,
            };
            self.pool.put(self, connection);
            match result {
                Err(Failure { error, .. }) if in_vain && tries < AGAIN && content.rewind() => {
                    tracing::debug!(target = %self.target.address, %error, "what was sent was not looked at; once more");
                    tries += 1;
                }
                result => return result.map_err(|failure| failure.error),
            }
        }
    }

    /// Recipients that are left because the server wants no more messages in one session: another session, as long as
    /// that brings some of them further.
    async fn deliver_rest(
        self: &Arc<Self>,
        client: &Forwarded,
        envelope: &smtp_core::types::Envelope,
        mut content: Outgoing,
        mut done: Delivered,
    ) -> Outcome {
        while !done.left.is_empty() && content.rewind() {
            let places = core::mem::take(&mut done.left);
            let recipients = places.iter().filter_map(|n| envelope.recipients.get(*n)).cloned().collect();
            let rest = smtp_core::types::Envelope { mail: envelope.mail.clone(), recipients };
            match self.deliver_anew(client, &rest, &mut content).await {
                Ok(part) if part.left.len() < places.len() => done.take(&places, part),
                // What some have been told stands; the others keep the 452 that they have.
                Ok(_) => break,
                Err(error) => {
                    done.take(&places, Delivered::nobody(places.len(), &error.refusal()));
                    break;
                }
            }
        }
        done.outcome
    }

    /// A new session, ready for [`Connection::deliver`].
    async fn connect(&self) -> Result<Connection, Error> {
        let policy = &self.settings.tls;
        let result = self.connect_under(policy).await;
        let may_go_in_clear = policy.mode == TlsMode::Opportunistic
            && policy.verification == Verification::None
            && self.settings.clear_after_failed_tls;
        match result {
            Err(Error::Tls(TlsError::Handshake(error))) if may_go_in_clear => {
                tracing::debug!(target = %self.target.address, %error, "the TLS handshake failed; trying in clear");
                self.connect_under(&TlsPolicy::NONE).await
            }
            result => result,
        }
    }

    /// A second try costs no risk if the first was early data that nobody has acted on: the connection it went out on
    /// is gone, and the connector knows.
    async fn connect_under(&self, policy: &TlsPolicy) -> Result<Connection, Error> {
        match self.begin(policy).await {
            Err((error, true)) => {
                tracing::debug!(target = %self.target.address, %error, "the early data went nowhere; connecting anew");
                self.begin(policy).await.map_err(|(error, _)| error)
            }
            result => result.map_err(|(error, _)| error),
        }
    }

    /// With an error: whether nothing that was sent was acted on.
    async fn begin(&self, policy: &TlsPolicy) -> Result<Connection, (Error, bool)> {
        let (stream, slot) = self
            .carriers
            .open(&*self.connector, &self.target, policy, &self.options)
            .await
            .map_err(|error| (error, false))?;
        let connection = Connection::over(stream, policy, Arc::clone(&self.options)).await;
        let mut connection = connection.map_err(|error| (error, false))?;
        connection.keep(slot);
        let ready = async {
            if let Some(credentials) = &self.settings.credentials {
                connection.hello().await?;
                connection.auth(credentials).await?;
            } else if self.settings.pass_on != PassOn::Nothing || !connection.hello_may_wait() {
                connection.hello().await?;
            }
            Ok(())
        };
        match ready.await {
            Ok(()) => Ok(connection),
            Err(error) => {
                let unseen = connection.wire.is_unseen();
                pool::retire(connection);
                Err((error, unseen))
            }
        }
    }
}

impl Failure {
    /// The server closed a reused session before it can have made anything of the transaction.
    fn is_stale(&self) -> bool {
        let closed = matches!(self.error, Error::Closed { .. })
            || self.error.reply().is_some_and(|reply| reply.code().get() == 421);
        closed && !self.answered && !self.ended
    }
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").field("target", &self.target).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The places for transactions, and one that is reserved by `poll_ready`. A clone starts without one.
#[derive(Debug)]
struct Places {
    semaphore: PollSemaphore,
    reserved: Option<OwnedSemaphorePermit>,
}

impl Places {
    fn new(n: usize) -> Self {
        Self { semaphore: PollSemaphore::new(Arc::new(Semaphore::new(n))), reserved: None }
    }

    fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.reserved.is_none() {
            self.reserved = ready!(self.semaphore.poll_acquire(cx));
        }
        // The semaphore is never closed.
        Poll::Ready(Ok(()))
    }

    fn take(&mut self) -> Place {
        match self.reserved.take() {
            Some(permit) => Place::Reserved(permit),
            None => Place::Due(self.semaphore.clone_inner()),
        }
    }
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self { semaphore: self.semaphore.clone(), reserved: None }
    }
}

/// A place, or the right to wait for one: a caller that skipped `poll_ready` waits in the call.
enum Place {
    Reserved(OwnedSemaphorePermit),
    Due(Arc<Semaphore>),
}

impl Place {
    async fn get(self) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Reserved(permit) => Some(permit),
            Self::Due(semaphore) => semaphore.acquire_owned().await.ok(),
        }
    }
}
