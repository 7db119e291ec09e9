//! Finding out, from a real name server, that a host speaks SMTP over QUIC, and getting a mail there; and every way in
//! which that does not work, with the mail going by TCP.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use smtp_client::{Client, RacingConnector, RacingOptions, Settings};
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, Transaction};
use smtp_core::stream::{Connector, Listener, Resolve, Target, TlsMode, TlsPolicy};
use smtp_core::types::{Domain, Envelope, Mail, Mailbox, Rcpt};
use smtp_dns::{Dns, LookupError, Name, Resolver, Security, Settings as DnsSettings, SvcbDiscovery};
use smtp_tests::peers::{Nsd, require};
use smtp_tests::scenarios::{Reference, reference_stack};
use smtp_tls::{ClientTls, SelfSigned, ServerTls};
use smtp_transport_quic::{ConnectOptions as QuicConnectOptions, QuicConnector, QuicListener, QuicOptions, Service};
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener, Tls};
use tower_service::Service as _;

use crate::transports::with_runtime;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn resolver(nsd: &Nsd) -> Resolver {
    Resolver::new(DnsSettings { servers: vec![nsd.address()], ..DnsSettings::default() }).unwrap()
}

fn name(text: &str) -> Name {
    let labels: Vec<&str> = text.split('.').collect();
    let split = labels.iter().take_while(|label| label.starts_with('_')).count();
    Name::below(&labels[..split], &Domain::new(&labels[split..].join(".")).unwrap()).unwrap()
}

