//! Domains with a mail host each, and all that they publish.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use smtp_core::channel::SessionInfo;
use smtp_core::driver;
use smtp_core::session::server::Config;
use smtp_server::delivery::Recorded;
use smtp_server::{AnyRecipient, Recorder, Server, Settings};
use smtp_tests::peers::{Https, Nsd, Skip};
use smtp_tls::{Identity, Pin, ServerTls};
use smtp_transport_tcp::{ListenOptions, TcpListener, Tls};
use tokio_util::sync::CancellationToken;

/// A mail host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Without TLS.
    Clear,
    /// With a certificate of its own making.
    SelfSigned,
    /// With one of the CA's for another name.
    WrongName,
    /// With one of the CA's that is too old.
    Expired,
    /// With one of the CA's that holds.
    Good,
}

const KINDS: [Kind; 5] = [Kind::Clear, Kind::SelfSigned, Kind::WrongName, Kind::Expired, Kind::Good];

impl Kind {
    /// They share a port, so each has an address.
    fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, 11 + self as u8)
    }
}

/// What a domain publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    Nothing,
    /// TLSA 3 1 1 of its host's key.
    KeyFits,
    /// TLSA 2 0 1 of the CA.
    IssuerFits,
    /// TLSA 3 1 1 of another key.
    NoRecordFits,
    /// TLSA 1 1 1 and one with a digest that is too short.
    RecordsOfNoUse,
    /// TLSA that was changed after it was signed.
    ForgedRecord,
    /// An MTA-STS policy in force for its host.
    EnforcePolicy,
    /// One for other hosts.
    StrangersPolicy,
    /// One that is tried out.
    TrialPolicy,
    /// One for other hosts that is tried out.
    StrangersTrial,
    /// One that says that there is none.
    NoPolicy,
    /// There is a record, and nothing on the web.
    GoneThePolicy,
    /// There is a record, and the web server says that the policy is elsewhere.
    RedirectedPolicy,
    /// A policy in force, and TLSA 3 1 1 of its host's key.
    PolicyAndKey,
}

/// A domain's first label, its host, and what it publishes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case(pub(crate) &'static str, pub(crate) Kind, pub(crate) Published);

impl Case {
    pub(crate) fn domain(&self) -> String {
        format!("{}.example", self.0)
    }
}

/// Hex that appears once in the zone, and what takes its place behind the signer's back.
const SIGNED: &str = "abad1deaabad1deaabad1deaabad1deaabad1deaabad1deaabad1deaabad1dea";
const FORGED: &str = "feedfacefeedfacefeedfacefeedfacefeedfacefeedfacefeedfacefeedface";

pub(crate) struct World {
    pub(crate) nsd: Nsd,
    pub(crate) web: Https,
    /// Where all mail hosts listen.
    pub(crate) port: u16,
    recorder: Recorder,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

/// A certificate, its issuers behind it, and its key.
struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    key: KeyPair,
}

impl Leaf {
    fn identity(&self) -> Identity {
        Identity::from_der(self.chain.clone(), PrivateKeyDer::Pkcs8(self.key.serialize_der().into()))
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "CA of the world");
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![certificate.der().clone(), self.der.clone()];
        Leaf { chain, pem: certificate.pem() + &self.pem, key }
    }
}

