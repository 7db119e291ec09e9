//! What this crate reads in a certificate itself; whether it can be trusted is rustls' business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::time::ASN1Time;

/// The bytes are not an X.509 certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate in DER")]
#[non_exhaustive]
pub struct CertificateSyntaxError;

/// The facts of one certificate.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The SubjectPublicKeyInfo, tag and length included.
    pub(crate) spki: Vec<u8>,
    /// The DNS names of the subjectAltName, in lower case, wildcards as they are.
    pub(crate) dns_names: Vec<String>,
    /// The addresses of the subjectAltName.
    pub(crate) addresses: Vec<IpAddr>,
    /// The mail addresses of the subjectAltName.
    pub(crate) mailboxes: Vec<String>,
    /// From when it is valid.
    pub(crate) not_before: SystemTime,
    /// Until when it is valid.
    pub(crate) not_after: SystemTime,
}

/// Reads `der`.
pub(crate) fn read(der: &[u8]) -> Result<Facts, CertificateSyntaxError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateSyntaxError)?;
    let mut dns_names = Vec::new();
    let mut addresses = Vec::new();
    let mut mailboxes = Vec::new();
    // A subjectAltName that cannot be read names nobody: the verifier will say so, there is no reason to here.
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns_names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                GeneralName::RFC822Name(mailbox) => mailboxes.push((*mailbox).to_owned()),
                _ => {}
            }
        }
    }
    Ok(Facts {
        spki: certificate.public_key().raw.to_vec(),
        dns_names,
        addresses,
        mailboxes,
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
}

/// The octets of the `tls-server-end-point` binding (RFC 5929 §4.1): the certificate's hash by the hash function of its
/// own signature, SHA-256 in the place of MD5 and SHA-1. `None` where that is undefined, as for Ed25519, which has no
/// single hash function.
pub(crate) fn end_point(der: &[u8]) -> Option<Box<[u8]>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let oid = match SignatureAlgorithm::try_from(&certificate.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => certificate.signature_algorithm.algorithm.to_id_string(),
    };
    // RFC 3279 §2.2 and RFC 5758 §3 for signatures, RFC 4055 §2.1 for the hash functions within RSASSA-PSS.
    let hash: Box<[u8]> = match &*oid {
        // MD5 and SHA-1: with RSA, with ECDSA, within PSS.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.3.14.3.2.26"
        // SHA-256 likewise.
        | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.2.1" => {
            Sha256::digest(der).as_slice().into()
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Sha384::digest(der).as_slice().into()
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Sha512::digest(der).as_slice().into()
        }
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => {
            Sha224::digest(der).as_slice().into()
        }
        _ => return None,
    };
    Some(hash)
}

/// `seconds` since 1970 as a date for people, in UTC.
pub(crate) fn date(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .map_or_else(|| format!("{seconds} s after 1970"), |time| time.to_string())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        _ => None,
    }
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_for_people() {
        assert_eq!(date(0), "Jan  1 00:00:00 1970 +00:00");
        assert_eq!(date(u64::MAX), format!("{} s after 1970", u64::MAX));
    }

    #[test]
    fn reads_names_and_dates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["MX.example", "*.example", "192.0.2.1", "2001:db8::1"].map(String::from);
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let facts = read(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(facts.dns_names, ["mx.example", "*.example"]);
        assert_eq!(facts.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!(facts.not_after, SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000));
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_was_signed() {
        use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
        let signed = |algorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            CertificateParams::new(["mx.example".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
        };
        let p256 = signed(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&p256).as_deref(), Some(Sha256::digest(&p256).as_slice()));
        let p384 = signed(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&p384).as_deref(), Some(Sha384::digest(&p384).as_slice()));
        // RFC 5929 §4.1: undefined.
        assert_eq!(end_point(&signed(&PKCS_ED25519)), None);
        assert_eq!(end_point(b"not a certificate"), None);
    }

    #[test]
    fn reads_mail_addresses() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::Rfc822Name("jo@example.org".try_into().unwrap())];
        let facts = read(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(facts.mailboxes, ["jo@example.org"]);
        assert!(facts.dns_names.is_empty());
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"\x30", b"not a certificate", &[0x30, 0x82, 0xff, 0xff]] {
            assert_eq!(read(bytes).unwrap_err(), CertificateSyntaxError);
        }
    }
}
