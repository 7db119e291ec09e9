//! A server with services, a client that speaks raw SMTP, and the network between them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls_pki_types::PrivateKeyDer;
use smtp_core::channel::SessionInfo;
use smtp_core::driver::{Settings, serve};
use smtp_core::service::{Body, BoxError, Delivery, Outcome, Policy, Receipt, Request, Transaction, Verdict};
use smtp_core::session::server::Config;
use smtp_core::stream::{ByteStream, Connection, Connector, Listener, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::{Envelope, Mail, Mailbox, Rcpt};
use smtp_tls::{ClientTls, ClientTlsBuilder, Identity, ServerTls, ServerTlsBuilder};
use smtp_transport_quic::sim::{Network, Path};
use smtp_transport_quic::{ConnectOptions, QuicConnector, QuicListener, QuicOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

pub(crate) type Stream = Box<dyn ByteStream>;

/// One way takes this; a round trip takes twice as much.
pub(crate) const HALF_RTT: Duration = Duration::from_millis(25);
pub(crate) const SERVER: &str = "192.0.2.1:443";
pub(crate) const CLIENT: &str = "192.0.2.2:50000";

/// What a delivery got: content by content.
pub(crate) type Taken = Arc<Mutex<Vec<Vec<u8>>>>;

pub(crate) fn taken(taken: &Taken) -> Vec<Vec<u8>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(crate) fn accept_all() -> impl Policy + Clone {
    service_fn(async |_: Request| Ok::<_, Infallible>(Verdict::Proceed))
}

pub(crate) fn record(taken: &Taken) -> impl Delivery + Clone {
    let taken = Arc::clone(taken);
    service_fn(move |mut transaction: Transaction| {
        let taken = Arc::clone(&taken);
        async move {
            let n = transaction.envelope.recipients.len();
            let (content, complete) = transaction.body.collect(1 << 22).await?;
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(content.to_vec());
            Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), n))
        }
    })
}

/// With this key exchange alone, whatever features other crates of the build switch on: a hybrid's key share fills a
/// datagram of its own, and times and fates would differ from build to build.
fn provider(exchange: &'static dyn SupportedKxGroup) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![exchange];
    Arc::new(provider)
}

pub(crate) fn server_tls() -> ServerTls {
    server_tls_by(X25519)
}

pub(crate) fn server_tls_by(exchange: &'static dyn SupportedKxGroup) -> ServerTls {
    server_builder(exchange).build().unwrap()
}

pub(crate) fn server_builder(exchange: &'static dyn SupportedKxGroup) -> ServerTlsBuilder {
    ServerTls::builder().provider(provider(exchange)).identity(self_signed("mx.example").0)
}

/// A certificate with its key, and as PEM.
pub(crate) fn self_signed(name: &str) -> (Identity, String) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    // Otherwise it is a hash of the key, and one in 256 is an octet shorter: a rerun would send other datagrams.
    params.serial_number = Some(1_u64.into());
    let certificate = params.self_signed(&key).unwrap();
    let key_der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (Identity::from_der(vec![certificate.der().clone()], key_der), certificate.pem())
}

pub(crate) fn client_tls() -> ClientTls {
    client_tls_by(X25519)
}

pub(crate) fn client_tls_by(exchange: &'static dyn SupportedKxGroup) -> ClientTls {
    client_builder(exchange).build().unwrap()
}

pub(crate) fn client_builder(exchange: &'static dyn SupportedKxGroup) -> ClientTlsBuilder {
    ClientTls::builder().provider(provider(exchange))
}

pub(crate) const UNVERIFIED: TlsPolicy = TlsPolicy { mode: TlsMode::Opportunistic, verification: Verification::None };

/// A server at work: its accept loop, one task per connection, one per session, as a real one has them.
pub(crate) struct Served {
    pub(crate) taken: Taken,
    pub(crate) drain: CancellationToken,
    pub(crate) accepting: JoinHandle<()>,
    pub(crate) sessions: Arc<AtomicU64>,
}

pub(crate) fn serve_all(listener: QuicListener) -> Served {
    let taken = Taken::default();
    let delivery = record(&taken);
    serve_with(listener, taken, accept_all(), delivery)
}

pub(crate) fn serve_with(
    listener: impl Listener,
    taken: Taken,
    policy: impl Policy + Clone + Sync,
    delivery: impl Delivery + Clone + Sync,
) -> Served {
    let drain = CancellationToken::new();
    let sessions = Arc::new(AtomicU64::new(0));
    let settings = Arc::new(Settings::new(Config::new("mx.example".parse().unwrap())));
    let (until, count) = (drain.clone(), Arc::clone(&sessions));
    let accepting = tokio::spawn(async move {
        let accept = async {
            while let Ok(connection) = listener.accept().await {
                let serving = connection_task(
                    connection,
                    policy.clone(),
                    delivery.clone(),
                    Arc::clone(&settings),
                    until.clone(),
                    Arc::clone(&count),
                );
                tokio::spawn(serving);
            }
        };
        until.run_until_cancelled(accept).await;
    });
    Served { taken, drain, accepting, sessions }
}

