//! Which certificate passes under which verification, as a table, and what the refusals say.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use smtp_core::stream::Verification;
use smtp_tls::{HandshakeError, Pin, Role, Versions};

use crate::pair::{client, connect, provider, server};
use crate::pki::{Ca, Leaf, expired, future, valid};

/// How a certificate fares against trust anchors.
type Refusal = fn(&HandshakeError) -> bool;

#[test]
fn every_certificate_under_every_verification() {
    const NAME: &str = "mx.a.example";
    let ca = Ca::new("Trusted CA");
    let other_ca = Ca::new("Unknown CA");
    let mut ca_as_leaf = valid(&[NAME]);
    ca_as_leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut for_clients = valid(&[NAME]);
    for_clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    let rows: [(&str, Leaf, &str, Option<Refusal>); 14] = [
        ("good", ca.issue(&valid(&[NAME])), NAME, None),
        ("good, another case", ca.issue(&valid(&["MX.A.Example"])), NAME, None),
        ("good, wildcard", ca.issue(&valid(&["*.a.example"])), NAME, None),
        ("good, address", ca.issue(&valid(&["192.0.2.1"])), "[192.0.2.1]", None),
        (
            "wrong name",
            ca.issue(&valid(&["other.example", "192.0.2.1"])),
            NAME,
            Some(|e| {
                let expect = ["other.example", "192.0.2.1"];
                matches!(e, HandshakeError::WrongName { expected, presented } if expected == NAME && presented == &expect)
            }),
        ),
        // webpki takes no wildcard right below a top-level domain.
        (
            "wildcard too high",
            ca.issue(&valid(&["*.example"])),
            NAME,
            Some(|e| matches!(e, HandshakeError::WrongName { .. })),
        ),
        (
            "wildcard two levels up",
            ca.issue(&valid(&["*.a.example"])),
            "b.mx.a.example",
            Some(|e| matches!(e, HandshakeError::WrongName { presented, .. } if presented == &["*.a.example"])),
        ),
        (
            "wrong address",
            ca.issue(&valid(&["192.0.2.1"])),
            "[192.0.2.2]",
            Some(|e| matches!(e, HandshakeError::WrongName { .. })),
        ),
        (
            "expired",
            ca.issue(&expired(&[NAME])),
            NAME,
            Some(
                |e| matches!(e, HandshakeError::Expired { not_after, .. } if not_after.contains("Feb  3 00:00:00 2020")),
            ),
        ),
        (
            "not yet valid",
            ca.issue(&future(&[NAME])),
            NAME,
            Some(|e| matches!(e, HandshakeError::NotYetValid { not_before, .. } if not_before.contains("2999"))),
        ),
        (
            "unknown CA",
            other_ca.issue(&valid(&[NAME])),
            NAME,
            Some(|e| matches!(e, HandshakeError::UnknownIssuer { peer: Role::Server })),
        ),
        (
            "unknown CA with a known name",
            Ca::new("Trusted CA").issue(&valid(&[NAME])),
            NAME,
            Some(|e| matches!(e, HandshakeError::BadSignature { peer: Role::Server })),
        ),
        (
            "self-signed",
            Leaf::self_signed(&valid(&[NAME])),
            NAME,
            Some(|e| matches!(e, HandshakeError::UnknownIssuer { peer: Role::Server })),
        ),
        (
            "self-signed CA as leaf",
            Leaf::self_signed(&ca_as_leaf),
            NAME,
            Some(|e| matches!(e, HandshakeError::CaAsLeaf { peer: Role::Server })),
        ),
    ];

    let ca_file = ca.file();
    for versions in [Versions::All, Versions::Tls12, Versions::Tls13] {
        let client = client().ca_file(ca_file.path()).versions(versions).build().unwrap();
        for (what, leaf, name, refusal) in &rows {
            let server = server().identity(leaf.identity()).build().unwrap();
            let what = format!("{what}, {versions:?}");

            connect(&server, &client, &Verification::None, name).unwrap_or_else(|e| panic!("{what}, none: {e}"));

            let right = Pin::of_certificate(&leaf.certificate).unwrap();
            connect(&server, &client, &right.into(), name).unwrap_or_else(|e| panic!("{what}, pin: {e}"));

            let wrong = Pin::new([7; 32]);
            match connect(&server, &client, &wrong.into(), name).err() {
                Some(HandshakeError::WrongPin(pins)) => assert_eq!((pins.expected, pins.presented), (wrong, right)),
                other => panic!("{what}, wrong pin: {other:?}"),
            }

            match (connect(&server, &client, &Verification::Pkix, name).err(), refusal) {
                (None, None) => {}
                (Some(error), Some(refusal)) if refusal(&error) && error.is_permanent() => {}
                (error, _) => panic!("{what}, anchors: {error:?}"),
            }
        }
    }
    // The purpose matters only where anchors do.
    let leaf = ca.issue(&for_clients);
    let server = server().identity(leaf.identity()).build().unwrap();
    let client = client().ca_file(ca_file.path()).build().unwrap();
    let error = connect(&server, &client, &Verification::Pkix, NAME).err().unwrap();
    assert!(matches!(error, HandshakeError::BadCertificate { .. }), "{error:?}");
    connect(&server, &client, &Verification::None, NAME).unwrap();
}

