//! REQUIRETLS by routes: a message that asks for it is queued, and goes to a server whose certificate was verified and
//! that offers it, or comes back at once.

use std::net::SocketAddr;

use smtp_core::service::Promises;
use smtp_server::Recorder;
use smtp_transport_tcp::{ListenOptions, TcpListener, Tls};

use super::{Certificate, Hosts, Relay, until};
use crate::transports::with_runtime;

/// A domain with a route, and what becomes of a message with REQUIRETLS: how it comes, or the status with which it
/// comes back; and of one without.
const TABLE: [(&str, Result<&str, &str>, &str); 7] = [
    ("verified", Ok("tcp REQUIRETLS"), "tcp"),
    ("quic", Ok("quic REQUIRETLS"), "quic"),
    ("lacks", Err("5.7.30"), "tcp"),
    ("unverified", Err("5.7.10"), "tcp"),
    ("insecure", Err("5.7.10"), "tcp"),
    ("insecure-quic", Err("5.7.10"), "quic"),
    ("clear", Err("5.7.30"), "clear tcp"),
];

#[test]
fn it_goes_where_tls_was_verified_and_it_is_offered_and_else_comes_back() {
    with_runtime(async {
        let certificate = Certificate::for_names(&["127.0.0.1"]);
        let hosts = Hosts::new();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listen = |promises: Promises| {
            let options = ListenOptions { tls: Tls::StartTls(certificate.tls()), ..ListenOptions::default() };
            let listener = TcpListener::bind(any, options).unwrap();
            let address = listener.local_addr();
            hosts.serve(listener, promises);
            address
        };
        let (offers, lacks) = (listen(Recorder::PROMISES), listen(Promises::of(&["8BITMIME"])));
        let listener = certificate.quic("127.0.0.1:0");
        let quic = listener.local_addr();
        hosts.serve(listener, Recorder::PROMISES);
        let ca = certificate.ca_file();
        let routes = [
            format!("verified.example=smtp://{offers}?tls=required tls-ca={ca}"),
            format!("quic.example=smtp+quic://{quic} tls-ca={ca}"),
            format!("lacks.example=smtp://{lacks}?tls=required tls-ca={ca}"),
            format!("unverified.example=smtp://{offers}"),
            format!("insecure.example=smtp://{offers}?tls=required insecure"),
            format!("insecure-quic.example=smtp+quic://{quic} insecure"),
            format!("clear.example=smtp://{offers}?tls=none"),
        ];
        // The relay and the hosts have threads of their own.
        play(&routes, &hosts);
    });
}

fn play(routes: &[String], hosts: &Hosts) {
    let domains = TABLE.map(|(domain, ..)| domain);
    let more: Vec<&str> = routes.iter().flat_map(|route| ["--route", route]).collect();
    let Some(relay) = Relay::start(&domains, &more) else { return };
    for (domain, expected, _) in TABLE {
        relay.submit(domain, " REQUIRETLS", domain);
        match expected {
            Ok(how) => assert_eq!(until(domain, || hosts.came(&format!("{domain}.example"))), how),
            Err(status) => {
                let notice = until(domain, || relay.notices(domain).pop());
                assert!(notice.contains("Action: failed") && notice.contains(&format!("Status: {status}")), "{notice}");
                assert_eq!(hosts.came(&format!("{domain}.example")), None, "{domain}");
            }
        }
    }
    // It is what they asked for that has kept these back.
    for (domain, expected, otherwise) in TABLE {
        if expected.is_err() {
            relay.submit(domain, "", domain);
            assert_eq!(until(domain, || hosts.came(&format!("{domain}.example"))), otherwise);
        }
    }
    until("nothing waits", || relay.waiting().is_empty().then_some(()));
}
