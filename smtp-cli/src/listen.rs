//! Being a server: what `serve` and `sink` have in common.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smtp_core::extension::Forwarders;
use smtp_server::Summary;
use smtp_tls::{Identity, ServerTls};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};
use crate::transport::{self, Born, Quic, Socket};
use crate::url::{Carrier, Role, Url};

/// Where a server listens if nobody says: TCP and UDP have ports of their own.
const DEFAULT_URLS: [&str; 2] = ["smtp://127.0.0.1:2525", "smtp+quic://127.0.0.1:2525"];

/// The URLs that were given, or the default ones.
pub(crate) fn urls_or_default(given: Vec<Url>) -> Vec<Url> {
    if given.is_empty() { DEFAULT_URLS.iter().filter_map(|text| text.parse().ok()).collect() } else { given }
}

/// True if there is one session to serve, that of standard input.
pub(crate) fn is_pipe(urls: &[Url]) -> bool {
    urls.iter().any(|url| url.carrier() == Carrier::Pipe)
}

/// What the sessions of one listener have in common and those of another may not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entrance {
    /// What it is for.
    pub(crate) role: Role,
    /// It wants TLS before mail.
    pub(crate) tls_first: bool,
    /// Whom it believes what they say of others.
    pub(crate) forwarders: Forwarders,
}

/// Listens on all of `urls`, or on none; the sockets in the order of their URLs.
///
/// # Errors
/// If one of them cannot be listened on; says which and why.
pub(crate) fn bind(urls: &[Url], tls: Option<&ServerTls>, quic: &Quic, mut born: Born) -> Result<Vec<Socket>, Failure> {
    let mut sockets = Vec::with_capacity(urls.len());
    for url in urls {
        let forwarders = &url.trust().forwarders;
        sockets.extend(transport::listen(url, tls, quic, &mut born)?.into_iter().map(|mut socket| {
            socket.entrance.role = url.role();
            socket.entrance.forwarders = forwarders.clone();
            socket
        }));
    }
    born.warn_of_rest();
    Ok(sockets)
}

/// The values that belong to each different key, in the order of the first of each.
pub(crate) fn grouped<K: PartialEq, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    for (key, value) in pairs {
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// Several servers as one.
pub(crate) fn together(servers: JoinSet<Summary>) -> JoinHandle<Summary> {
    const NOTHING: Summary = Summary { sessions: 0, aborted: 0, panicked: 0 };
    let add = |a: Summary, b: Summary| Summary {
        sessions: a.sessions + b.sessions,
        aborted: a.aborted + b.aborted,
        panicked: a.panicked + b.panicked,
    };
    tokio::spawn(async move { servers.join_all().await.into_iter().fold(NOTHING, add) })
}

/// The most connections at the same time for which there are file descriptors, after asking the system for as many as
/// it lets this process have, for each of so many servers. A quarter is kept for deliveries, so that idle clients cannot
/// stop the mail.
pub(crate) fn connections(servers: usize) -> usize {
    const DEFAULT: usize = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let open_files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    // None: there is no limit.
    let all = open_files.map_or(DEFAULT, |n| usize::try_from(n / 4 * 3).unwrap_or(usize::MAX).clamp(16, DEFAULT));
    (all / servers.max(1)).max(16)
}

/// The certificate that `--tls-cert` and `--tls-key` name, if they do.
///
/// # Errors
/// If one is there without the other.
pub(crate) fn named_identity(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<Identity>, Failure> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Identity::from_files(cert, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Failure::usage("--tls-cert without --tls-key").help("name the file with its key too")),
        (None, Some(_)) => {
            Err(Failure::usage("--tls-key without --tls-cert").help("name the file with its certificate too"))
        }
    }
}

/// Says on stdout where connections are taken, one line each. Nothing else goes there; and where it is the session,
/// nothing at all.
pub(crate) fn announce<'a>(urls: impl IntoIterator<Item = &'a String>) {
    let mut out = io::stdout().lock();
    for url in urls {
        // A caller who closed the pipe does not want to know.
        let _ = writeln!(out, "listening {url}");
    }
    let _ = out.flush();
}

/// Waits for a server that was started, and for the signals that end it: the first drains it, the second ends it at
/// once. SIGHUP calls `reload`. With `once` there is one session to serve, and the end of it is the end.
///
/// # Errors
/// If it ended by itself otherwise.
pub(crate) async fn until_stopped(
    mut serving: JoinHandle<Summary>,
    shutdown: CancellationToken,
    mut signals: Signals,
    once: bool,
    mut reload: impl FnMut(),
) -> Result<Stopped, Failure> {
    let mut stopping = false;
    loop {
        tokio::select! {
            summary = &mut serving => return match summary {
                Ok(summary) if stopping || once => Ok(Stopped::Drained(summary)),
                _ => Err(Failure::new(Exit::Unavailable, "no listener is of any more use; the log says why")),
            },
            wish = signals.next() => match wish {
                Wish::Reload => reload(),
                Wish::Stop if stopping => {
                    tracing::warn!("asked again; ending at once");
                    return Ok(Stopped::AtOnce);
                }
                Wish::Stop => {
                    tracing::info!("ending: open transactions may finish; ask again to end at once");
                    stopping = true;
                    shutdown.cancel();
                }
            },
        }
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Its sessions have ended, or were given all the time there was.
    Drained(Summary),
    /// Somebody could not wait.
    AtOnce,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop,
    Reload,
}

/// The signals that a server listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// It was started at a terminal.
    terminal: bool,
}

impl Signals {
    /// Listens to them from now on.
    ///
    /// # Errors
    /// If the system does not let it.
    pub(crate) fn new() -> Result<Self, Failure> {
        let of =
            |kind| signal(kind).map_err(|error| Failure::new(Exit::Io, format!("cannot listen to signals: {error}")));
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: of(SignalKind::hangup())?,
            terminal: io::stderr().is_terminal(),
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            // From a terminal that was closed it means what it always meant.
            _ = self.hangup.recv() => {
                if self.terminal && !io::stderr().is_terminal() { Wish::Stop } else { Wish::Reload }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_goes_together() {
        let pairs = [("a", 1), ("b", 2), ("a", 3)];
        assert_eq!(grouped(pairs), [("a", vec![1, 3]), ("b", vec![2])]);
    }
}
