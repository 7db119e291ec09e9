//! `smtp lab`: experiments, and their reports.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use smtp_lab::report::Report;
use smtp_lab::{
    Congestion, Dialogue, Experiment, Ground, KeyExchange, PRESETS, Priority, Record, Resumption, RunError, Spread,
    Summary, Transfer, Transport, Tuning, compare,
};

use crate::exit::{Exit, Failure, warn};

/// The record's file in the folder of a report.
const RECORD: &str = "record.jsonl";

/// Runs experiments: what a mail costs over each transport, in a simulation that repeats itself exactly or on an emulated
/// link.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to do.
    #[arg(value_enum)]
    action: Action,

    /// For run a file that describes an experiment, or the name of one that comes with the program; for rerun and report
    /// the record.jsonl of a run.
    #[arg(value_name = "WHAT")]
    what: Option<PathBuf>,

    /// The folder to put record and report in; it is made. Default for run: ./lab-NAME; for report: the record's own; for
    /// rerun: nothing is kept.
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Where to run it: simulation or link. Default: what the experiment says.
    #[arg(long, value_name = "GROUND")]
    ground: Option<Ground>,

    /// Where chance comes from. Default: what the experiment says.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// How often to run each cell. Default: what the experiment says.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// Only the parts with these numbers.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    part: Vec<usize>,

    /// tcp, starttls, tls, quic, race. This and each list below stands in the place of those in all parts.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    transport: Vec<Transport>,

    /// none, memory, ticket, early.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    resumption: Vec<Resumption>,

    /// lockstep, pipelined, flight.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    dialogue: Vec<Dialogue>,

    /// data, bdat.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    transfer: Vec<Transfer>,

    /// How many mails at once.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    mails: Vec<usize>,

    /// What several mails share: session, streams, connections.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    spread: Vec<Spread>,

    /// Octets of a mail.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    size: Vec<usize>,

    /// How QUIC begins: default, tuned.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tuning: Vec<Tuning>,

    /// cubic, bbr, reno.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    congestion: Vec<Congestion>,

    /// Which stream goes first: ordered, fair.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    priority: Vec<Priority>,

    /// x25519, x25519mlkem768.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    key_exchange: Vec<KeyExchange>,

    /// The round trip time, in milliseconds.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rtt: Vec<f64>,

    /// How much longer a packet may take each way, in milliseconds.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    jitter: Vec<f64>,

    /// Packets that are lost each way, in percent.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    loss: Vec<f64>,

    /// How many packets in a row are lost, on average.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    burst: Vec<f64>,

    /// Mbit/s each way; 0 for no limit.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rate: Vec<f64>,

    /// Octets that may wait where there is a rate.
    #[arg(long, value_name = "OCTETS")]
    queue: Option<usize>,

    /// The largest packet that gets through, 576 to 1500 octets.
    #[arg(long, value_name = "OCTETS")]
    mtu: Option<u16>,

    /// UDP vanishes.
    #[arg(long)]
    block_udp: bool,

    /// When the client's NAT forgets its ports, in milliseconds from the beginning; 0 for never. Emulated link only.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rebind: Vec<f64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Action {
    /// Run an experiment, keep its record and make a report.
    Run,
    /// Run a record's experiment again, and say whether the same comes of it.
    Rerun,
    /// Make a record's report again.
    Report,
    /// Show the experiments that come with the program.
    List,
}

/// What stands below the options in `smtp lab --help`.
pub(crate) const MORE_HELP: &str = "\
In the folder there are record.jsonl (one JSON object a line: what was run and where, each run, the end), report.html (one \
page that needs nothing else), report.md and its figures. The simulation needs no root and repeats itself exactly, all but \
CPU time; the emulated link needs Linux, root, /dev/net/tun and ip(8), and repeats itself about.

Exit codes:
   0  it was run to its end; for rerun: with the same results
   1  for rerun: a simulation had other results
  69  there can be no emulated link here
  74  a file cannot be read or written
  78  the experiment cannot be run, or the record not be read
  64  the command line is wrong

Examples:
  smtp lab run one-mail
  smtp lab run one-mail --part 1 --transport tls,quic --rtt 20,200 --loss 0,2 --rounds 50 --out mine
  smtp lab rerun mine/record.jsonl
  sudo smtp lab run link --out link";

