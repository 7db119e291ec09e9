//! A connection, step by step: the straight-line face of the client.

mod auth;
mod commands;
mod forward;
mod hello;

pub(crate) use commands::needs_secrecy;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use smtp_core::channel::ChannelInfo;
use smtp_core::extension::{Capabilities, Registry};
use smtp_core::session::State;
use smtp_core::session::client::{Awaited, Event};
use smtp_core::stream::{
    self, Address, ByteStream, CloseCode, ConnectError, ConnectStep, Connector, Target, TlsPolicy,
};
use smtp_core::types::{Command, EhloName, Reply, Severity, Verb};

use crate::error::{Error, Local};
use crate::observer::{Observer, transcript};
use crate::wire::{Broken, Wire};
use crate::{Step, Timeouts};

/// What does not change over the life of a connection.
#[derive(Clone)]
pub struct Options {
    /// What the client greets with: its own name or address literal (RFC 5321 §4.1.1.1). `[127.0.0.1]` by default,
    /// which is fine on one machine and refused by many strangers.
    pub hello: EhloName,
    /// Speak LMTP: LHLO, and a reply for each recipient after the content (RFC 2033). Never to port 25. Off.
    pub lmtp: bool,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// The longest line of content that is sent, in octets, CRLF included: 64 KiB, so that what a server took is passed
    /// on unchanged. RFC 5321 §4.5.3.1.6 has 1,000.
    pub line_max: usize,
    /// Send commands in groups where the server offers PIPELINING. On. Off, each reply is awaited before the next
    /// command: for servers that get it wrong.
    pub pipelining: bool,
    /// The extensions whose parameters are known here, and what to do where a server lacks them: the standard ones. One
    /// of one's own joins with [`Registry::with`]. A parameter of no known extension is sent if the server offers a
    /// keyword of the same name.
    pub registry: Registry,
    /// Who looks on. Nobody.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hello: EhloName::from(smtp_core::types::Host::Literal(std::net::IpAddr::from([127, 0, 0, 1]).into())),
            lmtp: false,
            timeouts: Timeouts::default(),
            line_max: smtp_core::session::client::LINE_MAX,
            pipelining: true,
            registry: Registry::default(),
            observer: None,
        }
    }
}

impl Options {
    /// The defaults, greeting with `hello`.
    #[must_use]
    pub fn new(hello: impl Into<EhloName>) -> Self {
        Self { hello: hello.into(), ..Self::default() }
    }
}

impl core::fmt::Debug for Options {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Options")
            .field("hello", &self.hello)
            .field("lmtp", &self.lmtp)
            .field("timeouts", &self.timeouts)
            .field("line_max", &self.line_max)
            .field("pipelining", &self.pipelining)
            .field("registry", &self.registry)
            .field("observer", &self.observer.is_some())
            .finish()
    }
}

/// An SMTP or LMTP session with a server.
///
/// Every method is one step or a few, under the deadlines of [`Options::timeouts`]. A refusal is
/// [`Error::Refused`] and leaves the connection usable; after any other error but [`Error::Local`] it is closed.
///
/// A future of it that is dropped midway leaves replies unread: the connection refuses every further step
/// ([`Local::InDoubt`]) and is cut off when it is dropped.
pub struct Connection {
    pub(crate) wire: Wire,
    pub(crate) options: Arc<Options>,
    policy: TlsPolicy,
    info: ChannelInfo,
    greeting: Option<Reply>,
    /// Transactions whose content went out.
    pub(crate) messages: u32,
    /// MAIL commands that were sent.
    pub(crate) mails: u32,
    /// What the stream belongs to; ends when the stream has.
    carrier: Option<Box<dyn Reopen>>,
}

/// What a stream belongs to, and what can give another one in its place.
#[async_trait]
pub(crate) trait Reopen: Send {
    async fn reopen(&mut self, options: &Options) -> Result<Box<dyn ByteStream>, Error>;

