//! `smtp replay`: the scenario files of `smtp-test` against any live server.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Deserialize;
use smtp_test::scenario::{Matching, Mismatch, Report, Runner, Scenario};
use smtp_transport_quic::Observer;

use crate::connect::{TlsArguments, reach};
use crate::exit::{Exit, Failure};
use crate::send::failure_of;
use crate::settings::layered;
use crate::transport::{Calling, EarlyDataChoice, Quic};
use crate::url::Url;
use crate::values::{self, Many, Wait, flatten};

/// Plays conversations from files against a server, and shows where its replies differ.
///
/// A file has what a client sends and what the server has to answer. Each is played on a connection of its own.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Arguments {
    /// The server, as for `smtp send --server`.
    #[arg(value_name = "URL")]
    #[serde(skip)]
    url: Option<Url>,

    /// Scenario files, or folders of them.
    #[arg(value_name = "SCENARIO")]
    #[serde(skip)]
    scenarios: Vec<PathBuf>,

    /// How closely replies have to be what the files say. Default: code.
    #[arg(long = "match", value_name = "HOW", value_enum)]
    #[serde(rename = "match")]
    matching: Option<MatchChoice>,

    /// Read NEW wherever a file has OLD as a word of its own; may be repeated.
    ///
    /// The files are about mailboxes at here.example: --set here.example=example.org names your domain.
    #[arg(long, value_name = "OLD=NEW")]
    #[serde(deserialize_with = "values::list")]
    set: Vec<Substitution>,

    /// The server has this property, which some files ask for; may be repeated. Others are skipped.
    #[arg(long, value_name = "PROPERTY")]
    #[serde(deserialize_with = "values::list")]
    has: Vec<Many<String>>,

    #[command(flatten)]
    #[serde(skip)]
    tls: TlsArguments,

    /// Whether QUIC connections but the first send before the handshake is complete. Default: off.
    #[arg(long, value_name = "CHOICE", value_enum)]
    early_data: Option<EarlyDataChoice>,

    /// Write a qlog file of each QUIC connection into this folder.
    #[arg(long, value_name = "DIR")]
    qlog_dir: Option<PathBuf>,

    /// How long a reply may take, in seconds. Default: 10.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<Wait>,

    /// Show what passed, what was skipped and why, and the conversation in front of each difference.
    #[arg(short, long)]
    verbose: bool,

    /// Read options from this TOML file; its keys are their names.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

layered!(Arguments {
    matching,
    set,
    has,
    early_data,
    qlog_dir,
    timeout,
    verbose,
} with { tls } except { url, scenarios });

/// What stands below the options in `smtp replay --help`.
pub(crate) const MORE_HELP: &str = "\
--match says what counts:
  code   the code of each reply; its enhanced code, if the server gives one; EHLO keywords in any order (the default)
  class  the first digit of each reply, and EHLO keywords: whether it says yes, not now, or no
  text   every line as the file has it: for the server that the files were written for

The files are written for a server that has the mailboxes alice, bob and postmaster at here.example, and relays for \
nobody. Some ask for a property (a line `SERVER size=1000000`), a kind of channel, or an EHLO keyword, and are skipped \
where it is missing. On smtp:// the files say when TLS begins; the options only say whom to trust then.

Exit codes:
   0  nothing differs
   1  something differs
  65  nothing could be played: all was skipped
  69  no connection
  77  the TLS policy cannot be met
  78  a file cannot be used
  64  the command line is wrong

Examples:
  smtp serve --domain here.example --mailbox alice@here.example,bob@here.example
  smtp replay smtp://127.0.0.1:2525 tests/scenarios
  smtp replay smtp+quic://127.0.0.1:2525 --insecure tests/scenarios/bdat.txt
  smtp replay smtp://127.0.0.1:25 --set here.example=example.org --match class tests/scenarios";

/// What `--match` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MatchChoice {
    /// Codes and keywords.
    #[default]
    Code,
    /// First digits and keywords.
    Class,
    /// Everything.
    Text,
}

impl From<MatchChoice> for Matching {
    fn from(choice: MatchChoice) -> Self {
        match choice {
            MatchChoice::Code => Self::Code,
            MatchChoice::Class => Self::Class,
            MatchChoice::Text => Self::Text,
        }
    }
}

/// What is read for what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Substitution {
    old: String,
    new: String,
}

impl Substitution {
    /// The text with the new words for the old ones, in whatever case; what is within another word stays.
    fn apply(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (at, _) in lower.match_indices(&self.old.to_ascii_lowercase()) {
            let end = at + self.old.len();
            let (before, behind) = (text.get(..at).unwrap_or_default(), text.get(end..).unwrap_or_default());
            if at < done || part_of_word(before.chars().next_back()) || part_of_word(behind.chars().next()) {
                continue;
            }
            out.push_str(text.get(done..at).unwrap_or_default());
            out.push_str(&self.new);
            done = end;
        }
        out.push_str(text.get(done..).unwrap_or_default());
        out
    }
}

impl FromStr for Substitution {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((old, new)) if !old.is_empty() => Ok(Self { old: old.to_owned(), new: new.to_owned() }),
            _ => Err("it is OLD=NEW, as in here.example=example.org"),
        }
    }
}

