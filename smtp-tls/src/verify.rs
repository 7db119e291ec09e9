//! The verifiers for servers' certificates that rustls does not come with.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use smtp_core::stream::Dane;
use std::sync::Arc;

use crate::dane::Associations;
use crate::pin::Pin;

/// The server's key is not the one that was pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pinned is {expected}, the server shows {presented}")]
#[non_exhaustive]
pub struct WrongPin {
    /// The pin that was asked for.
    pub expected: Pin,
    /// The pin of the key that the server shows.
    pub presented: Pin,
}

/// Holds the certificate against a pin, against TLSA records, or against nothing at all. In each case the server must
/// still prove that it has the key of the certificate it shows: without that a pin would be worth nothing, as certificates
/// are public.
#[derive(Debug)]
pub(crate) struct KeyVerifier {
    against: Against,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Against {
    Nothing,
    Pin(Pin),
    Dane(Associations),
}

impl KeyVerifier {
    /// Accepts any certificate.
    pub(crate) const fn any(provider: &CryptoProvider) -> Self {
        Self { against: Against::Nothing, algorithms: provider.signature_verification_algorithms }
    }

    /// Accepts any certificate with the key that `pin` names; names, dates and issuer do not matter.
    pub(crate) const fn pinned(pin: Pin, provider: &CryptoProvider) -> Self {
        Self { against: Against::Pin(pin), algorithms: provider.signature_verification_algorithms }
    }

    /// Accepts what the TLSA records say.
    pub(crate) fn dane(dane: &Dane, provider: &Arc<CryptoProvider>) -> Self {
        let against = Against::Dane(Associations::new(dane, provider));
        Self { against, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let expected = match &self.against {
            Against::Nothing => return Ok(ServerCertVerified::assertion()),
            Against::Dane(records) => return records.verify(end_entity, intermediates, server_name, now),
            Against::Pin(pin) => *pin,
        };
        let presented = Pin::of_certificate(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if presented == expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(WrongPin { expected, presented }))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