    /// Leaves the connection to the streams that it has; true if it has had others before this one.
    fn forsake(&self) -> bool {
        false
    }

    /// Keeps what the server has said to EHLO, for other streams of the same connection.
    fn remember(&self, _: &Capabilities) {}

    /// What it has said to EHLO on another stream of the same connection.
    fn remembered(&self) -> Option<Capabilities> {
        None
    }
}

/// A connection that serves one session.
pub(crate) struct Own {
    pub(crate) connection: Box<dyn stream::Connection>,
    pub(crate) address: Address,
}

#[async_trait]
impl Reopen for Own {
    async fn reopen(&mut self, options: &Options) -> Result<Box<dyn ByteStream>, Error> {
        open(&mut *self.connection, &self.address, options).await
    }
}

impl Connection {
    /// Connects to `target` and reads the greeting, except on channels on which the client speaks first.
    ///
    /// # Errors
    /// [`Error::Connect`] if there is no connection, else as [`Connection::over`].
    pub async fn connect(
        connector: &dyn Connector,
        target: &Target,
        policy: &TlsPolicy,
        options: Arc<Options>,
    ) -> Result<Self, Error> {
        let mut connection = reach(connector, target, policy, &options).await?;
        let stream = open(&mut *connection, &target.address, &options).await?;
        let mut session = Self::over(stream, policy, options).await?;
        session.keep(Box::new(Own { connection, address: target.address.clone() }));
        Ok(session)
    }

    /// A session over `stream`, which was opened under `policy`; reads the greeting as [`Connection::connect`] does.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server turned us away, and what the channel gives.
    pub async fn over(stream: Box<dyn ByteStream>, policy: &TlsPolicy, options: Arc<Options>) -> Result<Self, Error> {
        let (wire, info) = wired(stream, &options);
        let speaks_first = info.client_speaks_first;
        let mut connection =
            Self { wire, options, policy: policy.clone(), info, greeting: None, messages: 0, mails: 0, carrier: None };
        if !speaks_first {
            connection.await_greeting().await?;
        }
        Ok(connection)
    }

    /// Holds on to what the stream belongs to.
    pub(crate) fn keep(&mut self, carrier: Box<dyn Reopen>) {
        self.carrier = Some(carrier);
        self.recall();
    }

    /// Takes over what other streams of the same connection know of the server.
    //
    fn recall(&mut self) {
        if let Some(capabilities) = self.carrier.as_ref().and_then(|carrier| carrier.remembered()) {
            self.wire.session.assume(capabilities);
        }
    }

    /// Opens no more streams on the connection; true if it has had others before this one.
    pub(crate) fn forsake(&self) -> bool {
        self.carrier.as_ref().is_some_and(|carrier| carrier.forsake())
    }

    /// Tells other streams of the same connection what the server has said to EHLO.
    fn remember(&self) {
        if let Some(carrier) = &self.carrier {
            carrier.remember(self.capabilities());
        }
    }

    /// Begins again on a new stream of the same connection, after early data that the server did not take; false if
    /// there is none to be had.
    //
    pub(crate) async fn renew(&mut self) -> bool {
        let Some(carrier) = &mut self.carrier else { return false };
        let Ok(stream) = carrier.reopen(&self.options).await else { return false };
        (self.wire, self.info) = wired(stream, &self.options);
        (self.messages, self.mails) = (0, 0);
        self.recall();
        true
    }

    /// Waits until what is sent is no early data any more: that has no forward secrecy (RFC 8446 §2.3).
    //
    pub(crate) async fn confirmed(&mut self, step: Step) -> Result<(), Error> {
        let confirmed = self.wire.confirmed(self.options.timeouts.of(step)).await;
        confirmed.map_err(|broken| self.broken(step, broken))?;
        // Before, there was nothing yet to bind an authentication to.
        if let Some(info) = self.wire.info() {
            self.info = info;
        }
        Ok(())
    }

