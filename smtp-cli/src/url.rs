//! One vocabulary of URLs, for listening and for connecting.
//!
//! ```text
//! smtp://host[:25][?tls=required|opportunistic|none]      TCP; STARTTLS when it is offered
//! smtps://host[:465]                                      TCP; TLS from the first octet
//! ```
//!
//! A host is a name, an IPv4 address, or an IPv6 address in brackets. Names and passwords do not go into URLs: URLs end
//! up in logs and process lists.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use smtp_core::stream::Target;
use smtp_core::types::{AddressLiteral, Domain, Host};

/// What carries the octets of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// TCP in clear, upgraded by STARTTLS.
    Tcp,
    /// TLS over TCP.
    TlsOverTcp,
}

/// One scheme. A new transport is a line in [`SCHEMES`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scheme {
    /// What stands before `://`.
    pub(crate) name: &'static str,
    /// What carries the octets.
    pub(crate) carrier: Carrier,
    /// The port, if none is named.
    pub(crate) port: u16,
    /// Whether `?tls=` means something.
    pub(crate) has_tls_choice: bool,
}

/// Every scheme there is.
pub(crate) const SCHEMES: [Scheme; 2] = [
    Scheme { name: "smtp", carrier: Carrier::Tcp, port: 25, has_tls_choice: true },
    Scheme { name: "smtps", carrier: Carrier::TlsOverTcp, port: 465, has_tls_choice: false },
];

/// What `?tls=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TlsChoice {
    /// No TLS, even if the other side could.
    None,
    /// TLS if both sides can.
    Opportunistic,
    /// TLS, or nothing.
    Required,
}

impl TlsChoice {
    const ALL: [Self; 3] = [Self::Required, Self::Opportunistic, Self::None];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
        }
    }
}

/// Where to listen, or whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// Its scheme.
    pub(crate) scheme: &'static Scheme,
    /// The host, in the form that DNS knows.
    pub(crate) host: Host,
    /// The port.
    pub(crate) port: u16,
    /// What `?tls=` says, if it is there.
    pub(crate) tls: Option<TlsChoice>,
}

impl Url {
    /// The server to connect to.
    pub(crate) fn target(&self) -> Target {
        Target::host(self.host.clone(), self.port)
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// For any name but `localhost`: what it stands for can change, and with it who can reach the server.
    pub(crate) fn listen_address(&self) -> Result<SocketAddr, UrlError> {
        let ip = match &self.host {
            Host::Literal(AddressLiteral::V4(ip)) => IpAddr::V4(*ip),
            Host::Literal(AddressLiteral::V6(ip)) => IpAddr::V6(*ip),
            Host::Domain(name) if name.as_str().eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
            Host::Domain(_) | Host::Literal(AddressLiteral::General(_)) => {
                return Err(UrlError(format!(
                    "{self}: listening takes an address of this machine: 127.0.0.1, 0.0.0.0 for all of IPv4, \
                     [::] for all of IPv6"
                )));
            }
        };
        Ok(SocketAddr::new(ip, self.port))
    }
}

/// A text that is not a URL of ours; says what is wrong and what is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UrlError(String);

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let fault = |why: String| UrlError(why);
        let Some((name, rest)) = text.split_once("://") else {
            return Err(fault(format!("no scheme; did you mean smtp://{text} ? The schemes are {}", scheme_names())));
        };
        let scheme = SCHEMES
            .iter()
            .find(|scheme| scheme.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| fault(format!("unknown scheme {name:?}; the schemes are {}", scheme_names())))?;
        if rest.contains('#') {
            return Err(fault("a fragment (#…) means nothing here".into()));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            // Not shown again: what stands there may be a password.
            return Err(fault(
                "user names and passwords do not go into URLs, which end up in logs: use --user and --password-file"
                    .into(),
            ));
        }
        if !path.is_empty() {
            return Err(fault(format!("a path (/{path}) means nothing here")));
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => scheme.port,
            Some(port) => {
                port.parse().map_err(|_| fault(format!("{port:?} is not a port: a number from 0 to 65535")))?
            }
        };
        let tls = query.map(|query| parameters(scheme, query)).transpose()?.flatten();
        Ok(Self { scheme, host: parse_host(host)?, port, tls })
    }
}

fn scheme_names() -> String {
    SCHEMES.iter().map(|scheme| format!("{}://", scheme.name)).collect::<Vec<_>>().join(", ")
}

/// The host, brackets included, and the port's text.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or_else(|| UrlError(format!("{authority:?} has no closing ']'")))?;
        let (host, rest) = authority.split_at(end + 1);
        return match (rest, rest.strip_prefix(':')) {
            ("", _) => Ok((host, None)),
            (_, Some(port)) => Ok((host, Some(port))),
            _ => Err(UrlError(format!("{rest:?} behind the address: a port is written :25"))),
        };
    }
    match authority.split_once(':') {
        None => Ok((authority, None)),
        Some((_, rest)) if rest.contains(':') => {
            Err(UrlError(format!("an IPv6 address stands in brackets: [{authority}]")))
        }
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    if text.is_empty() {
        return Err(UrlError("the host is missing".into()));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner
            .parse()
            .map(|ip| Host::Literal(AddressLiteral::V6(ip)))
            .map_err(|_| UrlError(format!("[{inner}] is not an IPv6 address")));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Literal(AddressLiteral::V4(ip)));
    }
    // DNS and certificates know A-labels only.
    let name = idna::domain_to_ascii(text).ok().unwrap_or_else(|| text.into());
    Domain::new(&name).map(Host::Domain).map_err(|why| UrlError(format!("{text:?} is not a host: {why}")))
}

fn parameters(scheme: &Scheme, query: &str) -> Result<Option<TlsChoice>, UrlError> {
    let known = if scheme.has_tls_choice {
        "tls=required, tls=opportunistic and tls=none are known"
    } else {
        "it has none: TLS is there from the first octet"
    };
    let mut tls = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let choice = TlsChoice::ALL.into_iter().find(|choice| choice.name() == value);
        match choice.filter(|_| key == "tls" && scheme.has_tls_choice) {
            None => {
                return Err(UrlError(format!("{}:// has no parameter {parameter:?}; {known}", scheme.name)));
            }
            Some(_) if tls.is_some() => return Err(UrlError("tls= is there twice".into())),
            Some(choice) => tls = Some(choice),
        }
    }
    Ok(tls)
}

impl fmt::Display for Url {
    /// As a client can be given it; the port is always there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name)?;
        match &self.host {
            Host::Literal(AddressLiteral::V4(ip)) => write!(f, "{ip}")?,
            Host::Literal(AddressLiteral::V6(ip)) => write!(f, "[{ip}]")?,
            host => write!(f, "{host}")?,
        }
        write!(f, ":{}", self.port)?;
        match self.tls {
            Some(tls) => write!(f, "?tls={}", tls.name()),
            None => Ok(()),
        }
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
        ] {
            assert_eq!(shown(text), meaning);
            assert_eq!(shown(&shown(text)), meaning, "reads what it writes");
        }
    }

    #[test]
    fn errors_say_what_is_known() {
        for (text, part) in [
            ("localhost:2525", "did you mean smtp://localhost:2525"),
            ("http://x", "smtp://, smtps://"),
            ("smtp://x?tls=maybe", "tls=required, tls=opportunistic and tls=none"),
            ("smtp://x?verify=1", "no parameter \"verify=1\""),
            ("smtp://x?tls=none&tls=required", "twice"),
            ("smtps://x?tls=none", "TLS is there from the first octet"),
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
        assert!(address("smtp://mx.example").unwrap_err().to_string().contains("0.0.0.0"));
    }
}
