//! A server with every mechanism there is, and a client to it, over each kind of channel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use smtp_client::sasl::Credentials;
use smtp_client::{Connection, Options};
use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::service::{Request, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{Connector, Listener, Target, TlsMode, TlsPolicy};
use smtp_core::types::{Command, Domain, Host, Secret};
use smtp_server::auth::{
    Anonymous, Bearer, Hash, OAuthBearer, SenderLayer, SharedUsers, Throttle, TokenCheck, TokenVerifier, User,
    UserList, XOAuth2,
};
use smtp_server::{AuthLayer, Mailboxes, Recorder, Server, Settings, TraceLayer};
use smtp_test::memory::{Knobs, MemoryListener};
use smtp_tls::{ClientCertificates, ClientTls, Identity, SelfSigned, ServerTls, Versions};
use smtp_transport_quic::{ConnectOptions as QuicConnectOptions, QuicConnector, QuicListener, QuicOptions};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use smtp_transport_unix::{ListenOptions as UnixOptions, UnixConnector, UnixListener, unix_target};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_layer::Layer;
use tower_service::Service;

/// What carries the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Unix,
    Tls12,
    Tls13,
    StartTls,
    Quic,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [Self::Memory, Self::Unix, Self::Tls12, Self::Tls13, Self::StartTls, Self::Quic];
}

/// The right credentials.
pub(super) fn jo() -> Credentials {
    Credentials::new("jo", "right").unwrap()
}

/// A running server, and how to reach it.
pub(super) struct World {
    pub(super) connector: Box<dyn Connector>,
    pub(super) target: Target,
    pub(super) policy: TlsPolicy,
    seen: Seen,
    /// Certificates, sockets.
    _folder: TempDir,
    _stop: DropGuard,
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl World {
    /// Starts a server. Its client has a certificate, which the server knows as jo's.
    pub(super) fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = SelfSigned::load_or_create(folder.path(), &["localhost"]).unwrap();
        let certificate = client_certificate(folder.path());
        let server = ServerTls::builder()
            .identity(own.identity())
            .client_ca(folder.path().join("client-ca.pem"), ClientCertificates::Optional)
            .build()
            .unwrap();
        let versions = if kind == Kind::Tls12 { Versions::Tls12 } else { Versions::All };
        let client = ClientTls::builder().identity(certificate).versions(versions).build().unwrap();
        let verified = |mode| TlsPolicy { mode, verification: own.pin().into() };
        let host = |port| Target::host(Host::Literal(ANY.ip().into()), port);
        let tcp = |tls| TcpListener::bind(ANY, ListenOptions { tls, ..ListenOptions::default() }).unwrap();
        let connector = || Box::new(TcpConnector::new(client.clone()));
        let uid = std::fs::metadata(folder.path()).unwrap().uid();
        match kind {
            Kind::Memory => {
                let listener = MemoryListener::new(Knobs::default());
                let connector = Box::new(listener.connector());
                Self::start(Box::new(listener), connector, host(0), TlsPolicy::NONE, folder, uid)
            }
            Kind::Unix => {
                let listener = UnixListener::bind(folder.path().join("socket"), &UnixOptions::default()).unwrap();
                let target = unix_target(&listener.url()).unwrap();
                Self::start(Box::new(listener), Box::new(UnixConnector::new()), target, TlsPolicy::NONE, folder, uid)
            }
            Kind::Tls12 | Kind::Tls13 => {
                let listener = tcp(Tls::Implicit(server));
                let target = host(listener.local_addr().port());
                Self::start(Box::new(listener), connector(), target, verified(TlsMode::Implicit), folder, uid)
            }
            Kind::StartTls => {
                let listener = tcp(Tls::StartTls(server));
                let target = host(listener.local_addr().port());
                Self::start(Box::new(listener), connector(), target, verified(TlsMode::Required), folder, uid)
            }
            Kind::Quic => {
                let listener = QuicListener::bind(ANY, &server, QuicOptions::default()).unwrap();
                let target = host(listener.url().rsplit(':').next().unwrap().parse().unwrap());
                let connector = Box::new(QuicConnector::new(&client, QuicConnectOptions::default()).unwrap());
                Self::start(Box::new(listener), connector, target, verified(TlsMode::Implicit), folder, uid)
            }
        }
    }

