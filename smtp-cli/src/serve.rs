//! `smtp serve`: a mail server in one command.

mod screen;
mod stack;
mod store;

use std::path::PathBuf;

use serde::Deserialize;
use smtp_core::types::{Domain, Mailbox};
use smtp_server::Server;
use smtp_tls::ServerTls;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, warn};
use crate::listen::{self, Signals, Stopped};
use crate::logging::{self, Format, Level};
use crate::settings::layered;
use crate::transport::{Born, EarlyDataChoice, Quic};
use crate::url::Url;
use crate::values::{self, Hidden, Many, Size, Wait, flatten};

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

SIGHUP reads the certificates and the user file again. What mechanisms AUTH offers is decided at the start: a server \
that had no user then has no AUTH and does not read the file again; nor does it come to offer EXTERNAL with the first \
certificate or uid, or SCRAM-SHA-1 or CRAM-MD5 once all users can use them. A restart does.

Examples:
  smtp serve
  smtp serve --listen smtp://0.0.0.0:25 --domain example.org --hostname mx.example.org
  smtp user add me && smtp serve --mailbox me@localhost --user-file smtp-data/users --listen smtps://127.0.0.1:4465
  smtp serve --listen smtp+unix:///run/smtp.sock --listen smtp+quic://127.0.0.1:4443
  systemd-socket-activate -l 2525 smtp serve --listen fd:";

/// Runs `smtp serve`.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let urls = listen::urls_or_default(flatten(arguments.listen.clone()));
    // Before a word is said: the log may be the client's.
    let born = Born::take(&urls)?;
    let format = arguments.log_format.unwrap_or_default();
    let _log = logging::start(arguments.log.unwrap_or(Level::Info), arguments.verbose, format);
    if std::env::args_os().any(|word| word == "--user" || word.to_string_lossy().starts_with("--user=")) {
        warn("other users of this machine can see the password given by --user; --user-file FILE keeps it from them");
    }
    let plan = Plan::new(arguments, urls)?;

    let store = store::open(&plan)?;
    let listeners = listen::bind(&plan.urls, store.tls.as_ref().map(|tls| &tls.server), &plan.quic, born)?;
    let sockets: Vec<screen::Shown> = listeners.sockets.iter().map(screen::Shown::of).collect();
    let stack = stack::Stack::new(&plan, &store, listeners.strict)?;
    let server = Server::new(stack.settings(&plan), move |session| stack.of(session));
    let server =
        listeners.sockets.into_iter().fold(server, |server, socket| server.listen_as(socket.listener, socket.protocol));

    let (signals, shutdown) = (Signals::new()?, CancellationToken::new());
    let once = listen::is_pipe(&plan.urls);
    if format == Format::Text && !once {
        screen::show(&plan, &store, &sockets);
    }
    let serving = tokio::spawn(server.run(shutdown.clone()));
    if !once {
        listen::announce(sockets.iter().map(|socket| &socket.url));
    }
    sweep(store.maildir.clone());

    let tls = store.tls.map(|tls| tls.server);
    let reload = || {
        reload(tls.as_ref());
        if let Some(users) = &store.users {
            reload_users(&plan, users);
        } else if plan.user_file.is_some() {
            tracing::warn!("there was no user at the start, so the user file is not read again; a restart reads it");
        }
    };
    match listen::until_stopped(serving, shutdown, signals, once, reload).await? {
        Stopped::Drained(summary) => {
            tracing::info!(sessions = summary.sessions, aborted = summary.aborted, "ended");
            Ok(Exit::Success)
        }
        Stopped::AtOnce => Ok(Exit::Temporary),
    }
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
    client_ca: Option<PathBuf>,
    key_log: bool,
    quic: Quic,
    drain: Option<Wait>,
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
        Ok(Self {
            urls,
            hostname,
            domains,
            mailboxes: flatten(arguments.mailbox),
            data_dir: arguments.data_dir.unwrap_or_else(|| "smtp-data".into()),
            user_file: arguments.user_file,
            users: arguments.user,
            max_size: arguments.max_size,
            identity: listen::named_identity(arguments.tls_cert, arguments.tls_key)?,
            client_ca: arguments.tls_client_ca,
            key_log: arguments.tls_key_log,
            quic: Quic::new(arguments.early_data, arguments.qlog_dir)?,
            drain: arguments.drain_deadline,
        })
    }
}

fn reload(tls: Option<&ServerTls>) {
    match tls.map(ServerTls::reload) {
        None => tracing::info!("nothing to reload: no TLS"),
        Some(Ok(())) => tracing::info!("the certificates were read again"),
        Some(Err(error)) => tracing::error!(%error, "the certificates cannot be read again; the old ones stay"),
    }
}

fn reload_users(plan: &Plan, users: &smtp_server::auth::SharedUsers) {
    match store::users(plan) {
        Ok(list) => {
            tracing::info!(users = list.len(), "the users were read again");
            users.replace(list);
        }
        Err(failure) => tracing::error!(error = failure.what(), "the users cannot be read again; the old ones stay"),
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
