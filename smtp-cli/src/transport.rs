//! The transports of the binary: from a URL to sockets that listen, and to what connects. A new one is an arm in each of
//! the two matches here, and a line in [`url`](crate::url).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use smtp_core::session::server::Protocol;
use smtp_core::stream::{AcceptProxy, Connector, Listener, LocalAddresses};
use smtp_tls::{ClientTls, ServerTls};
use smtp_transport_quic::{
    ConnectOptions as QuicConnectOptions, EarlyData, Observer, QuicConnector, QuicListener, QuicOptions, Service,
    TransportOptions,
};
use smtp_transport_tcp::{ConnectOptions, ListenOptions, TcpConnector, TcpListener, Tls};
use smtp_transport_unix::{
    Inherited, ListenOptions as UnixOptions, PipeConnector, Socket as Handed, Stdio, UnixConnector, UnixListener,
    inherited,
};
use smtp_transport_websocket::{WebSocketConnector, WebSocketListener};

use crate::exit::{Exit, Failure, warn};
use crate::listen::Entrance;
use crate::url::{Carrier, Place, TlsChoice, Url};

/// Whether mail may come before the handshake has shown that it is no replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EarlyDataChoice {
    /// No.
    #[default]
    Off,
    /// It may, and waits until the handshake is complete.
    Gated,
}

/// What can be set of QUIC.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quic {
    /// `--early-data`
    pub(crate) early_data: EarlyDataChoice,
    /// `--qlog-dir`
    pub(crate) qlog_dir: Option<PathBuf>,
}

impl Quic {
    /// The settings, with a folder for qlog that is there.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub(crate) fn new(early_data: Option<EarlyDataChoice>, qlog_dir: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(dir) = &qlog_dir {
            std::fs::create_dir_all(dir).map_err(|error| {
                Failure::config(format!("cannot write qlog files into {}: {error}", dir.display()))
                    .help("--qlog-dir DIR names a folder that this program may write into")
            })?;
        }
        Ok(Self { early_data: early_data.unwrap_or_default(), qlog_dir })
    }

    const fn early_data(&self) -> EarlyData {
        match self.early_data {
            EarlyDataChoice::Off => EarlyData::Off,
            EarlyDataChoice::Gated => EarlyData::Gated,
        }
    }

    /// What both sides of every connection have.
    pub(crate) fn transport(&self) -> TransportOptions {
        TransportOptions { qlog_dir: self.qlog_dir.clone(), ..TransportOptions::default() }
    }
}

/// What a process was born with: its standard input and output, and sockets that a service manager opened for it. Each
/// can be taken once.
pub(crate) struct Born {
    stdio: Option<Stdio>,
    /// With their numbers.
    handed: Vec<(usize, Inherited)>,
}

impl Born {
    /// Takes what `urls` ask for, which has to happen before anything is said: under inetd all three standard streams
    /// are the client.
    ///
    /// # Errors
    /// If it is not there, or something else beside standard input.
    pub(crate) fn take(urls: &[Url]) -> Result<Self, Failure> {
        const FIRST: usize = 3;
        let wants = |carrier| urls.iter().any(|url| url.carrier() == carrier);
        let mut born = Self { stdio: None, handed: Vec::new() };
        if wants(Carrier::Pipe) {
            if let [_, _, ..] = urls {
                return Err(Failure::usage("pipe: serves the one session of standard input, and nothing beside it")
                    .help("leave the other --listen out, or start a server of their own for them"));
            }
            if let Some(Place::Program(text)) = urls.first().map(|url| &url.place)
                && !text.is_empty()
            {
                return Err(Failure::usage(format!("pipe:{text} cannot be listened on"))
                    .help("`--listen pipe:` serves standard input and output; a program is for --server"));
            }
            born.stdio = Some(Stdio::take().map_err(|error| Failure::new(Exit::Io, error))?);
        }
        if wants(Carrier::Handed) {
            let sockets = inherited().map_err(|error| Failure::config(format!("fd: {error}")))?;
            if sockets.is_empty() {
                return Err(Failure::config("fd: no sockets were handed down (LISTEN_FDS and LISTEN_PID say so)")
                    .help(
                        "a systemd socket unit does that, or `systemd-socket-activate -l 2525 smtp serve --listen fd:`",
                    ));
            }
            born.handed = sockets.into_iter().enumerate().map(|(index, socket)| (FIRST + index, socket)).collect();
        }
        Ok(born)
    }

