//! `smtp serve`: a mail server in one command.

mod admin;
mod hop;
mod relay;
mod screen;
mod show;
mod spooling;
mod stack;
mod store;
mod ways;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;

use serde::Deserialize;
use smtp_core::session::server::{Limits, Protocol};
use smtp_core::types::{Domain, Mailbox};
use smtp_queue::Schedule;
use smtp_server::{Server, Summary};
use smtp_tls::ServerTls;
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, warn};
use crate::listen::{self, Signals, Stopped};
use crate::logging::{self, Format, Level};
use crate::settings::{layered, load};
use crate::transport::{Born, EarlyDataChoice, Quic};
use crate::url::Url;
use crate::values::{self, Hidden, Many, Size, Wait, flatten};
use hop::{Hop, Route};
use relay::Relay;
use spooling::{Place, Spooling};
use stack::{Door, Stack};

/// Runs a mail server: accepts mail for local domains and stores it in Maildir folders.
///
/// Without options it listens on this machine only, takes mail for anybody at localhost, and keeps everything in
/// ./smtp-data.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// Where to listen; may be repeated. Default: smtp://127.0.0.1:2525 and smtp+quic://127.0.0.1:2525.
    ///
    /// smtp://address:port offers STARTTLS; with ?tls=required it takes no mail before it (530), with ?tls=none it
    /// offers none. smtps://address:port is TLS from the first octet. The ports are 25 and 465 if none is named; 0 is
    /// a free one. smtp+quic://address:port is QUIC, with ?service=submission for mail from its authors.
    /// smtp+unix:///path, smtp+ws://address:port and smtp+wss://… are a Unix socket and WebSockets. lmtp://address:port
    /// and lmtp+unix:///path speak LMTP, with an answer for each recipient, never on port 25. pipe: serves one
    /// session on standard input and output, as inetd wants it; fd:name takes sockets that a service manager opened.
    /// ?role=mx takes mail from other hosts, where nobody authenticates; ?role=submission from users who do. Without
    /// it a listener does both.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::list")]
    listen: Vec<Many<Url>>,

    /// The name to greet with and to write into Received. Default: the system's.
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "values::parsed")]
    hostname: Option<Domain>,

    /// A domain to take mail for; may be repeated. Default: localhost. The first is where a bare Postmaster lives.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    domain: Vec<Many<Domain>>,

    /// A mailbox to take mail for; may be repeated. Then no others exist, but for postmaster.
    ///
    /// Without it every local part of the domains is taken.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    mailbox: Vec<Many<Mailbox>>,

    /// Where mail, keys and certificates are kept. Default: ./smtp-data.
    ///
    /// Mail lands in DIR/mail/DOMAIN/USER/{tmp,new,cur}.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Users that may authenticate, in a file that `smtp user` writes. SIGHUP reads it again, unless there was no user
    /// at the start.
    #[arg(long, value_name = "FILE")]
    user_file: Option<PathBuf>,

    /// A user that may authenticate; may be repeated. Split at the first colon.
    ///
    /// Other users of this machine can see a command line: for trying out only.
    #[arg(long, value_name = "NAME:PASSWORD")]
    #[serde(deserialize_with = "values::list")]
    user: Vec<Hidden>,

    /// The largest message, in octets or as 10M. Default: 35M.
    #[arg(long, value_name = "OCTETS")]
    max_size: Option<Size>,

    /// The certificate for TLS, in PEM, its own first. Default: a self-signed one, made on the first run.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Ask clients for a certificate by a CA in this PEM file, so that users can be known by it (AUTH EXTERNAL).
    ///
    /// Whose certificate it is the user file says. Take a CA that issues for this purpose only.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Write the sessions' TLS keys to the file that SSLKEYLOGFILE names. Whoever reads it reads the mail.
    #[arg(long)]
    tls_key_log: bool,

    /// Whether QUIC clients that come back may send before the handshake is complete. Default: off.
    ///
    /// What they send so early is held back until the handshake shows that it is no replay.
    #[arg(long, value_name = "CHOICE", value_enum)]
    early_data: Option<EarlyDataChoice>,

    /// Write a qlog file of each QUIC connection into this folder.
    #[arg(long, value_name = "DIR")]
    qlog_dir: Option<PathBuf>,

    /// Where mail for others waits: sqlite, which is in DIR/queue of the data folder, sqlite:FOLDER, none, or
    /// postgres://USER@HOST/DATABASE, which several nodes share.
    ///
    /// With a queue users who have authenticated may send to anybody; without one nobody may. Default: none, but sqlite
    /// with --relay-host, --route or --relay-domain.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<Spooling>,

    /// Where messages over 256 KiB wait that are in a queue in PostgreSQL: a folder that all nodes see, for none but this
    /// program. Default: in the database.
    #[arg(long, value_name = "FOLDER")]
    queue_bodies: Option<PathBuf>,

    /// How long a node that says nothing keeps its part of a queue in PostgreSQL, until others take it over. Default: 1m.
    #[arg(long, value_name = "TIME")]
    queue_lease: Option<Wait>,

    /// Hand all mail for others to this server instead of looking up whom the DNS says: URL [KEY=VALUE…].
    ///
    /// Keys: user and password-file, auth (a SASL mechanism), tls-ca or pin or the word insecure (how its certificate is
    /// checked), hello (the name to greet with). A password goes to a server only under TLS with a verified certificate.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::parsed")]
    relay_host: Option<Hop>,

    /// Hand mail for a destination to this server: DESTINATION=URL [KEY=VALUE…]; may be repeated.
    ///
    /// A destination is a domain, or a dot and a domain for all below it. The keys are those of --relay-host.
    #[arg(long, value_name = "DESTINATION=URL")]
    #[serde(deserialize_with = "values::list")]
    route: Vec<Many<Route>>,

    /// A domain that is not local and whose mail everybody may send here; may be repeated. It is passed on.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    relay_domain: Vec<Many<Domain>>,

    /// After how long mail is tried again: after the first failure, the second…; the last counts for all that follow.
    /// Default: 1m,5m,15m,30m,1h,2h,4h.
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "values::list")]
    queue_retry: Vec<Many<Wait>>,

    /// After how long mail is given up and its sender told. Default: 5d.
    #[arg(long, value_name = "TIME")]
    queue_lifetime: Option<Wait>,

    /// After how long a sender is told that mail is delayed. Default: 4h.
    #[arg(long, value_name = "TIME")]
    queue_delay_notice: Option<Wait>,

    /// A name server to ask, as address:port; may be repeated. Default: those of the system.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    dns: Vec<Many<SocketAddr>>,

    /// An address by which this host is known, beside those of its interfaces; may be repeated. No mail is sent to it.
    #[arg(long, value_name = "IP")]
    #[serde(deserialize_with = "values::list")]
    own_address: Vec<Many<IpAddr>>,

    /// The port at which other hosts take mail, for networks of tests. Default: 25.
    #[arg(long, value_name = "PORT")]
    mx_port: Option<u16>,

    /// How long open transactions may go on after SIGTERM, in seconds. Default: 30.
    #[arg(long, value_name = "SECONDS")]
    drain_deadline: Option<Wait>,

    /// How much is logged. Default: info.
    #[arg(long, value_name = "LEVEL", value_enum)]
    log: Option<Level>,

    /// What log lines look like. Default: text.
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<Format>,

    /// Log more; may be repeated.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