/// A certificate is public; showing it without having its key must not pass, even where anything else does.
#[test]
fn a_stolen_certificate_without_its_key_never_passes() {
    let honest = Leaf::self_signed(&valid(&["mx.example"]));
    let thief = Leaf::self_signed(&valid(&["mx.example"]));
    let key = provider().key_provider.load_private_key(thief.identity_key()).unwrap();
    let forged = rustls::sign::CertifiedKey::new(vec![honest.certificate.clone()], key);
    let pin = Pin::of_certificate(&honest.certificate).unwrap();
    for versions in [Versions::Tls12, Versions::Tls13] {
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(forged.clone())));
        let config = std::sync::Arc::new(config);
        let client = client().versions(versions).build().unwrap();
        for verification in [Verification::None, pin.into()] {
            let result = crate::pair::handshake(config.clone(), client.config(&verification).unwrap(), "mx.example");
            let error = result.err().unwrap();
            assert!(matches!(error, HandshakeError::BadSignature { .. }), "{verification:?}: {error:?}");
        }
    }
}

#[test]
fn a_self_signed_certificate_can_be_its_own_anchor() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let file = crate::pki::file(&leaf.pem());
    let server = server().identity(leaf.identity()).build().unwrap();
    let client = client().ca_file(file.path()).build().unwrap();
    connect(&server, &client, &Verification::Pkix, "mx.example").unwrap();
    assert!(connect(&server, &client, &Verification::Pkix, "other.example").is_err());
}

#[test]
fn a_session_does_not_resume_under_another_verification() {
    let ca = Ca::new("CA");
    let ca_file = ca.file();
    let leaf = ca.issue(&valid(&["mx.example"]));
    let pin = Verification::from(Pin::of_certificate(&leaf.certificate).unwrap());
    for versions in [Versions::Tls12, Versions::Tls13] {
        let server = server().identity(leaf.identity()).build().unwrap();
        let client = client().ca_file(ca_file.path()).versions(versions).build().unwrap();
        let resumed = |verification: &Verification| {
            let pair = connect(&server, &client, verification, "mx.example").unwrap();
            pair.server_info().resumed
        };
        assert_eq!([resumed(&Verification::None), resumed(&Verification::None)], [false, true], "{versions:?}");
        assert_eq!([resumed(&Verification::Pkix), resumed(&Verification::Pkix)], [false, true], "{versions:?}");
        assert_eq!([resumed(&pin), resumed(&pin)], [false, true], "{versions:?}");
    }
}

#[test]
fn refusals_say_who_is_at_fault_and_the_way_out() {
    let ca = Ca::new("CA");
    let ca_file = ca.file();
    let client = client().ca_file(ca_file.path()).build().unwrap();
    let say = |leaf: &Leaf, verification: &Verification| {
        let server = server().identity(leaf.identity()).build().unwrap();
        connect(&server, &client, verification, "mx.example").err().unwrap().to_string()
    };
    let pkix = Verification::Pkix;
    let unknown = say(&Leaf::self_signed(&valid(&["mx.example"])), &pkix);
    assert!(unknown.contains("--tls-ca FILE") && unknown.contains("--pin"), "{unknown}");
    let name = say(&ca.issue(&valid(&["a.example", "b.example"])), &pkix);
    assert!(name.contains("mx.example") && name.contains("a.example, b.example"), "{name}");
    let old = say(&ca.issue(&expired(&["mx.example"])), &pkix);
    assert!(old.contains("expired on Feb  3") && old.contains("renew"), "{old}");
    let leaf = ca.issue(&valid(&["mx.example"]));
    let pin = say(&leaf, &Verification::Pin([0xab; 32]));
    let own = Pin::of_certificate(&leaf.certificate).unwrap().to_string();
    assert!(pin.contains(&"ab".repeat(32)) && pin.contains(&own), "{pin}");
}

#[test]
fn versions_that_do_not_meet_are_named() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    for (ours, theirs) in [(Versions::Tls12, Versions::Tls13), (Versions::Tls13, Versions::Tls12)] {
        let server = server().identity(leaf.identity()).versions(ours).build().unwrap();
        let client = client().versions(theirs).build().unwrap();
        let error = connect(&server, &client, &Verification::None, "mx.example").err().unwrap();
        assert!(matches!(error, HandshakeError::NothingInCommon { peer: Role::Client, .. }), "{error:?}");
        assert!(error.to_string().contains("TLS 1.2 and 1.3"), "{error}");
    }
}
