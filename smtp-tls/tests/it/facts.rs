//! What the two ends know of the channel afterwards.

use smtp_core::stream::Verification;
use smtp_tls::{Versions, client_info};

use crate::pair::{client, connect, server};
use crate::pki::{Leaf, valid};

#[test]
fn both_ends_tell_the_same_story() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let pin = Verification::from(smtp_tls::Pin::of_certificate(&leaf.certificate).unwrap());
    let name = smtp_tls::server_name(&"mx.example".parse().unwrap()).unwrap();
    for (versions, version) in [(Versions::Tls12, "TLSv1.2"), (Versions::Tls13, "TLSv1.3")] {
        let server = server().identity(leaf.identity()).alpn(&[b"smtp"]).build().unwrap();
        let client = client().versions(versions).alpn(&[b"smtp"]).build().unwrap();
        for verification in [Verification::None, pin.clone()] {
            for resumed in [false, true] {
                let pair = connect(&server, &client, &verification, "mx.example").unwrap();
                let ours = client_info(&pair.client, &name, &verification);
                let theirs = pair.server_info();
                for info in [&ours, &theirs] {
                    assert_eq!(info.version, version);
                    assert_eq!(info.alpn.as_deref(), Some("smtp"));
                    assert_eq!(info.sni.as_deref(), Some("mx.example"));
                    assert_eq!(info.resumed, resumed);
                    // IANA's names have no "TLS13_" in them.
                    assert!(info.cipher.starts_with("TLS_"), "{}", info.cipher);
                }
                assert_eq!(ours.cipher, theirs.cipher);
                assert_eq!(ours.group, theirs.group);
                assert_eq!(ours.group.is_some(), version == "TLSv1.3" || !resumed);
                // RFC 9266: with TLS 1.2 only after a check that rustls does not allow.
                assert_eq!(ours.exporter, theirs.exporter);
                assert_eq!(ours.exporter.is_some(), version == "TLSv1.3");
                // Resumed or not: the client remembers what it was shown first.
                assert_eq!(ours.server_end_point, theirs.server_end_point);
                assert!(ours.server_end_point.is_some());
                assert_eq!(ours.verified, verification != Verification::None);
                assert!(!theirs.verified);
                assert_eq!(ours.peer_certificates, [leaf.certificate.to_vec()]);
                assert!(theirs.peer_certificates.is_empty());
            }
        }
    }
}

#[test]
fn the_end_point_is_that_of_the_certificate_that_was_asked_for() {
    let (default, other) = (Leaf::self_signed(&valid(&["mx.example"])), Leaf::self_signed(&valid(&["other.example"])));
    let server = server().identity(default.identity()).identity(other.identity()).build().unwrap();
    let client = client().build().unwrap();
    let end_point = |name: &str| {
        let pair = connect(&server, &client, &Verification::None, name).unwrap();
        let name = smtp_tls::server_name(&name.parse().unwrap()).unwrap();
        let ours = client_info(&pair.client, &name, &Verification::None).server_end_point.unwrap();
        assert_eq!(pair.server_info().server_end_point.as_ref(), Some(&ours));
        ours
    };
    assert_ne!(end_point("mx.example"), end_point("other.example"));
    assert_eq!(end_point("mx.example"), end_point("mx.example"));
}

#[test]
fn every_connection_has_a_channel_binding_of_its_own() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let server = server().identity(leaf.identity()).build().unwrap();
    let client = client().build().unwrap();
    let exporter = || {
        let pair = connect(&server, &client, &Verification::None, "mx.example").unwrap();
        pair.server_info().exporter.unwrap()
    };
    assert_ne!(exporter(), exporter());
}

#[test]
fn names_are_ianas() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let server = server().identity(leaf.identity()).build().unwrap();
    let client = client().provider(provider.into()).versions(Versions::Tls13).build().unwrap();
    let info = connect(&server, &client, &Verification::None, "mx.example").unwrap().server_info();
    assert_eq!((&*info.cipher, info.group.as_deref()), ("TLS_AES_128_GCM_SHA256", Some("x25519")));
}
