//! Which certificate passes under which TLSA records, as a table.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256, Sha512};
use smtp_core::stream::{Dane, Tlsa, Verification};
use smtp_tls::{HandshakeError, Identity, Pin, Versions};

use crate::pair::{client, connect, server};
use crate::pki::{Ca, Leaf, expired, valid};

const NAME: &str = "mx.a.example";

/// The record for `certificate`, with the three numbers as they stand in a zone.
fn record(numbers: &str, certificate: &CertificateDer<'_>) -> Tlsa {
    let numbers: Vec<u8> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
    let [usage, selector, matching] = numbers[..] else { panic!("three numbers") };
    let selected = if selector == 0 { certificate.to_vec() } else { spki(certificate) };
    let data = match matching {
        0 => selected,
        1 => Sha256::digest(selected).to_vec(),
        _ => Sha512::digest(selected).to_vec(),
    };
    Tlsa { usage, selector, matching, data }
}

/// The SubjectPublicKeyInfo, found by its hash.
fn spki(certificate: &[u8]) -> Vec<u8> {
    let pin = Pin::of_certificate(certificate).unwrap();
    let is_it = |part: &&[u8]| Sha256::digest(part).as_slice() == pin.as_bytes();
    // A SEQUENCE of less than 128 octets, as keys for P-256 are.
    let parts = (0..certificate.len() - 2).filter(|at| certificate[*at] == 0x30 && certificate[at + 1] < 128);
    let parts = parts.filter_map(|at| certificate.get(at..at + 2 + usize::from(certificate[at + 1])));
    parts.into_iter().find(is_it).unwrap().to_vec()
}

fn dane(records: Vec<Tlsa>) -> Verification {
    Verification::Dane(Arc::new(Dane { records, names: vec!["a.example".parse().unwrap()] }))
}

fn try_it(identity: Identity, verification: &Verification, versions: Versions) -> Result<(), HandshakeError> {
    let server = server().identity(identity).build().unwrap();
    let client = client().versions(versions).build().unwrap();
    connect(&server, &client, verification, NAME).map(drop)
}

#[test]
fn every_kind_of_record() {
    let (ca, other) = (Ca::new("CA"), Ca::new("Other CA"));
    let leaf = ca.issue(&valid(&[NAME]));
    let stranger = Leaf::self_signed(&valid(&[NAME]));
    for versions in [Versions::Tls12, Versions::Tls13] {
        for numbers in ["3 0 0", "3 0 1", "3 0 2", "3 1 0", "3 1 1", "3 1 2"] {
            let right = dane(vec![record(numbers, &leaf.certificate)]);
            try_it(leaf.identity(), &right, versions).unwrap_or_else(|error| panic!("{numbers}: {error}"));
            let error = try_it(stranger.identity(), &right, versions).unwrap_err();
            assert!(matches!(error, HandshakeError::NoTlsaFits(none) if none.records == 1), "{numbers}: {error}");
            assert!(error.is_permanent());
        }
        for numbers in ["2 0 0", "2 0 1", "2 0 2", "2 1 0", "2 1 1", "2 1 2"] {
            let right = dane(vec![record(numbers, &ca.certificate)]);
            try_it(leaf.identity_with(&ca), &right, versions).unwrap_or_else(|error| panic!("{numbers}: {error}"));
            // An anchor that the server does not show is not there.
            let error = try_it(leaf.identity(), &right, versions).unwrap_err();
            assert!(matches!(error, HandshakeError::NoTlsaFits(_)), "{numbers}: {error}");
            // One that is shown and did not issue it helps nobody.
            let wrong = dane(vec![record(numbers, &other.certificate)]);
            assert!(try_it(leaf.identity_with(&other), &wrong, versions).is_err(), "{numbers}");
        }
    }
}

#[test]
fn an_end_entitys_names_and_dates_do_not_matter_and_those_below_an_anchor_do() {
    let ca = Ca::new("CA");
    let ee = |leaf: &Leaf| dane(vec![record("3 1 1", &leaf.certificate)]);
    let ta = dane(vec![record("2 0 1", &ca.certificate)]);
    for params in [expired(&["elsewhere.example"]), expired(&[NAME]), valid(&[])] {
        let leaf = ca.issue(&params);
        try_it(leaf.identity_with(&ca), &ee(&leaf), Versions::All).unwrap();
        assert!(try_it(leaf.identity_with(&ca), &ta, Versions::All).is_err());
    }
    let error = try_it(ca.issue(&expired(&[NAME])).identity_with(&ca), &ta, Versions::All).unwrap_err();
    assert!(matches!(error, HandshakeError::Expired { .. }), "{error}");
    let error = try_it(ca.issue(&valid(&["elsewhere.example"])).identity_with(&ca), &ta, Versions::All).unwrap_err();
    assert!(matches!(error, HandshakeError::WrongName { .. }), "{error}");
    // The domain whose mail it is will do (RFC 7672 §3.2.2).
    for name in [NAME, "a.example", "*.a.example"] {
        try_it(ca.issue(&valid(&[name])).identity_with(&ca), &ta, Versions::All).unwrap();
    }
}

#[test]
fn one_record_that_fits_is_enough_and_what_cannot_be_used_fits_nothing() {
    let ca = Ca::new("CA");
    let leaf = ca.issue(&valid(&[NAME]));
    let good = record("3 1 1", &leaf.certificate);
    let wrong = Tlsa { data: vec![7; 32], ..good.clone() };
    try_it(leaf.identity(), &dane(vec![wrong.clone(), good.clone()]), Versions::All).unwrap();
    for bad in [
        Tlsa { usage: 1, ..good.clone() },
        Tlsa { usage: 0, ..good.clone() },
        Tlsa { usage: 255, ..good.clone() },
        Tlsa { selector: 2, ..good.clone() },
        Tlsa { matching: 3, ..good.clone() },
        Tlsa { data: good.data[..31].to_vec(), ..good.clone() },
        Tlsa { data: Vec::new(), matching: 0, ..good.clone() },
    ] {
        assert!(!bad.is_usable(), "{bad:?}");
        assert!(try_it(leaf.identity(), &dane(vec![bad]), Versions::All).is_err());
    }
    // Lengths that no digest has, and garbage, break nothing.
    for length in 0..=300 {
        for matching in 0..=2 {
            let odd = Tlsa { matching, data: vec![0x30; length], ..good.clone() };
            let fits = match matching {
                0 => length > 0,
                1 => length == 32,
                _ => length == 64,
            };
            assert_eq!(odd.is_usable(), fits, "{matching} {length}");
        }
    }
    // RFC 7671 §9: where there is SHA-512, SHA-256 does not count.
    let stronger = Tlsa { matching: 2, data: vec![7; 64], ..good.clone() };
    assert!(try_it(leaf.identity(), &dane(vec![stronger.clone(), good.clone()]), Versions::All).is_err());
    let of_certificate = record("3 0 1", &leaf.certificate);
    try_it(leaf.identity(), &dane(vec![stronger, of_certificate]), Versions::All).unwrap();
}

#[test]
fn a_session_resumes_under_the_same_records_only() {
    let leaf = Leaf::self_signed(&valid(&[NAME]));
    let server = server().identity(leaf.identity()).build().unwrap();
    let client = client().build().unwrap();
    let resumed =
        |verification: &Verification| connect(&server, &client, verification, NAME).unwrap().server_info().resumed;
    let one = dane(vec![record("3 1 1", &leaf.certificate)]);
    let other = dane(vec![record("3 0 1", &leaf.certificate)]);
    assert_eq!([resumed(&one), resumed(&one), resumed(&other), resumed(&other)], [false, true, false, true]);
}