layered!(Arguments {
    listen,
    hostname,
    domain,
    mailbox,
    data_dir,
    user_file,
    user,
    max_size,
    tls_cert,
    tls_key,
    tls_client_ca,
    tls_key_log,
    early_data,
    qlog_dir,
    queue,
    queue_bodies,
    queue_lease,
    relay_host,
    route,
    relay_domain,
    queue_retry,
    queue_lifetime,
    queue_delay_notice,
    dns,
    own_address,
    mx_port,
    drain_deadline,
    log,
    log_format,
    verbose,
} except {});

/// What stands below the options in `smtp serve --help`.
pub(crate) const MORE_HELP: &str = "\
On standard output there is a line `listening URL` for each listener, once it accepts; all else is on standard error. \
With --listen pipe: standard output is the session's.

SIGTERM and SIGINT end it: a client hears 421 at its next command, and may finish what it is sending. A second one \
ends it at once.

SIGHUP reads the certificates and the user file again, and from the configuration file domains, mailboxes, routes and the \
relay host; sessions go on. What mechanisms AUTH offers is decided at the start: a server that had no user then has no \
AUTH and does not read the file again; nor does it come to offer EXTERNAL with the first certificate or uid, or \
SCRAM-SHA-1 or CRAM-MD5 once all users can use them. A restart does.

With a queue, programs of this server's user can hand in mail by `smtp sendmail`, and `smtp queue` shows what waits.

