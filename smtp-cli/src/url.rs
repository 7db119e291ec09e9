//! One vocabulary of URLs, for listening and for connecting.
//!
//! ```text
//! smtp://host[:25][?tls=required|opportunistic|none]      TCP; STARTTLS when it is offered
//! smtps://host[:465]                                      TCP; TLS from the first octet
//! smtp+quic://host:port[?service=relay|submission]        QUIC
//! smtp+ws://host[:80][/path], smtp+wss://host[:443][/path]    WebSocket, in clear and under TLS
//! smtp+unix:///path                                       a Unix socket
//! lmtp://host:port[?tls=…], lmtp+unix:///path             LMTP (RFC 2033), never on port 25
//! pipe:program argument…                                  a child program; `pipe:` is standard input and output
//! fd:[name|number][?tls=…|service=…]                      sockets that a service manager handed down
//! ```
//!
//! For connecting over any with a host, `?source=` is the address of this machine to connect from, once for each family.
//!
//! For listening on any but `pipe:`, `?role=mx|submission` says what a listener is for, and `?proxy=`, `?xclient=`,
//! `?xclient-login=` and `?xforward=` whom it believes what they say of others ([`Trust`]).
//!
//! A host is a name, an IPv4 address, or an IPv6 address in brackets. Names and passwords do not go into URLs: URLs end
//! up in logs and process lists.

mod scheme;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use smtp_core::session::server::Protocol;
use smtp_core::stream::{Address, LocalAddresses, Target};
use smtp_core::types::{AddressLiteral, Domain, Host};
use smtp_transport_quic::Service;
use smtp_transport_unix::{PipeConnector, unix_target};

pub(crate) use self::scheme::{Carrier, Scheme};
use self::scheme::{Form, SCHEMES};
use crate::source;
use crate::trust::{self, Trust};

/// What `?tls=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TlsChoice {
    /// No TLS, even if the other side could.
    None,
    /// TLS if both sides can.
    Opportunistic,
    /// TLS, or nothing.
    Required,
    /// TLS from the first octet, on a socket whose scheme does not say so.
    Implicit,
}

/// What a listener is for, as `?role=` says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Both: mail from strangers for this host, and from users who authenticate for anybody.
    #[default]
    Any,
    /// Mail from other hosts: nobody authenticates (RFC 5321).
    Mx,
    /// Mail from its authors: nobody sends without (RFC 6409).
    Submission,
}

/// Where to listen, or whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// Its scheme.
    scheme: &'static Scheme,
    /// What stands behind it.
    pub(crate) place: Place,
    /// What `?tls=` says, if it is there.
    pub(crate) tls: Option<TlsChoice>,
    /// What `?service=` says, if it is there.
    service: Option<Service>,
    /// What `?role=` says, if it is there.
    role: Option<Role>,
    /// Whom a listener believes.
    trust: Trust,
    /// What `?source=` says; nothing if it is not there.
    source: LocalAddresses,
    /// As it was written behind `?`.
    query: String,
}

/// What stands behind a scheme, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A host, in the form that DNS knows, a port, and a path with its slash or nothing.
    Host { host: Host, port: u16, path: String },
    /// A file, and how the URL writes it.
    Path { path: PathBuf, text: String },
    /// A program and its arguments, as the URL writes them; nothing for this process's own ends.
    Program(String),
    /// The name or number of what was handed down; nothing for all of it.
    Handed(String),
}

impl Url {
    /// What carries the octets.
    pub(crate) const fn carrier(&self) -> Carrier {
        self.scheme.carrier
    }

    /// What is spoken.
    pub(crate) const fn protocol(&self) -> Protocol {
        self.scheme.protocol
    }

    /// Which of QUIC's two protocols is meant.
    pub(crate) fn service(&self) -> Service {
        self.service.unwrap_or_default()
    }

    /// What a listener is for.
    pub(crate) fn role(&self) -> Role {
        self.role.unwrap_or_default()
    }

    /// Whom a listener believes.
    pub(crate) const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Where to connect from; nothing if that is not said.
    pub(crate) const fn source(&self) -> LocalAddresses {
        self.source
    }

