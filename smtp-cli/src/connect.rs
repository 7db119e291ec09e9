//! From a URL and TLS options to a connection: what `send` and `shell` have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use smtp_client::{Connection, Error, Options, Step};
use smtp_core::session::server::Protocol;
use smtp_core::stream::{self, ByteStream, ConnectError, ConnectStep, Connector, TlsMode, TlsPolicy, Verification};
use smtp_core::types::{AddressLiteral, EhloName, Host};
use smtp_tls::{ClientTls, Identity, Pin};

use crate::exit::{Exit, Failure};
use crate::listen::named_identity;
use crate::settings::group;
use crate::transport::{self, Calling, Way};
use crate::url::{Carrier, TlsChoice, Url};
use crate::values;

/// TLS of a client: what `send`, `shell`, `replay` and `bench` take alike.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsArguments {
    /// Trust the CAs in this PEM file instead of the system's, and require TLS.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Trust this key alone, and require TLS: the hex SHA-256 of the leaf's SubjectPublicKeyInfo.
    #[arg(long, value_name = "SHA256")]
    #[serde(deserialize_with = "values::parsed")]
    pin: Option<Pin>,

    /// Do not verify the server's certificate, and authenticate over any channel.
    #[arg(long)]
    insecure: bool,

    /// The certificate to show to a server that asks for one, in PEM, its own first. AUTH EXTERNAL goes by it.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Write the session's TLS keys to the file that SSLKEYLOGFILE names. Whoever reads it reads the session.
    #[arg(long)]
    tls_key_log: bool,
}

group!(TlsArguments { tls_ca, pin, insecure, tls_cert, tls_key, tls_key_log });

impl TlsArguments {
    /// What they mean.
    ///
    /// # Errors
    /// If there is a certificate without a key, or the other way round.
    pub(crate) fn options(self) -> Result<TlsOptions, Failure> {
        Ok(TlsOptions {
            ca: self.tls_ca,
            pin: self.pin,
            insecure: self.insecure,
            identity: named_identity(self.tls_cert, self.tls_key)?,
            key_log: self.tls_key_log,
            no_resumption: false,
        })
    }
}

/// How the server's certificate is to be checked, and which one is ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsOptions {
    /// `--tls-ca`
    pub(crate) ca: Option<PathBuf>,
    /// `--pin`
    pub(crate) pin: Option<Pin>,
    /// `--insecure`
    pub(crate) insecure: bool,
    /// `--tls-cert`, `--tls-key`
    pub(crate) identity: Option<Identity>,
    /// `--tls-key-log`
    pub(crate) key_log: bool,
    /// A full handshake each time.
    pub(crate) no_resumption: bool,
}