/// Runs `smtp lab`. It blocks, and has runtimes of its own.
///
/// # Errors
/// If there is nothing to run or to read, or the system is in the way.
pub(crate) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    match arguments.action {
        Action::List => {
            list();
            Ok(Exit::Success)
        }
        Action::Run => {
            let (name, mut experiment) = experiment(arguments.what()?)?;
            arguments.change(&mut experiment)?;
            let folder = arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("lab-{name}")));
            let record = run_into(&experiment, Some(&folder))?;
            write_report(&record, &folder)?;
            Ok(Exit::Success)
        }
        Action::Report => {
            let (path, record) = record(arguments.what()?)?;
            let folder = match &arguments.out {
                Some(folder) => folder.clone(),
                None => path.parent().map(Path::to_owned).unwrap_or_default(),
            };
            write_report(&record, &folder)?;
            Ok(Exit::Success)
        }
        Action::Rerun => {
            let (_, before) = record(arguments.what()?)?;
            let after = run_into(&before.head.experiment, arguments.out.as_deref())?;
            if let Some(folder) = &arguments.out {
                write_report(&after, folder)?;
            }
            Ok(compared(&before, &after))
        }
    }
}

impl Arguments {
    fn what(&self) -> Result<&Path, Failure> {
        self.what.as_deref().ok_or_else(|| {
            Failure::usage("nothing to do it with").help("`smtp lab list` shows experiments that come with the program")
        })
    }

    /// Puts what was given in the place of what the experiment says.
    fn change(&self, experiment: &mut Experiment) -> Result<(), Failure> {
        if let Some(ground) = self.ground {
            experiment.ground = ground;
        }
        if let Some(seed) = self.seed {
            experiment.seed = seed;
        }
        if let Some(rounds) = self.rounds {
            experiment.rounds = rounds;
            experiment.part.iter_mut().for_each(|part| part.rounds = None);
        }
        if !self.part.is_empty() {
            let all = experiment.part.len();
            if let Some(none) = self.part.iter().find(|part| !(1..=all).contains(*part)) {
                return Err(Failure::usage(format!("--part {none}")).help(format!("it has the parts 1 to {all}")));
            }
            let mut number = 0;
            experiment.part.retain(|_| {
                number += 1;
                self.part.contains(&number)
            });
        }
        for part in &mut experiment.part {
            /// Lists that were given.
            macro_rules! replace {
                ($($list:ident)*) => {
                    $(if !self.$list.is_empty() {
                        part.$list.clone_from(&self.$list);
                    })*
                };
            }
            replace!(transport resumption dialogue transfer mails spread size tuning congestion priority key_exchange);
            replace!(rtt jitter loss burst rate rebind);
            part.queue = self.queue.unwrap_or(part.queue);
            part.mtu = self.mtu.unwrap_or(part.mtu);
            part.block_udp |= self.block_udp;
        }
        Ok(())
    }
}

fn list() {
    for (name, text) in PRESETS {
        let Ok(experiment) = Experiment::parse(text) else { continue };
        let (cells, runs) = experiment.cells().map_or((0, 0), |(cells, _)| (cells.len(), experiment.runs(&cells)));
        line(format_args!("{name:14}{:11} {cells:4} cells, {runs:6} runs  {}", experiment.ground, experiment.title));
    }
}

/// An experiment, from a file or from the program, and what it is called.
fn experiment(what: &Path) -> Result<(String, Experiment), Failure> {
    let name = what.file_stem().map_or_else(|| "experiment".into(), |name| name.to_string_lossy().into_owned());
    let known = PRESETS.iter().find(|(name, _)| what.as_os_str() == *name);
    let text = match known {
        Some((_, text)) => (*text).to_owned(),
        None => fs::read_to_string(what).map_err(|error| {
            let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            Failure::new(Exit::Io, format!("cannot read the experiment {}: {error}", what.display()))
                .help(format!("name a file, or one of {}", names.join(", ")))
        })?,
    };
    let experiment = Experiment::parse(&text)
        .map_err(|error| Failure::config(format!("{}: {error}", what.display())).help("docs/lab.md has all keys"))?;
    Ok((name, experiment))
}