Examples:
  smtp serve
  smtp serve --listen smtp://0.0.0.0:25 --domain example.org --hostname mx.example.org
  smtp user add me && smtp serve --mailbox me@localhost --user-file smtp-data/users --listen smtps://127.0.0.1:4465
  smtp serve --listen 'smtps://0.0.0.0:465?role=submission' --user-file users --relay-host smtps://mail.example.net
  smtp serve --listen smtp+unix:///run/smtp.sock --listen smtp+quic://127.0.0.1:4443
  systemd-socket-activate -l 2525 smtp serve --listen fd:";

/// Runs `smtp serve`.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub(crate) async fn run(matches: ArgMatches) -> Result<Exit, Failure> {
    let arguments: Arguments = load(&matches)?;
    let urls = listen::urls_or_default(flatten(arguments.listen.clone()));
    // Before a word is said: the log may be the client's.
    let born = Born::take(&urls)?;
    let format = arguments.log_format.unwrap_or_default();
    let _log = logging::start(arguments.log.unwrap_or(Level::Info), arguments.verbose, format);
    if std::env::args_os().any(|word| word == "--user" || word.to_string_lossy().starts_with("--user=")) {
        warn("other users of this machine can see the password given by --user; --user-file FILE keeps it from them");
    }
    let plan = Plan::new(arguments, urls)?;
    if plan.queue.as_ref().is_some_and(Place::is_on_the_command_line_with_a_password) {
        warn("other users of this machine can see the password in --queue; PGPASSWORD or ~/.pgpass keeps it from them");
    }

    let store = store::open(&plan)?;
    let listeners = listen::bind(&plan.urls, store.tls.as_ref().map(|tls| &tls.server), &plan.quic, born)?;
    let mailboxes = stack::mailboxes(&plan)?;
    let relay = Relay::open(&plan, &store, &mailboxes, &listeners.sockets).await?;
    let sockets: Vec<screen::Shown> = listeners.sockets.iter().map(screen::Shown::of).collect();
    let stack = Stack::new(&plan, &store, mailboxes, relay.as_ref(), listeners.strict)?;
    let stack = Arc::new(stack::Current::new(stack));
    let mut doors: Vec<_> =
        listeners.sockets.into_iter().map(|socket| (socket.role.into(), socket.protocol, socket.listener)).collect();
    if relay.is_some() {
        admin::run_folder(&relay::run_dir(&plan.data_dir))?;
        let socket = UnixListener::bind(crate::admin::submission_socket(&plan.data_dir), &UnixOptions::default());
        doors.push((Door::Programs, Protocol::Smtp, Box::new(socket.map_err(|error| Failure::new(Exit::Io, error))?)));
    }

    let (signals, shutdown) = (Signals::new()?, CancellationToken::new());
    let once = listen::is_pipe(&plan.urls);
    if format == Format::Text && !once {
        screen::show(&plan, &store, &sockets);
    }
    let mut running = JoinSet::new();
    let used = Door::ALL.iter().filter(|door| doors.iter().any(|(other, ..)| other == *door)).count();
    for door in Door::ALL {
        let behind = Arc::clone(&stack);
        let server =
            Server::new(stack.get().settings(&plan, door, used), move |session| behind.get().of(session, door));
        let own = doors.extract_if(.., |(other, ..)| *other == door);
        let mut own = own.peekable();
        if own.peek().is_some() {
            let server = own.fold(server, |server, (_, protocol, listener)| server.listen_as(listener, protocol));
            running.spawn(server.run(shutdown.clone()));
        }
    }
    let serving = tokio::spawn(async move { running.join_all().await.into_iter().fold(NOTHING, add) });
    if !once {
        listen::announce(sockets.iter().map(|socket| &socket.url));
    }
    sweep(store.maildir.clone());
    let mut emptying = None;
    if let Some(relay) = &relay {
        let (hops, runner) = relay.start(&plan, shutdown.child_token());
        let (spool, clock) = (Arc::clone(&relay.spool), Arc::clone(&relay.clock));
        admin::Admin { spool, clock, hops }.listen(&plan.data_dir)?;
        emptying = Some(runner);
    }

    let again = Reload { matches, plan, store, stack, relay };
    let stopped = listen::until_stopped(serving, shutdown.clone(), signals, once, || again.all()).await?;
    match stopped {
        Stopped::Drained(summary) => {
            shutdown.cancel();
            if let (Some(runner), Some(relay)) = (emptying, &again.relay) {
                // It ends by itself: its deliveries have the time that sessions have.
                let _ = runner.await;
                if let Err(error) = relay.spool.close().await {
                    tracing::warn!(%error, "the queue was not closed in order; nothing in it is lost");
                }
            }
            tracing::info!(sessions = summary.sessions, aborted = summary.aborted, "ended");
            Ok(Exit::Success)
        }
        Stopped::AtOnce => Ok(Exit::Temporary),
    }
}