    /// True if a parameter is there that means nothing to a client.
    pub(crate) fn is_for_listening(&self) -> bool {
        self.role.is_some() || !self.trust.is_nobody()
    }

    /// The server to connect to. A program is its own server and has no address.
    pub(crate) fn target(&self) -> Target {
        match &self.place {
            Place::Host { host, port, .. } => Target::host(host.clone(), *port),
            Place::Path { path, .. } => Target { address: Address::Path(path.clone()), server_name: None },
            Place::Program(text) | Place::Handed(text) => {
                Target { address: Address::Path(text.into()), server_name: None }
            }
        }
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// For any name but `localhost`: what it stands for can change, and with it who can reach the server. If there is a
    /// parameter that is a client's.
    pub(crate) fn listen_address(&self) -> Result<SocketAddr, UrlError> {
        if !self.source.is_empty() {
            return Err(UrlError(format!("{self}: source= is for connecting; a listener's address is its host")));
        }
        let (ip, port) = match &self.place {
            Place::Host { host: Host::Literal(AddressLiteral::V4(ip)), port, .. } => (IpAddr::V4(*ip), port),
            Place::Host { host: Host::Literal(AddressLiteral::V6(ip)), port, .. } => (IpAddr::V6(*ip), port),
            Place::Host { host: Host::Domain(name), port, .. } if name.as_str().eq_ignore_ascii_case("localhost") => {
                (Ipv4Addr::LOCALHOST.into(), port)
            }
            _ => {
                return Err(UrlError(format!(
                    "{self}: listening takes an address of this machine: 127.0.0.1, 0.0.0.0 for all of IPv4, \
                     [::] for all of IPv6"
                )));
            }
        };
        Ok(SocketAddr::new(ip, *port))
    }
}

/// A text that is not a URL of ours; says what is wrong and what is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UrlError(String);

fn fault(why: impl Into<String>) -> UrlError {
    UrlError(why.into())
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (name, rest) = text.split_once(':').unwrap_or(("", text));
        let scheme = SCHEMES.iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name));
        let scheme = scheme.ok_or_else(|| unknown(text, name))?;
        if scheme.form == Form::Program {
            // Not split further: a command can hold any character.
            if !rest.is_empty() {
                PipeConnector::from_url(text).map_err(|error| fault(error.to_string()))?;
            }
            return Ok(Self::of(scheme, Place::Program(rest.to_owned())));
        }
        if rest.contains('#') {
            return Err(fault("a fragment (#…) means nothing here"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = match scheme.form {
            Form::Host { port, path } => host_and_port(scheme, rest, port, path)?,
            Form::Path => {
                let target = unix_target(&format!("smtp+unix:{rest}")).map_err(|error| fault(error.to_string()))?;
                let Address::Path(path) = target.address else { return Err(fault("not a path")) };
                Place::Path { path, text: rest.to_owned() }
            }
            Form::Handed | Form::Program => Place::Handed(rest.trim_start_matches('/').to_owned()),
        };
        Self::of(scheme, place).with(query)
    }
}

/// What is said to a text whose scheme is none of ours.
fn unknown(text: &str, name: &str) -> UrlError {
    let known = SCHEMES.iter().map(|scheme| scheme.shape).collect::<Vec<_>>().join(", ");
    let start = |word: &str| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if start("lmtp") {
        fault(format!("unknown scheme {name:?}; LMTP is lmtp://host:port or lmtp+unix:///path"))
    } else if text.contains("://") {
        fault(format!("unknown scheme {name:?}; there are {known}"))
    } else {
        fault(format!("no scheme; did you mean smtp://{text} ? There are {known}"))
    }
}

fn host_and_port(scheme: &Scheme, rest: &str, default: Option<u16>, has_path: bool) -> Result<Place, UrlError> {
    let shape = scheme.shape;
    let rest = rest.strip_prefix("//").ok_or_else(|| fault(format!("two slashes are missing: {shape}")))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        // Not shown again: what stands there may be a password.
        return Err(fault(
            "user names and passwords do not go into URLs, which end up in logs: use --user and --password-file",
        ));
    }
    if !has_path && path.len() > 1 {
        return Err(fault(format!("a path ({path}) means nothing here")));
    }
    let (host, port) = split_port(authority)?;
    let host = parse_host(host)?;
    let port = match port {
        Some(port) => port.parse().map_err(|_| fault(format!("{port:?} is not a port: a number from 0 to 65535")))?,
        // [Q-14.2]
        None => default.ok_or_else(|| fault(format!("there is no usual port for this; name the server's: {shape}")))?,
    };
    if scheme.protocol == Protocol::Lmtp && port == 25 {
        return Err(fault("LMTP must not be spoken on port 25 (RFC 2033); name another port, such as 24"));
    }
    let path = if path.len() > 1 { path } else { "" };
    Ok(Place::Host { host, port, path: path.to_owned() })
}

