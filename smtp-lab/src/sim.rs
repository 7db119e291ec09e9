//! The simulation: one thread, time that passes only when nobody has anything to do, and a link that is all arithmetic.
//!
//! QUIC is the real one, on a network in memory. TCP is a model without loss: see [`tcp`].

mod links;
mod stream;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smtp_core::stream::{Connector, Listener, Target, Verification};
use smtp_core::types::Host;
use smtp_netem::Side;
use smtp_transport_quic::sim::{Fate, Network, Path as Direct};
use smtp_transport_quic::{QuicConnector, QuicListener};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use self::links::Links;
use crate::cell::Cell;
use crate::choice::Transport;
use crate::race::racing;
use crate::record::Sample;
use crate::script::Client;
use crate::tls::{Certificate, SERVER_NAME};
use crate::{cpu, serve, tls};

/// No run may take longer, in virtual time.
const PATIENCE: Duration = Duration::from_secs(300);
const PORT: u16 = 443;
const CLIENT_PORT: u16 = 50_000;

/// Where simulated runs come from.
pub(crate) struct Simulation {
    certificate: Certificate,
}

impl Simulation {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { certificate: Certificate::new()? })
    }

    /// One run: everything in it is new, so that nothing but the cell and the seed decides what happens.
    pub(crate) fn run(&self, cell: &Cell, seed: u64) -> io::Result<Sample> {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build()?;
        runtime.block_on(self.world(cell, seed))
    }

    async fn world(&self, cell: &Cell, seed: u64) -> io::Result<Sample> {
        let links = Links::new(cell.path.calm().shape(), seed);
        let server = SocketAddr::from((Side::B.address(), PORT));
        let mut target = Target::host(Host::Literal(server.ip().into()), server.port());
        target.server_name = Some(SERVER_NAME.parse().map_err(io::Error::other)?);
        let (usual, other) = cell.ways();
        let (listener, mut connector) = self.ends(&usual, seed, &links)?;
        let mut listeners = vec![listener];
        if let Some(other) = other {
            let (listener, faster) = self.ends(&other, seed, &links)?;
            listeners.push(listener);
            // TCP and UDP have the same port.
            connector = racing(faster, connector, target.clone());
        }
        let serving = tokio::spawn(serve::serve(listeners)?);
        let verification = Verification::from(self.certificate.pin());
        let client = Client { connector: &*connector, target, verification, cell: *cell };
        let gap = cell.path.gap();
        client.prepare(gap).await?;

        links.begin(cell.path.shape(), seed);
        let spent = cpu::of_this_thread();
        let outcome = timeout(PATIENCE, client.send()).await;
        // What still is under way belongs to this run.
        sleep(gap).await;
        let spent = cpu::of_this_thread().saturating_sub(spent);
        serving.abort();
        let outcome = outcome.unwrap_or_else(|_| Err(io::Error::other(format!("not done after {PATIENCE:?}"))));
        let (counters, digest) = links.end();
        Ok(Sample::new(outcome, counters).digested(digest).spending(None, Some(spent)))
    }

    /// Both ends of one way.
    fn ends(&self, cell: &Cell, seed: u64, links: &Links) -> io::Result<(Box<dyn Listener>, Box<dyn Connector>)> {
        let server_tls = self.certificate.server(cell.key_exchange)?;
        let client_tls = tls::client(cell.key_exchange, cell.resumption)?;
        if cell.transport != Transport::Quic {
            let (listener, connector) = tcp::network(links, cell, server_tls, client_tls);
            return Ok((Box::new(listener), Box::new(connector)));
        }
        let network = Network::new(seed, Direct::default());
        let links = links.clone();
        network.tap(move |datagram| {
            let way = usize::from(datagram.from.port() == PORT);
            match links.datagram(way, datagram) {
                Some(delay) => Fate::After(delay),
                None => Fate::Lost,
            }
        });
        let endpoint = |side: Side, port| network.endpoint((side.address(), port).into());
        let listener = QuicListener::from_endpoint(endpoint(Side::B, PORT)?, &server_tls, serve::quic_listen(cell))?;
        let connector =
            QuicConnector::from_endpoint(endpoint(Side::A, CLIENT_PORT)?, &client_tls, serve::quic_connect(cell))?;
        Ok((Box::new(listener), Box::new(connector)))
    }
}
