//! The emulated link: the kernel's sockets in two network namespaces, and a wire of ours between them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use smtp_core::stream::{ByteStream, Connector, Listener, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::types::Host;
use smtp_netem::{Counters, Direction, Network, Settings, Shape, Side};
use smtp_tls::Pin;
use smtp_transport_quic::{QuicConnector, QuicListener};
use smtp_transport_tcp::{ConnectOptions, ListenOptions, TcpConnector, TcpListener, Tls};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::cell::Cell;
use crate::choice::{Congestion, KeyExchange, Priority, Transport, Tuning};
use crate::experiment::Place;
use crate::race::racing;
use crate::record::{Sample, difference};
use crate::script::Client;
use crate::tls::{Certificate, SERVER_NAME};
use crate::{cpu, serve, tls};

/// No run may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a listener is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    transport: Transport,
    congestion: Congestion,
    tuning: Tuning,
    key_exchange: KeyExchange,
    priority: Priority,
    migration: bool,
}

impl Stand {
    const fn of(cell: &Cell) -> Self {
        let Cell { transport, congestion, tuning, key_exchange, priority, .. } = *cell;
        let migration = cell.path.rebind > 0.0;
        Self { transport, congestion, tuning, key_exchange, priority, migration }
    }
}

/// The link, with our server at one end of it, and this thread's runtime at the other.
pub(crate) struct Bench {
    network: Arc<Network>,
    stands: Vec<(Stand, u16)>,
    pin: Pin,
    server: rustix::thread::Pid,
    congestion: Vec<String>,
}

/// What the server's thread says once it is up: where its listeners are, and which thread it is.
type Up = (Vec<u16>, rustix::thread::Pid);

impl Bench {
    /// Makes the link, and a listener for each kind of cell.
    pub(crate) fn new(places: &[Place], seed: u64) -> io::Result<Self> {
        let network = Arc::new(Network::new(Settings { seed, ..Settings::both(Shape::default()) })?);
        for side in [Side::A, Side::B] {
            // Or a connection would begin with what an earlier one has learned.
            let forget = "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save";
            network.side(side).command("sh").args(["-c", forget]).output()?;
        }
        let mut cells: Vec<Cell> = Vec::new();
        for place in places {
            let (usual, other) = place.cell.ways();
            for way in std::iter::once(usual).chain(other) {
                if !cells.iter().any(|cell| Stand::of(cell) == Stand::of(&way)) {
                    cells.push(way);
                }
            }
        }
        let certificate = Certificate::new()?;
        let pin = certificate.pin();
        let (up, is_up) = mpsc::channel();
        let wanted = cells.clone();
        // It serves until the program ends.
        drop(network.side(Side::B).spawn(move || stand(&wanted, &certificate, &up)));
        let (ports, server) = is_up.recv().map_err(|_| io::Error::other("the server did not come up"))??;
        let stands: Vec<_> = cells.iter().map(Stand::of).zip(ports).collect();
        let mut bench = Self { network, stands, pin, server, congestion: Vec::new() };
        for cell in cells.iter().filter(|cell| cell.transport.is_tcp()) {
            bench.verify_congestion(*cell)?;
        }
        Ok(bench)
    }

    /// What the kernel says that each side's sockets use, for every algorithm that was asked for.
    pub(crate) fn congestion(&self) -> &[String] {
        &self.congestion
    }

    /// One run, in a thread inside of the client's namespace.
    pub(crate) fn run(&self, cell: &Cell, seed: u64) -> io::Result<Sample> {
        self.inside(|runtime, client, network, server| runtime.block_on(measure(client, network, server, seed)), cell)
    }

    fn inside<T: Send>(
        &self,
        work: impl FnOnce(&Runtime, &Client<'_>, &Network, rustix::thread::Pid) -> io::Result<T> + Send,
        cell: &Cell,
    ) -> io::Result<T> {
        let (usual, other) = cell.ways();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.network.side(Side::A).enter()?;
                let runtime = Builder::new_current_thread().enable_all().build()?;
                // Sockets are made in the namespace, and the runtime has to be there for them.
                let _inside = runtime.enter();
                let mut connector = connector(&usual)?;
                let target = self.target(&usual)?;
                if let Some(other) = other {
                    connector = racing(self::connector(&other)?, connector, self.target(&other)?);
                }
                let verification = Verification::from(self.pin);
                let client = Client { connector: &*connector, target, verification, cell: *cell };
                work(&runtime, &client, &self.network, self.server)
            });
            thread.join().map_err(|_| io::Error::other("the run panicked"))?
        })
    }

    /// Where the server listens for one way.
    fn target(&self, way: &Cell) -> io::Result<Target> {
        let stand = self.stands.iter().find(|(stand, _)| *stand == Stand::of(way));
        let port = stand.map(|(_, port)| *port).ok_or_else(|| io::Error::other("no listener for this cell"))?;
        let host = Host::Literal(std::net::IpAddr::from(Side::B.address()).into());
        let server_name = Some(SERVER_NAME.parse().map_err(io::Error::other)?);
        Ok(Target { server_name, ..Target::host(host, port) })
    }

    /// Asks ss(8) about both ends of a connection.
    fn verify_congestion(&mut self, cell: Cell) -> io::Result<()> {
        let wanted = cell.congestion.name();
        if self.congestion.iter().any(|known| known.starts_with(wanted)) {
            return Ok(());
        }
        let used = self.inside(
            |runtime, client, network, _| {
                runtime.block_on(async {
                    let policy = TlsPolicy { mode: TlsMode::None, verification: Verification::None };
                    let mut connection =
                        client.connector.connect(&client.target, &policy).await.map_err(io::Error::other)?;
                    let mut stream: Box<dyn ByteStream> = connection.open().await?;
                    if cell.transport != Transport::Tls {
                        stream.read_u8().await?;
                    }
                    [Side::A, Side::B].into_iter().map(|side| in_use(network, side)).collect::<io::Result<Vec<_>>>()
                })
            },
            &cell,
        )?;
        if used.iter().any(|used| used != wanted) {
            return Err(io::Error::other(format!("TCP's sockets use {used:?} and not {wanted}")));
        }
        self.congestion.push(format!("{wanted}: {} at the client, {} at the server", used[0], used[1]));
        Ok(())
    }
}

