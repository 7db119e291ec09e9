//! `smtp sink`: takes everything, keeps nothing, and counts.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use smtp_core::driver;
use smtp_core::service::{BoxError, Delivery, Policy};
use smtp_core::session::server::{Config, Limits};
use smtp_core::types::Domain;
use smtp_server::{AnyRecipient, Places, RequireTlsLayer, Server, Settings, Sink, TraceDeliveryLayer, TraceLayer};
use smtp_tls::{Identity, SelfSigned, ServerTls};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::util::{MapErr, option_layer};
use tower_layer::Layer;

use crate::exit::{Exit, Failure, say};
use crate::listen::{self, Entrance, Signals};
use crate::logging::{self, Format, Level};
use crate::settings::layered;
use crate::terms::TermsArguments;
use crate::threads;
use crate::transport::{Born, EarlyDataChoice, Quic, want_tls};
use crate::url::Url;
use crate::values::{self, Many, Size, Wait, flatten};

/// Accepts mail for anybody, discards it, and prints totals at the end.
///
/// For load tests and experiments. It listens on this machine only, unless --exposed.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// Where to listen; may be repeated. Default: smtp://127.0.0.1:2525 and smtp+quic://127.0.0.1:2525. Port 0 takes a
    /// free one.
    ///
    /// All that `smtp serve --listen` takes.
    #[arg(long, value_name = "URL")]
    #[serde(deserialize_with = "values::list")]
    listen: Vec<Many<Url>>,

    /// Serve other machines too.
    #[arg(long)]
    exposed: bool,

    /// The name to greet with. Default: localhost.
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "values::parsed")]
    hostname: Option<Domain>,

    /// The largest message, in octets or as 10M. Default: 35M.
    #[arg(long, value_name = "OCTETS")]
    max_size: Option<Size>,

    /// The certificate for TLS, in PEM, its own first. Default: one that is made now and forgotten afterwards.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Write the sessions' TLS keys to the file that SSLKEYLOGFILE names.
    #[arg(long)]
    tls_key_log: bool,

    /// Whether QUIC clients that come back may send before the handshake is complete. Default: off.
    #[arg(long, value_name = "CHOICE", value_enum)]
    early_data: Option<EarlyDataChoice>,

    /// Write a qlog file of each QUIC connection into this folder.
    #[arg(long, value_name = "DIR")]
    qlog_dir: Option<PathBuf>,

    #[command(flatten)]
    #[serde(skip)]
    terms: TermsArguments,

    /// How many threads serve sessions. Default: one for each core.
    ///
    /// One alone costs least for each message, and is what to take beside a program that has one.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// How long open sessions may go on at the end, in seconds. Default: 5.
    #[arg(long, value_name = "SECONDS")]
    drain_deadline: Option<Wait>,

    /// How much is logged. Default: warn.
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
    exposed,
    hostname,
    max_size,
    tls_cert,
    tls_key,
    tls_key_log,
    early_data,
    qlog_dir,
    threads,
    drain_deadline,
    log,
    log_format,
    verbose,
} with { terms } except {});

/// What stands below the options in `smtp sink --help`.
pub(crate) const MORE_HELP: &str = "\
On standard output: a line `listening URL` for each listener, and at the end, after SIGINT or SIGTERM,
  totals messages=1000 recipients=1000 octets=4096000 sessions=20 seconds=1.234
where the seconds count from when it began to listen.";

/// The runtime for as many threads as were asked for.
///
/// # Errors
/// If they are too many, or none.
pub(crate) fn runtime(arguments: &Arguments) -> Result<Builder, Failure> {
    arguments.threads.map_or_else(|| Ok(Builder::new_multi_thread()), threads::runtime)
}

