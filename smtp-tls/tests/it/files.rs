//! Certificates and keys in files: what is read, and what is said of those that cannot be.

use std::path::Path;
use std::process::Command;

use smtp_tls::{ClientTls, Identity, IdentityError, ServerTls, SetupError};

use crate::pair::{client, provider, server};
use crate::pki::{Ca, Leaf, file, valid};

fn load(certificate: &Path, key: &Path) -> Result<smtp_tls::LoadedIdentity, IdentityError> {
    Identity::from_files(certificate, key).load(&provider())
}

#[test]
fn one_file_may_hold_both_with_other_things_around() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let both = file(&format!("a comment\n{}\n{}", leaf.key.serialize_pem(), leaf.pem()));
    let loaded = load(both.path(), both.path()).unwrap();
    assert_eq!(loaded.names(), ["mx.example"]);
    assert_eq!(loaded.pin(), smtp_tls::Pin::of_certificate(&leaf.certificate).unwrap());
    assert!(loaded.not_before() < loaded.not_after());
}

#[test]
fn every_fault_names_the_file_and_a_way_out() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let other = Leaf::self_signed(&valid(&["mx.example"]));
    let certificate = file(&leaf.pem());
    let key = file(&leaf.key.serialize_pem());
    let other_key = file(&other.key.serialize_pem());
    let empty = file("");
    let cut = file(leaf.pem().split_at(100).0);
    let not_der = file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let not_key = file("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let not_base64 = file("-----BEGIN PRIVATE KEY-----\nsecret?!\n-----END PRIVATE KEY-----\n");
    let locked = file("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let missing = Path::new("/nowhere/at/all.pem");
    let rows = [
        (missing, key.path(), missing, "check the path"),
        (certificate.path(), missing, missing, "check the path"),
        (empty.path(), key.path(), empty.path(), "no certificate in it"),
        (key.path(), key.path(), key.path(), "no certificate in it"),
        (certificate.path(), certificate.path(), certificate.path(), "no private key in it"),
        (cut.path(), key.path(), cut.path(), "without its END line"),
        (not_der.path(), key.path(), not_der.path(), "not an X.509 certificate"),
        (certificate.path(), not_key.path(), not_key.path(), "private key cannot be used"),
        (certificate.path(), not_base64.path(), not_base64.path(), "not base64"),
        (certificate.path(), locked.path(), locked.path(), "openssl pkey"),
        (certificate.path(), other_key.path(), certificate.path(), "does not belong"),
        (certificate.path(), other_key.path(), other_key.path(), "does not belong"),
    ];
    for (certificate, key, at_fault, says) in rows {
        let error = load(certificate, key).unwrap_err().to_string();
        assert!(error.contains(at_fault.to_str().unwrap()) && error.contains(says), "{error}");
        assert!(!error.contains("secret"), "{error}");
        let same = server().identity(Identity::from_files(certificate, key)).build().unwrap_err();
        assert_eq!(same.to_string(), error);
    }
}

#[test]
fn a_chain_must_start_with_the_leaf() {
    let ca = Ca::new("CA");
    let leaf = ca.issue(&valid(&["mx.example"]));
    let ca_pem = std::fs::read_to_string(ca.file().path()).unwrap();
    let key = file(&leaf.key.serialize_pem());
    let right = file(&format!("{}{ca_pem}", leaf.pem()));
    assert_eq!(load(right.path(), key.path()).unwrap().certified_key().cert.len(), 2);
    let wrong = file(&format!("{ca_pem}{}", leaf.pem()));
    let error = load(wrong.path(), key.path()).unwrap_err().to_string();
    assert!(error.contains("own certificate first"), "{error}");
}

#[test]
fn ca_files_that_cannot_be_used_are_named() {
    let empty = file("nothing here");
    for path in [empty.path(), Path::new("/nowhere/ca.pem")] {
        let error = client().ca_file(path).build().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        let leaf = Leaf::self_signed(&valid(&["mx.example"]));
        let asked = smtp_tls::ClientCertificates::Required;
        let error = server().identity(leaf.identity()).client_ca(path, asked).build().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn what_is_missing_is_said() {
    assert!(matches!(server().build(), Err(SetupError::NoIdentity)));
    // No test of this binary installs a provider.
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    for error in
        [ServerTls::builder().identity(leaf.identity()).build().unwrap_err(), ClientTls::builder().build().unwrap_err()]
    {
        assert!(error.to_string().contains("install_default"), "{error}");
    }
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let secret = leaf.key.serialized_der();
    let needle = format!("{}, {}, {}", secret[40], secret[41], secret[42]);
    let tls = server().identity(leaf.identity()).build().unwrap();
    for text in [format!("{:?}", leaf.identity()), format!("{tls:?}"), format!("{:?}", tls.identities())] {
        assert!(!text.contains(&needle), "{text}");
    }
}

/// The variable belongs to the whole process, so this test runs itself once more with it.
#[test]
fn the_key_log_is_written_only_on_demand() {
    const FILE: &str = "SSLKEYLOGFILE";
    let Some(path) = std::env::var_os(FILE) else {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "files::the_key_log_is_written_only_on_demand"])
            .env(FILE, dir.path().join("keys"))
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    let leaf = Leaf::self_signed(&valid(&["mx.example"]));
    let run = |log_server: bool, log_client: bool| {
        let server = server().identity(leaf.identity()).key_log(log_server).build().unwrap();
        let client = client().key_log(log_client).build().unwrap();
        crate::pair::connect(&server, &client, &smtp_core::stream::Verification::None, "mx.example").unwrap();
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        written
    };
    assert_eq!(run(false, false), "");
    assert!(run(true, false).contains("CLIENT_TRAFFIC_SECRET_0"));
    assert!(run(false, true).contains("CLIENT_TRAFFIC_SECRET_0"));
}
