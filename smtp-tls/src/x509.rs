//! What this crate reads in a certificate itself; whether it can be trusted is rustls' business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
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
    // A subjectAltName that cannot be read names nobody: the verifier will say so, there is no reason to here.
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns_names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    Ok(Facts {
        spki: certificate.public_key().raw.to_vec(),
        dns_names,
        addresses,
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
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
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"\x30", b"not a certificate", &[0x30, 0x82, 0xff, 0xff]] {
            assert_eq!(read(bytes).unwrap_err(), CertificateSyntaxError);
        }
    }
}
