//! Getting a policy over HTTPS (RFC 8461 §3.3).

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use smtp_core::stream::Verification;
use smtp_core::types::{Domain, Host};
use smtp_dns::{Dns, LookupError, Name};
use smtp_tls::{ClientTls, HandshakeError, Role};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::report::FailureKind;

/// The largest policy, in octets (RFC 8461 §3.2 suggests it).
const MAX_POLICY: usize = 64 << 10;
/// The time for all of it (RFC 8461 §3.3 suggests it).
const MAX_TIME: Duration = Duration::from_secs(60);
/// How many addresses are tried.
const MAX_ADDRESSES: usize = 4;
/// The time for connecting to one of them, TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(15);

/// Gets the text of a domain's policy.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The text at `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`.
    ///
    /// # Errors
    /// [`FetchError`]
    async fn fetch(&self, domain: &Domain) -> Result<String, FetchError>;
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The host's addresses are not known.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It is not reached, or the connection broke.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// Its certificate does not hold.
    #[error("{0}")]
    Tls(#[source] HandshakeError),
    /// What it says is not the policy.
    #[error("{0}")]
    Http(Box<str>),
    /// It took too long.
    #[error("nothing within {0:?}")]
    Timeout(Duration),
}

impl FetchError {
    fn http(what: impl Into<Box<str>>) -> Self {
        Self::Http(what.into())
    }

    /// What RFC 8460 §4.3 calls it.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        match self {
            Self::Tls(_) => FailureKind::StsWebpkiInvalid,
            Self::Lookup(_) | Self::Io(_) | Self::Http(_) | Self::Timeout(_) => FailureKind::StsPolicyFetchError,
        }
    }
}

/// Gets policies by HTTPS: the certificate has to hold under the trust anchors, nothing is followed elsewhere, 64 KiB and
/// 60 s are enough.
#[derive(Clone)]
pub struct HttpsFetch {
    dns: Arc<dyn Dns>,
    tls: ClientTls,
    port: u16,
}

impl HttpsFetch {
    /// Looks hosts up in `dns` and holds them against the trust anchors of `tls`. `port` is 443, but in networks of tests.
    #[must_use]
    pub fn new(dns: Arc<dyn Dns>, tls: &ClientTls, port: u16) -> Self {
        Self { dns, tls: tls.with_alpn(&[b"http/1.1"]), port }
    }

    async fn get(&self, domain: &Domain) -> Result<String, FetchError> {
        let name = Name::below(&["mta-sts"], domain).map_err(|invalid| FetchError::http(invalid.to_string()))?;
        let host = Domain::new(name.as_str()).map_err(|invalid| FetchError::http(invalid.to_string()))?;
        let addresses = self.dns.addresses(&name).await?.records;
        let mut last = None;
        for ip in addresses.into_iter().take(MAX_ADDRESSES) {
            match self.get_from(&host, ip).await {
                // Another address might help.
                Err(error @ (FetchError::Io(_) | FetchError::Timeout(_))) => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| FetchError::http(format!("{name} has no address"))))
    }

    async fn get_from(&self, host: &Domain, ip: IpAddr) -> Result<String, FetchError> {
        let config = self.tls.config(&Verification::Pkix).map_err(|error| FetchError::Io(io::Error::other(error)))?;
        let name = smtp_tls::server_name(&Host::Domain(host.clone()));
        let name = name.map_err(|invalid| FetchError::http(invalid.to_string()))?;
        let connecting = async {
            let socket = TcpStream::connect(SocketAddr::new(ip, self.port)).await.map_err(FetchError::Io)?;
            let tls = TlsConnector::from(config).connect(name, socket).await;
            tls.map_err(|error| match HandshakeError::from_io(error, Role::Client) {
                HandshakeError::Io(error) => FetchError::Io(error),
                error => FetchError::Tls(error),
            })
        };
        let tls = tokio::time::timeout(CONNECT_TIME, connecting).await;
        let tls = tls.map_err(|_| FetchError::Timeout(CONNECT_TIME))??;
        let broke = |error: hyper::Error| FetchError::Io(io::Error::other(error));
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(64)
            .max_buf_size(16 << 10)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(tls))
            .await
            .map_err(broke)?;
        // It ends with this function, whatever the other side does.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let authority = if self.port == 443 { host.as_str().to_owned() } else { format!("{host}:{}", self.port) };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = hyper::Uri::from_static("/.well-known/mta-sts.txt");
        let authority = HeaderValue::try_from(authority).map_err(|error| FetchError::http(error.to_string()))?;
        request.headers_mut().insert(HOST, authority);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("smtp (MTA-STS)"));
        let response = sender.send_request(request).await.map_err(broke)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::http(format!("{host} answers with {}, and only 200 will do", response.status())));
        }
        let media = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // What users may upload has other types.
        if !media.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain")) {
            return Err(FetchError::http(format!("{host} gives {media:?}, and only text/plain will do")));
        }
        let body = Limited::new(response.into_body(), MAX_POLICY).collect().await;
        let body = body.map_err(|error| FetchError::http(format!("{host}: {error}")))?.to_bytes();
        String::from_utf8(body.into()).map_err(|_| FetchError::http(format!("{host} gives no text in UTF-8")))
    }
}

#[async_trait]
impl Fetch for HttpsFetch {
    async fn fetch(&self, domain: &Domain) -> Result<String, FetchError> {
        tokio::time::timeout(MAX_TIME, self.get(domain)).await.unwrap_or(Err(FetchError::Timeout(MAX_TIME)))
    }
}

impl fmt::Debug for HttpsFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsFetch").field("port", &self.port).finish_non_exhaustive()
    }
}