impl TlsOptions {
    /// The policy for `url`. Whoever names an issuer or a key, or is going to show a password, wants to know whom it
    /// talks to: then TLS is required and verified.
    ///
    /// # Errors
    /// If the options contradict each other or the URL.
    pub(crate) fn policy(&self, url: &Url, auth: bool) -> Result<TlsPolicy, Failure> {
        let named = [("--tls-ca", self.ca.is_some()), ("--pin", self.pin.is_some()), ("--insecure", self.insecure)];
        let named: Vec<&str> = named.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        if let [first, second, ..] = *named {
            return Err(Failure::usage(format!("{first} and {second} exclude each other")).help("give one of them"));
        }
        let verified = match self.pin {
            Some(pin) => pin.into(),
            None => Verification::Pkix,
        };
        let check = self.ca.is_some() || self.pin.is_some();
        let must = check || (auth && !self.insecure);
        let no_certificate = |way_out: &str| {
            let what = format!("{url} has no TLS, and {} asks for a certificate", named.join(", "));
            Err(Failure::usage(what).help(way_out))
        };
        let needs_tls = |way_out: &str| {
            let what = format!("{url}: AUTH needs TLS with a verified certificate");
            Err(Failure::new(Exit::Policy, what).help(way_out))
        };
        let mode = match (url.carrier(), url.tls) {
            (Carrier::TlsOverTcp | Carrier::Quic | Carrier::WebSocketOverTls, _) => TlsMode::Implicit,
            // They do not leave the machine, so there is nothing to overhear and nobody to be mistaken for.
            (Carrier::Unix | Carrier::Pipe | Carrier::Handed, _) if check => {
                return no_certificate("leave that option out: a local channel needs none");
            }
            (Carrier::Unix | Carrier::Pipe | Carrier::Handed, _) => TlsMode::None,
            (Carrier::WebSocket, _) if check => return no_certificate("smtp+wss:// is the same under TLS"),
            (Carrier::WebSocket, _) if must => {
                return needs_tls(
                    "use smtp+wss://, with --tls-ca or --pin for a server of your own; --insecure does without",
                );
            }
            (Carrier::WebSocket, _) => TlsMode::None,
            (Carrier::Tcp, Some(TlsChoice::Required | TlsChoice::Implicit)) => TlsMode::Required,
            (Carrier::Tcp, Some(TlsChoice::None)) if check => return no_certificate("leave ?tls=none out"),
            (Carrier::Tcp, Some(TlsChoice::None | TlsChoice::Opportunistic)) if must && !check => {
                return needs_tls(
                    "use ?tls=required or smtps://, with --tls-ca or --pin for a server of your own; --insecure does without",
                );
            }
            (Carrier::Tcp, Some(TlsChoice::None)) => TlsMode::None,
            (Carrier::Tcp, Some(TlsChoice::Opportunistic) | None) if must => TlsMode::Required,
            (Carrier::Tcp, Some(TlsChoice::Opportunistic) | None) => TlsMode::Opportunistic,
        };
        let verification = match mode {
            _ if self.insecure => Verification::None,
            TlsMode::None | TlsMode::Opportunistic => Verification::None,
            TlsMode::Required | TlsMode::Implicit => verified,
        };
        Ok(TlsPolicy { mode, verification })
    }

    /// The way to `url`.
    ///
    /// # Errors
    /// If a file cannot be used, or nothing can connect there.
    pub(crate) fn way(&self, url: &Url, calling: Calling) -> Result<Way, Failure> {
        let mut tls = ClientTls::builder().key_log(self.key_log);
        if let Some(ca) = &self.ca {
            tls = tls.ca_file(ca);
        }
        if let Some(identity) = &self.identity {
            tls = tls.identity(identity.clone());
        }
        if self.no_resumption {
            tls = tls.sessions(0);
        }
        transport::way(url, tls.build().map_err(Failure::config)?, calling)
    }
}

/// Connects to `url` and reads the greeting. Without `hello` the name to greet with is found out here.
///
/// # Errors
/// As [`Connection::connect`].
pub(crate) async fn connect(
    connector: &dyn Connector,
    url: &Url,
    policy: &TlsPolicy,
    options: Options,
    hello: Option<EhloName>,
) -> Result<Connection, Error> {
    let options = Options { lmtp: url.protocol() == Protocol::Lmtp, ..options };
    let mut connection = Connection::connect(connector, &url.target(), policy, Arc::new(options)).await?;
    let local = connection.info().local.map(|local| local.ip());
    connection.set_hello(hello.unwrap_or_else(|| own_name(local)));
    Ok(connection)
}

/// A connection, and a stream on it, within `after`.
///
/// # Errors
/// As [`Connection::connect`].
pub(crate) async fn reach(
    connector: &dyn Connector,
    url: &Url,
    policy: &TlsPolicy,
    after: Duration,
) -> Result<(Box<dyn stream::Connection>, Box<dyn ByteStream>), Error> {
    let target = url.target();
    let reaching = async {
        let mut carrier = connector.connect(&target, policy).await?;
        let broke = |error| ConnectError::transient(&target.address, ConnectStep::Connect, error);
        let stream = carrier.open().await.map_err(broke)?;
        Ok((carrier, stream))
    };
    match tokio::time::timeout(after, reaching).await {
        Ok(reached) => reached.map_err(Error::Connect),
        Err(_) => Err(Error::Timeout { step: Step::Connect, after }),
    }
}

/// What to greet with if nobody says: the host's full name, or else the address it connects from (RFC 5321 §4.1.4).
pub(crate) fn own_name(local: Option<std::net::IpAddr>) -> EhloName {
    let name = host_name().filter(|name| name.contains('.'));
    if let Some(name) = name.and_then(|name| EhloName::new(&name).ok()) {
        return name;
    }
    let ip = local.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    EhloName::from(Host::Literal(AddressLiteral::from(ip.to_canonical())))
}

