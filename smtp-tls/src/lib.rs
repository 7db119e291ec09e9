#![doc = include_str!("../README.md")]

mod client;
mod dane;
mod error;
mod identity;
mod info;
mod pin;
mod resolver;
mod self_signed;
mod server;
mod sessions;
mod settings;
mod verify;
mod x509;

pub use client::{ClientTls, ClientTlsBuilder, InvalidServerName, server_name};
pub use dane::NoTlsaFits;
pub use error::{HandshakeError, Role};
pub use identity::{Identity, IdentityError, LoadedIdentity};
pub use info::{cipher_name, client_info, group_name, server_info, with_client_certificate};
pub use pin::{Pin, PinSyntaxError, pin_of};
pub use self_signed::{SelfSigned, SelfSignedError};
pub use server::{ClientCertificates, ServerTls, ServerTlsBuilder, Shown};
pub use settings::{SetupError, Versions};
pub use verify::WrongPin;
pub use x509::CertificateSyntaxError;
