//! `smtp bench`: a load on a server, and what it takes.

mod live;
mod output;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use smtp_bench::{Comparison, Content, Contestant, Generator, Live, Pace, Plan, Report, Reuse, Sizes, Usage};
use smtp_client::{Options, Timeouts, Transfer};
use smtp_core::session::server::Protocol;
use smtp_core::stream::Address;
use smtp_core::types::{AddressLiteral, EhloName, Host, Mailbox};
use tokio::runtime::Builder;

use self::live::Board;
use self::output::{print_comparison, print_report};
use crate::connect::{TlsArguments, TlsOptions, own_name};
use crate::credentials::LoginArguments;
use crate::exit::{Exit, Failure};
use crate::send::{Sender, failure_of};
use crate::settings::layered;
use crate::threads;
use crate::transport::{Calling, EarlyDataChoice, Quic, Way};
use crate::url::Url;
use crate::values::{self, Many, Wait, flatten};

/// How many sessions, and recipients of a message, there may be.
const SESSIONS_MAX: usize = 100_000;
const RECIPIENTS_MAX: usize = 10_000;
/// How many rounds a comparison may have.
const ROUNDS_MAX: u32 = 1_000;

/// Loads a server with mail, and tells how many messages it takes, how long each step takes, and what goes wrong.
///
/// `smtp bench compare URL URL…` loads several servers in turns and tells the ratios.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// The server, as for `smtp send --server`; or `compare` and two or more of them.
    #[arg(value_name = "URL", required = true)]
    #[serde(skip)]
    words: Vec<String>,

    /// How many sessions at the same time. Default: 20.
    #[arg(short, long, value_name = "N")]
    sessions: Option<usize>,

    /// Stop after so many messages.
    #[arg(short, long, value_name = "N")]
    messages: Option<u64>,

    /// Stop after so long, in seconds. Default: 10, unless --messages says when to stop.
    #[arg(short, long, value_name = "SECONDS")]
    duration: Option<Wait>,

    /// Load for so long before anything is counted, in seconds. Default: not at all.
    #[arg(long, value_name = "SECONDS")]
    warm_up: Option<Wait>,

    /// Send so many messages a second, whatever the server does. Default: each session sends when it is free.
    ///
    /// A message's latency counts from when it was due, even if no session was free then: what had to wait because the
    /// server stalled is in the figures.
    #[arg(short, long, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// The size of the messages, in octets or as 4K; or several with how often each comes: 4K:70,100K:25,1M:5.
    /// Default: 4K.
    #[arg(long, value_name = "SIZES")]
    #[serde(deserialize_with = "values::parsed")]
    size: Option<Sizes>,

    /// Send these messages instead, or the .eml files in these folders; may be repeated.
    #[arg(long, value_name = "PATH", conflicts_with = "size")]
    corpus: Vec<PathBuf>,

    /// The envelope's sender. Default: bench@sender.example.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::parsed")]
    from: Option<Sender>,

    /// A recipient of every message; may be repeated. Default: bench@localhost.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "values::list")]
    to: Vec<Many<Mailbox>>,

    /// So many recipients for every message: those of --to, then the first of them as NAME+2, NAME+3 and so on.
    /// Default: those of --to.
    #[arg(long, value_name = "N")]
    recipients: Option<usize>,

    /// What a connection is used for. Default: session.
    #[arg(long, value_name = "USE", value_enum)]
    connection: Option<ConnectionChoice>,

    /// How the content travels. Default: auto.
    #[arg(long, value_name = "HOW", value_enum)]
    transfer: Option<TransferChoice>,

    /// Wait for each reply before the next command.
    #[arg(long)]
    no_pipelining: bool,

    /// A full TLS handshake for every connection.
    #[arg(long)]
    no_resumption: bool,

    /// Whether QUIC connections but the first send before the handshake is complete. Default: off.
    #[arg(long, value_name = "CHOICE", value_enum)]
    early_data: Option<EarlyDataChoice>,

    #[command(flatten)]
    #[serde(skip)]
    login: LoginArguments,

    #[command(flatten)]
    #[serde(skip)]
    tls: TlsArguments,

    /// The name to greet with. Default: this machine's full name, or [127.0.0.1].
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "values::parsed")]
    helo: Option<EhloName>,

    /// How long each step may take, in seconds. Default: 30.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<Wait>,

    /// Decides what messages are made of and in which order they come. Default: 1.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// How many threads make the load. Default: 1, which is enough for most servers and costs least.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// The server's process: its CPU time and memory, and those of its descendants, are told too. For compare, one for
    /// each URL.
    #[arg(long, value_name = "PID")]
    #[serde(deserialize_with = "values::list")]
    pid: Vec<Many<u32>>,

    /// How often compare loads each server. Default: 5.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// The server is on another machine, and whoever runs it knows of this.
    #[arg(long)]
    remote: bool,

    /// Report in JSON on standard output.
    #[arg(long)]
    json: bool,

    /// Report the steps' latency in CSV on standard output.
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Do not show on a terminal how it goes. The variable NO_COLOR, if it is set, takes the colours off that.
    #[arg(long)]
    no_tui: bool,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

