//! `smtp queue`: what waits, why, and what is to become of it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use crate::admin::{self, Action, Answer, Figures, Filter, Request, Shown, UNREACHED};
use crate::exit::{Exit, Failure};
use crate::serve;
use crate::values::Wait;

/// Shows and changes the queue of a running `smtp serve`.
///
/// Jobs are meant that match all filters: a job is a message on its way to one destination.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to do.
    #[arg(value_enum)]
    action: Command,

    /// Messages, by the ids that `list` shows.
    #[arg(value_name = "ID")]
    ids: Vec<String>,

    /// All jobs. `hold`, `release`, `retry`, `reroute`, `bounce` and `cancel` want a filter, an id, or this.
    #[arg(long)]
    all: bool,

    /// Where `reroute` sends them: a domain, .DOMAIN for a route that is set so, relay: for the relay host.
    ///
    /// What is set for that domain holds: its route, or else the relay host if there is one.
    #[arg(long, value_name = "NAME")]
    to: Option<String>,

    /// Jobs for this destination, as `list` shows it: a domain, relay: for the relay host, local: for mailboxes here.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,

    /// Jobs of this sender: the user who submitted them, or the address in MAIL FROM; <> for notices.
    #[arg(long, value_name = "NAME")]
    sender: Option<String>,

    /// Jobs with a recipient whose address contains this.
    #[arg(long, value_name = "TEXT")]
    recipient: Option<String>,

    /// Jobs with this in the last answer about a recipient, in why they were set aside, or in why their destination is not
    /// reached.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Jobs of messages that were accepted so long ago, or longer: 30, 5m, 2h, 1d.
    #[arg(long, value_name = "TIME")]
    older: Option<Wait>,

    /// Jobs that stand so: waiting, held, quarantined.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,

    /// Show at most so many jobs. Default: 1000.
    #[arg(long, value_name = "N")]
    max: Option<usize>,

    /// Write JSON, an object a line.
    #[arg(long)]
    json: bool,

    /// The server's data folder. Default: that of its configuration, or ./smtp-data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// The server's configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Command {
    /// Show jobs, a line each.
    List,
    /// Show jobs with all that is known of them.
    Show,
    /// Show figures.
    Stats,
    /// Show what came of TLS to other hosts in the last days, as the reports of RFC 8460; with --destination, to one.
    TlsReport,
    /// Keep jobs until they are released.
    Hold,
    /// Let held and quarantined jobs go on.
    Release,
    /// Try jobs now; not those whose senders want them sent later.
    Retry,
    /// Try everything now, as `retry --all` does.
    Flush,
    /// Send jobs to another destination than that of their recipients.
    Reroute,
    /// Give jobs up and tell their senders.
    Bounce,
    /// Remove jobs without a word to their senders. What is under way may still arrive.
    Cancel,
}

/// What stands below the options in `smtp queue --help`.
pub(crate) const MORE_HELP: &str = "\
Examples:
  smtp queue list --destination example.org --older 1h
  smtp queue show 019b2c…
  smtp queue retry --destination relay:
  smtp queue reroute --destination old.example --to new.example
  smtp queue tls-report --destination example.org
  smtp queue cancel --sender bulk@example.org";

/// Runs `smtp queue`.
///
/// # Errors
/// If nobody is there to be asked, or it was not done.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let request = request(&arguments)?;
    let socket = admin::socket(&serve::data_dir(arguments.data_dir.as_deref(), arguments.config.as_deref())?);
    let mut printer = Printer { json: arguments.json, long: arguments.action == Command::Show, ..Printer::default() };
    admin::ask(&socket, &request, |answer| printer.print(answer)).await.map_err(|error| {
        Failure::new(Exit::Unavailable, format!("no answer from a server at {}: {error}", socket.display()))
            .help("--data-dir DIR is that of a running `smtp serve` with a queue; its user or root may ask")
    })?;
    printer.end(arguments.action)
}

fn request(arguments: &Arguments) -> Result<Request, Failure> {
    let Arguments { ids, destination, sender, recipient, reason, older, status, .. } = arguments;
    let filter = Filter {
        ids: ids.clone(),
        destination: destination.clone(),
        sender: sender.clone(),
        recipient: recipient.clone(),
        reason: reason.clone(),
        older: older.map(|wait| wait.0.as_secs()),
        status: status.clone(),
    };
    let named = !ids.is_empty()
        || older.is_some()
        || [destination, sender, recipient, reason, status].iter().any(|o| o.is_some());
    let control = |action| {
        if !named && !arguments.all {
            return Err(
                Failure::usage("this would change every job in the queue").help("--all says that this is meant")
            );
        }
        Ok(Request::Control { filter: filter.clone(), action })
    };
    if arguments.to.is_some() && arguments.action != Command::Reroute {
        return Err(Failure::usage("--to is for reroute").help("--destination NAME chooses by destination"));
    }
    if named && arguments.action == Command::Stats {
        return Err(
            Failure::usage("stats has the figures of the whole queue").help("list with the same filter shows jobs")
        );
    }
    match arguments.action {
        Command::List | Command::Show => Ok(Request::List { filter, max: arguments.max.unwrap_or(1000) }),
        Command::Stats => Ok(Request::Stats {}),
        Command::TlsReport => Ok(Request::TlsReport { domain: destination.clone() }),
        Command::Hold => control(Action::Hold),
        Command::Release => control(Action::Release),
        Command::Retry => control(Action::Retry),
        Command::Flush => Ok(Request::Control { filter, action: Action::Retry }),
        Command::Reroute => match &arguments.to {
            Some(to) => control(Action::Reroute { to: to.clone() }),
            None => Err(Failure::usage("reroute where to?").help("--to NAME says it, such as --to mx.example.org")),
        },
        Command::Bounce => control(Action::Bounce),
        Command::Cancel => control(Action::Cancel),
    }
}