#[test]
fn a_real_name_servers_answers_are_understood() {
    let mut zone = String::from(
        "both A 192.0.2.1\nboth 120 AAAA 2001:db8::1\nfour A 192.0.2.4\nalias CNAME both\n\
         mail MX 10 both\nmail MX 5 four\nnull MX 0 .\nodd MX 10 _no_host\n\
         text TXT \"v=STSv1; \" \"id=1\"\n\
         _25._tcp.both TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
         _smtp.both SVCB 1 . alpn=smtp-quic-00,h3 no-default-alpn port=443\n\
         _smtp.both SVCB 2 both.example. mandatory=alpn,port alpn=smtp-quic-00 port=8443\n\
         _smtp.odd SVCB 1 . mandatory=key667 key667=x port=1\n_smtp.alias SVCB 0 elsewhere.example.\n\
         many0 A 192.0.2.1\n",
    );
    for n in 1..=12 {
        zone.push_str(&format!("many{n} CNAME many{}\n", n - 1));
    }
    for n in 0..120 {
        zone.push_str(&format!("crowd TXT \"{n}\"\n"));
    }
    let Some(nsd) = require(Nsd::start(&zone)) else { return };
    with_runtime(async {
        let dns = resolver(&nsd);
        let found = dns.addresses(&name("both.example")).await.unwrap();
        assert_eq!(found.records.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2001:db8::1", "192.0.2.1"]);
        assert_eq!((found.security, found.ttl), (Security::Insecure, Duration::from_secs(120)));
        assert_eq!(dns.addresses(&name("alias.example")).await.unwrap().records, found.records);
        assert_eq!(dns.addresses(&name("four.example")).await.unwrap().records.len(), 1);
        assert_eq!(dns.resolve(&Domain::new("BOTH.example").unwrap()).await.unwrap(), found.records);

        let mut hosts = dns.mx(&name("mail.example")).await.unwrap().records;
        hosts.sort_by_key(|mx| mx.preference);
        let hosts: Vec<_> = hosts.iter().map(|mx| mx.exchange.as_ref().unwrap().as_str()).collect();
        assert_eq!(hosts, ["four.example", "both.example"]);
        assert_eq!(dns.mx(&name("null.example")).await.unwrap().records[0].exchange, None);
        assert!(dns.mx(&name("odd.example")).await.unwrap().records.is_empty());
        assert_eq!(*dns.txt(&name("text.example")).await.unwrap().records[0], *b"v=STSv1; id=1");
        let tlsa = dns.tlsa(&name("_25._tcp.both.example")).await.unwrap().records;
        assert_eq!((tlsa[0].usage, tlsa[0].selector, tlsa[0].matching, tlsa[0].data.len()), (3, 1, 1, 32));

        let mut svcb = dns.svcb(&name("_smtp.both.example")).await.unwrap().records;
        svcb.sort_by_key(|record| record.priority);
        assert_eq!((&*svcb[0].target, svcb[0].port, svcb[0].no_default_alpn), ("", Some(443), true));
        assert_eq!(svcb[0].alpn, ["smtp-quic-00".into(), "h3".into()]);
        assert_eq!((&*svcb[1].target, svcb[1].port, svcb[1].no_default_alpn), ("both.example", Some(8443), false));
        assert!(!svcb[1].unknown_mandatory);
        assert!(dns.svcb(&name("_smtp.odd.example")).await.unwrap().records[0].unknown_mandatory);
        assert_eq!(dns.svcb(&name("_smtp.alias.example")).await.unwrap().records[0].priority, 0);

        let error = dns.mx(&name("four.example")).await.unwrap_err();
        assert!(matches!(error, LookupError::NotFound { name_exists: true, .. }), "{error}");
        let error = dns.addresses(&name("nobody.example")).await.unwrap_err();
        assert!(matches!(error, LookupError::NotFound { name_exists: false, .. }), "{error}");
        let error = dns.addresses(&name("host.elsewhere")).await.unwrap_err();
        assert!(matches!(error, LookupError::Temporary { .. }), "REFUSED is no certainty: {error}");
        let error = dns.txt(&name("crowd.example")).await.unwrap_err();
        assert!(error.to_string().contains("more than 100 records"), "{error}");
        let error = dns.addresses(&name("many12.example")).await.unwrap_err();
        assert!(matches!(error, LookupError::Temporary { .. }), "{error}");
        assert_eq!(dns.addresses(&name("many8.example")).await.unwrap().records.len(), 1);
    });
}

#[test]
fn a_signed_zones_answers_are_proved_or_refused() {
    let zone = "good A 192.0.2.1\n_smtp.good SVCB 1 . alpn=smtp-quic-00 no-default-alpn port=443\nalias CNAME good\n\
                forged A 192.0.2.66\nastray CNAME forged\n";
    let tamper = |zone: String| zone.replace("192.0.2.66", "198.51.100.66");
    let Some(nsd) = require(Nsd::start_signed(zone, tamper)) else { return };
    with_runtime(async {
        let settings = DnsSettings { servers: vec![nsd.address()], ..DnsSettings::default() };
        let validating = DnsSettings { validate: true, trust_anchor: Some(nsd.trust_anchor()), ..settings.clone() };
        let dns = Resolver::new(validating).unwrap();
        assert_eq!(dns.addresses(&name("good.example")).await.unwrap().security, Security::Secure);
        assert_eq!(dns.addresses(&name("alias.example")).await.unwrap().security, Security::Secure);
        assert_eq!(dns.svcb(&name("_smtp.good.example")).await.unwrap().security, Security::Secure);
        let error = dns.addresses(&name("forged.example")).await.unwrap_err();
        assert!(matches!(error, LookupError::Bogus { .. }), "{error}");
        let error = dns.addresses(&name("astray.example")).await.unwrap_err();
        assert!(matches!(error, LookupError::Bogus { .. }), "an alias of what is forged: {error}");
        for (host, exists) in [("_25._tcp.good.example", false), ("good.example", true), ("alias.example", true)] {
            let error = dns.tlsa(&name(host)).await.unwrap_err();
            let expected = LookupError::NotFound {
                name: host.into(),
                kind: smtp_dns::Kind::Tlsa,
                name_exists: exists,
                security: Security::Secure,
            };
            assert_eq!(error, expected);
        }
        // Whoever does not validate has no proof, and does not see the forgery either.
        let dns = Resolver::new(settings).unwrap();
        assert_eq!(dns.addresses(&name("good.example")).await.unwrap().security, Security::Insecure);
        assert_eq!(dns.addresses(&name("forged.example")).await.unwrap().records.len(), 1);
    });
}

/// A mail server on TCP and QUIC, and others that are not as they should be.
struct Servers {
    reference: Reference,
    tcp: u16,
    quic: u16,
    wrong_certificate: u16,
    wrong_protocol: u16,
    /// A port that takes packets and says nothing, as behind a firewall.
    silent: UdpSocket,
    policy: TlsPolicy,
}

impl Servers {
    fn start(folder: &Path) -> Self {
        let own = SelfSigned::load_or_create(&folder.join("own"), &["localhost"]).unwrap();
        let other = SelfSigned::load_or_create(&folder.join("other"), &["localhost"]).unwrap();
        let tls = |identity| ServerTls::builder().identity(identity).build().unwrap();
        let reference = reference_stack();
        let serve = |listener: Box<dyn Listener>| {
            let reference = reference.clone();
            let port = listener.url().rsplit(':').next().unwrap().parse().unwrap();
            tokio::task::spawn_local(async move {
                while let Ok(mut connection) = listener.accept().await {
                    let reference = reference.clone();
                    tokio::task::spawn_local(async move {
                        while let Ok(Some(stream)) = connection.accept().await {
                            let reference = reference.clone();
                            tokio::task::spawn_local(async move { reference.serve(stream).await });
                        }
                    });
                }
            });
            port
        };
        let options = ListenOptions { tls: Tls::StartTls(tls(own.identity())), ..ListenOptions::default() };
        let quic = |identity, service| {
            let options = QuicOptions { service, ..QuicOptions::default() };
            Box::new(QuicListener::bind(ANY, &tls(identity), options).unwrap())
        };
        Self {
            tcp: serve(Box::new(TcpListener::bind(ANY, options).unwrap())),
            quic: serve(quic(own.identity(), Service::Relay)),
            wrong_certificate: serve(quic(other.identity(), Service::Relay)),
            wrong_protocol: serve(quic(own.identity(), Service::Submission)),
            silent: UdpSocket::bind(ANY).unwrap(),
            policy: TlsPolicy { mode: TlsMode::Required, verification: own.pin().into() },
            reference,
        }
    }

    fn zone(&self) -> String {
        let silent = self.silent.local_addr().unwrap().port();
        let mut zone = String::new();
        let records = [
            ("good", format!("SVCB 1 . alpn=smtp-quic-00 no-default-alpn port={}", self.quic)),
            ("named", format!("SVCB 1 named.example. alpn=smtp-quic-00 no-default-alpn port={}", self.quic)),
            ("alias", "SVCB 0 good.example.".to_owned()),
            ("foreign", format!("SVCB 1 good.example. alpn=smtp-quic-00 no-default-alpn port={}", self.quic)),
            ("portless", "SVCB 1 . alpn=smtp-quic-00 no-default-alpn".to_owned()),
            ("alpn", format!("SVCB 1 . alpn=submission-quic-00 no-default-alpn port={}", self.quic)),
            ("broken", format!("SVCB 1 . alpn=smtp-quic-00 no-default-alpn port={}", self.wrong_protocol)),
            ("blocked", format!("SVCB 1 . alpn=smtp-quic-00 no-default-alpn port={silent}")),
            ("certificate", format!("SVCB 1 . alpn=smtp-quic-00 no-default-alpn port={}", self.wrong_certificate)),
            ("dane", format!("SVCB 1 . alpn=smtp-quic-00 no-default-alpn port={}", self.quic)),
        ];
        for (host, record) in records {
            zone.push_str(&format!("{host} A 127.0.0.1\n_smtp.{host} {record}\n"));
        }
        let digest = "00".repeat(32);
        zone.push_str(&format!("none A 127.0.0.1\n_{}._tcp.dane TLSA 3 1 1 {digest}\n", self.tcp));
        zone
    }

    fn connector(&self, nsd: &Nsd) -> RacingConnector {
        let (dns, tls) = (resolver(nsd), ClientTls::builder().build().unwrap());
        let quic = QuicConnector::new(&tls, QuicConnectOptions::default()).unwrap();
        let quic = quic.with_resolver(dns.clone()).unwrap();
        let tcp = TcpConnector::new(tls).with_resolver(dns.clone());
        RacingConnector::new(quic, tcp, SvcbDiscovery::new(dns, "smtp-quic-00"), RacingOptions::default())
    }
}

/// By which transport the host is reached, and how long that took.
async fn reach(connector: &RacingConnector, host: &str, servers: &Servers) -> (&'static str, Duration) {
    let target = Target::host(format!("{host}.example").parse().unwrap(), servers.tcp);
    let start = Instant::now();
    let mut connection = connector.connect(&target, &servers.policy).await.unwrap_or_else(|e| panic!("{host}: {e}"));
    (connection.open().await.unwrap().info().transport, start.elapsed())
}

/// Sends a mail; under the servers' policy, or not at all.
async fn mail(connector: RacingConnector, host: &str, servers: &Servers) {
    let target = Target::host(format!("{host}.example").parse().unwrap(), servers.tcp);
    let settings = Settings { tls: servers.policy.clone(), ..Settings::default() };
    let mut client = Client::new(connector, target, settings);
    let transaction = Transaction {
        session: SessionInfo::local("test"),
        envelope: Envelope {
            mail: Mail::new(Mailbox::new("a@client.example").unwrap()),
            recipients: vec![Rcpt::new(Mailbox::new("alice@here.example").unwrap())],
        },
        body: Body::from_bytes(format!("Subject: to {host}\r\n\r\nhi\r\n")),
    };
    std::future::poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let outcome = client.call(transaction).await.unwrap();
    assert!(outcome.iter().all(Result::is_ok), "{host}: {outcome:?}");
    client.close_idle().await;
}

#[test]
fn mail_finds_quic_where_it_is_offered_and_tcp_everywhere_else() {
    let folder = tempfile::tempdir().unwrap();
    with_runtime(async {
        let servers = Servers::start(folder.path());
        let zone = servers.zone();
        let started = tokio::task::spawn_blocking(move || Nsd::start(&zone)).await.unwrap();
        let Some(nsd) = require(started) else { return };
        let expected = [
            ("good", "quic"),
            ("named", "quic"),
            ("none", "tcp"),
            ("alias", "tcp"),
            ("foreign", "tcp"),
            ("portless", "tcp"),
            ("alpn", "tcp"),
            ("broken", "tcp"),
            ("blocked", "tcp"),
            ("certificate", "tcp"),
            ("dane", "tcp"),
        ];
        let connector = servers.connector(&nsd);
        for (host, transport) in expected {
            let (by, took) = reach(&connector, host, &servers).await;
            println!("{host}: {by} after {took:?}");
            assert_eq!(by, transport, "{host}");
            if host == "blocked" {
                assert!(took >= Duration::from_millis(250), "{took:?}");
                let (by, again) = reach(&connector, host, &servers).await;
                assert_eq!(by, "tcp");
                assert!(again < Duration::from_millis(200), "remembered: {again:?}");
            }
        }
        for (n, (host, _)) in expected.into_iter().enumerate() {
            mail(servers.connector(&nsd), host, &servers).await;
            let delivered = servers.reference.delivered();
            assert_eq!(delivered.len(), n + 1, "{host}");
            assert!(delivered[n].content.starts_with(format!("Subject: to {host}\r\n").as_bytes()), "{host}");
        }
    });
}