layered!(Arguments {
    sessions,
    messages,
    duration,
    warm_up,
    rate,
    size,
    corpus,
    from,
    to,
    recipients,
    connection,
    transfer,
    no_pipelining,
    no_resumption,
    early_data,
    helo,
    timeout,
    seed,
    threads,
    pid,
    rounds,
    remote,
    json,
    csv,
    no_tui,
} with { login, tls } except { words });

/// What stands below the options in `smtp bench --help`.
pub(crate) const MORE_HELP: &str = "\
Latency is told for each step: connect (with implicit TLS and QUIC's handshake), greeting, ehlo, starttls, tls, auth, \
mail, rcpt, data, body (until the channel has taken it; not where it goes in one flight with the envelope), final (the \
reply that decides), message (the whole), quit. In a pipelined group a step counts from the reply before it.

compare loads the servers round by round, in an order that moves on, and tells the ratio of each to the first: the \
geometric mean of each round's ratio, with a 95 % interval by Student's t on the logarithms.

Exit codes:
   0  every message was accepted
  75  some were not, and might be later: a 4xx reply, a deadline, a connection that broke
  67  some were refused, all of those for good
  65  nothing was sent that counts, or what was to be sent is unusable
  69  no connection, no TLS, or turned away for good, before the load
  77  AUTH failed, or the TLS policy cannot be met
  78  a setting cannot be used
  64  the command line is wrong

Examples:
  smtp sink & smtp bench smtp://127.0.0.1:2525 --pid $!
  smtp bench smtp://127.0.0.1:2525 --rate 500 --duration 30 --warm-up 5 --size 4K:70,100K:25,1M:5
  smtp bench 'smtp+quic://127.0.0.1:2525' --insecure --connection stream --json
  smtp bench compare smtp://127.0.0.1:2525 smtp://127.0.0.1:2526 --messages 20000 --rounds 10";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConnectionChoice {
    /// All messages of a session.
    Session,
    /// One message.
    Message,
    /// All messages, each on a stream of its own: for QUIC.
    Stream,
    /// All sessions, each on a stream of its own, with all of its messages: for QUIC. Those beyond what the server takes
    /// at once on a connection wait.
    Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TransferChoice {
    /// BDAT where CHUNKING is offered, else DATA.
    Auto,
    /// DATA.
    Data,
    /// BDAT.
    Bdat,
}

/// A server and the load on it.
struct Job {
    url: Url,
    generator: Generator,
    way: Way,
    pid: Option<u32>,
}

/// The runtime for as many threads as were asked for.
///
/// # Errors
/// If they are too many, or none.
pub(crate) fn runtime(arguments: &Arguments) -> Result<Builder, Failure> {
    threads::runtime(arguments.threads.unwrap_or(1))
}

/// Runs `smtp bench`.
///
/// # Errors
/// If there can be no load.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let (compare, urls) = match arguments.words.as_slice() {
        [word, urls @ ..] if word == "compare" => (true, urls),
        urls => (false, urls),
    };
    match (compare, urls.len()) {
        (false, 1) | (true, 2..) => {}
        (false, _) => {
            return Err(Failure::usage("several servers").help("`smtp bench compare URL URL…` loads them in turns"));
        }
        (true, _) => return Err(Failure::usage("compare wants two URLs or more")),
    }
    let jobs = jobs(&arguments, urls)?;
    for job in &jobs {
        job.generator.probe().await.map_err(|error| failure_of(&error))?;
    }
    let board = Board::new(arguments.no_tui);
    let exit = if compare {
        compare_all(&jobs, &arguments, &board).await
    } else if let Some(job) = jobs.first() {
        let report = load(job, &board, "").await;
        print_report(&report, arguments.json, arguments.csv);
        exit_of(&report)
    } else {
        Exit::Usage
    };
    for job in &jobs {
        job.way.leave().await;
    }
    Ok(exit)
}