/// The host, brackets included, and the port's text.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or_else(|| fault(format!("{authority:?} has no closing ']'")))?;
        let (host, rest) = authority.split_at(end + 1);
        return match (rest, rest.strip_prefix(':')) {
            ("", _) => Ok((host, None)),
            (_, Some(port)) => Ok((host, Some(port))),
            _ => Err(fault(format!("{rest:?} behind the address: a port is written :25"))),
        };
    }
    match authority.split_once(':') {
        None => Ok((authority, None)),
        Some((_, rest)) if rest.contains(':') => {
            Err(fault(format!("an IPv6 address stands in brackets: [{authority}]")))
        }
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    if text.is_empty() {
        return Err(fault("the host is missing"));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner
            .parse()
            .map(|ip| Host::Literal(AddressLiteral::V6(ip)))
            .map_err(|_| fault(format!("[{inner}] is not an IPv6 address")));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Literal(AddressLiteral::V4(ip)));
    }
    Domain::new(&ascii(text)).map(Host::Domain).map_err(|why| fault(format!("{text:?} is not a host: {why}")))
}

/// A host's name in A-labels (RFC 5890), which is all that DNS, certificates and replies know; as it is if it is none.
pub(crate) fn ascii(name: &str) -> String {
    idna::domain_to_ascii(name).ok().unwrap_or_else(|| name.into())
}

impl Url {
    fn of(scheme: &'static Scheme, place: Place) -> Self {
        Self {
            scheme,
            place,
            tls: None,
            service: None,
            role: None,
            trust: Trust::default(),
            source: LocalAddresses::default(),
            query: String::new(),
        }
    }

    /// The same with what stands behind `?`.
    fn with(mut self, query: &str) -> Result<Self, UrlError> {
        let twice = |key: &str| Err(fault(format!("{key}= is there twice")));
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let role = match parameter {
                "role=mx" => Some(Role::Mx),
                "role=submission" => Some(Role::Submission),
                _ => None,
            };
            if let Some(role) = role {
                if self.role.replace(role).is_some() {
                    return twice("role");
                }
                continue;
            }
            if self.trust.read(parameter, self.scheme.carrier).map_err(fault)? {
                continue;
            }
            if let (Some(value), Place::Host { .. }) = (parameter.strip_prefix("source="), &self.place) {
                let added = value.parse().map_err(str::to_owned).and_then(|ip| source::add(&mut self.source, ip));
                added.map_err(|why| fault(format!("source={value}: {why}")))?;
                continue;
            }
            if !self.scheme.parameters.contains(&parameter) {
                return Err(self.no_parameter(parameter));
            }
            let (tls, service) = match parameter {
                "tls=none" => (Some(TlsChoice::None), None),
                "tls=opportunistic" => (Some(TlsChoice::Opportunistic), None),
                "tls=required" => (Some(TlsChoice::Required), None),
                "tls=implicit" => (Some(TlsChoice::Implicit), None),
                "service=submission" => (None, Some(Service::Submission)),
                _ => (None, Some(Service::Relay)),
            };
            match (tls, service) {
                (Some(_), _) if self.tls.is_some() => return twice("tls"),
                (_, Some(_)) if self.service.is_some() => return twice("service"),
                _ => (self.tls, self.service) = (self.tls.or(tls), self.service.or(service)),
            }
        }
        query.clone_into(&mut self.query);
        Ok(self)
    }

    fn no_parameter(&self, parameter: &str) -> UrlError {
        let name = self.scheme.name;
        let known = match (self.scheme.parameters, self.carrier()) {
            ([], Carrier::TlsOverTcp | Carrier::WebSocketOverTls) => {
                "it has none: TLS is there from the first octet".to_owned()
            }
            ([], _) => "it has none but those of listeners".to_owned(),
            (known, Carrier::Quic) => format!("TLS is always there; {} are known", known.join(" and ")),
            (known, _) => format!("{} are known", known.join(", ")),
        };
        let of_clients = match &self.place {
            Place::Host { .. } => "for connecting also source=ADDRESS; ",
            Place::Path { .. } | Place::Program(_) | Place::Handed(_) => "",
        };
        let of_listeners = trust::PARAMETERS;
        fault(format!(
            "{name}: has no parameter {parameter:?}; {known}; {of_clients}for listening also role=mx, role=submission, \
             {of_listeners}"
        ))
    }
}

