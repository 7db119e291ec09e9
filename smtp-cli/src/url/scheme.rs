//! The schemes that there are.

use smtp_core::session::server::Protocol;

/// What carries the octets of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// TCP in clear, upgraded by STARTTLS.
    Tcp,
    /// TLS over TCP.
    TlsOverTcp,
    /// A stream of a QUIC connection.
    Quic,
    /// A WebSocket over TCP.
    WebSocket,
    /// A WebSocket over TLS.
    WebSocketOverTls,
    /// A Unix socket.
    Unix,
    /// Standard input and output, of this process or of a child's.
    Pipe,
    /// Whatever socket was handed down.
    Handed,
}

/// What stands behind a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `//host:port`; the port that is meant if there is none, and whether a path may follow.
    Host { port: Option<u16>, path: bool },
    /// `///path`
    Path,
    /// `program argument…`
    Program,
    /// `name`
    Handed,
}

/// One scheme.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scheme {
    /// What stands before the colon.
    pub(crate) name: &'static str,
    /// What carries the octets.
    pub(crate) carrier: Carrier,
    /// What is spoken.
    pub(super) protocol: Protocol,
    pub(super) form: Form,
    /// What may stand behind `?`.
    pub(super) parameters: &'static [&'static str],
    /// How it is written, for messages.
    pub(super) shape: &'static str,
}

const TLS: &[&str] = &["tls=required", "tls=opportunistic", "tls=none"];
const SERVICE: &[&str] = &["service=relay", "service=submission"];
const BOTH: &[&str] =
    &["tls=required", "tls=opportunistic", "tls=none", "tls=implicit", "service=relay", "service=submission"];

/// Every scheme there is. A new transport is a line here, and an arm in each of the two matches of
/// [`transport`](crate::transport).
#[rustfmt::skip]
pub(super) const SCHEMES: [Scheme; 10] = [
    scheme("smtp", Carrier::Tcp, Form::Host { port: Some(25), path: false }, TLS, "smtp://host:25"),
    scheme("smtps", Carrier::TlsOverTcp, Form::Host { port: Some(465), path: false }, &[], "smtps://host:465"),
    scheme("smtp+quic", Carrier::Quic, Form::Host { port: None, path: false }, SERVICE, "smtp+quic://host:port"),
    scheme("smtp+ws", Carrier::WebSocket, Form::Host { port: Some(80), path: true }, &[], "smtp+ws://host:80/path"),
    scheme("smtp+wss", Carrier::WebSocketOverTls, Form::Host { port: Some(443), path: true }, &[], "smtp+wss://host:443/path"),
    scheme("smtp+unix", Carrier::Unix, Form::Path, &[], "smtp+unix:///path"),
    scheme("lmtp", Carrier::Tcp, Form::Host { port: None, path: false }, TLS, "lmtp://host:port").lmtp(),
    scheme("lmtp+unix", Carrier::Unix, Form::Path, &[], "lmtp+unix:///path").lmtp(),
    scheme("pipe", Carrier::Pipe, Form::Program, &[], "pipe:program arguments"),
    scheme("fd", Carrier::Handed, Form::Handed, BOTH, "fd:name"),
];

const fn scheme(
    name: &'static str,
    carrier: Carrier,
    form: Form,
    parameters: &'static [&'static str],
    shape: &'static str,
) -> Scheme {
    Scheme { name, carrier, protocol: Protocol::Smtp, form, parameters, shape }
}

impl Scheme {
    /// The same for LMTP.
    const fn lmtp(self) -> Self {
        Self { protocol: Protocol::Lmtp, ..self }
    }
}
