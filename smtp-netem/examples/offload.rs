//! What UDP segmentation offload saves: CPU time of both sides for mails over QUIC on loopback, with it and without.
//!
//! ```console
//! $ cargo run --release -p smtp-netem --example offload -- --mails 1000 --octets 20000
//! ```

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use smtp_core::stream::{Connection, Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Server, Settings, Sink};
use smtp_tls::{ClientTls, SelfSigned, ServerTls};
use smtp_transport_quic::{ConnectOptions, QuicConnector, QuicListener, QuicOptions, TransportOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Arguments {
    /// How many mails.
    #[arg(long, default_value_t = 1000)]
    mails: usize,
    /// How large each is.
    #[arg(long, default_value_t = 20_000)]
    octets: usize,
    /// How often each way is measured, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    // Nobody else has installed one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let own = SelfSigned::load_or_create(folder.path(), &["localhost"]).map_err(io::Error::other)?;
    let Arguments { mails, octets, rounds } = arguments;
    println!("{mails} mails of {octets} octets, one connection, 32 streams at a time; CPU and wall time of both sides");
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (offload, times) in [true, false].into_iter().zip(&mut all) {
            // Threads of one run do not count for the next.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            times.push(runtime.block_on(run(&own, offload, mails, octets))?);
        }
    }
    for (name, mut times) in ["with offload", "without"].into_iter().zip(all) {
        times.sort_unstable();
        let cpu: Vec<String> = times.iter().map(|(cpu, _)| format!("{:.3}", cpu.as_secs_f64())).collect();
        let (median, wall) = times[times.len() / 2];
        println!("{name}: median {median:.3?} of CPU in {wall:.3?}; all, sorted, in seconds of CPU: {}", cpu.join(" "));
    }
    Ok(())
}

async fn run(own: &SelfSigned, offload: bool, mails: usize, octets: usize) -> io::Result<(Duration, Duration)> {
    let transport = TransportOptions { segmentation_offload: offload, ..TransportOptions::default() };
    let tls = ServerTls::builder().identity(own.identity()).build().map_err(io::Error::other)?;
    let options = QuicOptions { transport: transport.clone(), ..QuicOptions::default() };
    let listener = QuicListener::bind(([127, 0, 0, 1], 0).into(), &tls, options)?;
    let port = listener.local_addr().port();
    let domain = "there.example".parse().map_err(io::Error::other)?;
    let mailboxes = Mailboxes::new(&domain).map_err(io::Error::other)?;
    let config = Config::new(domain).promising(Sink::PROMISES);
    let server =
        Server::new(Settings::new(driver::Settings::new(config)), move |_session| (mailboxes.clone(), Sink::new()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.listen(listener).run(stop.clone()));

    let tls = ClientTls::builder().build().map_err(io::Error::other)?;
    let connector = QuicConnector::new(&tls, ConnectOptions { transport, ..ConnectOptions::default() })?;
    let target = Target::host("[127.0.0.1]".parse().map_err(io::Error::other)?, port);
    let policy = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::from(own.pin()) };
    let mut connection = connector.connect(&target, &policy).await.map_err(io::Error::other)?;
    let (cpu, wall) = (cpu_time()?, Instant::now());
    send(&mut *connection, mails, octets).await?;
    let took = (cpu_time()?.saturating_sub(cpu), wall.elapsed());
    drop(connection);
    stop.cancel();
    serving.await.map_err(io::Error::other)?;
    Ok(took)
}

async fn send(connection: &mut dyn Connection, mails: usize, octets: usize) -> io::Result<()> {
    let mut flight =
        Vec::from(&b"EHLO here.example\r\nMAIL FROM:<a@here.example>\r\nRCPT TO:<b@there.example>\r\n"[..]);
    flight.extend_from_slice(format!("BDAT {octets} LAST\r\n").as_bytes());
    let line = b"A line is short, or the message is refused.\r\n";
    flight.extend(line.iter().cycle().take(octets));
    flight.extend_from_slice(b"QUIT\r\n");
    let (flight, places): (Arc<[u8]>, _) = (flight.into(), Arc::new(Semaphore::new(connection.max_parallel())));
    let mut sessions = JoinSet::new();
    for _ in 0..mails {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let (mut stream, flight) = (connection.open().await?, Arc::clone(&flight));
        sessions.spawn(async move {
            stream.write_all(&flight).await?;
            stream.shutdown().await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            drop((stream, place));
            // The greeting, EHLO's, MAIL's, RCPT's, the content's, QUIT's.
            let answers = said.lines().filter(|line| line.starts_with("250 ")).count();
            if answers == 4 { Ok(()) } else { Err(io::Error::other(said)) }
        });
    }
    while let Some(done) = sessions.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}

/// What this process has had of all processors: user and system time (proc(5)), in hundredths of a second as on every Linux.
fn cpu_time() -> io::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The program's name is in brackets, and may hold spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
