//! What went wrong in a handshake, for people.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use crate::dane::NoTlsaFits;
use crate::verify::WrongPin;
use crate::x509::date;

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

impl Role {
    /// The other one.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Why a TLS handshake failed: who is at fault, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No trust anchor vouches for the peer's certificate.
    #[error("the {peer}'s certificate was issued by nobody that is trusted here; {}", way_to_trust(*peer))]
    UnknownIssuer {
        /// Whose certificate it is.
        peer: Role,
    },
    /// A signature was not made with the key that it should have been made with: the certificate's by its issuer, or
    /// the handshake's by the certificate's owner.
    #[error(
        "the {peer}'s certificate or its handshake is signed with a wrong key; if the issuer was made anew under its \
         old name, trust the new one{}",
        match peer { Role::Server => " (--tls-ca FILE)", Role::Client => "" }
    )]
    BadSignature {
        /// Whose certificate it is.
        peer: Role,
    },
    /// The peer's certificate is for other names.
    #[error(
        "the server's certificate is not for {expected}, but for {}; connect to a name that it shows, or have the \
         server's administrator add this one",
        list(presented)
    )]
    WrongName {
        /// The name that was asked for.
        expected: String,
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// The peer's certificate is too old.
    #[error(
        "the {peer}'s certificate expired on {not_after} (it is {now} by this machine's clock); its administrator has \
         to renew it"
    )]
    Expired {
        /// Whose certificate it is.
        peer: Role,
        /// When it expired.
        not_after: String,
        /// The time here.
        now: String,
    },
    /// The peer's certificate is not valid yet.
    #[error(
        "the {peer}'s certificate is valid only from {not_before} (it is {now} by this machine's clock); one of the \
         two clocks is wrong"
    )]
    NotYetValid {
        /// Whose certificate it is.
        peer: Role,
        /// From when it is valid.
        not_before: String,
        /// The time here.
        now: String,
    },
    /// The server's key is not the pinned one.
    #[error(
        "the server's key is not the pinned one: {0}; if its key was changed on purpose, pin the new one, otherwise \
         somebody may be listening in"
    )]
    WrongPin(WrongPin),
    /// The server's certificates fit none of the TLSA records of its host.
    #[error(
        "the server's certificate is not what its host publishes in the DNS (DANE): {0}; either its administrator has \
         changed the certificate and not the records, or somebody stands in between"
    )]
    NoTlsaFits(NoTlsaFits),
    /// The peer shows a CA's certificate as its own.
    #[error(
        "the {peer} shows a CA certificate as its own, which cannot be verified by its issuer; {}",
        way_around_ca(*peer)
    )]
    CaAsLeaf {
        /// Whose certificate it is.
        peer: Role,
    },
    /// The peer's certificate does not hold for another reason.
    #[error("the {peer}'s certificate does not hold: {reason}")]
    BadCertificate {
        /// Whose certificate it is.
        peer: Role,
        /// The reason.
        reason: String,
    },
    /// The peer wants a certificate from this side, and got none.
    #[error("the {peer} demands a certificate from this side; give one (--tls-cert FILE --tls-key FILE)")]
    CertificateRequired {
        /// Who demands it.
        peer: Role,
    },
    /// The peer does not accept this side's certificate.
    #[error("the {peer} does not accept this side's certificate ({alert}); {}", way_to_be_trusted(*peer))]
    CertificateRefused {
        /// Who does not accept it.
        peer: Role,
        /// Its alert, in the words of RFC 8446 §6.
        alert: String,
    },
    /// The peer ended the handshake.
    #[error("the {peer} ended the handshake with the alert {alert}")]
    Alert {
        /// Who ended it.
        peer: Role,
        /// Its alert, in the words of RFC 8446 §6.
        alert: String,
    },
    /// There is no version, suite or group that both sides have.
    #[error(
        "the two sides have no way of encrypting in common ({reason}); this side speaks TLS 1.2 and 1.3, unless set \
         to less, and the {peer} seems to be too old or too strict"
    )]
    NothingInCommon {
        /// The other side.
        peer: Role,
        /// What is missing.
        reason: String,
    },
    /// What came was not TLS.
    #[error(
        "what the {peer} sent is not TLS; is one side set to TLS from the start (smtps) and the other to STARTTLS or \
         clear text?"
    )]
    NotTls {
        /// Who sent it.
        peer: Role,
    },
    /// The peer closed the connection during the handshake.
    #[error("the {peer} closed the connection during the TLS handshake")]
    Closed {
        /// Who closed it.
        peer: Role,
    },
    /// The channel broke.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(#[source] io::Error),
    /// Anything else that rustls complains of.
    #[error("TLS: {0}")]
    Other(#[source] rustls::Error),
}