async fn load(job: &Job, board: &Board, about: &str) -> Report {
    let title = format!("{about}{}", job.url);
    let report = job.generator.run(job.pid, |live: Live| board.show(&title, &live)).await;
    board.clear();
    Report { target: job.url.to_string(), ..report }
}

/// Round by round, in an order that moves on by one, so that nobody always comes first.
async fn compare_all(jobs: &[Job], arguments: &Arguments, board: &Board) -> Exit {
    let mut contestants: Vec<Contestant> =
        jobs.iter().map(|job| Contestant { target: job.url.to_string(), rounds: Vec::new() }).collect();
    let rounds = arguments.rounds.unwrap_or(5);
    let mut exit = Exit::Success;
    for round in 0..rounds {
        for n in 0..jobs.len() {
            let turn = (n + round as usize) % jobs.len();
            let (Some(job), Some(contestant)) = (jobs.get(turn), contestants.get_mut(turn)) else { continue };
            let report = load(job, board, &format!("round {} of {rounds}, ", round + 1)).await;
            exit = exit.worst(exit_of(&report));
            contestant.rounds.push(report);
        }
    }
    print_comparison(&Comparison::new(contestants), arguments.json, arguments.csv);
    exit
}

fn exit_of(report: &Report) -> Exit {
    let messages = report.messages;
    if messages.sent == 0 {
        Exit::Data
    } else if messages.sent == messages.accepted {
        Exit::Success
    } else if report.errors.iter().all(|error| error.what.starts_with('5')) {
        Exit::Refused
    } else {
        Exit::Temporary
    }
}

/// What is to be done, checked as far as it can be without a server.
fn jobs(arguments: &Arguments, words: &[String]) -> Result<Vec<Job>, Failure> {
    let urls = words
        .iter()
        .map(|word| word.parse::<Url>().map_err(|error| Failure::usage(format!("{word}: {error}"))))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(url) = urls.iter().find(|url| !arguments.remote && !is_here(url)) {
        return Err(Failure::usage(format!("{url} is not on this machine, as far as its address tells"))
            .help("--remote says that whoever runs it knows of this"));
    }
    let pids = flatten(arguments.pid.clone());
    if !pids.is_empty() && pids.len() != urls.len() {
        return Err(Failure::usage(format!("{} --pid for {} URLs", pids.len(), urls.len())).help("one for each"));
    }
    if let Some((pid, error)) = pids.iter().find_map(|pid| Some((pid, Usage::of_tree(*pid).err()?))) {
        return Err(Failure::config(format!("--pid {pid}: {error}")).help("it names a process of this machine"));
    }
    let range = |name: &str, value: u64, most: u64| match value {
        value if (1..=most).contains(&value) => Ok(()),
        _ => Err(Failure::usage(format!("--{name} {value}")).help(format!("from 1 to {most}"))),
    };
    range("sessions", arguments.sessions.unwrap_or(1) as u64, SESSIONS_MAX as u64)?;
    range("messages", arguments.messages.unwrap_or(1), u64::MAX)?;
    range("recipients", arguments.recipients.unwrap_or(1) as u64, RECIPIENTS_MAX as u64)?;
    range("rounds", arguments.rounds.unwrap_or(1).into(), ROUNDS_MAX.into())?;
    let content = content(arguments)?;
    let mut pids = pids.into_iter();
    urls.into_iter().map(|url| job(arguments, url, content.clone(), pids.next())).collect()
}

fn job(arguments: &Arguments, url: Url, content: Content, pid: Option<u32>) -> Result<Job, Failure> {
    let tls = TlsOptions { no_resumption: arguments.no_resumption, ..arguments.tls.clone().options()? };
    let policy = tls.policy(&url, arguments.login.is_there())?;
    let wait = arguments.timeout.map_or(Duration::from_secs(30), |wait| wait.0);
    let quic = Quic::new(arguments.early_data, None)?;
    let way = tls.way(&url, Calling { wait: Some(wait), quic, ..Calling::default() })?;
    let mut plan = plan(arguments, &url, content, wait)?;
    plan.credentials = arguments.login.credentials("SMTP_BENCH_PASSWORD", tls.insecure)?;
    let generator = Generator::new(Arc::clone(&way.connector), url.target(), policy, plan);
    Ok(Job { url, generator, way, pid })
}

