//! What TLS established, in the terms of the core.

use rustls::{ClientConnection, CommonState, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};
use rustls_pki_types::ServerName;
use smtp_core::channel::TlsInfo;
use smtp_core::stream::Verification;

use crate::pin::Pin;
use crate::server::Shown;
use crate::x509;

/// The facts of a connection that a client made to `server_name`, whose certificate was held against `verification`.
/// Complete once the handshake is.
#[must_use]
pub fn client_info(
    connection: &ClientConnection,
    server_name: &ServerName<'_>,
    verification: &Verification,
) -> TlsInfo {
    let sni = match server_name {
        // An address is never sent as SNI (RFC 6066 §3).
        ServerName::DnsName(name) => Some(name.as_ref().into()),
        _ => None,
    };
    let exporter = exporter(connection, |out| connection.export_keying_material(out, EXPORTER, Some(&[])));
    let verified = *verification != Verification::None;
    let facts = common(connection);
    let server_end_point = facts.peer_certificates.first().and_then(|leaf| x509::end_point(leaf));
    TlsInfo { sni, verified, exporter, server_end_point, ..facts }
}

/// The facts of a connection that a server accepted, with the certificate that it was `shown`
/// ([`ServerTls::for_connection`](crate::ServerTls::for_connection)). Complete once the handshake is.
///
/// A client's certificate counts as verified: one that does not hold never gets through the handshake.
#[must_use]
pub fn server_info(connection: &ServerConnection, shown: &Shown) -> TlsInfo {
    let exporter = exporter(connection, |out| connection.export_keying_material(out, EXPORTER, Some(&[])));
    let facts = common(connection);
    let verified = !facts.peer_certificates.is_empty();
    let facts = with_client_certificate(facts);
    TlsInfo {
        sni: connection.server_name().map(Into::into),
        verified,
        exporter,
        server_end_point: shown.end_point().map(Into::into),
        ..facts
    }
}

/// The facts of a server's connection with what the client's certificate says of the client, if it sent one.
#[must_use]
pub fn with_client_certificate(mut facts: TlsInfo) -> TlsInfo {
    if let Some(Ok(read)) = facts.peer_certificates.first().map(|leaf| x509::read(leaf)) {
        facts.peer_key = Some(*Pin::of_spki(&read.spki).as_bytes());
        facts.peer_mailboxes = read.mailboxes.into_iter().map(Into::into).collect();
    }
    facts
}

/// The label of the `tls-exporter` channel binding (RFC 9266 §4.2); its context is empty, its length 32 octets.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

/// The channel binding, for TLS 1.3 only. In TLS 1.2 it is safe if the extended master secret was negotiated
/// (RFC 9266 §4.1), and rustls does not tell whether it was.
fn exporter(state: &CommonState, export: impl FnOnce([u8; 32]) -> Result<[u8; 32], rustls::Error>) -> Option<[u8; 32]> {
    (state.protocol_version() == Some(ProtocolVersion::TLSv1_3)).then(|| export([0; 32]).ok()).flatten()
}

fn common(state: &CommonState) -> TlsInfo {
    TlsInfo {
        version: match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        },
        cipher: state.negotiated_cipher_suite().map(|suite| cipher_name(suite.suite())).unwrap_or_default(),
        group: state.negotiated_key_exchange_group().map(|group| group_name(group.name())),
        alpn: state.alpn_protocol().map(|name| smtp_core::types::printable(name).into()),
        peer_certificates: state
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        ..TlsInfo::default()
    }
}

/// The IANA's name of a cipher suite: rustls tells TLS 1.3 suites apart by another prefix.
#[must_use]
pub fn cipher_name(suite: rustls::CipherSuite) -> Box<str> {
    match suite.as_str() {
        Some(name) => match name.strip_prefix("TLS13_") {
            Some(rest) => format!("TLS_{rest}").into(),
            None => name.into(),
        },
        None => format!("{suite:?}").into(),
    }
}

/// The IANA's name of a key exchange group: rustls writes two of them in upper case.
#[must_use]
pub fn group_name(group: NamedGroup) -> Box<str> {
    match group {
        NamedGroup::X25519 => "x25519".into(),
        NamedGroup::X448 => "x448".into(),
        other => format!("{other:?}").into(),
    }
}
