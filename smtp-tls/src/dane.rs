//! Certificates that their owner vouches for in the DNS (RFC 6698, RFC 7672).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256, Sha512};
use smtp_core::stream::{Dane, Tlsa};
use smtp_core::types::Host;

use crate::client::server_name;
use crate::x509;

const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;

/// The server's certificates fit none of the TLSA records of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("none of the host's {records} usable TLSA records fits")]
#[non_exhaustive]
pub struct NoTlsaFits {
    /// How many there are that could have.
    pub records: usize,
}

/// Holds certificates against TLSA records.
#[derive(Debug)]
pub(crate) struct Associations {
    records: Vec<Tlsa>,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Associations {
    pub(crate) fn new(dane: &Dane, provider: &Arc<CryptoProvider>) -> Self {
        let usable = || dane.records.iter().filter(|record| record.is_usable());
        // RFC 7671 §9: of two digests of the same kind of thing only the stronger counts.
        let outdone = |record: &Tlsa| {
            let same = |other: &&Tlsa| other.usage == record.usage && other.selector == record.selector;
            record.matching == 1 && usable().filter(same).any(|other| other.matching == 2)
        };
        let names = dane.names.iter().filter_map(|name| server_name(&Host::Domain(name.clone())).ok());
        Self {
            records: usable().filter(|record| !outdone(record)).cloned().collect(),
            names: names.collect(),
            provider: Arc::clone(provider),
        }
    }

    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mismatch = || {
            let none = NoTlsaFits { records: self.records.len() };
            CertificateError::Other(OtherError(Arc::new(none))).into()
        };
        let fits = |usage, certificate: &CertificateDer<'_>| {
            self.records.iter().filter(|record| record.usage == usage).any(|record| matches(record, certificate))
        };
        // RFC 7672 §3.1.1: neither names nor dates matter.
        if fits(DANE_EE, end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        // RFC 7672 §3.1.2: the issuer is among the certificates that the server shows.
        let mut anchors = RootCertStore::empty();
        for issuer in intermediates.iter().filter(|certificate| fits(DANE_TA, certificate)) {
            anchors.add(issuer.clone().into_owned()).map_err(|_| CertificateError::BadEncoding)?;
        }
        if anchors.is_empty() {
            return Err(mismatch());
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let by = |name: &ServerName<'_>| verifier.verify_server_cert(end_entity, intermediates, name, &[], now);
        let own = by(server_name);
        match own {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => self.names.iter().find_map(|name| by(name).ok()).map_or(own, Ok),
            own => own,
        }
    }
}

fn matches(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let spki;
    let selected: &[u8] = if record.selector == 0 {
        certificate
    } else {
        let Ok(facts) = x509::read(certificate) else { return false };
        spki = facts.spki;
        &spki
    };
    match record.matching {
        0 => *selected == *record.data,
        1 => Sha256::digest(selected).as_slice() == record.data,
        2 => Sha512::digest(selected).as_slice() == record.data,
        _ => false,
    }
}