/// A record, or that of a folder.
fn record(what: &Path) -> Result<(PathBuf, Record), Failure> {
    let path = if what.is_dir() { what.join(RECORD) } else { what.to_owned() };
    let file = File::open(&path)
        .map_err(|error| Failure::new(Exit::Io, format!("cannot read the record {}: {error}", path.display())))?;
    let record = Record::read(file).map_err(|error| {
        Failure::config(format!("{}: {error}", path.display())).help("a record is the record.jsonl of `smtp lab run`")
    })?;
    Ok((path, record))
}

fn run_into(experiment: &Experiment, folder: Option<&Path>) -> Result<Record, Failure> {
    // Before a folder is made, what cannot be run is told.
    experiment.cells().map_err(Failure::config)?;
    let shown = io::stderr().is_terminal();
    let last = Mutex::new(usize::MAX);
    let tick = |done: usize, all: usize| {
        let hundredths = done * 100 / all.max(1);
        let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if shown && *last != hundredths {
            *last = hundredths;
            let _ = write!(io::stderr(), "\r{done} of {all} runs \r");
        }
    };
    let result = match folder {
        None => smtp_lab::run(experiment, io::sink(), tick),
        Some(folder) => {
            fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
            let path = folder.join(RECORD);
            let file = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
            smtp_lab::run(experiment, BufWriter::new(file), tick)
        }
    };
    let record = result.map_err(|error| match error {
        RunError::Unavailable(_) => Failure::new(Exit::Unavailable, error).help("`--ground simulation` needs nothing"),
        RunError::Experiment(error) => Failure::config(error),
        error => Failure::new(Exit::Io, error),
    })?;
    let failed = record.runs.iter().filter(|run| run.sample.error.is_some()).count();
    if failed > 0 {
        warn(format_args!("{failed} of {} runs failed; the report has the reasons", record.runs.len()));
    }
    Ok(record)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Io, format!("cannot write {}: {error}", path.display()))
}

fn write_report(record: &Record, folder: &Path) -> Result<(), Failure> {
    let report = Report::new(record);
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| cannot_write(&path, &error))
    };
    for figure in report.figures() {
        write(&format!("{}.svg", figure.name), &figure.svg)?;
    }
    write("report.md", &report.markdown())?;
    write("report.html", &report.html())?;
    line(format_args!("{} runs; {}", record.runs.len(), folder.join("report.html").display()));
    Ok(())
}

/// Whether a rerun has the same results; for an emulated link, how far they are apart.
fn compared(before: &Record, after: &Record) -> Exit {
    let differences = compare(before, after);
    for version in &differences.versions {
        line(format_args!("another version now: {version}"));
    }
    if before.end.is_none() {
        line(format_args!("the record was not run to its end: {} runs of it are compared", differences.runs));
    }
    if before.head.experiment.ground == Ground::Simulation {
        for run in differences.differing.iter().take(10).filter_map(|place| before.runs.get(*place)) {
            let way = before.head.cells.get(run.cell).map(|place| place.cell.way()).unwrap_or_default();
            line(format_args!("differs: {way}, round {}, seed {}", run.round, run.seed));
        }
        let (runs, differing) = (differences.runs, differences.differing.len());
        if differing == 0 {
            line(format_args!("identical: {runs} runs"));
            return Exit::Success;
        }
        line(format_args!("{differing} of {runs} runs differ"));
        return Exit::Differs;
    }
    line(format_args!("{:>10} {:>10}  median ms, before and now", "before", "now"));
    for (n, place) in before.head.cells.iter().enumerate() {
        let median = |record: &Record| {
            let times = record.of(n).filter_map(|run| run.sample.last_us());
            let times = times.map(|us| std::time::Duration::from_micros(us).as_secs_f64() * 1000.0);
            Summary::of(times).map_or_else(|| "–".to_owned(), |summary| format!("{:.1}", summary.median))
        };
        let (way, load, path) = (place.cell.way(), place.cell.load(), place.cell.path);
        line(format_args!("{:>10} {:>10}  {way}; {load}; {path}", median(before), median(after)));
    }
    Exit::Success
}

/// Nobody may be there to read it.
fn line(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{text}");
}