/// Runs `smtp sink`.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let urls = listen::urls_or_default(flatten(arguments.listen));
    // Before a word is said: the log may be the client's.
    let born = Born::take(&urls)?;
    let level = arguments.log.unwrap_or(Level::Warn);
    let _log = logging::start(level, arguments.verbose, arguments.log_format.unwrap_or_default());
    // At a level where it would write nothing it shall cost nothing.
    let traced = level as usize + usize::from(arguments.verbose) >= Level::Info as usize;
    let hostname = match arguments.hostname {
        Some(hostname) => hostname,
        None => "localhost".parse().map_err(Failure::config)?,
    };
    let identity = listen::named_identity(arguments.tls_cert, arguments.tls_key)?;
    let tls = want_tls(&urls).then(|| tls(identity, &hostname, arguments.tls_key_log)).transpose()?;
    let quic = Quic::new(arguments.early_data, arguments.qlog_dir)?;
    let sockets = listen::bind(&urls, tls.as_ref(), &quic, born)?;
    let exposed = arguments.exposed;
    if let Some(open) = sockets.iter().find(|socket| !socket.listener.is_local() && !exposed) {
        let what = format!("{} can be reached from other machines, and a sink takes mail for anybody", open.url);
        return Err(Failure::usage(what).help("--exposed says that this is meant"));
    }

    let mut limits = Limits::default();
    if let Some(size) = arguments.max_size {
        limits.message_size = size.0;
    }
    let config =
        Config::new(hostname).promising(Sink::PROMISES).with_limits(limits).with_terms(arguments.terms.terms());
    let drain = arguments.drain_deadline.map_or(Duration::from_secs(5), |wait| wait.0);
    let counts = Counts::default();
    let announced: Vec<String> = sockets.iter().map(|socket| socket.url.clone()).collect();
    let groups = listen::grouped(sockets.into_iter().map(|socket| (socket.entrance.clone(), socket)));
    let connections = Places::new(listen::connections());
    let once = listen::is_pipe(&urls);
    let (signals, shutdown) = (Signals::new()?, CancellationToken::new());
    if io::stderr().is_terminal() && !once {
        say(format_args!("Takes mail for anybody and keeps none of it. Ctrl-C ends it and prints totals."));
    }
    let mut running = JoinSet::new();
    for (entrance, sockets) in groups {
        let Entrance { tls_first, forwarders, role: _ } = entrance;
        let config = config.clone().with_forwarders(forwarders);
        let settings =
            Settings { connections: connections.clone(), drain, ..Settings::new(driver::Settings::new(config)) };
        let counts = counts.clone();
        let server = Server::new(settings, move |_| {
            counts.sessions.fetch_add(1, Ordering::Relaxed);
            stack(&counts.sink, tls_first, exposed, traced)
        });
        let server =
            sockets.into_iter().fold(server, |server, socket| server.listen_as(socket.listener, socket.protocol));
        running.spawn(server.run(shutdown.clone()));
    }
    let serving = listen::together(running);
    if !once {
        listen::announce(&announced);
    }
    let began = Instant::now();
    listen::until_stopped(serving, shutdown, signals, once, || {}).await?;
    counts.print(began.elapsed());
    Ok(Exit::Success)
}

/// The services of one session: as little as can be.
fn stack(sink: &Sink, tls_first: bool, exposed: bool, traced: bool) -> (impl Policy + use<>, impl Delivery + use<>) {
    // Anybody gets mail here, on this machine unless it was said otherwise.
    let policy = if exposed { AnyRecipient::exposed() } else { AnyRecipient::new() };
    // `?tls=required`: nothing that matters is said in clear.
    let policy = option_layer(tls_first.then_some(RequireTlsLayer)).layer(policy);
    // The log, if somebody wants one.
    let policy = option_layer(traced.then_some(TraceLayer)).layer(policy);

    // It cannot fail; the layer above wants an error type that could.
    let delivery = MapErr::new(sink.clone(), BoxError::from as fn(Infallible) -> BoxError);
    let delivery = option_layer(traced.then_some(TraceDeliveryLayer)).layer(delivery);
    (policy, delivery)
}

/// What came.
#[derive(Debug, Clone, Default)]
struct Counts {
    sink: Sink,
    sessions: Arc<AtomicU64>,
}

impl Counts {
    fn print(&self, elapsed: Duration) {
        // Nobody may be there to read it.
        let _ = writeln!(
            io::stdout(),
            "totals messages={} recipients={} octets={} sessions={} seconds={:.3}",
            self.sink.messages(),
            self.sink.recipients(),
            self.sink.octets(),
            self.sessions.load(Ordering::Relaxed),
            elapsed.as_secs_f64()
        );
    }
}

/// TLS with the certificate that was named, or with one that nobody keeps.
fn tls(named: Option<Identity>, hostname: &Domain, key_log: bool) -> Result<ServerTls, Failure> {
    let build = |identity| ServerTls::builder().identity(identity).key_log(key_log).build().map_err(Failure::config);
    if let Some(identity) = named {
        return build(identity);
    }
    let folder =
        tempfile::tempdir().map_err(|error| Failure::new(Exit::Io, format!("cannot make a certificate: {error}")))?;
    let certificate =
        SelfSigned::load_or_create(&folder.path().join("tls"), &[hostname.as_str()]).map_err(Failure::config)?;
    build(certificate.identity())
}
