//! Tables, in Markdown, with what is needed to make them again.

use std::fmt;
use std::io;
use std::process::Command;
use std::time::Duration;

use crate::run::Arguments;
use crate::ways::{TWENTY, Way};

/// Everything that was measured.
pub(crate) struct Report {
    arguments: Arguments,
    congestion: [String; 2],
    /// What the sources are when the run begins.
    commit: String,
    cells: Vec<Cell>,
}

/// One way at one loss.
pub(crate) struct Cell {
    way: &'static Way,
    loss: f64,
    /// When each mail of each run was accepted.
    mails: Vec<Duration>,
    /// When the last mail of each run was.
    last: Vec<Duration>,
    packets: Vec<u64>,
    octets: Vec<u64>,
    errors: Vec<String>,
}

impl Report {
    pub(crate) fn new(arguments: &Arguments, congestion: [String; 2]) -> Self {
        let commit = said("git", &["rev-parse", "--short", "HEAD"]);
        Self { arguments: arguments.clone(), congestion, commit, cells: Vec::new() }
    }

    pub(crate) fn cell(&mut self, way: &'static Way, loss: f64) -> &mut Cell {
        let place = self.cells.iter().position(|cell| cell.way == way && cell.loss == loss);
        let place = place.unwrap_or_else(|| {
            self.cells.push(Cell {
                way,
                loss,
                mails: Vec::new(),
                last: Vec::new(),
                packets: Vec::new(),
                octets: Vec::new(),
                errors: Vec::new(),
            });
            self.cells.len() - 1
        });
        &mut self.cells[place]
    }

    /// The cells of one way, loss by loss.
    fn row(&self, way: &Way) -> Vec<&Cell> {
        let cell = |loss: &f64| self.cells.iter().find(|cell| cell.way == way && cell.loss == *loss);
        self.arguments.loss.iter().filter_map(cell).collect()
    }
}

impl Cell {
    pub(crate) fn add(&mut self, outcome: io::Result<Vec<Duration>>, packets: u64, octets: u64) {
        match outcome {
            Ok(times) => {
                self.last.extend(times.iter().max());
                self.mails.extend(times);
                self.packets.push(packets);
                self.octets.push(octets);
            }
            Err(error) => self.errors.push(error.to_string()),
        }
    }
}

/// The value that so many hundredths of all are not above.
fn percentile<T: Copy + Ord>(values: &[T], hundredths: usize) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * hundredths).div_ceil(100).saturating_sub(1)).copied()
}

fn ms(times: &[Duration], hundredths: usize) -> String {
    percentile(times, hundredths).map_or("–".into(), |time| format!("{:.0}", time.as_secs_f64() * 1e3))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arguments { rounds, rtt, rate, queue, size, seed, .. } = &self.arguments;
        let [a, b] = &self.congestion;
        let run: Vec<String> = std::env::args().skip(1).collect();
        writeln!(
            f,
            "```console\n# cargo run {}-p smtp-netem --example measure -- {}\n```\n",
            profile(),
            run.join(" ")
        )?;
        writeln!(f, "- {rtt} ms of round trip, {rate} Mbit/s and a queue of {queue} octets each way, seed {seed}.")?;
        writeln!(f, "- {rounds} rounds, all ways in turn, with the same luck in a round. Mails of {size} octets.")?;
        writeln!(
            f,
            "- TCP: {a} at the client, {b} at the server, as ss(8) shows it; nothing kept between connections."
        )?;
        writeln!(f, "- QUIC: quinn {}, CUBIC; rustls {}, aws-lc-rs.", locked("quinn"), locked("rustls"))?;
        writeln!(f, "- Commit {}; Linux {}.\n", self.commit, said("uname", &["-r"]))?;
        let losses = || self.arguments.loss.iter();
        let ways: Vec<&Way> = self.arguments.ways();

        if ways.iter().any(|way| way.mails == 1) {
            write!(f, "| one mail |")?;
            losses().try_for_each(|loss| write!(f, " {loss} %: median | p90 | max |"))?;
            writeln!(f, " packets | octets |")?;
            writeln!(f, "|---|{}---|---|", "---|---|---|".repeat(losses().count()))?;
        }
        for way in ways.iter().filter(|way| way.mails == 1) {
            write!(f, "| {} |", way.name)?;
            let cells = self.row(way);
            for cell in &cells {
                let [median, p90, max] = [50, 90, 100].map(|hundredths| ms(&cell.mails, hundredths));
                write!(f, " {median} | {p90} | {max} |")?;
            }
            writeln!(f, "{}", traffic(&cells))?;
        }
        if ways.iter().any(|way| way.mails == TWENTY) {
            write!(f, "\n| twenty mails |")?;
            losses().try_for_each(|loss| write!(f, " {loss} %: mail median | mail p90 | all median | all p90 |"))?;
            writeln!(f, " packets | octets |")?;
            writeln!(f, "|---|{}---|---|", "---|---|---|---|".repeat(losses().count()))?;
        }
        for way in ways.iter().filter(|way| way.mails == TWENTY) {
            write!(f, "| {} |", way.name.trim_start_matches("20: "))?;
            let cells = self.row(way);
            for cell in &cells {
                let [median, p90] = [50, 90].map(|hundredths| ms(&cell.mails, hundredths));
                let [all, all_p90] = [50, 90].map(|hundredths| ms(&cell.last, hundredths));
                write!(f, " {median} | {p90} | {all} | {all_p90} |")?;
            }
            writeln!(f, "{}", traffic(&cells))?;
        }
        writeln!(f, "\nPackets and octets: medians at the first loss, both ways, IP headers included.")?;
        for cell in self.cells.iter().filter(|cell| !cell.errors.is_empty()) {
            let Cell { way, loss, errors, .. } = cell;
            writeln!(
                f,
                "\n{} at {loss} %: {} runs failed and are not in the table: {errors:?}",
                way.name,
                errors.len()
            )?;
        }
        Ok(())
    }
}

fn traffic(cells: &[&Cell]) -> String {
    let median = |values: &[u64]| percentile(values, 50).map_or("–".into(), |value| value.to_string());
    cells.first().map_or(String::new(), |cell| format!(" {} | {} |", median(&cell.packets), median(&cell.octets)))
}

const fn profile() -> &'static str {
    if cfg!(debug_assertions) { "" } else { "--release " }
}

/// A crate's version in the lock file.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1));
    version.and_then(|version| version.split('"').next()).unwrap_or("?")
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
