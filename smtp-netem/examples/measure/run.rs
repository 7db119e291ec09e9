//! The rounds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Parser;
use smtp_netem::{Direction, Loss, Network, Settings, Shape, Side};
use smtp_tls::SelfSigned;

use crate::client::Client;
use crate::report::Report;
use crate::server;
use crate::ways::{WAYS, Way};

/// Sends mails over an emulated link, by every way in turn, and prints how long they took.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    /// How often each way is taken at each loss.
    #[arg(long, default_value_t = 30)]
    pub(crate) rounds: u32,
    /// The round trip time, in milliseconds.
    #[arg(long, default_value_t = 50)]
    pub(crate) rtt: u64,
    /// Losses to measure at, each way, in percent.
    #[arg(long, value_delimiter = ',', default_value = "0,2")]
    pub(crate) loss: Vec<f64>,
    /// The rate of the link each way, in Mbit/s.
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u64,
    /// Octets that wait for their turn before packets are dropped.
    #[arg(long, default_value_t = 625_000)]
    pub(crate) queue: usize,
    /// Octets of a mail.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) size: usize,
    /// TCP's congestion control, set on the sockets of both sides.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Chance.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Only ways whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Writes one line of JSON for each run.
    #[arg(long)]
    pub(crate) samples: Option<PathBuf>,
    /// Writes what happened to each packet.
    #[arg(long)]
    pub(crate) trace: Option<PathBuf>,
}

pub(crate) fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    // There is no other in this program.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Err(why) = smtp_netem::unavailable() {
        return Err(io::Error::other(format!("{why}; nothing was measured")));
    }
    let trace = if arguments.trace.is_some() { 20_000 } else { 0 };
    let network =
        Network::new(Settings { seed: arguments.seed, trace, ..Settings::both(arguments.shape(0.0)) }).map(Arc::new)?;
    for side in [Side::A, Side::B] {
        // Or a connection would begin with what an earlier one has learned.
        let forget = "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save";
        network.side(side).command("sh").args(["-c", forget]).output()?;
    }
    let keys = tempfile::tempdir()?;
    let own = SelfSigned::load_or_create(keys.path(), &["localhost"]).map_err(io::Error::other)?;

    let (up, is_up) = mpsc::channel();
    let (identity, congestion) = (own.identity(), arguments.congestion.clone());
    let serving = network.side(Side::B).spawn(move || server::serve(identity, &congestion, &up));
    let ports = is_up.recv().map_err(|_| io::Error::other("the server did not come up"))??;

    let (inside, pin, options) = (Arc::clone(&network), own.pin(), arguments.clone());
    let measuring = network.side(Side::A).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(ports, pin, &options.congestion)?;
        runtime.block_on(measure(&options, &inside, &client))
    });
    let report = measuring.join().map_err(|_| io::Error::other("the measurement panicked"))???;
    print!("{report}");
    // It serves until the program ends.
    drop(serving);
    Ok(())
}

impl Arguments {
    fn shape(&self, percent: f64) -> Shape {
        Shape {
            delay: Duration::from_micros(self.rtt * 500),
            loss: Loss::Random(percent / 100.0),
            rate: Some(self.rate * 1_000_000),
            queue: self.queue,
            ..Shape::default()
        }
    }

    pub(crate) fn ways(&self) -> Vec<&'static Way> {
        let wanted = |way: &&Way| self.only.is_empty() || self.only.iter().any(|part| way.name.contains(part.as_str()));
        WAYS.iter().filter(wanted).collect()
    }
}

/// Both ways at once.
fn set_shape(network: &Network, shape: Shape) {
    network.set_shape(Direction::AToB, shape);
    network.set_shape(Direction::BToA, shape);
}

async fn measure(arguments: &Arguments, network: &Network, client: &Client) -> io::Result<Report> {
    let ways = arguments.ways();
    let mut samples = arguments.samples.as_ref().map(File::create).transpose()?.map(BufWriter::new);
    let mut trace = arguments.trace.as_ref().map(File::create).transpose()?.map(BufWriter::new);
    let mut report = Report::new(arguments, client.congestion_in_use(network).await?);
    let gap = Duration::from_millis(arguments.rtt * 2 + 50);
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        for &loss in &arguments.loss {
            for n in 0..ways.len() {
                let way = ways[(n + round as usize) % ways.len()];
                set_shape(network, arguments.shape(0.0));
                client.prepare(way, gap).await?;
                drop(network.take_trace());
                set_shape(network, arguments.shape(loss));
                // In one round all ways meet the same luck, packet by packet.
                network.reseed(arguments.seed.wrapping_mul(1_000_000) + u64::from(round));
                let before = [Direction::AToB, Direction::BToA].map(|direction| network.counters(direction));
                let outcome = client.run(way, arguments.size).await;
                // What still is under way belongs to this run.
                tokio::time::sleep(gap).await;
                let after = [Direction::AToB, Direction::BToA].map(|direction| network.counters(direction));
                let packets: u64 = (0..2).map(|i| after[i].packets - before[i].packets).sum();
                let octets: u64 = (0..2).map(|i| after[i].octets - before[i].octets).sum();
                if let Some(file) = &mut trace {
                    writeln!(file, "# {}, loss {loss} %, round {round}: {outcome:?}", way.name)?;
                    for event in network.take_trace() {
                        writeln!(file, "{event}")?;
                    }
                }
                if let Some(file) = &mut samples {
                    let times = outcome.as_ref().map(|times| times.iter().map(Duration::as_micros).collect::<Vec<_>>());
                    let line = serde_json::json!({
                        "way": way.name, "loss_percent": loss, "round": round, "packets": packets, "octets": octets,
                        "accepted_after_us": times.as_ref().ok(),
                        "error": outcome.as_ref().err().map(ToString::to_string),
                    });
                    writeln!(file, "{line}")?;
                }
                report.cell(way, loss).add(outcome, packets, octets);
            }
        }
    }
    Ok(report)
}