    /// Greets with `name` from now on: who goes by the address that the channel has here knows it only now.
    pub fn set_hello(&mut self, name: EhloName) {
        Arc::make_mut(&mut self.options).hello = name;
    }

    /// The facts of the channel as they are now.
    #[must_use]
    pub const fn info(&self) -> &ChannelInfo {
        &self.info
    }

    /// What the server greeted with.
    #[must_use]
    pub const fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// What the server's last EHLO reply offered.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        self.wire.session.capabilities()
    }

    /// True if the server offers `keyword`, or the channel implies it.
    #[must_use]
    pub fn offers(&self, keyword: &str) -> bool {
        self.wire.session.offers(keyword)
    }

    /// True after a successful AUTH.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.wire.session.is_authenticated()
    }

    /// True if another step can be taken.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.wire.is_idle()
    }

    /// True if EHLO has succeeded, so that mail can follow.
    pub(crate) fn has_said_hello(&self) -> bool {
        !matches!(self.wire.session.state(), State::Opened | State::Greeted | State::TurnedAway)
    }

    /// True if EHLO may be left to [`Connection::send`]: nothing else comes before mail here.
    pub(crate) fn hello_may_wait(&self) -> bool {
        self.wire.session.is_unspoken() && !self.info.can_upgrade
    }

    /// True if QUIT has been sent, and its reply is all that is left.
    pub(crate) fn is_leaving(&self) -> bool {
        self.wire.is_open() && self.wire.session.awaits() == Some(Awaited::Command(Verb::Quit))
    }

    async fn await_greeting(&mut self) -> Result<(), Error> {
        let Event { reply, .. } = self.next().await?;
        if reply.severity() != Severity::Success {
            // RFC 5321 §4.1.1.10: no close without QUIT.
            let _ = self.quit().await;
            return Err(Error::Refused { step: Step::Greeting, reply });
        }
        self.greeting = Some(reply);
        Ok(())
    }

    /// An error unless a step can be taken. Whatever the server has said unasked is heard first, lest it be taken for
    /// the answer to what comes next.
    pub(crate) async fn ready(&mut self, step: Step) -> Result<(), Error> {
        if !self.wire.is_open() {
            return Err(Error::Closed { step, source: None });
        }
        if !self.wire.session.is_idle() {
            return Err(Error::local(step, Local::InDoubt));
        }
        if matches!(step, Step::Auth | Step::Verify | Step::Expand) {
            self.confirmed(step).await?;
        }
        let unasked = match self.wire.event_now().await {
            Ok(None) if self.wire.is_idle() => return Ok(()),
            // Half a line is there.
            Ok(None) => self.wire.event(self.options.timeouts.of(step)).await,
            Ok(Some(event)) => Ok(event),
            Err(broken) => Err(broken),
        };
        match unasked {
            // 421: the only thing that may be said so.
            Ok(Event { reply, .. }) => Err(Error::Refused { step, reply }),
            Err(broken) => Err(self.broken(step, broken)),
        }
    }

    /// Queues `command`, and shows it.
    pub(crate) fn queue(&mut self, command: &Command) -> Result<(), smtp_core::session::client::NotNow> {
        self.wire.session.command(command)?;
        if matches!(command, Command::Mail(_)) {
            self.mails = self.mails.saturating_add(1);
        }
        if let Some(observer) = &self.options.observer {
            observer.sent(&transcript(command));
        }
        Ok(())
    }

    /// One command alone, and its reply whatever it says.
    pub(crate) async fn exchange(&mut self, command: &Command) -> Result<Reply, Error> {
        let step = Step::of_verb(command.verb());
        self.ready(step).await?;
        self.queue(command).map_err(|why| Error::local(step, why))?;
        Ok(self.next().await?.reply)
    }

    /// One command alone; anything but 2yz and 3yz is an error.
    pub(crate) async fn ask(&mut self, command: &Command) -> Result<Reply, Error> {
        let reply = self.exchange(command).await?;
        accepted(Step::of_verb(command.verb()), reply)
    }

    /// Writes what waits, then waits for the next reply, each under the deadline of its step.
    pub(crate) async fn next(&mut self) -> Result<Event, Error> {
        let step = Step::of(self.wire.session.awaits());
        let after = self.options.timeouts.of(step);
        let early = self.wire.flush(after).await;
        let since = self.options.observer.as_ref().map(|_| Instant::now());
        let event = match early {
            Ok(Some(event)) => Ok(event),
            Ok(None) => self.wire.event(after).await,
            Err(broken) => Err(broken),
        };
        if let (Some(observer), Some(since)) = (&self.options.observer, since) {
            observer.finished(step, since.elapsed());
        }
        event.map_err(|broken| self.broken(step, broken))
    }

    /// Closes what is broken, in the way that tells the peer why where the channel can.
    pub(crate) fn broken(&mut self, step: Step, broken: Broken) -> Error {
        match broken {
            Broken::Closed(source) => {
                self.wire.abort(CloseCode::NoError);
                Error::Closed { step, source }
            }
            Broken::Fault(fault) => {
                self.wire.abort(CloseCode::Protocol);
                Error::Misbehaved { step, fault }
            }
            Broken::Timeout(after) => {
                self.wire.abort(CloseCode::Timeout);
                Error::Timeout { step, after }
            }
        }
    }

    /// What is left to read on the way out, QUIT's reply apart.
    pub(crate) fn awaits_something(&self) -> bool {
        self.wire.session.awaits().is_some() && self.wire.is_open() && !self.is_leaving()
    }
}

