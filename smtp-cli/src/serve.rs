//! `smtp serve`: a mail server in one command.

mod admin;
mod arguments;
mod bodies;
mod etrn;
mod hop;
mod limit;
mod local;
mod notify;
mod owed;
mod plan;
mod relay;
mod run_as;
mod screen;
mod show;
mod spooling;
mod stack;
mod store;
mod ways;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use smtp_core::session::server::Protocol;
use smtp_server::Server;
use smtp_tls::ServerTls;
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, warn};
use crate::listen::{self, Signals, Stopped};
use crate::logging::{self, Format, Level};
use crate::settings::load;
use crate::transport::Born;
use crate::values::flatten;
pub(crate) use arguments::{Arguments, MORE_HELP};
use plan::Plan;
use relay::Relay;
use spooling::Place;
use stack::{Door, Stack};

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
        let own = Some((crate::admin::submission_socket(&plan.data_dir), UnixOptions::default()));
        let everybody = UnixOptions { mode: 0o666, ..UnixOptions::default() };
        for (path, options) in own.into_iter().chain(plan.sendmail_socket.clone().map(|path| (path, everybody))) {
            let socket = UnixListener::bind(path, &options).map_err(|error| Failure::new(Exit::Io, error))?;
            behind_doors.push((Door::programs(), (Protocol::Smtp, Box::new(socket))));
        }
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
    let draining = shutdown.clone();
    let told = tokio::spawn(async move {
        draining.cancelled().await;
        notify::stopping();
    });
    let stopped = listen::until_stopped(serving, shutdown.clone(), signals, once, || again.all()).await?;
    match stopped {
        Stopped::Drained(summary) => {
            shutdown.cancel();
            // Where nobody was there to be waited for, it may not have had its turn yet.
            let _ = told.await;
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
