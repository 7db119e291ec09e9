//! What the queue's administrator and a running server say to each other: over a Unix socket in a folder of mode 0700,
//! one JSON object a line; a request, and then answers until the server closes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smtp_queue::Counters;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The longest line, in octets: 1 MiB, more than a job with 100 recipients takes.
pub(crate) const LINE_MAX: u64 = 1 << 20;

/// How long a server may keep silent between two lines.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a server with this data folder is asked.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("run/admin.sock")
}

/// Where programs on this machine hand in mail to a server with this data folder.
pub(crate) fn submission_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("run/submit.sock")
}

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// The jobs that match.
    List { filter: Filter, max: usize },
    /// Figures.
    Stats {},
    /// What came of TLS, for all domains or one.
    TlsReport { domain: Option<String> },
    /// Does something to the jobs that match.
    Control { filter: Filter, action: Action },
}

/// Which jobs are meant: those that match all that is said.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Filter {
    /// Messages, by their ids, or jobs.
    pub(crate) ids: Vec<String>,
    /// The next hop.
    pub(crate) destination: Option<String>,
    /// The user or the reverse-path.
    pub(crate) sender: Option<String>,
    /// A part of a recipient's address.
    pub(crate) recipient: Option<String>,
    /// A part of the reason.
    pub(crate) reason: Option<String>,
    /// Accepted so many seconds ago, or longer.
    pub(crate) older: Option<u64>,
    /// `waiting`, `held` or `quarantined`.
    pub(crate) status: Option<String>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Stay until released.
    Hold,
    /// Go on.
    Release,
    /// Be tried now.
    Retry,
    /// Go to another destination.
    Reroute { to: String },
    /// Vanish; the sender is not told.
    Cancel,
    /// Give up now; the sender is told.
    Bounce,
}

/// A line of the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A job.
    Job(Box<Shown>),
    /// There are more than were asked for.
    More {},
    /// Figures.
    Stats(Figures),
    /// What came of TLS for a domain on a day (RFC 8460).
    TlsReport { report: serde_json::Value },
    /// How many jobs were changed.
    Changed { jobs: u64 },
    /// It was not done.
    Error {
        what: String,
        /// It may be done later.
        #[serde(default)]
        later: bool,
    },
    /// That was all.
    End {},
}

/// What the reason of a job begins with whose destination is waited for as a whole.
pub(crate) const UNREACHED: &str = "the destination is not reached";

/// A job as it is shown. Times are seconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) message: String,
    pub(crate) sender: String,
    pub(crate) from: String,
    pub(crate) size: u64,
    pub(crate) destination: String,
    pub(crate) status: String,
    /// Those that reached its destination: one that is not reached is waited for as a whole.
    pub(crate) attempts: u32,
    pub(crate) priority: i8,
    pub(crate) accepted: u64,
    /// When it is tried next; none while it is held, or under way.
    pub(crate) next: Option<u64>,
    pub(crate) expires: u64,
    /// Somebody works on it.
    pub(crate) under_way: bool,
    /// Why it waits.
    pub(crate) why: String,
    pub(crate) recipients: Vec<ShownRecipient>,
}

/// A recipient as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShownRecipient {
    pub(crate) address: String,
    pub(crate) state: String,
    pub(crate) last: Option<String>,
}

/// Figures as they are shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) messages: u64,
    pub(crate) jobs: u64,
    pub(crate) held: u64,
    pub(crate) quarantined: u64,
    pub(crate) under_way: u64,
    /// `ready`, or why it takes no mail.
    pub(crate) health: String,
    /// What this server has done.
    #[serde(flatten)]
    pub(crate) done: Done,
}

/// What a server has done since it was started, by recipient.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) delivered: u64,
    /// Attempts after which a recipient waits on.
    pub(crate) deferred: u64,
    pub(crate) failed: u64,
    /// Of those that failed, the ones that nobody was told of: NOTIFY=NEVER, or mail from `<>`.
    pub(crate) failed_without_notice: u64,
    /// Notices to senders, of all kinds.
    pub(crate) notices: u64,
    /// Work that was somebody else's by the time it ended: a message may have arrived twice.
    pub(crate) leases_lost: u64,
}

impl Done {
    pub(crate) fn of(counters: &Counters) -> Self {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            delivered: now(&counters.delivered),
            deferred: now(&counters.deferred),
            failed: now(&counters.failed),
            failed_without_notice: now(&counters.failed_without_notice),
            notices: now(&counters.notices),
            leases_lost: now(&counters.leases_lost),
        }
    }
}

/// Asks the server at `socket`; `line` gets each answer but the last.
///
/// # Errors
/// If nobody is there, or what comes makes no sense.
pub(crate) async fn ask(socket: &Path, request: &Request, mut line: impl FnMut(Answer)) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let mut reader = BufReader::new(stream);
    loop {
        match tokio::time::timeout(PATIENCE, read_line::<Answer>(&mut reader)).await?? {
            Answer::End {} => return Ok(()),
            answer => line(answer),
        }
    }
}

/// The object on the next line.
///
/// # Errors
/// At the end, for a line that is too long, and for one that is not such an object.
pub(crate) async fn read_line<T: serde::de::DeserializeOwned>(reader: &mut BufReader<UnixStream>) -> io::Result<T> {
    let mut text = Vec::new();
    (&mut *reader).take(LINE_MAX).read_until(b'\n', &mut text).await?;
    if text.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended in the middle of a line"));
    }
    Ok(serde_json::from_slice(&text)?)
}