/// What the system calls this machine.
pub(crate) fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// The first line of a file that holds a password.
///
/// # Errors
/// If it cannot be read or is empty.
pub(crate) fn read_password(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::config(format!("cannot read the password in {}: {error}", path.display())))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Failure::config(format!("no password in {}", path.display())).help("its first line has to be it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(url: &str, auth: bool, options: &TlsOptions) -> Result<TlsPolicy, Failure> {
        options.policy(&url.parse().unwrap(), auth)
    }

    fn plain() -> TlsOptions {
        TlsOptions::default()
    }

    fn insecure() -> TlsOptions {
        TlsOptions { insecure: true, ..plain() }
    }

    fn ca() -> TlsOptions {
        TlsOptions { ca: Some("x".into()), ..plain() }
    }

    fn pin() -> TlsOptions {
        TlsOptions { pin: Some(Pin::new([7; 32])), ..plain() }
    }

    #[test]
    fn verification_holds_where_it_is_asked_for() {
        use TlsMode::{Implicit, None, Opportunistic, Required};
        use Verification::{None as Any, Pin, Pkix};
        for (url, auth, options, mode, verification) in [
            ("smtp://x", false, plain(), Opportunistic, Any),
            ("smtp://x?tls=opportunistic", false, plain(), Opportunistic, Any),
            ("smtp://x?tls=none", false, plain(), None, Any),
            ("smtp://x?tls=required", false, plain(), Required, Pkix),
            ("smtps://x", false, plain(), Implicit, Pkix),
            ("smtp://x", false, ca(), Required, Pkix),
            ("smtp://x?tls=opportunistic", false, ca(), Required, Pkix),
            ("smtp://x", false, pin(), Required, Pin([7; 32])),
            ("smtps://x", false, pin(), Implicit, Pin([7; 32])),
            ("smtp://x?tls=required", false, insecure(), Required, Any),
            ("smtps://x", false, insecure(), Implicit, Any),
            ("smtp://x", true, plain(), Required, Pkix),
            ("smtp://x", true, pin(), Required, Pin([7; 32])),
            ("smtp://x", true, insecure(), Opportunistic, Any),
            ("smtp://x?tls=none", true, insecure(), None, Any),
            ("smtp+quic://x:1", false, plain(), Implicit, Pkix),
            ("smtp+quic://x:1", true, plain(), Implicit, Pkix),
            ("smtp+quic://x:1", false, pin(), Implicit, Pin([7; 32])),
            ("smtp+quic://x:1", false, insecure(), Implicit, Any),
            ("smtp+wss://x", false, plain(), Implicit, Pkix),
            ("smtp+ws://x", false, plain(), None, Any),
            ("smtp+ws://x", true, insecure(), None, Any),
            ("smtp+unix:///x", true, plain(), None, Any),
            ("pipe:x", false, insecure(), None, Any),
        ] {
            let expected = TlsPolicy { mode, verification };
            assert_eq!(policy(url, auth, &options), Ok(expected), "{url} {auth} {options:?}");
        }
    }

    #[test]
    fn contradictions_are_refused_before_anything_is_sent() {
        let code = |result: Result<TlsPolicy, Failure>| result.unwrap_err().exit().code();
        assert_eq!(code(policy("smtp://x?tls=none", false, &pin())), 64);
        assert_eq!(code(policy("smtp+unix:///x", false, &pin())), 64);
        assert_eq!(code(policy("pipe:x", false, &ca())), 64);
        assert_eq!(code(policy("smtp+ws://x", false, &ca())), 64);
        assert_eq!(code(policy("smtp+ws://x", true, &plain())), 77);
        assert_eq!(code(policy("smtp://x", false, &TlsOptions { insecure: true, ..ca() })), 64);
        assert_eq!(code(policy("smtp://x?tls=none", true, &plain())), 77);
        assert_eq!(code(policy("smtp://x?tls=opportunistic", true, &plain())), 77);
    }

    #[test]
    fn without_a_full_name_the_address_is_the_name() {
        let name = own_name(Some("::ffff:192.0.2.1".parse().unwrap()));
        assert!(name.as_str() == "[192.0.2.1]" || name.as_str().contains('.'));
    }
}
