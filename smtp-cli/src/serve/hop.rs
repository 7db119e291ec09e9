//! Routes as they are written: a destination, the URL of a server, and who this host is to it.
//!
//! ```text
//! example.org=smtps://mail.example.net user=relay password-file=/etc/smtp/relay
//! lists.example.org=|/usr/bin/lists --from {sender} {user}
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use smtp_client::sasl::Credentials;
use smtp_client::{Client, Options, Settings};
use smtp_core::session::server::Protocol;
use smtp_core::stream::LocalAddresses;
use smtp_core::types::EhloName;
use smtp_route::Named;
use smtp_server::delivery::Invocation;
use smtp_tls::{Identity, Pin};

use crate::connect::{TlsOptions, read_password};
use crate::credentials::{is_external, needs_password, with_password, without_password};
use crate::exit::Failure;
use crate::transport::Calling;
use crate::url::{Carrier, TlsChoice, Url};

/// A server that mail is handed to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The server.
    pub(crate) url: Url,
    user: Option<String>,
    password_file: Option<PathBuf>,
    mechanism: Option<String>,
    ca: Option<PathBuf>,
    pin: Option<Pin>,
    insecure: bool,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    hello: Option<EhloName>,
}

const KEYS: &str = "user=NAME, password-file=FILE, auth=MECHANISM, tls-ca=FILE, pin=PIN, insecure, tls-cert=FILE, \
                    tls-key=FILE, hello=NAME";

impl FromStr for Hop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let url = words.next().ok_or("a URL is missing")?.parse::<Url>().map_err(|error| error.to_string())?;
        let mut hop = Self {
            url,
            user: None,
            password_file: None,
            mechanism: None,
            ca: None,
            pin: None,
            insecure: false,
            certificate: None,
            key: None,
            hello: None,
        };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let twice = match (key, value) {
                ("insecure", "") => std::mem::replace(&mut hop.insecure, true),
                (_, "") => return Err(format!("{word:?} is not one of {KEYS}")),
                ("user", _) => hop.user.replace(value.to_owned()).is_some(),
                ("password-file", _) => hop.password_file.replace(value.into()).is_some(),
                ("auth", _) => hop.mechanism.replace(value.to_owned()).is_some(),
                ("tls-ca", _) => hop.ca.replace(value.into()).is_some(),
                ("tls-cert", _) => hop.certificate.replace(value.into()).is_some(),
                ("tls-key", _) => hop.key.replace(value.into()).is_some(),
                ("pin", _) => {
                    let pin = value.parse().map_err(|error| format!("pin={value}: {error}"))?;
                    hop.pin.replace(pin).is_some()
                }
                ("hello", _) => {
                    let name = EhloName::new(value).map_err(|error| format!("hello={value}: {error}"))?;
                    hop.hello.replace(name).is_some()
                }
                // The value is not repeated: it may be a password.
                _ => return Err(format!("{key:?} is not one of {KEYS}")),
            };
            if twice {
                return Err(format!("{key} is there twice"));
            }
        }
        hop.check().map(|()| hop)
    }
}

impl Hop {
    /// What its words have to do with each other.
    fn check(&self) -> Result<(), String> {
        let (tls, local) = match (self.url.carrier(), self.url.tls) {
            (Carrier::Tcp, Some(TlsChoice::None)) | (Carrier::WebSocket, _) => (false, false),
            (Carrier::Unix | Carrier::Pipe | Carrier::Handed, _) => (false, true),
            (Carrier::Tcp | Carrier::TlsOverTcp | Carrier::Quic | Carrier::WebSocketOverTls, _) => (true, false),
        };
        match (&self.certificate, &self.key) {
            (Some(_), None) => return Err("tls-cert= without tls-key=".into()),
            (None, Some(_)) => return Err("tls-key= without tls-cert=".into()),
            (Some(_), Some(_)) if !tls => return Err(format!("tls-cert= and no TLS at {}", self.url)),
            _ => {}
        }
        let mechanism = self.mechanism.as_deref();
        // The channel says who this is: by a certificate, or by the user that the process runs as.
        if is_external(mechanism) && !local && self.certificate.is_none() {
            return Err("auth=EXTERNAL without tls-cert= and tls-key=".into());
        }
        match (&self.user, &self.password_file) {
            (_, Some(_)) if !needs_password(mechanism) => Err("password-file= and an auth= that needs none".into()),
            _ if !needs_password(mechanism) => Ok(()),
            (Some(_), None) => Err("user= without password-file=".into()),
            (None, Some(_)) => Err("password-file= without user=".into()),
            (None, None) if mechanism.is_some() => Err("auth= without user=".into()),
            _ => Ok(()),
        }
    }

    /// What delivers there, greeting with `hello` from `source` where its words say nothing else. Nothing is connected
    /// yet.
    ///
    /// # Errors
    /// If a file that it names cannot be used, or TLS is not what its words need.
    pub(super) fn client(&self, hello: &EhloName, source: LocalAddresses) -> Result<Named<Client>, Failure> {
        let identity = self.certificate.clone().zip(self.key.clone());
        let tls = TlsOptions {
            ca: self.ca.clone(),
            pin: self.pin,
            insecure: self.insecure,
            identity: identity.map(|(certificate, key)| Identity::from_files(certificate, key)),
            ..TlsOptions::default()
        };
        let policy = tls.policy(&self.url, self.user.is_some() || self.mechanism.is_some())?;
        let way = tls.way(&self.url, Calling { source, ..Calling::default() })?;
        let lmtp = self.url.protocol() == Protocol::Lmtp;
        let settings = Settings {
            options: Options { lmtp, ..Options::new(self.hello.clone().unwrap_or_else(|| hello.clone())) },
            tls: policy,
            credentials: self.credentials()?,
            ..Settings::default()
        };
        Ok(Named::new(Client::new(way.connector, self.url.target(), settings), &self.url.to_string()))
    }

    fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        let mechanism = self.mechanism.as_deref();
        if let Some(credentials) = without_password(mechanism, self.user.as_deref())? {
            return Ok(Some(credentials));
        }
        let (Some(user), Some(file)) = (&self.user, &self.password_file) else { return Ok(None) };
        with_password(mechanism, user, &read_password(file)?, self.insecure).map(Some)
    }
}

impl fmt::Display for Hop {
    /// As it reads back. It never holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)?;
        let words = [
            ("user", self.user.clone()),
            ("password-file", self.password_file.as_ref().map(|path| path.display().to_string())),
            ("auth", self.mechanism.clone()),
            ("tls-ca", self.ca.as_ref().map(|path| path.display().to_string())),
            ("pin", self.pin.map(|pin| pin.to_string())),
            ("tls-cert", self.certificate.as_ref().map(|path| path.display().to_string())),
            ("tls-key", self.key.as_ref().map(|path| path.display().to_string())),
            ("hello", self.hello.as_ref().map(|name| name.as_str().to_owned())),
        ];
        for (key, value) in words {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        if self.insecure { f.write_str(" insecure") } else { Ok(()) }
    }
}

/// A destination, and what its mail is handed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// A domain, or a dot and a domain for all below it.
    pub(crate) destination: String,
    /// What takes the mail.
    pub(crate) by: By,
}

/// What takes the mail of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum By {
    Server(Box<Hop>),
    Program(Arc<Invocation>),
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (destination, by) = text
            .split_once('=')
            .filter(|(destination, _)| !destination.contains(':'))
            .ok_or("a route is DESTINATION=URL, such as example.org=smtp://mail.example.net")?;
        let by = match by.trim_start().strip_prefix('|') {
            Some(command) => By::Program(Arc::new(command.parse::<Invocation>().map_err(|error| error.to_string())?)),
            None => By::Server(Box::new(by.parse()?)),
        };
        Ok(Self { destination: destination.trim().to_owned(), by })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            By::Server(hop) => write!(f, "{}={hop}", self.destination),
            By::Program(invocation) => write!(f, "{}=|{invocation}", self.destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_read_what_they_write() {
        for text in [
            "example.org=smtp://mail.example.net:25",
            ".example.org=smtps://mail.example.net:465 user=jo password-file=/etc/pw auth=PLAIN hello=me.example",
            "example.org=smtp+unix:///run/lmtp",
            "example.org=smtp+unix:///run/lmtp auth=EXTERNAL",
            "example.org=smtps://x:465 auth=EXTERNAL tls-cert=/etc/c tls-key=/etc/k",
            "example.org=smtps://x:465 user=jo auth=external tls-ca=/etc/ca tls-cert=/etc/c tls-key=/etc/k",
            "example.org=smtp+quic://x:443 tls-cert=/etc/c tls-key=/etc/k",
            "example.org=smtp://[::1]:25?tls=none insecure",
            "example.org=lmtp+unix:///run/dovecot/lmtp",
            "example.org=|/usr/bin/lists --from={sender} 'a b' {user}",
        ] {
            let route: Route = text.parse().unwrap();
            assert_eq!(route.to_string(), text);
        }
        let route: Route = "example.org = smtp://x".parse().unwrap();
        assert_eq!(route.destination, "example.org");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is_repeated() {
        for (text, part) in [
            ("smtp://x?tls=none", "DESTINATION=URL"),
            ("example.org", "DESTINATION=URL"),
            ("example.org=", "URL is missing"),
            ("example.org=|cat", "full path"),
            ("example.org=| ", "command is missing"),
            ("example.org=mail.example.net", "did you mean smtp://mail.example.net"),
            ("example.org=smtp://x user=jo", "without password-file="),
            ("example.org=smtp://x password-file=/x", "without user="),
            ("example.org=smtp://x user=a user=b", "user is there twice"),
            ("example.org=smtp://x password=hunter2", "\"password\" is not one of user=NAME"),
            ("example.org=smtp://x auth=PLAIN", "auth= without user="),
            ("example.org=smtps://x tls-cert=/c", "tls-cert= without tls-key="),
            ("example.org=smtps://x tls-key=/k", "tls-key= without tls-cert="),
            ("example.org=smtp://x?tls=none tls-cert=/c tls-key=/k", "no TLS at smtp://x:25?tls=none"),
            ("example.org=smtp+unix:///x tls-cert=/c tls-key=/k", "no TLS at smtp+unix:///x"),
            ("example.org=smtps://x auth=EXTERNAL", "auth=EXTERNAL without tls-cert= and tls-key="),
            ("example.org=smtp+ws://x auth=external user=jo", "auth=EXTERNAL without tls-cert="),
            (
                "example.org=smtps://x auth=EXTERNAL user=jo password-file=/x tls-cert=/c tls-key=/k",
                "password-file= and an auth= that needs none",
            ),
        ] {
            let error = text.parse::<Route>().unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_sent_in_clear() {
        // Another test may have been faster.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let hello = EhloName::new("me.example").unwrap();
        let hop = |url: &str, more: &str| {
            format!("{url} user=jo password-file={}{more}", file.path().display()).parse::<Hop>().unwrap()
        };
        let client = |hop: Hop| hop.client(&hello, LocalAddresses::default());
        assert!(client(hop("smtp://x?tls=none", "")).is_err());
        assert!(client(hop("smtp://x?tls=none", " insecure")).is_ok());
        let missing = "smtps://x user=jo password-file=/nowhere".parse::<Hop>().unwrap();
        assert!(client(missing).unwrap_err().what().contains("/nowhere"));
    }
}
