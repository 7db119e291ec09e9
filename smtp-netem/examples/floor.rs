//! What of a server's CPU time for mails over QUIC is QUIC's: the same octets over the same transport, to a server that speaks
//! SMTP and throws the mail away, and to one that only reads streams to their end.
//!
//! ```console
//! $ cargo run --release -p smtp-netem --example floor -- --mails 200 --octets 1048576
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use clap::Parser;
use smtp_core::stream::{Connector, Target, TlsMode, TlsPolicy, Verification};
use smtp_core::{driver, session::server::Config};
use smtp_server::{Mailboxes, Server, Settings, Sink};
use smtp_tls::{ClientTls, SelfSigned, ServerTls};
use smtp_transport_quic::{ConnectOptions, QuicConnector, QuicListener, QuicOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Arguments {
    /// How many mails, each on a stream of its own.
    #[arg(long, default_value_t = 200)]
    mails: usize,
    /// How large each is.
    #[arg(long, default_value_t = 1 << 20)]
    octets: usize,
    /// Over how many connections, at the same time.
    #[arg(long, default_value_t = 20)]
    connections: usize,
    /// How often each server is measured, in turn.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    // Nobody else has installed one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let own = SelfSigned::load_or_create(folder.path(), &["localhost"]).map_err(io::Error::other)?;
    let mut all = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    for _ in 0..arguments.rounds {
        let mut round = [0.0; 2];
        for (smtp, (time, times)) in [true, false].into_iter().zip(round.iter_mut().zip(&mut all)) {
            *time = run(&own, smtp, &arguments)? * 1_000.0 / real(arguments.mails);
            times.push(*time);
        }
        ratios.push(round[1] / round[0]);
    }
    let Arguments { mails, octets, connections, .. } = arguments;
    println!(
        "CPU seconds of the server's thread for 1,000 mails ({mails} of {octets} octets, {connections} connections)"
    );
    println!("a session, which discards: median {:.3}", median(&mut all[0]));
    println!("streams that are read to their end: median {:.3}", median(&mut all[1]));
    println!("ratio: median {:.3}", median(&mut ratios));
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn real(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Seconds of CPU that the server took.
fn run(own: &SelfSigned, smtp: bool, arguments: &Arguments) -> io::Result<f64> {
    let stop = CancellationToken::new();
    let (address, server) = serve(own, smtp, stop.clone())?;
    let done = Builder::new_current_thread().enable_all().build()?.block_on(load(own, address, arguments));
    stop.cancel();
    let seconds = server.join().map_err(|_| io::Error::other("the server's thread has panicked"))??;
    done.map(|()| seconds)
}

/// A server on a thread of its own, which gives its seconds of CPU when it is stopped.
fn serve(
    own: &SelfSigned,
    smtp: bool,
    stop: CancellationToken,
) -> io::Result<(SocketAddr, JoinHandle<io::Result<f64>>)> {
    let tls = ServerTls::builder().identity(own.identity()).build().map_err(io::Error::other)?;
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        Builder::new_current_thread().enable_all().build()?.block_on(async move {
            let listener = QuicListener::bind(([127, 0, 0, 1], 0).into(), &tls, QuicOptions::default())?;
            let _ = tell.send(listener.local_addr());
            if smtp {
                let domain = "there.example".parse().map_err(io::Error::other)?;
                let mailboxes = Mailboxes::new(&domain).map_err(io::Error::other)?;
                let settings = Settings::new(driver::Settings::new(Config::new(domain).promising(Sink::PROMISES)));
                let server = Server::new(settings, move |_session| (mailboxes.clone(), Sink::new()));
                server.listen(listener).run(stop).await;
            } else {
                stop.run_until_cancelled(read_all(&listener)).await;
            }
            io::Result::Ok(())
        })?;
        cpu_of_thread()
    });
    let address = told.recv().map_err(|_| io::Error::other("the server does not start"))?;
    Ok((address, thread))
}

/// Reads every stream of every connection to its end, and says so.
async fn read_all(listener: &QuicListener) {
    while let Some(incoming) = listener.endpoint().accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                while let Ok(Some(_)) = receive.read_chunk(usize::MAX, true).await {}
                if send.write_all(b"250 done\r\n").await.and(send.finish().map_err(Into::into)).is_err() {
                    return;
                }
            }
        });
    }
}

async fn load(own: &SelfSigned, address: SocketAddr, arguments: &Arguments) -> io::Result<()> {
    let tls = ClientTls::builder().build().map_err(io::Error::other)?;
    let connector = QuicConnector::new(&tls, ConnectOptions::default())?;
    let target = Target::host("[127.0.0.1]".parse().map_err(io::Error::other)?, address.port());
    let policy = TlsPolicy { mode: TlsMode::Implicit, verification: Verification::from(own.pin()) };
    let (flight, each) = (flight(arguments.octets), arguments.mails.div_ceil(arguments.connections));
    let mut clients = JoinSet::new();
    for _ in 0..arguments.connections {
        let mut connection = connector.connect(&target, &policy).await.map_err(io::Error::other)?;
        let flight = Arc::clone(&flight);
        clients.spawn(async move {
            for _ in 0..each {
                let mut stream = connection.open().await?;
                stream.write_all(&flight).await?;
                stream.shutdown().await?;
                let mut said = String::new();
                stream.read_to_string(&mut said).await?;
                if !said.contains("250 ") || said.lines().any(|line| line.starts_with(['4', '5'])) {
                    return Err(io::Error::other(said));
                }
            }
            io::Result::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}

/// A whole session with one mail.
fn flight(octets: usize) -> Arc<[u8]> {
    let mut flight =
        Vec::from(&b"EHLO here.example\r\nMAIL FROM:<a@here.example>\r\nRCPT TO:<b@there.example>\r\n"[..]);
    flight.extend_from_slice(format!("BDAT {octets} LAST\r\n").as_bytes());
    let line = b"A line is short, or the message is refused.\r\n";
    flight.extend(line.iter().cycle().take(octets));
    flight.extend_from_slice(b"QUIT\r\n");
    flight.into()
}

/// What this thread has had of a processor, in seconds (Linux).
fn cpu_of_thread() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split_ascii_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.map(|n| n / 1e9).ok_or_else(|| io::Error::other("the kernel does not tell what a thread has used"))
}