fn plan(arguments: &Arguments, url: &Url, content: Content, wait: Duration) -> Result<Plan, Failure> {
    let mut recipients = flatten(arguments.to.clone());
    if recipients.is_empty() {
        recipients.push(Mailbox::new("bench@localhost").map_err(Failure::config)?);
    }
    let first = recipients.first().cloned().ok_or_else(|| Failure::usage("no recipient"))?;
    if let Some(number) = arguments.recipients {
        if number < recipients.len() {
            let why = format!("--recipients {number}, and {} of --to", recipients.len());
            return Err(Failure::usage(why).help("as many as there are of --to, or more"));
        }
        let more = |n| Mailbox::new(&format!("{}+{n}@{}", first.local_part(), first.host()));
        let more = (recipients.len() + 1..=number).map(more).collect::<Result<Vec<_>, _>>();
        recipients.extend(more.map_err(|error| Failure::usage(format!("--recipients: {error}")))?);
    }
    let plan = Plan::new(first, content);
    Ok(Plan {
        sessions: arguments.sessions.unwrap_or(20),
        pace: match arguments.rate {
            None => Pace::Closed,
            Some(rate) if rate.is_finite() && rate > 0.0 => Pace::Open { rate },
            Some(rate) => return Err(Failure::usage(format!("--rate {rate}")).help("messages a second, above 0")),
        },
        messages: arguments.messages,
        duration: arguments.duration.map(|wait| wait.0),
        warm_up: arguments.warm_up.map_or(Duration::ZERO, |wait| wait.0),
        from: arguments.from.clone().map_or(plan.from, Sender::into_path),
        recipients,
        reuse: match arguments.connection.unwrap_or(ConnectionChoice::Session) {
            ConnectionChoice::Session => Reuse::Session,
            ConnectionChoice::Message => Reuse::Message,
            ConnectionChoice::Stream => Reuse::Stream,
            ConnectionChoice::Shared => Reuse::Shared,
        },
        transfer: match arguments.transfer.unwrap_or(TransferChoice::Auto) {
            TransferChoice::Auto => Transfer::Auto,
            TransferChoice::Data => Transfer::Data,
            TransferChoice::Bdat => Transfer::Chunks,
        },
        options: Options {
            hello: arguments.helo.clone().unwrap_or_else(|| own_name(None)),
            lmtp: url.protocol() == Protocol::Lmtp,
            timeouts: Timeouts::all(wait),
            pipelining: !arguments.no_pipelining,
            ..Options::default()
        },
        seed: arguments.seed.unwrap_or(plan.seed),
        ..plan
    })
}

fn content(arguments: &Arguments) -> Result<Content, Failure> {
    if !arguments.corpus.is_empty() {
        let corpus = Content::corpus(&arguments.corpus);
        return corpus.map_err(|error| Failure::new(Exit::Data, error).help("check the path given by --corpus"));
    }
    let sizes = match &arguments.size {
        Some(sizes) => sizes.clone(),
        None => "4K".parse().map_err(Failure::config)?,
    };
    Content::generated(&sizes, arguments.seed.unwrap_or(1)).map_err(Failure::usage)
}

/// True if the URL says that it is on this machine. Names are not looked up.
fn is_here(url: &Url) -> bool {
    match url.target().address {
        Address::Host { host: Host::Domain(name), .. } => name.as_str().eq_ignore_ascii_case("localhost"),
        Address::Host { host: Host::Literal(AddressLiteral::V4(ip)), .. } => ip.is_loopback(),
        Address::Host { host: Host::Literal(AddressLiteral::V6(ip)), .. } => ip.is_loopback(),
        Address::Host { .. } => false,
        Address::Path(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_here_has_to_be_meant() {
        for (url, here) in [
            ("smtp://127.0.0.1:25", true),
            ("smtp://127.9.9.9:25", true),
            ("smtp://[::1]:25", true),
            ("smtps://localhost", true),
            ("smtp+unix:///run/x", true),
            ("smtp+quic://192.0.2.1:25", false),
            ("smtp://[2001:db8::1]:25", false),
            ("smtp://mx.example", false),
            ("smtp://localhost.example", false),
        ] {
            assert_eq!(is_here(&url.parse().unwrap()), here, "{url}");
        }
    }
}
