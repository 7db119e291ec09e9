//! Connections that carry early data from their first octet on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use smtp_core::stream::{ConnectError, ConnectStep, Connection, Connector, Target, TlsPolicy};
use smtp_test::scenario::Scenario;
use smtp_tls::ClientTls;
use smtp_transport_quic::{ConnectOptions, EarlyData, Event, Observer, QuicConnector};

/// What must not be sent before the handshake is complete.
const FORBIDDEN: [&str; 6] = ["AUTH", "VRFY", "EXPN", "ETRN", "BURL", "REQUIRETLS"];

/// What of it the client says in this scenario, if anything.
pub(super) fn forbidden(scenario: &Scenario) -> Option<&'static str> {
    let octets = scenario.client_octets().to_ascii_uppercase();
    let said = |word: &&str| octets.windows(word.len()).any(|part| part == word.as_bytes());
    FORBIDDEN.into_iter().find(said)
}

/// Gets a ticket over one connection, on which nothing is said, and gives another that uses it.
pub(super) struct WarmConnector(ClientTls);

impl WarmConnector {
    pub(super) const fn new(tls: ClientTls) -> Self {
        Self(tls)
    }
}

#[async_trait]
impl Connector for WarmConnector {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        const ATTEMPTS: u32 = 10;
        let fail = |error| ConnectError::permanent(&target.address, ConnectStep::Tls, error);
        let early = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&early);
        let observer = Observer::new(move |event: &Event| {
            if matches!(event, Event::Connected { early: true, .. }) {
                seen.store(true, Ordering::Relaxed);
            }
        });
        let options =
            ConnectOptions { early_data: EarlyData::Gated, observer: Some(observer), ..ConnectOptions::default() };
        // Its tickets are its own.
        let connector = QuicConnector::new(&self.0, options).map_err(fail)?;
        for attempt in 0..ATTEMPTS {
            let connection = connector.connect(target, policy).await?;
            if early.load(Ordering::Relaxed) {
                return Ok(connection);
            }
            // A ticket comes behind the handshake, and nothing says when.
            tokio::time::sleep(Duration::from_millis(10) * 2_u32.pow(attempt)).await;
        }
        Err(fail(std::io::Error::other("the server gives no ticket for early data")))
    }
}
