//! Being a server: what `serve` and `sink` have in common.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use smtp_core::channel::SessionInfo;
use smtp_core::stream::Listener;
use smtp_server::Summary;
use smtp_tls::{Identity, ServerTls};
use smtp_transport_tcp::{ListenOptions, TcpListener, Tls};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};
use crate::url::{Carrier, TlsChoice, Url};

/// Where a server listens if nobody says.
pub(crate) const DEFAULT_URL: &str = "smtp://127.0.0.1:2525";

/// Sockets that take connections, in the order of their URLs.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The sockets.
    pub(crate) sockets: Vec<TcpListener>,
    /// Those that want TLS before mail.
    pub(crate) strict: Strict,
}

/// The listeners whose URL says `?tls=required`, known by their address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strict(Vec<SocketAddr>);

impl Strict {
    /// True if `session` came in by one of them.
    pub(crate) fn holds(&self, session: &SessionInfo) -> bool {
        let Some(local) = session.channel.local else { return false };
        self.0.iter().any(|address| {
            let ip = address.ip();
            address.port() == local.port() && (ip.is_unspecified() || ip.to_canonical() == local.ip())
        })
    }
}

/// True if some of `urls` need a certificate.
pub(crate) fn want_tls(urls: &[Url]) -> bool {
    urls.iter().any(|url| url.scheme.carrier == Carrier::TlsOverTcp || url.tls != Some(TlsChoice::None))
}

/// Listens on all of `urls`, or on none.
///
/// # Errors
/// If one of them cannot be listened on; says which and why.
pub(crate) fn bind(urls: &[Url], tls: Option<&ServerTls>) -> Result<Listeners, Failure> {
    let mut sockets = Vec::with_capacity(urls.len());
    let mut strict = Strict::default();
    for url in urls {
        let address = url.listen_address().map_err(Failure::usage)?;
        // Sessions of one listener do not resume on another.
        let own = tls.map(|tls| tls.for_listener(&[])).transpose().map_err(Failure::config)?;
        let tls = match (url.scheme.carrier, url.tls, own) {
            (Carrier::TlsOverTcp, _, Some(tls)) => Tls::Implicit(tls),
            (Carrier::Tcp, Some(TlsChoice::Required | TlsChoice::Opportunistic) | None, Some(tls)) => {
                Tls::StartTls(tls)
            }
            (Carrier::Tcp | Carrier::TlsOverTcp, _, _) => Tls::None,
        };
        let options = ListenOptions { tls, ..ListenOptions::default() };
        let socket = TcpListener::bind(address, options).map_err(|error| {
            Failure::new(Exit::Unavailable, error).help("--listen URL takes another address or port")
        })?;
        if url.tls == Some(TlsChoice::Required) {
            strict.0.push(socket.local_addr());
        }
        sockets.push(socket);
    }
    Ok(Listeners { sockets, strict })
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

/// Says on stdout where connections are taken, one line each. Nothing else goes there.
pub(crate) fn announce(urls: &[String]) {
    let mut out = io::stdout().lock();
    for url in urls {
        // A caller who closed the pipe does not want to know.
        let _ = writeln!(out, "listening {url}");
    }
    let _ = out.flush();
}

/// The URLs that clients can be given, with the real ports.
pub(crate) fn urls(sockets: &[TcpListener]) -> Vec<String> {
    sockets.iter().map(Listener::url).collect()
}

/// Waits for a server that was started, and for the signals that end it: the first drains it, the second ends it at
/// once. SIGHUP calls `reload`.
///
/// # Errors
/// If it ended by itself.
pub(crate) async fn until_stopped(
    mut serving: JoinHandle<Summary>,
    shutdown: CancellationToken,
    mut signals: Signals,
    mut reload: impl FnMut(),
) -> Result<Stopped, Failure> {
    let mut stopping = false;
    loop {
        tokio::select! {
            summary = &mut serving => return match summary {
                Ok(summary) if stopping => Ok(Stopped::Drained(summary)),
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
    use smtp_core::channel::{ChannelInfo, Peer};

    #[test]
    fn a_strict_listener_is_known_by_its_address() {
        let strict = Strict(vec!["0.0.0.0:25".parse().unwrap(), "127.0.0.1:587".parse().unwrap()]);
        let holds = |local: &str| {
            let channel =
                ChannelInfo { local: Some(local.parse().unwrap()), ..ChannelInfo::new("tcp", Peer::Named("x".into())) };
            strict.holds(&SessionInfo::new(1, channel))
        };
        assert!(holds("192.0.2.1:25") && holds("127.0.0.1:587"));
        assert!(!holds("192.0.2.1:587") && !holds("127.0.0.1:2525"));
    }

    #[test]
    fn only_tls_none_needs_no_certificate() {
        let want = |texts: &[&str]| want_tls(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert!(!want(&["smtp://127.0.0.1?tls=none"]));
        assert!(want(&["smtp://127.0.0.1?tls=none", "smtp://127.0.0.1:26"]));
        assert!(want(&["smtps://127.0.0.1"]));
    }
}
