//! `smtp serve`: a mail server in one command.

mod admin;
mod etrn;
mod hop;
mod local;
mod notify;
mod owed;
mod relay;
mod run_as;
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
use smtp_core::extension::Terms;
use smtp_core::session::server::{Limits, Protocol};
use smtp_core::types::{Domain, Mailbox};
use smtp_queue::Schedule;
use smtp_server::Server;
use smtp_tls::ServerTls;
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, warn};
use crate::listen::{self, Signals, Stopped};
use crate::logging::{self, Format, Level};
use crate::settings::{layered, load};
use crate::terms::{self, TermsArguments};
use crate::transport::{Born, EarlyDataChoice, Quic};
use crate::url::Url;
use crate::values::{self, Hidden, Many, Size, Wait, flatten};
use hop::{Hop, Route};
use local::{QuotaOf, Separator};
use owed::TlsRule;
use relay::Relay;
use run_as::RunAs;
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
    /// it a listener does both. ?proxy=NETWORK is for proxies: connections come from there and begin with a PROXY
    /// header. ?xclient=NETWORK, ?xclient-login=NETWORK and ?xforward=NETWORK let hosts there speak for others.
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

    /// Addresses that stand for others, in a file of lines `name: target, target`. SIGHUP reads it again.
    ///
    /// A name without a domain holds in every local domain; @DOMAIN takes what nobody else there does, where mailboxes
    /// are listed. A target is a mailbox, an address elsewhere, or a |command that stands alone; the last two need a
    /// queue. The file belongs to whoever may run programs: everything in it is done.
    #[arg(long, value_name = "FILE")]
    alias_file: Option<PathBuf>,

    /// What stands before a tag: mail to jo+tag is for jo, unless there is a jo+tag. One character, or none. Default: +.
    #[arg(long, value_name = "CHARACTER")]
    tag_separator: Option<Separator>,

    /// How much a mailbox may hold: [ADDRESS=]SIZE, SIZE/MESSAGES, /MESSAGES or none; may be repeated. Default: none.
    ///
    /// Without an address it is for every mailbox that has no quota of its own, but for postmaster's.
    #[arg(long, value_name = "QUOTA")]
    #[serde(deserialize_with = "values::list")]
    quota: Vec<Many<QuotaOf>>,

    /// The user that programs run as which take mail. Default: the one that this server runs as, but never root.
    #[arg(long, value_name = "NAME")]
    program_user: Option<String>,

    /// Where mail, keys and certificates are kept. Default: ./smtp-data.
    ///
    /// Mail lands in DIR/mail/DOMAIN/USER/{tmp,new,cur}.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Become this user once the ports are bound and the keys are read, for a server that root starts: USER[:GROUP].
    ///
    /// The data folder has to belong to the user; one that is not there yet is made so. What SIGHUP reads again the
    /// user has to be able to read.
    #[arg(long, value_name = "USER")]
    #[serde(deserialize_with = "values::parsed")]
    run_as: Option<RunAs>,

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
    /// Keys: user and password-file, auth (a SASL mechanism; EXTERNAL needs no password), tls-cert and tls-key (the
    /// certificate to show it), tls-ca or pin or the word insecure (how its own is checked), hello (the name to greet
    /// with). Who logs in does so only under TLS with a verified certificate.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::parsed")]
    relay_host: Option<Hop>,

    /// Hand mail for a destination to this server: DESTINATION=URL [KEY=VALUE…]; or to a program: DESTINATION=|COMMAND;
    /// may be repeated.
    ///
    /// A destination is a domain, or a dot and a domain for all below it. The keys are those of --relay-host. A command is
    /// a program's full path and its arguments, in which {user}, {tag}, {domain}, {recipient} and {sender} are filled in;
    /// there is no shell.
    #[arg(long, value_name = "DESTINATION=URL")]
    #[serde(deserialize_with = "values::list")]
    route: Vec<Many<Route>>,

    /// A domain that is not local and whose mail everybody may send here; may be repeated. It is passed on.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    relay_domain: Vec<Many<Domain>>,

    /// What is asked of TLS on the way to hosts that the DNS names: POLICY, or DESTINATION=POLICY; may be repeated.
    /// Default: opportunistic.
    ///
    /// opportunistic takes TLS where it is offered, and is content with any certificate. required wants a certificate for
    /// the host's name that the system's anchors vouch for. dane holds hosts to their TLSA records under DNSSEC, sts to
    /// their domain's MTA-STS policy, dane+sts to both, of which DANE counts first; where nothing is published they are
    /// opportunistic. Mail for a destination whose hosts all fall short waits. A destination is a domain, or a dot and a
    /// domain for all below it.
    #[arg(long, value_name = "POLICY")]
    #[serde(deserialize_with = "values::list")]
    tls_policy: Vec<Many<TlsRule>>,

    /// Validate signatures in the DNS, for mail that has to go to hosts that are known for sure (REQUIRETLS). Default: only
    /// with dane in --tls-policy.
    ///
    /// The name servers have to pass DNSSEC records on; they are not trusted.
    #[arg(long)]
    dnssec: bool,

    /// DNSKEY records to trust, in a file, in place of the keys of the DNS's root. It turns --dnssec on.
    #[arg(long, value_name = "FILE")]
    dnssec_anchor: Option<PathBuf>,

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

    /// A domain whose mail a host may ask for by ETRN (RFC 1985); may be repeated. Needs a queue.
    ///
    /// It is tried again at once, on the way that it always goes; at most once in five minutes. Hosts below the domain
    /// may be asked for too. Not on ?role=submission.
    #[arg(long, value_name = "DOMAIN")]
    #[serde(deserialize_with = "values::list")]
    etrn: Vec<Many<Domain>>,

    #[command(flatten)]
    #[serde(skip)]
    terms: TermsArguments,

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

    /// The CAs that the certificates of other mail hosts and of MTA-STS servers are held against, in PEM. Default: the
    /// system's.
    #[arg(long, value_name = "FILE")]
    mx_tls_ca: Option<PathBuf>,

    /// The port at which MTA-STS policies are fetched, for networks of tests. Default: 443.
    #[arg(long, value_name = "PORT")]
    mx_sts_port: Option<u16>,

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
    alias_file,
    tag_separator,
    quota,
    program_user,
    data_dir,
    run_as,
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
    tls_policy,
    dnssec,
    dnssec_anchor,
    queue_retry,
    queue_lifetime,
    queue_delay_notice,
    etrn,
    dns,
    own_address,
    mx_port,
    mx_tls_ca,
    mx_sts_port,
    drain_deadline,
    log,
    log_format,
    verbose,
} with { terms } except {});