#[derive(Debug, Default)]
struct Printer {
    json: bool,
    long: bool,
    shown: usize,
    more: bool,
    error: Option<(Exit, String)>,
}

impl Printer {
    fn print(&mut self, answer: Answer) {
        // Nobody may be reading.
        let _ = self.write(answer, &mut io::stdout().lock());
    }

    fn write(&mut self, answer: Answer, out: &mut impl Write) -> io::Result<()> {
        match answer {
            Answer::Error { what, later } => {
                self.error = Some((if later { Exit::Temporary } else { Exit::Data }, what));
                return Ok(());
            }
            Answer::More {} => {
                self.more = true;
                return Ok(());
            }
            Answer::Job(_) | Answer::TlsReport { .. } => self.shown += 1,
            Answer::Stats(_) | Answer::Changed { .. } | Answer::End {} => {}
        }
        if self.json {
            let value = match answer {
                Answer::Job(job) => serde_json::to_value(job)?,
                Answer::Stats(figures) => serde_json::to_value(figures)?,
                Answer::TlsReport { report } => report,
                other => serde_json::to_value(other)?,
            };
            return writeln!(out, "{value}");
        }
        match answer {
            Answer::Job(job) if self.long => details(&job, out),
            Answer::Job(job) => line(&job, out),
            Answer::Stats(figures) => stats(&figures, out),
            Answer::TlsReport { report } => writeln!(out, "{report:#}"),
            Answer::Changed { jobs: 1 } => writeln!(out, "1 job was changed"),
            Answer::Changed { jobs } => writeln!(out, "{jobs} jobs were changed"),
            Answer::More {} | Answer::Error { .. } | Answer::End {} => Ok(()),
        }
    }

    fn end(self, action: Command) -> Result<Exit, Failure> {
        if let Some((exit, what)) = self.error {
            return Err(Failure::new(exit, what));
        }
        if self.more {
            crate::exit::warn("there are more; --max N shows more of them, filters show others");
        }
        if self.shown == 0 && !self.json && matches!(action, Command::List | Command::Show) {
            crate::exit::say(format_args!("no job matches"));
        }
        if self.shown == 0 && action == Command::TlsReport {
            crate::exit::say(format_args!("nothing was counted"));
        }
        Ok(Exit::Success)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `5m`, `3h`, `2d`: the largest unit that fits.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn next(job: &Shown) -> String {
    match job.next {
        Some(at) if at <= now() => "now".into(),
        Some(at) => format!("in {}", span(at - now())),
        None if job.under_way => "under way".into(),
        None => job.status.clone(),
    }
}

/// Texts of peers and users: no terminal is to be driven by them.
fn clean(text: &str) -> String {
    smtp_core::types::printable(text.as_bytes())
}

fn line(job: &Shown, out: &mut impl Write) -> io::Result<()> {
    let age = span(now().saturating_sub(job.accepted));
    let (message, next) = (&job.message, next(job));
    let (from, destination, why) = (clean(&job.from), clean(&job.destination), clean(&job.why));
    let to = job.recipients.iter().filter(|recipient| recipient.state == "waiting").count();
    writeln!(out, "{message}  {age:>5} {:>8}  {next:9}  {from} -> {destination} ({to})  {why}", job.size)
}

fn details(job: &Shown, out: &mut impl Write) -> io::Result<()> {
    let ago = |at: u64| span(now().saturating_sub(at));
    writeln!(out, "{}", job.id)?;
    writeln!(out, "  from         {}", clean(&job.from))?;
    writeln!(out, "  sender       {}", clean(&job.sender))?;
    writeln!(out, "  size         {} octets", job.size)?;
    writeln!(out, "  destination  {}", clean(&job.destination))?;
    writeln!(out, "  accepted     {} ago", ago(job.accepted))?;
    // A destination that is not reached waits as a whole.
    let note = if job.why.starts_with(UNREACHED) { ", not counting where it was not reached" } else { "" };
    writeln!(out, "  attempts     {}{note}", job.attempts)?;
    if job.priority != 0 {
        writeln!(out, "  priority     {}", job.priority)?;
    }
    writeln!(out, "  next         {}", next(job))?;
    writeln!(out, "  given up     in {}", span(job.expires.saturating_sub(now())))?;
    writeln!(out, "  why          {}", clean(&job.why))?;
    for recipient in &job.recipients {
        let last = recipient.last.as_deref().map_or_else(String::new, |last| format!("  {}", clean(last)));
        writeln!(out, "  to           {}  {}{last}", clean(&recipient.address), recipient.state)?;
    }
    Ok(())
}

fn stats(figures: &Figures, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "messages     {}", figures.messages)?;
    writeln!(out, "jobs         {}", figures.jobs)?;
    writeln!(out, "held         {}", figures.held)?;
    writeln!(out, "quarantined  {}", figures.quarantined)?;
    writeln!(out, "under way    {}", figures.under_way)?;
    writeln!(out, "health       {}", clean(&figures.health))?;
    let done = &figures.done;
    writeln!(out, "since this server was started, by recipient")?;
    writeln!(out, "  delivered  {}", done.delivered)?;
    writeln!(out, "  deferred   {}", done.deferred)?;
    writeln!(out, "  failed     {}, {} of them without a notice", done.failed, done.failed_without_notice)?;
    writeln!(out, "  notices    {}", done.notices)?;
    writeln!(out, "  lost       {} leases in the middle of a delivery", done.leases_lost)
}