impl fmt::Display for Url {
    /// As a client can be given it; the port is always there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme.name)?;
        match &self.place {
            Place::Host { host, port, path } => {
                let address = Address::Host { host: host.clone(), port: *port };
                write!(f, "//{address}{path}")?;
            }
            Place::Path { text, .. } | Place::Program(text) | Place::Handed(text) => f.write_str(text)?,
        }
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", self.query) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Url>().unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
    }

    fn fault(text: &str) -> String {
        match text.parse::<Url>() {
            Ok(url) => panic!("{text} was taken as {url}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_form_has_its_defaults() {
        for (text, meaning) in [
            ("smtp://mx.example", "smtp://mx.example:25"),
            ("SMTP://mx.example/", "smtp://mx.example:25"),
            ("smtp://mx.example:2525?tls=required", "smtp://mx.example:2525?tls=required"),
            ("smtp://127.0.0.1:0?tls=none", "smtp://127.0.0.1:0?tls=none"),
            ("smtp://[::1]", "smtp://[::1]:25"),
            ("smtp://[2001:db8::1]:587?tls=opportunistic", "smtp://[2001:db8::1]:587?tls=opportunistic"),
            ("smtps://mx.example", "smtps://mx.example:465"),
            ("smtps://bücher.example", "smtps://xn--bcher-kva.example:465"),
            ("smtp+quic://mx.example:443", "smtp+quic://mx.example:443"),
            ("smtp+quic://[::1]:0?service=submission", "smtp+quic://[::1]:0?service=submission"),
            ("smtp+ws://mx.example", "smtp+ws://mx.example:80"),
            ("smtp+wss://mx.example/mail", "smtp+wss://mx.example:443/mail"),
            ("smtp+unix:///run/my%20socket", "smtp+unix:///run/my%20socket"),
            ("lmtp://[::1]:24?tls=none", "lmtp://[::1]:24?tls=none"),
            ("LMTP+unix:///run/lmtp", "lmtp+unix:///run/lmtp"),
            ("pipe:", "pipe:"),
            ("pipe:ssh mx.example 'smtpd' -bs", "pipe:ssh mx.example 'smtpd' -bs"),
            ("fd:", "fd:"),
            ("smtps://[::1]?role=submission", "smtps://[::1]:465?role=submission"),
            ("smtp://[::1]?tls=none&role=mx", "smtp://[::1]:25?tls=none&role=mx"),
            ("FD:submission?tls=required", "fd:submission?tls=required"),
            ("smtp+quic://x:1?source=::1&source=127.0.0.2", "smtp+quic://x:1?source=::1&source=127.0.0.2"),
            ("smtp://x?tls=none&source=0.0.0.0", "smtp://x:25?tls=none&source=0.0.0.0"),
            ("smtp://[::1]?proxy=10.0.0.0/8&proxy=::1&tls=none", "smtp://[::1]:25?proxy=10.0.0.0/8&proxy=::1&tls=none"),
            ("smtp+unix:///run/x?xclient-login=uid:7", "smtp+unix:///run/x?xclient-login=uid:7"),
        ] {
            assert_eq!(shown(text), meaning);
            assert_eq!(shown(&shown(text)), meaning, "reads what it writes");
        }
    }

    #[test]
    fn errors_say_what_is_known() {
        for (text, part) in [
            ("localhost:2525", "did you mean smtp://localhost:2525"),
            ("http://x", "unknown scheme \"http\"; there are smtp://host:25, smtps://host:465"),
            ("smtp://x?tls=maybe", "tls=required, tls=opportunistic, tls=none are known"),
            ("smtp://x?verify=1", "no parameter \"verify=1\""),
            ("smtp://x?tls=none&tls=required", "tls= is there twice"),
            ("smtps://x?tls=none", "TLS is there from the first octet"),
            ("smtp://x?role=mx&role=mx", "role= is there twice"),
            ("smtp://x?role=relay", "no parameter \"role=relay\""),
            ("smtp://x?proxy=localhost", "proxy=localhost: "),
            ("smtp://x?source=192.0.2.7:25", "source=192.0.2.7:25: not an IP address"),
            ("smtp://x?source=", "source=: not an IP address"),
            (
                "smtp://x?source=127.0.0.1&source=::ffff:127.0.0.2",
                "source=::ffff:127.0.0.2: there is 127.0.0.1 already",
            ),
            ("smtp+unix:///x?source=127.0.0.1", "no parameter \"source=127.0.0.1\""),
            ("fd:x?source=127.0.0.1", "no parameter \"source=127.0.0.1\""),
            ("smtp+quic://x:1?proxy=::1", "does not go over QUIC"),
            ("smtp://", "host is missing"),
            ("smtp://:25", "host is missing"),
            ("smtp://x:65536", "0 to 65535"),
            ("smtp://x:-1", "0 to 65535"),
            ("smtp://x:", "not a port"),
            ("smtp://::1", "in brackets: [::1]"),
            ("smtp://[::1", "no closing"),
            ("smtp://[::1]25", "written :25"),
            ("smtp://[127.0.0.1]", "not an IPv6 address"),
            ("smtp://x/inbox", "(/inbox) means nothing"),
            ("smtp://x#y", "means nothing"),
            ("smtp://a b", "not a host"),
            ("smtp://x\r\ny", "not a host"),
            ("smtp:x", "two slashes are missing"),
            ("smtp+quic://mx.example", "no usual port for this; name the server's: smtp+quic://host:port"),
            ("smtp+quic://x:1?tls=none", "TLS is always there; service=relay and service=submission are known"),
            ("smtp+quic://x:1?service=relay&service=submission", "twice"),
            ("smtp+wss://x?tls=none", "TLS is there from the first octet"),
            ("smtp+unix://host/path", "absolute path after three slashes"),
            ("smtp+unix:///", "absolute path"),
            ("smtp+unix:///a?tls=none", "it has none"),
            ("smtp+unix:///a%2", "two hexadecimal digits"),
            ("pipe:%2", "two hexadecimal digits"),
            ("pipe: ", "has to name a program"),
            ("pipe:/x?y", "written as %3F"),
            ("lmtp://mx.example", "no usual port for this; name the server's: lmtp://host:port"),
            ("lmtp://mx.example:25", "must not be spoken on port 25"),
            ("lmtp+unix://run/lmtp", "absolute path after three slashes"),
            ("lmtps://mx.example", "LMTP is lmtp://host:port or lmtp+unix:///path"),
        ] {
            assert!(fault(text).contains(part), "{text}: {}", fault(text));
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for text in ["smtp://jo:hunter2@mx.example", "smtp://jo@mx.example", "smtps://@x"] {
            let error = fault(text);
            assert!(error.contains("--password-file") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn listening_takes_addresses_of_this_machine() {
        let address = |text: &str| text.parse::<Url>().unwrap().listen_address();
        assert_eq!(address("smtp://localhost:2525").unwrap().to_string(), "127.0.0.1:2525");
        assert_eq!(address("smtp://[::]").unwrap().to_string(), "[::]:25");
        assert_eq!(address("smtps://0.0.0.0:0").unwrap().to_string(), "0.0.0.0:0");
        assert_eq!(address("smtp+quic://0.0.0.0:443").unwrap().to_string(), "0.0.0.0:443");
        assert!(address("smtp://mx.example").unwrap_err().to_string().contains("0.0.0.0"));
        let error = address("smtp://127.0.0.1?source=127.0.0.2").unwrap_err().to_string();
        assert!(error.contains("source= is for connecting"), "{error}");
    }
}