/// What stands below the options in `smtp serve --help`.
pub(crate) const MORE_HELP: &str = "\
On standard output there is a line `listening URL` for each listener, once it accepts; all else is on standard error. \
With --listen pipe: standard output is the session's.

SIGTERM and SIGINT end it: a client hears 421 at its next command, and may finish what it is sending. A second one \
ends it at once.

SIGHUP reads the certificates, the user file and the alias file again, and from the configuration file domains, mailboxes, \
quotas, routes, TLS policies and the relay host; sessions go on. What mechanisms AUTH offers is decided at the start: a server that had no user then has no \
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

    let run_as = plan.run_as.as_ref().map(|user| Ok(user.wanted()?.then_some(user))).transpose()?.flatten();
    let keys = store::Keys::open(&plan, run_as)?;
    let listeners = listen::bind(&plan.urls, keys.tls.as_ref().map(|tls| &tls.server), &plan.quic, born)?;
    match run_as {
        Some(user) => user.drop()?,
        None => run_as::warn_of_root(&plan.urls),
    }
    let store = keys.store(&plan)?;
    let mailboxes = stack::mailboxes(&plan)?;
    let (relay, runner) = Relay::open(&plan, &store, &mailboxes, &listeners).await?.unzip();
    let sockets: Vec<screen::Shown> = listeners.iter().map(screen::Shown::of).collect();
    let stack = Stack::new(&plan, &store, mailboxes, relay.as_ref())?;
    let stack = Arc::new(stack::Current::new(stack));
    let mut behind_doors: Vec<_> =
        listeners.into_iter().map(|socket| (Door::from(socket.entrance), (socket.protocol, socket.listener))).collect();
    if relay.is_some() {
        admin::run_folder(&relay::run_dir(&plan.data_dir))?;
        let socket = UnixListener::bind(crate::admin::submission_socket(&plan.data_dir), &UnixOptions::default());
        let socket = socket.map_err(|error| Failure::new(Exit::Io, error))?;
        behind_doors.push((Door::programs(), (Protocol::Smtp, Box::new(socket))));
    }

    let (signals, shutdown) = (Signals::new()?, CancellationToken::new());
    let once = listen::is_pipe(&plan.urls);
    if format == Format::Text && !once {
        screen::show(&plan, &store, &sockets);
    }
    let mut running = JoinSet::new();
    for (door, listeners) in listen::grouped(behind_doors) {
        let behind = Arc::clone(&stack);
        let settings = stack.get().settings(&plan, &door);
        let server = Server::new(settings, move |_| behind.get().of(&door));
        let server =
            listeners.into_iter().fold(server, |server, (protocol, listener)| server.listen_as(listener, protocol));
        running.spawn(server.run(shutdown.clone()));
    }
    let serving = listen::together(running);
    if !once {
        listen::announce(sockets.iter().map(|socket| &socket.url));
    }
    notify::ready();
    notify::keep_alive();
    sweep(store.maildir.clone());
    let mut emptying = None;
    if let (Some(relay), Some(runner)) = (&relay, runner) {
        emptying = Some(tokio::spawn(runner.run(shutdown.child_token())));
        admin::Admin::of(relay, relay::reporter(&plan)).listen(&plan.data_dir)?;
    }

    let again = Reload { matches, plan, store, stack, relay };
    let tell = shutdown.clone();
    tokio::spawn(async move {
        tell.cancelled().await;
        notify::stopping();
    });
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
        notify::reloading();
        reload(self.store.tls.as_ref().map(|tls| &tls.server));
        match self.settings() {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(failure) => tracing::error!(
                error = failure.what(),
                help = failure.advice(),
                "the configuration cannot be read again; the old one stays"
            ),
        }
        notify::ready();
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
    let mailboxes = stack::mailboxes(&plan)?;
    if let Some(identity) = &plan.identity {
        ServerTls::builder().identity(identity.clone()).build().map_err(Failure::config)?;
    }
    ways::check(&plan, &mailboxes)?;
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
    alias_file: Option<PathBuf>,
    separator: Separator,
    quotas: Vec<QuotaOf>,
    program_user: Option<String>,
    data_dir: PathBuf,
    run_as: Option<RunAs>,
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
    tls_policies: Vec<TlsRule>,
    dnssec: bool,
    dnssec_anchor: Option<PathBuf>,
    schedule: Schedule,
    /// For which domains ETRN starts the queue.
    etrn: Vec<Domain>,
    /// On what terms extensions are offered.
    terms: Terms,
    dns: Vec<SocketAddr>,
    own_addresses: Vec<IpAddr>,
    mx_port: Option<u16>,
    mx_tls_ca: Option<PathBuf>,
    mx_sts_port: Option<u16>,
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
        let etrn = flatten(arguments.etrn);
        if !etrn.is_empty() && queue.is_none() {
            return Err(Failure::usage("--etrn without a queue").help("--queue sqlite makes one"));
        }
        let mut schedule = Schedule::default();
        let retries: Vec<Duration> = flatten(arguments.queue_retry).into_iter().map(|wait: Wait| wait.0).collect();
        if !retries.is_empty() {
            schedule.retries = retries;
        }
        let mut terms = arguments.terms.terms();
        if terms.deliver_by_min == 0 && queue.is_some() {
            // What is not delivered at once is tried again after the first pause, and not before.
            let pause = schedule.retries.first().map_or(0, Duration::as_secs);
            terms.deliver_by_min = u32::try_from(pause).unwrap_or(u32::MAX);
        }
        schedule.lifetime = arguments.queue_lifetime.map_or(schedule.lifetime, |wait| wait.0);
        schedule.delay_notice = arguments.queue_delay_notice.map_or(schedule.delay_notice, |wait| wait.0);
        Ok(Self {
            urls,
            hostname,
            domains,
            mailboxes: flatten(arguments.mailbox),
            alias_file: arguments.alias_file,
            separator: arguments.tag_separator.unwrap_or_default(),
            quotas: flatten(arguments.quota),
            program_user: arguments.program_user,
            data_dir,
            run_as: arguments.run_as,
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
            tls_policies: flatten(arguments.tls_policy),
            dnssec: arguments.dnssec,
            dnssec_anchor: arguments.dnssec_anchor,
            schedule,
            etrn,
            terms,
            dns: flatten(arguments.dns),
            own_addresses: flatten(arguments.own_address),
            mx_port: arguments.mx_port,
            mx_tls_ca: arguments.mx_tls_ca,
            mx_sts_port: arguments.mx_sts_port,
        })
    }

    fn drain_time(&self) -> Duration {
        self.drain.map_or(Duration::from_secs(30), |wait| wait.0)
    }

    fn message_size(&self) -> u64 {
        self.max_size.map_or(Limits::default().message_size, |size| size.0)
    }

    /// What holds until the end of the process, and whether it is another in `new`.
    fn fixed(&self, new: &Self) -> [(&'static str, bool); 11] {
        [
            ("listen", self.urls != new.urls),
            ("hostname", self.hostname != new.hostname),
            ("data_dir", self.data_dir != new.data_dir),
            ("run_as", self.run_as != new.run_as),
            ("max_size", self.max_size != new.max_size),
            ("queue, queue_bodies, queue_lease", self.queue != new.queue),
            ("queue_retry, queue_lifetime, queue_delay_notice", self.schedule != new.schedule),
            ("etrn", self.etrn != new.etrn),
            ("no_soliciting, deliver_by_min, priority_profile, hold_max", !terms::same(&self.terms, &new.terms)),
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
