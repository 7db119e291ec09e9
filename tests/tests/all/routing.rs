//! Finding a domain's mail exchangers with a real name server, and getting a mail there.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use smtp_client::Settings as ClientSettings;
use smtp_core::channel::SessionInfo;
use smtp_core::service::{Body, BoxError, Outcome, Transaction, reply_for};
use smtp_core::stream::{Listener, TlsPolicy};
use smtp_core::types::{Domain, Envelope, Host, Mail, Mailbox, Rcpt};
use smtp_dns::{Resolver, Settings as DnsSettings};
use smtp_route::{Exchanges, Own, Settings, exchangers};
use smtp_tests::peers::{Nsd, require};
use smtp_tests::scenarios::{Reference, reference_stack};
use smtp_tls::ClientTls;
use smtp_transport_tcp::{ListenOptions, TcpConnector, TcpListener};
use tower_service::Service as _;

use crate::transports::with_runtime;

/// Records below `example.`; `127.0.0.1` is where a mail server is, the others of the kind are dead.
const ZONE: &str = "\
both MX 10 dead\nboth MX 20 live\nboth MX 30 behind\n\
dead A 127.0.0.9\nlive A 127.0.0.1\nbehind A 127.0.0.8\n\
plain A 127.0.0.1\nalias CNAME both\naliashost MX 10 tolive\ntolive CNAME live\n\
null MX 0 .\nnomail TXT \"no address and no MX\"\ndangling MX 10 nowhere\n\
backup MX 10 live\nbackup MX 20 me\nbackup MX 30 behind\nme A 192.0.2.99\n\
mine MX 10 me\nmine MX 20 live\nbyaddress MX 10 other\nother A 192.0.2.99\n\
alldead MX 10 dead\n";

fn own() -> Own {
    Own::new(["me.example"], ["192.0.2.99".parse().unwrap()]).with_loopback(false)
}

/// A mail server on a free port, which records.
fn server() -> (Reference, u16) {
    let reference = reference_stack();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(any, ListenOptions::default()).unwrap();
    let port = listener.local_addr().port();
    let serving = reference.clone();
    tokio::task::spawn_local(async move {
        while let Ok(mut connection) = listener.accept().await {
            let reference = serving.clone();
            tokio::task::spawn_local(async move {
                while let Ok(Some(stream)) = connection.accept().await {
                    let _ = reference.clone().serve(stream).await;
                }
            });
        }
    });
    (reference, port)
}

async fn deliver(exchanges: &Exchanges, host: &str) -> Result<Outcome, BoxError> {
    let transaction = Transaction {
        session: SessionInfo::local("test"),
        envelope: Envelope {
            mail: Mail::new(Mailbox::new("a@client.example").unwrap()),
            recipients: vec![Rcpt::new(Mailbox::new("alice@here.example").unwrap())],
        },
        body: Body::from_bytes(format!("Subject: to {host}\r\n\r\nhi\r\n")),
    };
    exchanges.to(host.parse().unwrap()).call(transaction).await
}

#[test]
fn a_real_name_servers_answers_decide() {
    let Some(nsd) = require(Nsd::start(ZONE)) else { return };
    with_runtime(async {
        let dns = Resolver::new(DnsSettings { servers: vec![nsd.address()], ..DnsSettings::default() }).unwrap();
        for (host, expected) in [
            ("both.example", Ok("dead.example live.example behind.example")),
            ("alias.example", Ok("dead.example live.example behind.example")),
            ("plain.example", Ok("plain.example")),
            ("aliashost.example", Ok("tolive.example")),
            ("backup.example", Ok("live.example")),
            ("null.example", Err("556 5.1.10")),
            ("nomail.example", Err("550 5.1.2")),
            ("nobody.example", Err("550 5.1.2")),
            ("dangling.example", Err("550 5.4.4")),
            ("mine.example", Err("554 5.4.6")),
            ("byaddress.example", Err("554 5.4.6")),
            // Refused by this name server, which is no certainty about the domain.
            ("host.elsewhere", Err("451 4.4.3")),
        ] {
            let host = Host::Domain(Domain::new(host).unwrap());
            let found = exchangers(&dns, &host, &own(), &Settings::default()).await;
            let shown = found.map(|found| {
                let names: Vec<_> = found.iter().map(|one| one.name.as_ref().unwrap().to_string()).collect();
                names.join(" ")
            });
            let shown = shown.map_err(|refusal| refusal.to_string());
            match expected {
                Ok(names) => assert_eq!(shown.as_deref(), Ok(names), "{host}"),
                Err(code) => {
                    let said = shown.unwrap_err();
                    assert!(said.starts_with(&format!("{code} ")), "{host}: {said}");
                }
            }
        }
    });
}

#[test]
fn mail_goes_to_the_first_that_gives_a_session() {
    let Some(nsd) = require(Nsd::start(ZONE)) else { return };
    with_runtime(async {
        let (reference, port) = server();
        let dns = Resolver::new(DnsSettings { servers: vec![nsd.address()], ..DnsSettings::default() }).unwrap();
        let connector = TcpConnector::new(ClientTls::builder().build().unwrap());
        let client = ClientSettings { tls: TlsPolicy::NONE, ..ClientSettings::default() };
        let settings = Settings { port, ..Settings::default() };
        let exchanges = Exchanges::new(Arc::new(dns), connector, own(), client, settings);
        for (n, host) in ["both.example", "plain.example", "alias.example", "[127.0.0.1]"].into_iter().enumerate() {
            let outcome = deliver(&exchanges, host).await.unwrap_or_else(|error| panic!("{host}: {error}"));
            assert!(outcome.iter().all(Result::is_ok), "{host}: {outcome:?}");
            let delivered = reference.delivered();
            assert_eq!(delivered.len(), n + 1, "{host}: once");
            assert!(delivered[n].content.starts_with(format!("Subject: to {host}\r\n").as_bytes()), "{host}");
        }
        let refused = reply_for(&deliver(&exchanges, "alldead.example").await.unwrap_err());
        assert!(refused.is_transient(), "{refused}");
        assert!(refused.to_string().contains("dead.example: "), "it says which host: {refused}");
        let refused = reply_for(&deliver(&exchanges, "null.example").await.unwrap_err());
        assert!(!refused.is_transient(), "{refused}");
    });
}