const NOTHING: Summary = Summary { sessions: 0, aborted: 0, panicked: 0 };

const fn add(a: Summary, b: Summary) -> Summary {
    Summary { sessions: a.sessions + b.sessions, aborted: a.aborted + b.aborted, panicked: a.panicked + b.panicked }
}

/// What SIGHUP reads again.
struct Reload {
    matches: ArgMatches,
    plan: Plan,
    store: store::Store,
    stack: Arc<stack::Current>,
    relay: Option<Relay>,
}

impl Reload {
    fn all(&self) {
        reload(self.store.tls.as_ref().map(|tls| &tls.server));
        match self.settings() {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(failure) => tracing::error!(
                error = failure.what(),
                help = failure.advice(),
                "the configuration cannot be read again; the old one stays"
            ),
        }
    }

    fn settings(&self) -> Result<(), Failure> {
        let arguments: Arguments = load(&self.matches)?;
        let urls = listen::urls_or_default(flatten(arguments.listen.clone()));
        let plan = Plan::new(arguments, urls)?;
        for (name, changed) in self.plan.fixed(&plan) {
            if changed {
                tracing::warn!(setting = name, "it was changed, which takes effect after a restart");
            }
        }
        let mailboxes = stack::mailboxes(&plan)?;
        let users = store::users(&plan)?;
        let stack = self.stack.get().again(&plan, &self.store, mailboxes.clone())?;
        if let Some(relay) = &self.relay {
            relay.reload(&plan, &mailboxes, &self.store.maildir)?;
        }
        // Nothing fails any more: all of it is new, or all is as it was.
        self.stack.replace(stack);
        if let Some(shared) = &self.store.users {
            tracing::info!(users = users.len(), "the users were read again");
            shared.replace(users);
        } else if !users.is_empty() {
            tracing::warn!("there are users now; that they can authenticate takes effect after a restart");
        }
        Ok(())
    }
}

/// The data folder that a command means that goes with a server: the one it names, or that of the server's
/// configuration, or the usual one.
///
/// # Errors
/// If the configuration cannot be read.
pub(crate) fn data_dir(named: Option<&Path>, config: Option<&Path>) -> Result<PathBuf, Failure> {
    let from = config.map(crate::settings::file::<Arguments>).transpose()?.and_then(|arguments| arguments.data_dir);
    Ok(named.map(Path::to_owned).or(from).unwrap_or_else(|| DATA_DIR.into()))
}

const DATA_DIR: &str = "smtp-data";

/// What the configuration in `file` means, if it and all that it names can be used.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(file: &Path) -> Result<impl std::fmt::Display + use<>, Failure> {
    let arguments: Arguments = crate::settings::file(file)?;
    let urls = listen::urls_or_default(flatten(arguments.listen.clone()));
    let plan = Plan::new(arguments, urls)?;
    for url in &plan.urls {
        if matches!(url.carrier(), crate::url::Carrier::Tcp | crate::url::Carrier::Quic) {
            url.listen_address().map_err(Failure::config)?;
        }
    }
    store::users(&plan)?;
    stack::mailboxes(&plan)?;
    if let Some(identity) = &plan.identity {
        ServerTls::builder().identity(identity.clone()).build().map_err(Failure::config)?;
    }
    ways::check(&plan)?;
    Ok(plan)
}

/// The settings with their defaults, checked as far as they can be alone.
#[derive(Debug)]
struct Plan {
    urls: Vec<Url>,
    hostname: Domain,
    /// At least one.
    domains: Vec<Domain>,
    /// Empty: every local part.
    mailboxes: Vec<Mailbox>,
    data_dir: PathBuf,
    user_file: Option<PathBuf>,
    users: Vec<Hidden>,
    max_size: Option<Size>,
    identity: Option<smtp_tls::Identity>,
    /// The files that it is in.
    identity_files: Option<(PathBuf, PathBuf)>,
    client_ca: Option<PathBuf>,
    key_log: bool,
    quic: Quic,
    drain: Option<Wait>,
    /// Where the queue is, if there is one.
    queue: Option<Place>,
    relay_host: Option<Hop>,
    routes: Vec<Route>,
    relay_domains: Vec<Domain>,
    schedule: Schedule,
    dns: Vec<SocketAddr>,
    own_addresses: Vec<IpAddr>,
    mx_port: Option<u16>,
}