    /// The sockets of this name or number, or all that are left.
    fn handed(&mut self, name: &str) -> Result<Vec<Handed>, Failure> {
        let number: Option<usize> = name.parse().ok();
        let wanted = |(at, socket): &mut (usize, Inherited)| {
            name.is_empty() || number == Some(*at) || socket.name.as_deref() == Some(name)
        };
        let found: Vec<Handed> = self.handed.extract_if(.., wanted).map(|(_, inherited)| inherited.socket).collect();
        if found.is_empty() {
            let left: Vec<String> = self
                .handed
                .iter()
                .map(|(at, socket)| {
                    socket.name.as_ref().map_or_else(|| at.to_string(), |name| format!("{name} ({at})"))
                })
                .collect();
            let left =
                if left.is_empty() { "none is left".to_owned() } else { format!("there are {}", left.join(", ")) };
            return Err(Failure::config(format!("fd:{name}: no such socket was handed down; {left}")).help(
                "the name is FileDescriptorName= of the socket unit, the number that of the descriptor, from 3",
            ));
        }
        Ok(found)
    }

    /// Says what nobody asked for.
    pub(crate) fn warn_of_rest(&self) {
        for (at, socket) in &self.handed {
            let name = socket.name.as_deref().unwrap_or("without a name");
            warn(format_args!("the socket {at} ({name}) was handed down and is not used; --listen fd:{at} uses it"));
        }
    }
}

/// A socket that takes connections, and what is told of it.
pub(crate) struct Socket {
    pub(crate) listener: Box<dyn Listener>,
    /// What is spoken on it.
    pub(crate) protocol: Protocol,
    /// What clients are given.
    pub(crate) url: String,
    /// What protects it, in a few words.
    pub(crate) cover: &'static str,
    /// How it is tried out.
    pub(crate) trial: Trial,
    /// What its sessions have in common.
    pub(crate) entrance: Entrance,
}

/// What somebody has to know who tries a socket out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trial {
    /// `smtp send` verifies the certificate here unless told otherwise.
    pub(crate) verifies: bool,
    /// What curl has to be told beside the URL, if curl can do it at all.
    pub(crate) curl: Option<&'static str>,
}

impl Trial {
    const OURS: Self = Self { verifies: false, curl: None };
    const OURS_VERIFIED: Self = Self { verifies: true, curl: None };
}

impl Socket {
    fn new(listener: impl Listener, cover: &'static str, trial: Trial) -> Self {
        let url = listener.url();
        Self {
            listener: Box::new(listener),
            protocol: Protocol::Smtp,
            url,
            cover,
            trial,
            entrance: Entrance::default(),
        }
    }

    /// The same, with the path that `url` has: any is taken, and this is the one that clients are to be given.
    fn with_path(mut self, url: &Url) -> Self {
        if let Place::Host { path, .. } = &url.place {
            self.url.push_str(path);
        }
        self
    }

    /// The same, speaking what `url` says.
    fn speaking(self, url: &Url) -> Self {
        match url.protocol() {
            Protocol::Smtp => self,
            // Swaks can, curl cannot.
            Protocol::Lmtp => Self {
                protocol: Protocol::Lmtp,
                url: self.url.replacen("smtp", "lmtp", 1),
                trial: Trial { curl: None, ..self.trial },
                ..self
            },
        }
    }
}

/// True if one of `urls` needs a certificate.
pub(crate) fn want_tls(urls: &[Url]) -> bool {
    urls.iter().any(|url| match url.carrier() {
        Carrier::Tcp | Carrier::Handed => url.tls != Some(TlsChoice::None),
        Carrier::TlsOverTcp | Carrier::Quic | Carrier::WebSocketOverTls => true,
        Carrier::WebSocket | Carrier::Unix | Carrier::Pipe => false,
    })
}

/// Listens on `url`. One URL may stand for several sockets that were handed down.
///
/// # Errors
/// If it cannot be listened on; says why.
pub(crate) fn listen(url: &Url, tls: Option<&ServerTls>, quic: &Quic, born: &mut Born) -> Result<Vec<Socket>, Failure> {
    let taken = |error: std::io::Error| {
        Failure::new(Exit::Unavailable, error).help("--listen URL takes another address, port or path")
    };
    let address = || url.listen_address().map_err(Failure::usage);
    let bind = |tls| -> Result<TcpListener, Failure> {
        let options = ListenOptions { tls, ..ListenOptions::default() };
        Ok(behind(TcpListener::bind(address()?, options).map_err(taken)?, url, TcpListener::behind))
    };
    let tcp = |choice| -> Result<Socket, Failure> {
        let (tls, cover, trial) = cover(choice, tls)?;
        Ok(tcp_socket(bind(tls)?, choice, cover, trial))
    };
    Ok(vec![match url.carrier() {
        Carrier::Tcp => tcp(url.tls.unwrap_or(TlsChoice::Opportunistic))?.speaking(url),
        Carrier::TlsOverTcp => tcp(TlsChoice::Implicit)?,
        Carrier::WebSocket => {
            Socket::new(WebSocketListener::new(bind(Tls::None)?), "WebSocket in clear", Trial::OURS).with_path(url)
        }
        Carrier::WebSocketOverTls => {
            let (tls, _, _) = cover(TlsChoice::Implicit, tls)?;
            Socket::new(WebSocketListener::new(bind(tls)?), "WebSocket under TLS", Trial::OURS_VERIFIED).with_path(url)
        }
        Carrier::Quic => {
            let options = quic_options(url, quic);
            let listener = QuicListener::bind(address()?, need(tls)?, options).map_err(taken)?;
            quic_socket(listener, url.service())
        }
        Carrier::Unix => {
            let Place::Path { path, .. } = &url.place else { return Err(Failure::usage(format!("{url}: no path"))) };
            let listener = UnixListener::bind(path, &UnixOptions::default()).map_err(taken)?;
            unix_socket(behind(listener, url, UnixListener::behind)).speaking(url)
        }
        Carrier::Pipe => {
            let stdio = born.stdio.take().ok_or_else(|| Failure::usage("pipe: can be listened on once"))?;
            Socket::new(stdio, "one session", Trial::OURS)
        }
        Carrier::Handed => {
            let Place::Handed(name) = &url.place else { return Err(Failure::usage(format!("{url}: no name"))) };
            return born.handed(name)?.into_iter().map(|socket| take_over(socket, url, tls, quic)).collect();
        }
    }])
}