impl TryFrom<String> for Substitution {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Runs `smtp replay`.
///
/// # Errors
/// If a file cannot be used, or the server cannot be reached.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let missing = |what: &str| {
        Failure::usage(format!("{what} is missing"))
            .help("`smtp replay smtp://127.0.0.1:2525 tests/scenarios` plays a folder of them")
    };
    let url = arguments.url.ok_or_else(|| missing("the server"))?;
    if arguments.scenarios.is_empty() {
        return Err(missing("the scenario"));
    }
    let scenarios = load(&arguments.scenarios, &arguments.set)?;
    let tls = arguments.tls.options()?;
    let policy = tls.policy(&url, false)?;
    let wait = arguments.timeout.map_or(Duration::from_secs(10), |wait| wait.0);
    let page = Page { verbose: arguments.verbose };
    let calling = Calling {
        wait: Some(wait),
        quic: Quic::new(arguments.early_data, arguments.qlog_dir)?,
        observer: page.verbose.then(|| Observer::new(move |event| page.note(event))),
        ..Calling::default()
    };
    let way = tls.way(&url, calling)?;
    let runner = Runner::default()
        .wait(wait)
        .matching(arguments.matching.unwrap_or_default().into())
        .speaking(url.protocol())
        .properties(flatten(arguments.has));

    let mut tally = Tally::default();
    for scenario in &scenarios {
        // The connection lasts as long as its stream is in use.
        let (_connection, stream) =
            reach(&*way.connector, &url, &policy, wait).await.map_err(|error| failure_of(&error))?;
        let result = runner.run(scenario, stream).await;
        tally.count(&result);
        page.show(scenario, &result);
    }
    way.leave().await;
    page.line(format_args!("{tally}"));
    Ok(tally.exit())
}

/// All scenarios of the files and folders, read as the server's own facts want it.
fn load(paths: &[PathBuf], set: &[Substitution]) -> Result<Vec<Scenario>, Failure> {
    let cannot = |path: &Path, error: io::Error| {
        Failure::config(format!("cannot read the scenario {}: {error}", path.display()))
    };
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|error| cannot(path, error))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "txt"))
            .collect();
        if found.is_empty() {
            return Err(Failure::config(format!("no scenarios in {}", path.display()))
                .help("the names of scenario files end in .txt"));
        }
        found.sort();
        files.append(&mut found);
    }
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| cannot(path, error))?;
        let text = set.iter().fold(text, |text, set| set.apply(&text));
        Scenario::parse(&path.display().to_string(), &text)
            .map_err(|error| Failure::config(error).help("what a scenario is written in: docs/replay.md"))
    };
    files.iter().map(read).collect()
}

/// What became of the scenarios.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    const fn count(&mut self, result: &Result<Report, Mismatch>) {
        match result {
            Ok(report) if report.has_passed() => self.passed += 1,
            Ok(_) => self.skipped += 1,
            Err(_) => self.failed += 1,
        }
    }

    const fn exit(self) -> Exit {
        match self {
            Self { failed: 1.., .. } => Exit::Differs,
            Self { passed: 0, .. } => Exit::Data,
            _ => Exit::Success,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Where the results go: standard output.
#[derive(Debug, Clone, Copy)]
struct Page {
    verbose: bool,
}

const DIM: Style = Style::new().dimmed();
const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

impl Page {
    fn line(self, line: fmt::Arguments<'_>) {
        // Nobody may be there to read it.
        let _ = writeln!(anstream::stdout(), "{line}");
    }

    fn note(self, what: impl fmt::Display) {
        self.line(format_args!("{DIM}      * {what}{DIM:#}"));
    }

    fn show(self, scenario: &Scenario, result: &Result<Report, Mismatch>) {
        let (name, title) = (scenario.name(), scenario.title());
        match result {
            Ok(Report::Passed(_)) if self.verbose => self.line(format_args!("{GOOD}pass{GOOD:#}  {name}  {title}")),
            Ok(Report::Skipped(why)) if self.verbose => self.line(format_args!("skip  {name}  {why}")),
            Ok(_) => {}
            Err(mismatch) => {
                self.line(format_args!("{BAD}FAIL{BAD:#}  {name}:{}  {title}", mismatch.line));
                self.line(format_args!("      expected  {}", mismatch.expected));
                self.line(format_args!("      got       {}", short(&mismatch.got.to_string())));
                if self.verbose {
                    for line in mismatch.transcript.to_string().lines() {
                        self.line(format_args!("{DIM}      {}{DIM:#}", short(line)));
                    }
                }
            }
        }
    }
}

/// As much of a line as anybody reads.
fn short(line: &str) -> String {
    const LONGEST: usize = 300;
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}… ({} octets)", line.get(..at).unwrap_or_default(), line.len()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_outweighs_what_passed() {
        let exit = |passed, failed, skipped| Tally { passed, failed, skipped }.exit();
        assert_eq!(exit(5, 1, 3), Exit::Differs);
        assert_eq!(exit(5, 0, 3), Exit::Success);
        assert_eq!(exit(0, 0, 3), Exit::Data, "a test that played nothing has tested nothing");
        assert_eq!(Tally { passed: 5, failed: 1, skipped: 3 }.to_string(), "5 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn only_whole_words_are_replaced() {
        let set: Substitution = "here.example=x.test".parse().unwrap();
        for (text, read) in [
            ("C: RCPT TO:<a@here.example>", "C: RCPT TO:<a@x.test>"),
            ("<a@HERE.Example> <b@sub.here.example>", "<a@x.test> <b@sub.x.test>"),
            ("a@elsewhere.example b@here.example.com", "a@elsewhere.example b@x.test.com"),
            ("ü@here.examples ühere.example", "ü@here.examples ühere.example"),
        ] {
            assert_eq!(set.apply(text), read);
        }
    }

    #[test]
    fn substitutions_are_two_words() {
        assert_eq!("a=b=c".parse(), Ok(Substitution { old: "a".into(), new: "b=c".into() }));
        for bad in ["a", "=b", ""] {
            assert!(bad.parse::<Substitution>().is_err(), "{bad}");
        }
    }
}