impl Plan {
    fn new(arguments: Arguments, urls: Vec<Url>) -> Result<Self, Failure> {
        let name = |text: &str| text.parse::<Domain>().map_err(Failure::config);
        let mut domains = flatten(arguments.domain);
        if domains.is_empty() {
            domains.push(name("localhost")?);
        }
        let hostname = match arguments.hostname {
            Some(hostname) => name(&crate::url::ascii(hostname.as_str()))?,
            // A name that is none under the rules of mail is no reason not to start.
            None => match crate::connect::host_name().and_then(|host| host.parse().ok()) {
                Some(host) => host,
                None => name("localhost")?,
            },
        };
        let data_dir = arguments.data_dir.unwrap_or_else(|| DATA_DIR.into());
        let (routes, relay_domains) = (flatten(arguments.route), flatten(arguments.relay_domain));
        let relays = arguments.relay_host.is_some() || !routes.is_empty() || !relay_domains.is_empty();
        if relays && arguments.queue == Some(Spooling::None) {
            return Err(Failure::usage("--queue none, and mail is to be relayed")
                .help("leave out --queue, or --relay-host, --route and --relay-domain"));
        }
        let spooling = arguments.queue.unwrap_or(if relays { Spooling::Sqlite(None) } else { Spooling::None });
        let queue = Place::new(spooling, data_dir.join("queue"), arguments.queue_bodies, arguments.queue_lease)?;
        let mut schedule = Schedule::default();
        let retries: Vec<Duration> = flatten(arguments.queue_retry).into_iter().map(|wait: Wait| wait.0).collect();
        if !retries.is_empty() {
            schedule.retries = retries;
        }
        schedule.lifetime = arguments.queue_lifetime.map_or(schedule.lifetime, |wait| wait.0);
        schedule.delay_notice = arguments.queue_delay_notice.map_or(schedule.delay_notice, |wait| wait.0);
        Ok(Self {
            urls,
            hostname,
            domains,
            mailboxes: flatten(arguments.mailbox),
            data_dir,
            user_file: arguments.user_file,
            users: arguments.user,
            max_size: arguments.max_size,
            identity_files: arguments.tls_cert.clone().zip(arguments.tls_key.clone()),
            identity: listen::named_identity(arguments.tls_cert, arguments.tls_key)?,
            client_ca: arguments.tls_client_ca,
            key_log: arguments.tls_key_log,
            quic: Quic::new(arguments.early_data, arguments.qlog_dir)?,
            drain: arguments.drain_deadline,
            queue,
            relay_host: arguments.relay_host,
            routes,
            relay_domains,
            schedule,
            dns: flatten(arguments.dns),
            own_addresses: flatten(arguments.own_address),
            mx_port: arguments.mx_port,
        })
    }

    fn drain_time(&self) -> Duration {
        self.drain.map_or(Duration::from_secs(30), |wait| wait.0)
    }

    fn message_size(&self) -> u64 {
        self.max_size.map_or(Limits::default().message_size, |size| size.0)
    }

    /// What holds until the end of the process, and whether it is another in `new`.
    fn fixed(&self, new: &Self) -> [(&'static str, bool); 8] {
        [
            ("listen", self.urls != new.urls),
            ("hostname", self.hostname != new.hostname),
            ("data_dir", self.data_dir != new.data_dir),
            ("max_size", self.max_size != new.max_size),
            ("queue, queue_bodies, queue_lease", self.queue != new.queue),
            ("queue_retry, queue_lifetime, queue_delay_notice", self.schedule != new.schedule),
            ("tls_cert, tls_key", self.identity_files != new.identity_files),
            ("drain_deadline", self.drain != new.drain),
        ]
    }
}

fn reload(tls: Option<&ServerTls>) {
    match tls.map(ServerTls::reload) {
        None => tracing::info!("nothing to reload: no TLS"),
        Some(Ok(())) => tracing::info!("the certificates were read again"),
        Some(Err(error)) => tracing::error!(%error, "the certificates cannot be read again; the old ones stay"),
    }
}

/// Clears away what deliveries left that a power cut ended, without keeping anybody waiting.
fn sweep(maildir: smtp_server::Maildir) {
    tokio::task::spawn_blocking(move || match maildir.sweep() {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed what unfinished deliveries had left"),
        Err(error) => tracing::warn!(%error, "cannot remove what unfinished deliveries have left"),
    });
}