fn in_use(network: &Network, side: Side) -> io::Result<String> {
    let output = network.side(side).command("ss").args(["-tinH", "state", "established"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let known = Congestion::ALL.iter().map(|congestion| congestion.name());
    let found = known.into_iter().find(|name| said.split_whitespace().any(|word| word == *name));
    Ok(found.unwrap_or("unknown").to_owned())
}

fn connector(cell: &Cell) -> io::Result<Box<dyn Connector>> {
    let tls = tls::client(cell.key_exchange, cell.resumption)?;
    if cell.transport == Transport::Quic {
        return Ok(Box::new(QuicConnector::new(&tls, serve::quic_connect(cell))?));
    }
    let congestion = Some(cell.congestion.name().to_owned());
    Ok(Box::new(TcpConnector::new(tls).with_options(ConnectOptions { congestion, ..ConnectOptions::default() })))
}

/// Serves for ever, with a listener for each cell; tells `up` where.
fn stand(cells: &[Cell], certificate: &Certificate, up: &mpsc::Sender<io::Result<Up>>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listeners = cells.iter().map(|cell| listen(cell, certificate)).collect::<io::Result<Vec<_>>>();
        let (listeners, ports): (Vec<_>, Vec<_>) = match listeners {
            Ok(listeners) => listeners.into_iter().unzip(),
            Err(error) => {
                let _ = up.send(Err(error));
                return Ok(());
            }
        };
        let serving = serve::serve(listeners)?;
        let _ = up.send(Ok((ports, rustix::thread::gettid())));
        serving.await;
        Ok(())
    })
}

fn listen(cell: &Cell, certificate: &Certificate) -> io::Result<(Box<dyn Listener>, u16)> {
    let any = SocketAddr::from((Side::B.address(), 0));
    let tls = certificate.server(cell.key_exchange)?;
    let tls = match cell.transport {
        Transport::Quic => {
            let listener = QuicListener::bind(any, &tls, serve::quic_listen(cell))?;
            let port = listener.local_addr().port();
            return Ok((Box::new(listener), port));
        }
        Transport::Tcp => Tls::None,
        Transport::Race => return Err(io::Error::other("a listener for two ways at once")),
        Transport::StartTls => Tls::StartTls(tls),
        Transport::Tls => Tls::Implicit(tls),
    };
    let congestion = Some(cell.congestion.name().to_owned());
    let listener = TcpListener::bind(any, ListenOptions { tls, congestion, ..ListenOptions::default() })?;
    let port = listener.local_addr().port();
    Ok((Box::new(listener), port))
}

async fn measure(client: &Client<'_>, network: &Network, server: rustix::thread::Pid, seed: u64) -> io::Result<Sample> {
    let path = client.cell.path;
    let gap = path.gap();
    set_shape(network, path.calm().shape());
    client.prepare(gap).await?;
    set_shape(network, path.shape());
    // In one round all cells meet the same luck, packet by packet.
    network.reseed(seed);
    let counters = || [Direction::AToB, Direction::BToA].map(|direction| network.counters(direction));
    let before = counters();
    let spent = (cpu::of_this_thread(), cpu::of_thread(server));
    let forget = async {
        sleep(Duration::from_secs_f64(path.rebind / 1000.0)).await;
        if path.rebind > 0.0 {
            network.rebind_nat(1);
        }
        std::future::pending().await
    };
    let outcome = timeout(PATIENCE, async {
        tokio::select! {
            outcome = client.send() => outcome,
            never = forget => never,
        }
    });
    let outcome = outcome.await;
    let outcome = outcome.unwrap_or_else(|_| Err(io::Error::other(format!("not done after {PATIENCE:?}"))));
    // What still is under way belongs to this run.
    sleep(gap).await;
    let after = counters();
    // For the next run every port is its own again.
    network.rebind_nat(0);
    let client_spent = cpu::of_this_thread().saturating_sub(spent.0);
    let server_spent = cpu::of_thread(server).zip(spent.1).map(|(after, before)| after.saturating_sub(before));
    let counted: [Counters; 2] = [0, 1].map(|way| difference(after[way], before[way]));
    Ok(Sample::new(outcome, counted).spending(Some(client_spent), server_spent))
}

/// Both ways at once.
fn set_shape(network: &Network, shape: Shape) {
    network.set_shape(Direction::AToB, shape);
    network.set_shape(Direction::BToA, shape);
}
