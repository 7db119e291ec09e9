//! Certificates, and both ends of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use smtp_core::stream::{ByteStream, Connector, Listener, Target, TlsMode, TlsPolicy, Verification};
use smtp_tls::{ClientTls, ClientTlsBuilder, Identity, Pin, ServerTls, ServerTlsBuilder};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) type Stream = Box<dyn ByteStream>;

pub(crate) fn server() -> ServerTlsBuilder {
    ServerTls::builder().provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

pub(crate) fn client() -> ClientTlsBuilder {
    ClientTls::builder().provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// A certification authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
pub(crate) struct Leaf {
    certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    key: KeyPair,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own each: a chain is put together by names first.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("CA {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key }
    }

    pub(crate) fn file(&self) -> NamedTempFile {
        file(&self.pem)
    }
}

impl Leaf {
    /// Self-signed, for `localhost`.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = names(&["localhost"]).self_signed(&key).unwrap();
        Self { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::from_der(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.serialize_der().into()))
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::of_certificate(&self.certificate).unwrap()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

pub(crate) fn names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

pub(crate) fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn listen(tls: Tls) -> TcpListener {
    TcpListener::bind(loopback(), ListenOptions { tls, ..ListenOptions::default() }).unwrap()
}

/// `localhost` at the port of `listener`. The system's resolver knows it from its hosts file; the second address it
/// may know, `::1`, refuses.
pub(crate) fn localhost(listener: &TcpListener) -> Target {
    Target::host("localhost".parse().unwrap(), listener.local_addr().port())
}

pub(crate) const fn policy(mode: TlsMode, verification: Verification) -> TlsPolicy {
    TlsPolicy { mode, verification }
}

/// The two ends of one connection, handshake included if TLS is implicit.
pub(crate) async fn pair(listener: &TcpListener, connector: &TcpConnector, policy: &TlsPolicy) -> (Stream, Stream) {
    let target = localhost(listener);
    let accept = async { listener.accept().await.unwrap().accept().await.unwrap().unwrap() };
    let connect = async { connector.connect(&target, policy).await.unwrap().open().await.unwrap() };
    tokio::join!(connect, accept)
}

/// A pair under TLS from the start, nothing verified.
pub(crate) async fn tls_pair() -> (Stream, Stream) {
    let listener = listen(Tls::Implicit(server().identity(Leaf::new().identity()).build().unwrap()));
    let connector = TcpConnector::new(client().build().unwrap());
    pair(&listener, &connector, &policy(TlsMode::Implicit, Verification::None)).await
}

/// A pair in clear.
pub(crate) async fn plain_pair() -> (Stream, Stream) {
    pair(&listen(Tls::None), &TcpConnector::without_tls(), &TlsPolicy::NONE).await
}

/// Sends `text` one way and sees it come out.
pub(crate) async fn say(from: &mut Stream, to: &mut Stream, text: &str) {
    from.write_all(text.as_bytes()).await.unwrap();
    from.flush().await.unwrap();
    assert_eq!(hear(to, text.len()).await, text);
}

pub(crate) async fn hear(from: &mut Stream, octets: usize) -> String {
    let mut heard = vec![0; octets];
    from.read_exact(&mut heard).await.unwrap();
    String::from_utf8(heard).unwrap()
}