async fn connection_task(
    mut connection: Box<dyn Connection>,
    policy: impl Policy + Clone,
    delivery: impl Delivery + Clone,
    settings: Arc<Settings>,
    drain: CancellationToken,
    count: Arc<AtomicU64>,
) {
    while let Ok(Some(stream)) = connection.accept().await {
        let id = count.fetch_add(1, Ordering::Relaxed);
        let info = Arc::new(SessionInfo::new(id, stream.info()));
        let session = serve(stream, info, policy.clone(), delivery.clone(), Arc::clone(&settings), drain.clone());
        tokio::spawn(session);
    }
}

/// A server and a connector on one simulated network.
pub(crate) struct Sim {
    pub(crate) network: Network,
    pub(crate) served: Served,
    pub(crate) connector: QuicConnector,
}

pub(crate) fn path() -> Path {
    Path { delay: HALF_RTT, ..Path::default() }
}

impl Sim {
    pub(crate) fn new(seed: u64, path: Path) -> Self {
        Self::with(seed, path, QuicOptions::default(), ConnectOptions::default())
    }

    pub(crate) fn with(seed: u64, path: Path, options: QuicOptions, connect: ConnectOptions) -> Self {
        Self::by(X25519, seed, path, options, connect)
    }

    pub(crate) fn by(
        exchange: &'static dyn SupportedKxGroup,
        seed: u64,
        path: Path,
        options: QuicOptions,
        connect: ConnectOptions,
    ) -> Self {
        let (network, listener, connector) = Self::parts_by(exchange, seed, path, options, connect);
        Self { network, served: serve_all(listener), connector }
    }

    pub(crate) fn parts(
        seed: u64,
        path: Path,
        options: QuicOptions,
        connect: ConnectOptions,
    ) -> (Network, QuicListener, QuicConnector) {
        Self::parts_by(X25519, seed, path, options, connect)
    }

    fn parts_by(
        exchange: &'static dyn SupportedKxGroup,
        seed: u64,
        path: Path,
        options: QuicOptions,
        connect: ConnectOptions,
    ) -> (Network, QuicListener, QuicConnector) {
        let network = Network::new(seed, path);
        let endpoint = network.endpoint(SERVER.parse().unwrap()).unwrap();
        let listener = QuicListener::from_endpoint(endpoint, &server_tls_by(exchange), options).unwrap();
        let endpoint = network.endpoint(CLIENT.parse().unwrap()).unwrap();
        let connector = QuicConnector::from_endpoint(endpoint, &client_tls_by(exchange), connect).unwrap();
        (network, listener, connector)
    }

    pub(crate) async fn connect(&self) -> Box<dyn Connection> {
        connect(&self.connector).await
    }
}

pub(crate) fn target() -> Target {
    target_of(SERVER.parse().unwrap())
}

pub(crate) fn target_of(address: SocketAddr) -> Target {
    let mut target = Target::host(format!("[{}]", address.ip()).parse().unwrap(), address.port());
    target.server_name = Some("mx.example".parse().unwrap());
    target
}

pub(crate) async fn connect(connector: &QuicConnector) -> Box<dyn Connection> {
    connector.connect(&target(), &UNVERIFIED).await.unwrap()
}

/// A mail in one flight, with its number in it.
pub(crate) fn flight(number: usize, octets: usize) -> Vec<u8> {
    let body = body(number, octets);
    let mut out = format!(
        "EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<b@mx.example>\r\nBDAT {} LAST\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(&body);
    out.extend_from_slice(b"QUIT\r\n");
    out
}

pub(crate) fn body(number: usize, octets: usize) -> Vec<u8> {
    let mut body = format!("X-Number: {number:06}\r\n\r\n").into_bytes();
    while body.len() < octets {
        body.extend_from_slice(b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
    }
    body
}

/// A mail for a client to deliver.
pub(crate) fn transaction_of(body: Body) -> Transaction {
    Transaction {
        session: SessionInfo::local("test"),
        envelope: Envelope {
            mail: Mail::new(Mailbox::new("a@client.example").unwrap()),
            recipients: vec![Rcpt::new(Mailbox::new("b@mx.example").unwrap())],
        },
        body,
    }
}

/// The number in a mail.
pub(crate) fn number_in(body: &[u8]) -> usize {
    std::str::from_utf8(&body[10..16]).unwrap().parse().unwrap()
}

/// Sends all, ends the sending, reads all.
pub(crate) async fn talk(stream: &mut Stream, input: &[u8]) -> std::io::Result<String> {
    stream.write_all(input).await?;
    stream.shutdown().await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said)
}

/// Reads replies until one that begins with `code` is complete.
pub(crate) async fn until(stream: &mut Stream, code: &str) -> String {
    let mut said = String::new();
    let mut buf = [0; 4096];
    while !said.lines().any(|line| line.starts_with(&format!("{code} "))) || !said.ends_with("\r\n") {
        let n = stream.read(&mut buf).await.unwrap();
        assert!(n > 0, "the stream ended before {code}: {said}");
        said.push_str(std::str::from_utf8(&buf[..n]).unwrap());
    }
    said
}

/// What can be read at once, when there is anything.
pub(crate) async fn some(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut buf = [0; 4096];
    let n = stream.read(&mut buf).await.unwrap();
    assert!(n > 0, "the stream has ended");
    String::from_utf8(buf[..n].to_vec()).unwrap()
}

pub(crate) fn codes(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect()
}

/// What one flight is answered with.
pub(crate) const FLIGHT_CODES: [&str; 6] = ["220", "250", "250", "250", "250", "221"];