/// Makes a listener of a socket that was handed down.
fn take_over(socket: Handed, url: &Url, tls: Option<&ServerTls>, quic: &Quic) -> Result<Socket, Failure> {
    let cannot = |error: std::io::Error| Failure::config(format!("{url}: {error}"));
    match socket {
        Handed::Unix(listener) => Ok(unix_socket(behind(listener, url, UnixListener::behind))),
        Handed::Tcp(socket) => {
            let choice = url.tls.unwrap_or(TlsChoice::Opportunistic);
            let (tls, cover, trial) = cover(choice, tls)?;
            let listener = TcpListener::from_std(socket, tls).map_err(cannot)?;
            Ok(tcp_socket(behind(listener, url, TcpListener::behind), choice, cover, trial))
        }
        Handed::Udp(_) if !url.trust().proxies.is_empty() => {
            Err(Failure::config(format!("{url}: this is a UDP socket, and a PROXY header does not go over QUIC")))
        }
        Handed::Udp(socket) => {
            let listener = QuicListener::from_std(socket, need(tls)?, quic_options(url, quic)).map_err(cannot)?;
            Ok(quic_socket(listener, url.service()))
        }
        _ => Err(Failure::config(format!("{url}: a kind of socket that is not known here"))),
    }
}

/// The listener, which takes nobody but the proxies that `url` names, if it names any.
fn behind<L>(listener: L, url: &Url, behind: fn(L, AcceptProxy) -> L) -> L {
    let proxies = &url.trust().proxies;
    if proxies.is_empty() { listener } else { behind(listener, AcceptProxy::from(proxies.clone())) }
}

/// TLS on a TCP socket, what is told of it, and how it is tried out.
fn cover(choice: TlsChoice, tls: Option<&ServerTls>) -> Result<(Tls, &'static str, Trial), Failure> {
    // Sessions of one listener do not resume on another.
    let own = || need(tls)?.for_listener(&[]).map_err(Failure::config);
    let trial = |verifies, curl| Trial { verifies, curl: Some(curl) };
    Ok(match choice {
        TlsChoice::None => (Tls::None, "in clear", trial(false, "")),
        TlsChoice::Opportunistic => (Tls::StartTls(own()?), "with STARTTLS", trial(false, "")),
        TlsChoice::Required => (Tls::StartTls(own()?), "STARTTLS, required", trial(false, " --ssl-reqd -k")),
        TlsChoice::Implicit => (Tls::Implicit(own()?), "TLS from the first octet", trial(true, " -k")),
    })
}

fn need(tls: Option<&ServerTls>) -> Result<&ServerTls, Failure> {
    tls.ok_or_else(|| {
        Failure::config("there is no certificate for a listener that needs one").help("leave ?tls=none out")
    })
}

fn tcp_socket(listener: TcpListener, choice: TlsChoice, cover: &'static str, trial: Trial) -> Socket {
    let mut socket = Socket::new(listener, cover, trial);
    socket.entrance.tls_first = choice == TlsChoice::Required;
    socket
}

fn unix_socket(listener: UnixListener) -> Socket {
    Socket::new(listener, "this machine only", Trial::OURS)
}

fn quic_socket(listener: QuicListener, service: Service) -> Socket {
    let socket = Socket::new(listener, "QUIC", Trial::OURS_VERIFIED);
    match service {
        Service::Relay => socket,
        // A client has to ask for the same protocol.
        Service::Submission => Socket { url: format!("{}?service=submission", socket.url), ..socket },
    }
}

