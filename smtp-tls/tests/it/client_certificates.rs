//! Certificates of clients: who is asked, who gets in, what the others are told.

use smtp_core::stream::Verification;
use smtp_tls::{ClientCertificates, HandshakeError, Role, Versions};

use crate::pair::{client, connect, server};
use crate::pki::{Ca, Leaf, expired, valid};

#[test]
fn optional_and_required() {
    let ca = Ca::new("Client CA");
    let ca_file = ca.file();
    let known = ca.issue(&valid(&["client.example"]));
    let stranger = Ca::new("Other CA").issue(&valid(&["client.example"]));
    let old = ca.issue(&expired(&["client.example"]));
    let own = Leaf::self_signed(&valid(&["mx.example"]));
    for versions in [Versions::Tls12, Versions::Tls13] {
        for asked in [None, Some(ClientCertificates::Optional), Some(ClientCertificates::Required)] {
            let mut server = server().identity(own.identity());
            if let Some(asked) = asked {
                server = server.client_ca(ca_file.path(), asked);
            }
            let server = server.build().unwrap();
            let connect = |leaf: Option<&Leaf>| {
                let mut client = client().versions(versions);
                if let Some(leaf) = leaf {
                    client = client.identity(leaf.identity());
                }
                let client = client.build().unwrap();
                // Twice, as the second is a resumption, which must know the certificate all the same.
                connect(&server, &client, &Verification::None, "mx.example")?;
                let info = connect(&server, &client, &Verification::None, "mx.example")?.server_info();
                assert!(info.resumed);
                Ok::<_, HandshakeError>((info.verified, info.peer_certificates))
            };
            let what = format!("{versions:?}, {asked:?}");

            let shown = match asked {
                None => (false, vec![]),
                Some(_) => (true, vec![known.certificate.to_vec()]),
            };
            assert_eq!(connect(Some(&known)).unwrap(), shown, "{what}");

            match (connect(None), asked) {
                (Ok(facts), None | Some(ClientCertificates::Optional)) => assert_eq!(facts, (false, vec![]), "{what}"),
                (
                    Err(HandshakeError::BadCertificate { peer: Role::Client, .. }),
                    Some(ClientCertificates::Required),
                ) => {}
                (other, _) => panic!("{what}: {other:?}"),
            }
            match (connect(Some(&stranger)), asked) {
                (Ok(facts), None) => assert_eq!(facts, (false, vec![]), "{what}"),
                (Err(HandshakeError::UnknownIssuer { peer: Role::Client }), Some(_)) => {}
                (other, _) => panic!("{what}: {other:?}"),
            }
            match (connect(Some(&old)), asked) {
                (Ok(_), None) | (Err(HandshakeError::Expired { peer: Role::Client, .. }), Some(_)) => {}
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_server_knows_key_and_mail_address_of_the_client() {
    let ca = Ca::new("Client CA");
    let mut params = valid(&["client.example"]);
    params.subject_alt_names.push(rcgen::SanType::Rfc822Name("jo@example.org".try_into().unwrap()));
    let leaf = ca.issue(&params);
    let own = Leaf::self_signed(&valid(&["mx.example"]));
    let ca_file = ca.file();
    let server = server().identity(own.identity()).client_ca(ca_file.path(), ClientCertificates::Required);
    let server = server.build().unwrap();
    let client = client().identity(leaf.identity()).build().unwrap();
    let info = connect(&server, &client, &Verification::None, "mx.example").unwrap().server_info();
    assert_eq!(info.peer_key, smtp_tls::pin_of(&leaf.certificate).ok());
    assert_eq!(info.peer_mailboxes, ["jo@example.org".into()]);
}

/// The client learns it by an alert.
#[test]
fn the_client_is_told_what_is_missing() {
    use rustls::{AlertDescription, Error};
    let told = |alert| HandshakeError::from_rustls(Error::AlertReceived(alert), Role::Client);
    let required = told(AlertDescription::CertificateRequired);
    assert!(matches!(required, HandshakeError::CertificateRequired { peer: Role::Server }));
    assert!(required.to_string().contains("--tls-cert FILE"), "{required}");
    let refused = told(AlertDescription::UnknownCA).to_string();
    assert!(refused.contains("server does not accept") && refused.contains("unknown_ca"), "{refused}");
}
