//! DANE over QUIC: a mail host that says in a signed zone that it speaks QUIC, and what its certificate is there, is
//! held to that; one that says it for TCP alone, or not well enough, is reached by TCP.

use std::fmt::Write as _;
use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use smtp_server::Recorder;
use smtp_tests::peers::{Nsd, require};
use smtp_tls::Pin;
use smtp_transport_tcp::{ListenOptions, TcpListener, Tls};

use super::{Certificate, Hosts, Relay, until};
use crate::transports::with_runtime;

/// Hex that is once in the zone, and what takes its place behind the signer's back.
const SIGNED: &str = "abad1deaabad1deaabad1deaabad1deaabad1deaabad1deaabad1deaabad1dea";
const FORGED: &str = "feedfacefeedfacefeedfacefeedfacefeedfacefeedfacefeedfacefeedface";

/// What TLSA records say.
#[derive(Debug, Clone, Copy)]
enum Says {
    Nothing,
    /// The key of the host (3 1 1).
    Key,
    /// Another one.
    OtherKey,
    /// The CA (2 0 1).
    Issuer,
    /// Something that means nothing in mail (1 1 1).
    OfNoUse,
    /// A record that was changed.
    Forged,
}

/// What becomes of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Arrives(&'static str),
    Waits(&'static str),
    ComesBack(&'static str),
}

use Ends::{Arrives, ComesBack, Waits};

/// A mail host: whether TCP works there too, what it says for TCP and for QUIC, and how mail for it ends, without and
/// with REQUIRETLS.
struct Host(&'static str, bool, Says, Says, Ends, Ends);

#[rustfmt::skip]
const HOSTS: [Host; 11] = [
    // QUIC alone, so that nothing but the race's one side can bring it there.
    Host("key", false, Says::Key, Says::Key, Arrives("quic"), Arrives("quic REQUIRETLS")),
    Host("issuer", false, Says::Issuer, Says::Issuer, Arrives("quic"), Arrives("quic REQUIRETLS")),
    // A name that the certificate does not have: of no account with a key (RFC 7671 §5.1), but with an issuer.
    Host("alien-key", false, Says::Key, Says::Key, Arrives("quic"), Arrives("quic REQUIRETLS")),
    Host("alien-issuer", false, Says::Issuer, Says::Issuer, Waits("451 4."), Waits("451 4.")),
    Host("other", false, Says::Key, Says::OtherKey, Waits("451 4."), Waits("451 4.")),
    // Each way has records of its own.
    Host("tcp-other", false, Says::OtherKey, Says::Key, Arrives("quic"), Arrives("quic REQUIRETLS")),
    // Both: what is not proved for QUIC goes by TCP.
    Host("none", true, Says::Key, Says::Nothing, Arrives("tcp"), Arrives("tcp REQUIRETLS")),
    Host("fallback", true, Says::Key, Says::OtherKey, Arrives("tcp"), Arrives("tcp REQUIRETLS")),
    Host("useless", true, Says::Key, Says::OfNoUse, Arrives("tcp"), Arrives("tcp REQUIRETLS")),
    Host("forged", true, Says::Key, Says::Forged, Arrives("tcp"), Arrives("tcp REQUIRETLS")),
    Host("neither", true, Says::OtherKey, Says::OtherKey, Waits("451 4.7.5"), ComesBack("5.7.30")),
];

#[test]
fn a_host_is_held_to_what_it_says_of_quic() {
    with_runtime(async {
        let names: Vec<String> = HOSTS.iter().map(|host| format!("mx.{}.example", host.0)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.contains("alien")).collect();
        let certificate = Certificate::for_names(&names);
        let hosts = Hosts::new();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = ListenOptions { tls: Tls::StartTls(certificate.tls()), ..ListenOptions::default() };
        let tcp = TcpListener::bind(any, options).unwrap();
        let port = tcp.local_addr().port();
        hosts.serve(tcp, Recorder::PROMISES);
        // Nothing listens on the TCP port there.
        let ports = ["127.0.0.2:0", "127.0.0.1:0"].map(|address| {
            let listener = certificate.quic(address);
            let port = listener.local_addr().port();
            hosts.serve(listener, Recorder::PROMISES);
            port
        });
        let zone = zone(&certificate, port, ports);
        let started = Nsd::start_signed(&zone, |zone| {
            let forged = zone.replace(SIGNED, FORGED);
            assert_ne!(forged, zone, "the record is there");
            forged
        });
        let Some(nsd) = require(started) else { return };
        // The relay, the name server and the hosts have threads of their own.
        play(&nsd, port, &certificate, &hosts);
    });
}

fn zone(certificate: &Certificate, tcp: u16, [alone, both]: [u16; 2]) -> String {
    let key = Pin::of_certificate(&certificate.chain[0]).unwrap().to_string();
    let issuer: String = Sha256::digest(&certificate.chain[1]).iter().map(|octet| format!("{octet:02x}")).collect();
    let other = "11".repeat(32);
    let mut zone = String::new();
    for Host(label, has_tcp, over_tcp, over_quic, ..) in &HOSTS {
        let (ip, quic) = if *has_tcp { ("127.0.0.1", both) } else { ("127.0.0.2", alone) };
        writeln!(
            zone,
            "{label} MX 10 mx.{label}\nmx.{label} A {ip}\n\
             _smtp.mx.{label} SVCB 1 mx.{label}.example. alpn=smtp-quic-00 no-default-alpn port={quic}"
        )
        .unwrap();
        for (says, at) in [(over_tcp, format!("_{tcp}._tcp")), (over_quic, format!("_{quic}._quic"))] {
            let record = match says {
                Says::Nothing => continue,
                Says::Key => format!("3 1 1 {key}"),
                Says::OtherKey => format!("3 1 1 {other}"),
                Says::Issuer => format!("2 0 1 {issuer}"),
                Says::OfNoUse => format!("1 1 1 {key}"),
                Says::Forged => format!("3 1 1 {SIGNED}"),
            };
            writeln!(zone, "{at}.mx.{label} TLSA {record}").unwrap();
        }
    }
    zone
}

fn play(nsd: &Nsd, port: u16, certificate: &Certificate, hosts: &Hosts) {
    let (dns, anchor, port, ca) =
        (nsd.address().to_string(), nsd.trust_anchor(), port.to_string(), certificate.ca_file());
    let more = [
        ["--dns", &dns],
        ["--dnssec-anchor", anchor.to_str().unwrap()],
        ["--mx-port", &port],
        // It vouches for the certificate, and TLSA records outweigh it.
        ["--mx-tls-ca", &ca],
        ["--tls-policy", "dane"],
    ];
    let domains = HOSTS.each_ref().map(|host| host.0);
    for (parameters, strictly) in [("", false), (" REQUIRETLS", true)] {
        let Some(relay) = Relay::start(&domains, more.as_flattened()) else { return };
        drop(hosts.recorder.take());
        for Host(label, .., ends, strict) in &HOSTS {
            relay.submit(label, parameters, label);
            let ends = if strictly { strict } else { ends };
            let found = until(label, || {
                let arrives = hosts.came(&format!("{label}.example"));
                let waits = || relay.waiting().lines().find(|line| line.contains(label)).map(str::to_owned);
                let back = || relay.notices(label).pop();
                match ends {
                    Arrives(_) => arrives,
                    // Tried, and not merely waiting for its turn.
                    Waits(_) => waits().filter(|line| line.contains("451 ")),
                    ComesBack(_) => back(),
                }
            });
            match ends {
                Arrives(how) => assert_eq!(found, *how, "{label}{parameters}"),
                Waits(code) => assert!(found.contains(code), "{label}{parameters}: {found}"),
                ComesBack(status) => assert!(found.contains(&format!("Status: {status}")), "{label}: {found}"),
            }
            if !matches!(ends, Arrives(_)) {
                assert_eq!(hosts.came(&format!("{label}.example")), None, "{label}{parameters}");
            }
        }
    }
}
