//! TLS whose octets count the same in every run.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use smtp_tls::{ClientTls, Identity, Pin, ServerTls};

use crate::choice::{KeyExchange, Resumption};

/// The name in the certificate.
pub(crate) const SERVER_NAME: &str = "mx.example";

/// A server's certificate. Signed by Ed25519, since ECDSA's signatures vary in length, and with a serial number that is
/// set, since one that is made from the key may be an octet shorter.
pub(crate) struct Certificate {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    pin: Pin,
}

impl Certificate {
    pub(crate) fn new() -> io::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(io::Error::other)?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(io::Error::other)?;
        params.serial_number = Some(1_u64.into());
        let certificate = params.self_signed(&key).map_err(io::Error::other)?.der().clone();
        let pin = Pin::of_certificate(&certificate).map_err(io::Error::other)?;
        Ok(Self { certificate, key: key.serialize_der(), pin })
    }

    pub(crate) const fn pin(&self) -> Pin {
        self.pin
    }

    pub(crate) fn server(&self, key_exchange: KeyExchange) -> io::Result<ServerTls> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let identity = Identity::from_der(vec![self.certificate.clone()], key);
        ServerTls::builder().provider(provider(key_exchange)).identity(identity).build().map_err(io::Error::other)
    }
}

/// A client that remembers sessions if they are to be resumed.
pub(crate) fn client(key_exchange: KeyExchange, resumption: Resumption) -> io::Result<ClientTls> {
    let sessions = if resumption == Resumption::None { 0 } else { 32 };
    ClientTls::builder().provider(provider(key_exchange)).sessions(sessions).build().map_err(io::Error::other)
}

/// With one key exchange, whatever features other crates of the build switch on: which is preferred, and so the size of
/// the first flight, is one of those.
fn provider(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![match key_exchange {
        KeyExchange::X25519 => aws_lc_rs::kx_group::X25519,
        KeyExchange::Hybrid => aws_lc_rs::kx_group::X25519MLKEM768,
    }];
    Arc::new(provider)
}