/// A session on `stream`, and the stream's facts.
fn wired(stream: Box<dyn ByteStream>, options: &Options) -> (Wire, ChannelInfo) {
    let info = stream.info();
    if let Some(observer) = &options.observer {
        observer.connected(&info);
    }
    let mut wire = Wire::new(stream, options.observer.clone());
    wire.session.set_line_max(options.line_max);
    wire.session.set_lock_step(!options.pipelining);
    (wire, info)
}

/// A connection to `target`, under the deadline for connecting.
pub(crate) async fn reach(
    connector: &dyn Connector,
    target: &Target,
    policy: &TlsPolicy,
    options: &Options,
) -> Result<Box<dyn stream::Connection>, Error> {
    if let (true, Address::Host { port: 25, .. }) = (options.lmtp, &target.address) {
        let text = "LMTP must not be spoken on port 25 (RFC 2033 §5): name the port that the LMTP server listens on";
        let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, text);
        return Err(ConnectError::permanent(&target.address, ConnectStep::Connect, error).into());
    }
    let after = options.timeouts.connect;
    match tokio::time::timeout(after, connector.connect(target, policy)).await {
        Ok(carrier) => Ok(carrier?),
        Err(_) => Err(Error::Timeout { step: Step::Connect, after }),
    }
}

/// A stream on `carrier`, under the deadline for connecting.
pub(crate) async fn open(
    carrier: &mut dyn stream::Connection,
    address: &Address,
    options: &Options,
) -> Result<Box<dyn ByteStream>, Error> {
    let after = options.timeouts.connect;
    match tokio::time::timeout(after, carrier.open()).await {
        Ok(stream) => Ok(stream.map_err(|e| ConnectError::transient(address, ConnectStep::Connect, e))?),
        Err(_) => Err(Error::Timeout { step: Step::Connect, after }),
    }
}

/// The reply, if it is 2yz or 3yz.
pub(crate) fn accepted(step: Step, reply: Reply) -> Result<Reply, Error> {
    match reply.severity() {
        Severity::Success | Severity::Continue => Ok(reply),
        Severity::Transient | Severity::Permanent => Err(Error::Refused { step, reply }),
    }
}

impl core::fmt::Debug for Connection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.info.peer)
            .field("state", &self.wire.session.state())
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}