fn quic_options(url: &Url, quic: &Quic) -> QuicOptions {
    QuicOptions {
        service: url.service(),
        transport: quic.transport(),
        early_data: quic.early_data(),
        ..QuicOptions::default()
    }
}

/// How to connect, beside the URL.
#[derive(Default)]
pub(crate) struct Calling {
    /// How long connecting may take.
    pub(crate) wait: Option<Duration>,
    /// Where to connect from, if the URL does not say.
    pub(crate) source: LocalAddresses,
    /// Settings of QUIC.
    pub(crate) quic: Quic,
    /// Who is told what happens below SMTP.
    pub(crate) observer: Option<Observer>,
}

/// The way to a server.
pub(crate) struct Way {
    /// What connects.
    pub(crate) connector: Arc<dyn Connector>,
    quic: Option<QuicConnector>,
}

impl Way {
    fn new(connector: impl Connector) -> Self {
        Self { connector: Arc::new(connector), quic: None }
    }

    /// Waits until the server knows that nothing more comes, which takes a moment where this side has to say so.
    pub(crate) async fn leave(&self) {
        const LONGEST: Duration = Duration::from_millis(500);
        if let Some(quic) = &self.quic {
            let _ = tokio::time::timeout(LONGEST, quic.wait_idle()).await;
        }
    }
}

/// What connects to `url`.
///
/// # Errors
/// If nothing can.
pub(crate) fn way(url: &Url, tls: ClientTls, calling: Calling) -> Result<Way, Failure> {
    if url.is_for_listening() {
        return Err(Failure::usage(format!("{url}: there is a parameter that is a listener's"))
            .help("leave role=, proxy=, xclient=, xclient-login= and xforward= out"));
    }
    let (wait, local) = (calling.wait, url.source().or(calling.source));
    let tcp = |tls| {
        let mut options = ConnectOptions { local, ..ConnectOptions::default() };
        if let Some(wait) = wait {
            options.attempt_timeout = wait;
            options.timeout = wait;
        }
        TcpConnector::new(tls).with_options(options)
    };
    Ok(match url.carrier() {
        Carrier::Tcp | Carrier::TlsOverTcp => Way::new(tcp(tls)),
        Carrier::WebSocket | Carrier::WebSocketOverTls => {
            let connector = WebSocketConnector::new(tcp(tls));
            match &url.place {
                Place::Host { path, .. } if !path.is_empty() => Way::new(connector.with_path(path)),
                _ => Way::new(connector),
            }
        }
        Carrier::Quic => {
            let mut options = QuicConnectOptions {
                service: url.service(),
                transport: calling.quic.transport(),
                early_data: calling.quic.early_data(),
                observer: calling.observer,
                local,
                ..QuicConnectOptions::default()
            };
            if let Some(wait) = wait {
                options.attempt_timeout = wait;
                options.timeout = wait;
            }
            let connector = QuicConnector::new(&tls, options).map_err(Failure::config)?;
            Way { quic: Some(connector.clone()), connector: Arc::new(connector) }
        }
        Carrier::Unix => Way::new(wait.map_or_else(UnixConnector::new, |wait| UnixConnector::new().with_timeout(wait))),
        Carrier::Pipe => Way::new(program(url)?),
        Carrier::Handed => {
            return Err(Failure::usage(format!("{url} cannot be connected to"))
                .help("fd: is for --listen; a client is given the address of the socket"));
        }
    })
}

/// The program of a `pipe:`, with the environment of whoever runs this one, but for our own variables: one of those may
/// be a password.
fn program(url: &Url) -> Result<PipeConnector, Failure> {
    let connector = PipeConnector::from_url(&url.to_string()).map_err(|_| {
        Failure::usage("pipe: names no program").help("`pipe:/usr/sbin/smtpd -bs` starts one and talks to it")
    })?;
    let others = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("SMTP_"));
    Ok(others.fold(connector, |connector, (name, value)| connector.environment(name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_without_tls_needs_no_certificate() {
        let want = |texts: &[&str]| want_tls(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert!(!want(&["smtp://127.0.0.1?tls=none", "smtp+unix:///run/x", "smtp+ws://127.0.0.1", "pipe:"]));
        for url in
            ["smtp://127.0.0.1:26", "smtps://127.0.0.1", "smtp+quic://127.0.0.1:1", "smtp+wss://127.0.0.1", "fd:"]
        {
            assert!(want(&["smtp://127.0.0.1?tls=none", url]), "{url}");
        }
    }

    #[test]
    fn a_pipe_stands_alone_and_a_program_is_not_listened_on() {
        let take = |texts: &[&str]| Born::take(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        for urls in [&["pipe:", "smtp://127.0.0.1"][..], &["pipe:", "pipe:"], &["pipe:/bin/true"]] {
            assert_eq!(take(urls).err().unwrap().exit(), Exit::Usage, "{urls:?}");
        }
    }
}