impl HandshakeError {
    /// Reads what a TLS library's stream returned to the end that was `own` in the handshake.
    #[must_use]
    pub fn from_io(error: io::Error, own: Role) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::from_rustls(error, own),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed { peer: own.peer() },
            Err(error) => match error.downcast::<Self>() {
                Ok(known) => known,
                Err(error) => Self::Io(error),
            },
        }
    }

    /// Reads an error of rustls, from the end that was `own` in the handshake.
    #[must_use]
    pub fn from_rustls(error: rustls::Error, own: Role) -> Self {
        let peer = own.peer();
        match error {
            rustls::Error::InvalidCertificate(error) => Self::from_certificate(error, peer),
            rustls::Error::AlertReceived(alert) => Self::from_alert(alert, peer),
            rustls::Error::NoCertificatesPresented => {
                Self::BadCertificate { peer, reason: "it shows none, and one is demanded here".into() }
            }
            // The first octets that are not a TLS record: clear text, most often.
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::InvalidEmptyPayload
                | InvalidMessage::MessageTooLarge,
            ) => Self::NotTls { peer },
            rustls::Error::PeerIncompatible(reason) => Self::NothingInCommon { peer, reason: incompatibility(&reason) },
            rustls::Error::NoApplicationProtocol => {
                Self::NothingInCommon { peer, reason: "no application protocol".into() }
            }
            other => Self::Other(other),
        }
    }

    /// True if the next try will fail just the same: the certificate does not hold, or the two sides do not fit. False
    /// if the connection broke.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        !matches!(self, Self::Closed { .. } | Self::Io(_))
    }

    fn from_certificate(error: CertificateError, peer: Role) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer { peer },
            CertificateError::BadSignature => Self::BadSignature { peer },
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { peer, not_after: date(not_after.as_secs()), now: date(time.as_secs()) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { peer, not_before: date(not_before.as_secs()), now: date(time.as_secs()) }
            }
            CertificateError::NotValidForNameContext { expected, presented } => Self::WrongName {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| bare_name(name)).collect(),
            },
            CertificateError::Other(other) => match (other.0.downcast_ref(), other.0.downcast_ref()) {
                (Some(wrong), _) => Self::WrongPin(*wrong),
                (None, Some(none)) => Self::NoTlsaFits(*none),
                // webpki's own error type is not part of rustls' interface; its text is all there is to go by.
                _ if format!("{:?}", other.0) == "CaUsedAsEndEntity" => Self::CaAsLeaf { peer },
                _ => Self::BadCertificate { peer, reason: other.0.to_string() },
            },
            other => Self::BadCertificate { peer, reason: other.to_string() },
        }
    }

    fn from_alert(alert: AlertDescription, peer: Role) -> Self {
        let text = alert_name(alert);
        match alert {
            AlertDescription::CertificateRequired => Self::CertificateRequired { peer },
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            | AlertDescription::UnknownCA => Self::CertificateRefused { peer, alert: text },
            AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoApplicationProtocol => Self::NothingInCommon { peer, reason: text },
            _ => Self::Alert { peer, alert: text },
        }
    }
}

impl From<HandshakeError> for io::Error {
    /// Permanent errors become [`io::ErrorKind::InvalidData`]; the others keep the kind they came with, so that code
    /// which knows nothing of TLS can tell the two apart.
    fn from(error: HandshakeError) -> Self {
        let kind = match &error {
            HandshakeError::Closed { .. } => io::ErrorKind::UnexpectedEof,
            HandshakeError::Io(error) => error.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

const fn way_to_trust(peer: Role) -> &'static str {
    match peer {
        Role::Server => {
            "if the server is yours, trust its issuer (--tls-ca FILE) or just its key (--pin SHA256), otherwise its \
             administrator has to get a certificate from a public CA"
        }
        Role::Client => "it must come from the CA that this server asks for",
    }
}

const fn way_around_ca(peer: Role) -> &'static str {
    match peer {
        Role::Server => "trust its key (--pin SHA256), or let that CA issue a certificate for the server",
        Role::Client => "let that CA issue a certificate for the client",
    }
}

const fn way_to_be_trusted(peer: Role) -> &'static str {
    match peer {
        Role::Client => "it needs to trust the issuer, or to pin the key",
        Role::Server => "it has to come from a CA that the server trusts (--tls-cert FILE --tls-key FILE)",
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name at all".into() } else { names.join(", ") }
}

/// `DnsName("mx.example")` or `IpAddress(192.0.2.1)`, as webpki writes it, without what surrounds the name.
fn bare_name(text: &str) -> String {
    let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(text);
    smtp_core::types::printable(inner.trim_matches('"').as_bytes())
}

/// `UnknownCA` as `unknown_ca`, which is how RFC 8446 and other programs' logs spell it.
fn alert_name(alert: AlertDescription) -> String {
    let name = format!("{alert:?}").replace("CA", "Ca").replace("PSK", "Psk");
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn incompatibility(reason: &PeerIncompatible) -> String {
    match reason {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => "no version of TLS in common".into(),
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite in common".into(),
        PeerIncompatible::NoKxGroupsInCommon => "no key exchange group in common".into(),
        PeerIncompatible::NoSignatureSchemesInCommon => "no signature scheme in common".into(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_spelt_as_in_the_rfc() {
        for (alert, name) in [
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::BadRecordMac, "bad_record_mac"),
            (AlertDescription::UnknownPSKIdentity, "unknown_psk_identity"),
            (AlertDescription::HandshakeFailure, "handshake_failure"),
        ] {
            assert_eq!(alert_name(alert), name);
        }
    }

    #[test]
    fn kinds_tell_what_may_pass() {
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        let broken = HandshakeError::from_io(broken, Role::Client);
        assert!(!broken.is_permanent());
        assert_eq!(io::Error::from(broken).kind(), io::ErrorKind::ConnectionReset);

        let refused = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let refused = io::Error::new(io::ErrorKind::InvalidData, refused);
        let refused = HandshakeError::from_io(refused, Role::Client);
        assert!(refused.is_permanent());
        let refused = io::Error::from(refused);
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        // Reading it twice changes nothing.
        let again = HandshakeError::from_io(refused, Role::Client);
        assert!(matches!(again, HandshakeError::UnknownIssuer { peer: Role::Server }));
    }
}
