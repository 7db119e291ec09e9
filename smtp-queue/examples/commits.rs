//! Durable commits a second into a SQLite spool, by 1, 20 and 200 writers at 4 KiB:
//! `cargo run --release -p smtp-queue --example commits -- [FOLDER] [SECONDS] [URL]`.
//!
//! With `--features postgres` and a URL behind it, the same into a PostgreSQL spool: its schema has to be empty, and stays.
//!
//! Beside it, for scale: what one writer gets from this disk at this moment by appending 4 KiB to a file and syncing it.
//! Then the same queue is opened again and emptied, with the time that each takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use smtp_queue::kit::{message, settle_all, store};
use smtp_queue::{Claim, Limits, Settled, Spool, SqliteSpool};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(|| std::env::temp_dir().join("smtp-queue-commits"), PathBuf::from);
    let seconds = arguments.next().map_or(Ok(3), |seconds| seconds.parse())?;
    std::fs::create_dir_all(&root)?;
    println!("{:>8} {:>12} {:>10} {:>10} {:>14}", "writers", "commits/s", "p50 ms", "p99 ms", "CPU s / 10,000");
    let plain = append(&root.join("plain"), Duration::from_secs(seconds))?;
    report("plain", plain, seconds, None);
    for writers in [1, 20, 200] {
        let folder = root.join(writers.to_string());
        let _ = std::fs::remove_dir_all(&folder);
        let spool = Arc::new(SqliteSpool::open(&folder, Limits::default())?);
        let before = cpu();
        let times = write(&spool, writers, Duration::from_secs(seconds)).await?;
        let spent = (cpu() - before) * 1e4 / times.len() as f64;
        report(&writers.to_string(), times, seconds, Some(spent));
        spool.close().await?;
    }
    let start = Instant::now();
    let spool = Arc::new(SqliteSpool::open(root.join("200"), Limits::default())?);
    println!("opened with {} jobs in {:?}", spool.stats().jobs, start.elapsed());
    empty(&spool).await?;
    std::fs::remove_dir_all(&root)?;
    if let Some(url) = arguments.next() {
        shared(&url, seconds).await?;
    }
    Ok(())
}

#[cfg(feature = "postgres")]
async fn shared(url: &str, seconds: u64) -> Result<(), Failure> {
    let spool = Arc::new(smtp_queue::PgSpool::open(smtp_queue::PgSettings::new(url)?).await?);
    for writers in [1, 20, 200] {
        let before = cpu();
        let times = write(&spool, writers, Duration::from_secs(seconds)).await?;
        let spent = (cpu() - before) * 1e4 / times.len() as f64;
        report(&format!("pg {writers}"), times, seconds, Some(spent));
    }
    empty(&spool).await
}

#[cfg(not(feature = "postgres"))]
async fn shared(_: &str, _: u64) -> Result<(), Failure> {
    Err("built without --features postgres".into())
}

fn report(name: &str, mut times: Vec<Duration>, seconds: u64, cpu: Option<f64>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let cpu = cpu.map_or_else(String::new, |cpu| format!("{cpu:.2}"));
    println!("{name:>8} {:>12} {:>10.2} {:>10.2} {cpu:>14}", times.len() as u64 / seconds, at(50), at(99));
}

/// Seconds of CPU that this process has used.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    // A tick is a hundredth of a second on Linux.
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn append(path: &std::path::Path, time: Duration) -> std::io::Result<Vec<Duration>> {
    let mut file = std::fs::File::create(path)?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let began = Instant::now();
        std::io::Write::write_all(&mut file, &[0x5a; 4_096])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// How long each commit took, of so many writers at once.
async fn write<S: Spool>(spool: &Arc<S>, writers: u64, time: Duration) -> Result<Vec<Duration>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |n: u64| {
        let (spool, stop) = (Arc::clone(spool), Arc::clone(&stop));
        tokio::spawn(async move {
            let (hop, sender) = (format!("d{n}.example"), format!("s{n}@a.example"));
            let recipient = format!("x@{hop}");
            let body: Vec<u8> = (0..4_096_u64).map(|i| (i.wrapping_mul(n + 7) >> 3) as u8).collect();
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let now = SystemTime::now();
                store(&*spool, now, message(now, &sender, &[(&hop, &[&recipient])])?, &body).await?;
                times.push(start.elapsed());
            }
            Ok::<_, Failure>(times)
        })
    };
    let tasks: Vec<_> = (0..writers).map(writer).collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

async fn empty<S: Spool>(spool: &Arc<S>) -> Result<(), Failure> {
    let jobs = spool.stats().jobs;
    let start = Instant::now();
    let mut claiming = Duration::ZERO;
    loop {
        let now = SystemTime::now();
        let claimed = Instant::now();
        let leased = spool.claim(Claim::up_to(200, now, Duration::from_secs(900))).await?;
        claiming += claimed.elapsed();
        if leased.is_empty() {
            break;
        }
        let settle = |leased: smtp_queue::Leased| {
            let spool = Arc::clone(spool);
            tokio::spawn(async move {
                let done = settle_all(&leased, &Settled::Delivered("250 fine".into()), now);
                spool.settle(leased.lease, now, done).await
            })
        };
        for task in leased.into_iter().map(settle).collect::<Vec<_>>() {
            task.await??;
        }
    }
    let took = start.elapsed();
    let rate = jobs as f64 / took.as_secs_f64();
    println!("emptied, 200 at a time, in {took:?}: {rate:.0} settlements/s, claims took {claiming:?} of it");
    Ok(spool.close().await?)
}
