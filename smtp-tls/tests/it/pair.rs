//! Two ends of a TLS connection, and the wire between them.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use smtp_core::stream::Verification;
use smtp_tls::{ClientTls, ClientTlsBuilder, HandshakeError, Role, ServerTls, ServerTlsBuilder, Shown};

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn server() -> ServerTlsBuilder {
    ServerTls::builder().provider(provider())
}

pub(crate) fn client() -> ClientTlsBuilder {
    ClientTls::builder().provider(provider())
}

/// The two ends after a handshake.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) shown: Option<Shown>,
}

/// Connects `client` to `server` as `name`; the error is that of the end that noticed first.
pub(crate) fn connect(
    server: &ServerTls,
    client: &ClientTls,
    verification: &Verification,
    name: &str,
) -> Result<Pair, HandshakeError> {
    let (config, shown) = server.for_connection();
    let pair = handshake(config, client.config(verification).unwrap(), name)?;
    Ok(Pair { shown: Some(shown), ..pair })
}

pub(crate) fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> Result<Pair, HandshakeError> {
    let name = smtp_tls::server_name(&name.parse().unwrap()).unwrap();
    let mut pair = Pair {
        client: ClientConnection::new(client, name).unwrap(),
        server: ServerConnection::new(server).unwrap(),
        shown: None,
    };
    pair.run()?;
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
    Ok(pair)
}

impl Pair {
    /// What the server knows of it.
    pub(crate) fn server_info(&self) -> smtp_core::channel::TlsInfo {
        smtp_tls::server_info(&self.server, self.shown.as_ref().unwrap())
    }

    /// Carries what either end has to say until both are silent.
    pub(crate) fn run(&mut self) -> Result<(), HandshakeError> {
        while self.client.wants_write() || self.server.wants_write() {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            let mut input = &wire[..];
            while !input.is_empty() {
                self.server.read_tls(&mut input).unwrap();
                let done = self.server.process_new_packets();
                done.map_err(|error| HandshakeError::from_rustls(error, Role::Server))?;
            }
            let mut wire = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut wire).unwrap();
            }
            let mut input = &wire[..];
            while !input.is_empty() {
                self.client.read_tls(&mut input).unwrap();
                let done = self.client.process_new_packets();
                done.map_err(|error| HandshakeError::from_rustls(error, Role::Client))?;
            }
        }
        Ok(())
    }
}
