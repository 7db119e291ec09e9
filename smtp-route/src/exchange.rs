//! A delivery to whoever takes a domain's mail.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use smtp_client::Client;
use smtp_core::service::{BoxError, Outcome, Transaction};
use smtp_core::stream::{Address, ConnectError, Connection, Connector, Target, TlsPolicy};
use smtp_core::types::{AddressLiteral, Domain, Host, Refusal};
use smtp_dns::Dns;
use tower::ServiceExt;
use tower_service::Service;

use crate::Own;
use crate::lend::Lend;
use crate::lookup::{Settings, exchangers};
use crate::named::about;
use crate::order::Exchanger;

/// The way to any domain's mail exchangers, with the sessions that are kept for reuse. Clones share everything.
#[derive(Clone)]
pub struct Exchanges(Arc<Shared>);

struct Shared {
    dns: Arc<dyn Dns>,
    connector: Arc<dyn Connector>,
    own: Own,
    client: smtp_client::Settings,
    settings: Settings,
    clients: Mutex<Clients>,
}

/// By address, and the name that a certificate has to show: one machine may be the host of many names.
type Server = (IpAddr, Option<Box<str>>);

#[derive(Default)]
struct Clients {
    all: HashMap<Server, (Client, u64)>,
    uses: u64,
}

impl Exchanges {
    /// Looks domains up in `dns` and connects with `connector`, as the host that `own` says; `client` is how.
    pub fn new(
        dns: Arc<dyn Dns>,
        connector: impl Connector,
        own: Own,
        client: smtp_client::Settings,
        settings: Settings,
    ) -> Self {
        let connector = Arc::new(connector);
        Self(Arc::new(Shared { dns, connector, own, client, settings, clients: Mutex::default() }))
    }

    /// A delivery to `host`'s mail exchangers.
    #[must_use]
    pub fn to(&self, host: Host) -> Exchange {
        Exchange { shared: Arc::clone(&self.0), host }
    }
}

impl fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanges")
            .field("own", &self.0.own)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

/// A delivery to one domain's mail exchangers. It looks them up for each message and offers it to one after the other,
/// as [`exchangers`] orders them, until one begins to take it: the first that gives a session.
///
/// It fails with the refusal of the lookup, or with that of the last server that was tried. Nothing of the content has
/// been read then. Once a server takes the content its answer is the answer, since a second one might deliver again.
#[derive(Clone)]
pub struct Exchange {
    shared: Arc<Shared>,
    host: Host,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Service<Transaction> for Exchange {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let Self { shared, host } = self.clone();
        Box::pin(async move { shared.deliver(&host, transaction).await })
    }
}

impl Shared {
    async fn deliver(&self, host: &Host, transaction: Transaction) -> Result<Outcome, BoxError> {
        let Transaction { session, envelope, body } = transaction;
        let found = exchangers(&*self.dns, host, &self.own, &self.settings).await?;
        let lend = Lend::new(body);
        let mut last = None;
        for (name, ip) in attempts(&found).take(self.settings.attempts.max(1)) {
            let (session, envelope) = (Arc::clone(&session), envelope.clone());
            let offered = Transaction { session, envelope, body: lend.body() };
            let shown = name.map_or_else(|| host.to_string(), ToString::to_string);
            match self.client(name, ip).oneshot(offered).await {
                Ok(outcome) => {
                    tracing::debug!(%host, server = shown, %ip, "answered");
                    return Ok(outcome);
                }
                Err(error) if lend.is_read() => return Err(about(&shown, error)),
                Err(error) => {
                    tracing::debug!(%host, server = shown, %ip, %error, "not reached; the next one, if there is one");
                    last = Some(about(&shown, error));
                }
            }
        }
        // Never without a reason: there is always one to try.
        Err(last.unwrap_or_else(|| Refusal::fixed(451, (4, 4, 4), "no server to try").into()))
    }

    fn client(&self, name: Option<&Domain>, ip: IpAddr) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.uses += 1;
        let uses = clients.uses;
        let server = (ip, name.map(|name| name.as_str().to_ascii_lowercase().into()));
        if let Some((client, used)) = clients.all.get_mut(&server) {
            *used = uses;
            return client.clone();
        }
        if clients.all.len() >= self.settings.clients.max(1) {
            let oldest = clients.all.iter().min_by_key(|(_, (_, used))| *used).map(|(server, _)| server.clone());
            // Whoever works with it has a clone.
            oldest.map(|server| clients.all.remove(&server));
        }
        let address = Address::Host { host: Host::Literal(AddressLiteral::from(ip)), port: self.settings.port };
        let target = Target { address, server_name: name.cloned() };
        let client = Client::new(Share(Arc::clone(&self.connector)), target, self.client.clone());
        clients.all.insert(server, (client.clone(), uses));
        client
    }
}

/// Every address, a host's together.
fn attempts(found: &[Exchanger]) -> impl Iterator<Item = (Option<&Domain>, IpAddr)> {
    found.iter().flat_map(|exchanger| exchanger.addresses.iter().map(|ip| (exchanger.name.as_ref(), *ip)))
}

struct Share(Arc<dyn Connector>);

#[async_trait]
impl Connector for Share {
    async fn connect(&self, target: &Target, policy: &TlsPolicy) -> Result<Box<dyn Connection>, ConnectError> {
        self.0.connect(target, policy).await
    }
}