impl World {
    pub(crate) fn start(cases: &[Case]) -> Result<Self, Skip> {
        let ca = Ca::new();
        let mut names: Vec<String> = cases.iter().map(|case| format!("mx.{}", case.domain())).collect();
        names.extend(["bad", "fine"].map(|host| format!("{host}.twohosts.example")));
        let params = CertificateParams::new(names.clone()).unwrap();
        let mut old = params.clone();
        (old.not_before, old.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 2, 3));
        let leaves = [
            None,
            Some(self_signed(&params)),
            Some(ca.issue(&CertificateParams::new(["elsewhere.test".to_owned()]).unwrap())),
            Some(ca.issue(&old)),
            Some(ca.issue(&params)),
        ];
        let (recorder, stop) = (Recorder::new(), CancellationToken::new());
        let (listeners, port) = listeners(&leaves);
        for listener in listeners {
            let (config, recorder) =
                (Config::new("mx.example".parse().unwrap()).promising(Recorder::PROMISES), recorder.clone());
            let server = Server::new(Settings::new(driver::Settings::new(config)), move |_: &Arc<SessionInfo>| {
                (AnyRecipient::new(), recorder.clone())
            });
            tokio::spawn(server.listen(listener).run(stop.clone()));
        }
        let hosts = cases.iter().map(|case| format!("mta-sts.{}", case.domain())).collect::<Vec<_>>();
        let of_web = ca.issue(&CertificateParams::new(hosts).unwrap());
        let web = Https::start(&of_web.pem, &of_web.key.serialize_pem())?;
        let zone = zone(cases, &leaves, &ca, port, &web);
        let nsd = Nsd::start_signed(&zone, |zone| {
            let forged = zone.replace(SIGNED, FORGED);
            assert_ne!(forged, zone, "the record is there");
            forged
        })?;
        let folder = tempfile::tempdir().map_err(|error| Skip(error.to_string()))?;
        std::fs::write(folder.path().join("ca.pem"), &ca.pem).map_err(|error| Skip(error.to_string()))?;
        Ok(Self { nsd, web, port, recorder, stop, folder })
    }

    /// The CA that vouches for what is good.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// All mail that has arrived.
    pub(crate) fn arrived(&self) -> Vec<Recorded> {
        self.recorder.messages()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn self_signed(params: &CertificateParams) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Leaf { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
}

/// One for each kind of host, all on the same port.
fn listeners(leaves: &[Option<Leaf>]) -> (Vec<TcpListener>, u16) {
    let listen = |kind: Kind, port| {
        let tls = leaves[kind as usize]
            .as_ref()
            .map_or(Tls::None, |leaf| Tls::StartTls(ServerTls::builder().identity(leaf.identity()).build().unwrap()));
        let options = ListenOptions { tls, ..ListenOptions::default() };
        TcpListener::bind(SocketAddr::new(kind.ip().into(), port), options)
    };
    // A port that is free at one address may be taken at another.
    for _ in 0..20 {
        let first = listen(Kind::Clear, 0).unwrap();
        let port = first.local_addr().port();
        let others: Result<Vec<_>, _> = KINDS[1..].iter().map(|kind| listen(*kind, port)).collect();
        if let Ok(mut all) = others {
            all.push(first);
            return (all, port);
        }
    }
    panic!("no port that is free at five addresses");
}

fn zone(cases: &[Case], leaves: &[Option<Leaf>], ca: &Ca, port: u16, web: &Https) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key_of = |kind: Kind| match &leaves[kind as usize] {
        Some(leaf) => Pin::of_certificate(&leaf.chain[0]).unwrap().to_string(),
        None => "22".repeat(32),
    };
    let other = "11".repeat(32);
    let mut zone = String::new();
    for case in cases {
        let Case(label, kind, published) = *case;
        writeln!(zone, "{label} MX 10 mx.{label}\nmx.{label} A {}", kind.ip()).unwrap();
        let records = match published {
            Published::KeyFits | Published::PolicyAndKey => vec![format!("3 1 1 {}", key_of(kind))],
            Published::IssuerFits => vec![format!("2 0 1 {}", hex(&Sha256::digest(&ca.der)))],
            Published::NoRecordFits => vec![format!("3 1 1 {other}")],
            Published::RecordsOfNoUse => vec![format!("1 1 1 {other}"), "3 1 1 0011".to_owned()],
            Published::ForgedRecord => vec![format!("3 1 1 {SIGNED}")],
            _ => Vec::new(),
        };
        for record in records {
            writeln!(zone, "_{port}._tcp.mx.{label} TLSA {record}").unwrap();
        }
        let (mode, mx) = match published {
            Published::EnforcePolicy | Published::PolicyAndKey => ("enforce", format!("*.{label}.example")),
            Published::StrangersPolicy => ("enforce", "mail.elsewhere.test".to_owned()),
            Published::TrialPolicy => ("testing", format!("mx.{label}.example")),
            Published::StrangersTrial => ("testing", "mail.elsewhere.test".to_owned()),
            Published::NoPolicy => ("none", format!("mx.{label}.example")),
            Published::GoneThePolicy | Published::RedirectedPolicy => ("", String::new()),
            _ => continue,
        };
        writeln!(zone, "_mta-sts.{label} TXT \"v=STSv1; id=1;\"\nmta-sts.{label} A 127.0.0.1").unwrap();
        let host = format!("mta-sts.{}", case.domain());
        match published {
            Published::GoneThePolicy => {}
            Published::RedirectedPolicy => web.answer(&host, "302 https://mta-sts.enforce.example/", b""),
            _ => web.policy(&host, &format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n")),
        }
    }
    let (good, own) = (Kind::Good.ip(), Kind::SelfSigned.ip());
    write!(
        zone,
        "twohosts MX 10 bad.twohosts\ntwohosts MX 20 fine.twohosts\nbad.twohosts A {good}\nfine.twohosts A {own}\n\
         _{port}._tcp.bad.twohosts TLSA 3 1 1 {other}\n\
         byalias MX 10 alias.byalias\nalias.byalias CNAME real.byalias\nreal.byalias A {own}\n\
         _{port}._tcp.real.byalias TLSA 3 1 1 {}\n_{port}._tcp.alias.byalias TLSA 3 1 1 {other}\n\
         byalias-wrong MX 10 alias.byalias-wrong\nalias.byalias-wrong CNAME real.byalias-wrong\n\
         real.byalias-wrong A {own}\n_{port}._tcp.alias.byalias-wrong TLSA 3 1 1 {other}\n",
        key_of(Kind::SelfSigned)
    )
    .unwrap();
    zone
}