    fn start(
        listener: Box<dyn Listener>,
        connector: Box<dyn Connector>,
        target: Target,
        policy: TlsPolicy,
        folder: TempDir,
        uid: u32,
    ) -> Self {
        let (seen, stop) = (Seen::default(), CancellationToken::new());
        let key = std::fs::read(folder.path().join("client.pin")).unwrap().try_into().unwrap();
        let users = User::new("jo").unwrap().with_password(&Secret::new(*b"right")).unwrap();
        let users = users.with_keys(Hash::Sha1, &Secret::new(*b"right")).unwrap();
        let users = users.with_secret(&Secret::new(*b"right")).unwrap().with_uid(uid).with_certificate_key(key);
        let users = Arc::new(SharedUsers::new(UserList::new().and(users).unwrap()));
        let hostname = "mx.example".parse().unwrap();
        // Many fail on purpose.
        let auth = AuthLayer::users(&users, &hostname)
            .mechanism(OAuthBearer::new(Arc::new(OneToken)))
            .mechanism(XOAuth2::new(Arc::new(OneToken)))
            .mechanism(Anonymous)
            .throttle(Throttle::new(1_000, Duration::from_millis(1)));
        let here: Domain = "here.example".parse().unwrap();
        let (sender, mailboxes) = (
            SenderLayer::new(users).local(&here).unwrap(),
            Mailboxes::new(&here).unwrap().relay_for_authenticated(true),
        );
        let config = Config::new(hostname).with_mechanisms(auth.offers());
        let notes = seen.clone();
        let server = Server::new(Settings::new(driver::Settings::new(config)), move |_: &Arc<SessionInfo>| {
            let noted = Noting { inner: mailboxes.clone(), seen: notes.clone() };
            (TraceLayer.layer(auth.layer(sender.layer(noted))), Recorder::new())
        });
        tokio::spawn(server.listen(listener).run(stop.clone()));
        Self { connector, target, policy, seen, _folder: folder, _stop: stop.drop_guard() }
    }

    /// A session that has said EHLO, under TLS if there is TLS.
    pub(super) async fn connect(&self) -> Connection {
        connect(&*self.connector, &self.target, &self.policy).await
    }

    /// Who was last seen with an identity, since this was last asked.
    pub(super) fn last_user(&self) -> Option<String> {
        self.seen.0.lock().unwrap().take()
    }
}

/// A session that has said EHLO, under TLS as the policy has it.
pub(super) async fn connect(connector: &dyn Connector, target: &Target, policy: &TlsPolicy) -> Connection {
    let options = Arc::new(Options::default());
    let mut connection = Connection::connect(connector, target, policy, options).await.unwrap();
    connection.hello().await.unwrap();
    connection
}

/// Makes a CA and a certificate of it in the folder.
fn client_certificate(folder: &Path) -> Identity {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    std::fs::write(folder.join("client-ca.pem"), ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["client.example".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
    std::fs::write(folder.join("client.pin"), smtp_tls::pin_of(leaf.der()).unwrap()).unwrap();
    Identity::from_der(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// The token `good` is jo's.
struct OneToken;

#[async_trait]
impl TokenVerifier for OneToken {
    async fn owner(&self, bearer: &Bearer) -> TokenCheck {
        if bearer.token.expose() == b"good" { TokenCheck::Valid("jo".into()) } else { TokenCheck::Invalid }
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<String>>>);

/// Writes down as whom the session acts.
#[derive(Clone)]
struct Noting<S> {
    inner: S,
    seen: Seen,
}

impl<S: Service<Request, Response = Verdict>> Service<Request> for Noting<S> {
    type Response = Verdict;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if let (Command::Noop, Some(identity)) = (&request.command, &request.session.identity) {
            *self.seen.0.lock().unwrap() = Some(format!("{} by {}", identity.user, identity.mechanism));
        }
        self.inner.call(request)
    }
}

/// Runs `f` with a runtime that does not outlive it.
pub(super) fn run(f: impl Future<Output = ()>) {
    crate::provider();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(f);
}

/// A log in memory.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
