//! Mail for programs.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smtp_core::service::{Body, Chunk, Complete, Outcome, Promises, Receipt, Transaction};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{AcceptedReply, ForwardPath, Refusal, Reply, ReversePath};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;
use tower_service::Service;

use super::{DeliveredTo, Invocation, truncated};
use crate::Mailboxes;
use crate::lines::Lines;

/// How much of each of the program's two outputs is kept, in octets.
const SAID_MAX: usize = 16 << 10;
/// How many lines of that a refusal has, and how long each may be: a reply has up to 64 KiB.
const LINES_MAX: usize = 100;
const LINE_MAX: usize = 400;
/// How long its outputs are read on when it has ended; what it has started may hold them open.
const PATIENCE: Duration = Duration::from_millis(300);
/// For how many timeouts runs are begun for the recipients of one message: whoever waits for all of them has a limit too.
const TURNS: u32 = 6;
/// How long it may take to be gone once it was killed.
const DEATH: Duration = Duration::from_secs(5);

/// Hands each message to a program, which is started anew for each recipient, and judges by how it ends.
///
/// The message is on its standard input: `Return-Path`, `Delivered-To`, and the content, lines ended by LF. What it
/// writes, up to 16 KiB of standard error and of standard output each, and up to 100 lines of that, goes into the refusal if
/// it fails.
///
/// | how it ends | what that is |
/// |---|---|
/// | exit 0 | delivered, whether it has read everything or not |
/// | exit 75 (`EX_TEMPFAIL`), a signal, or not within the timeout, or it cannot be started | 451: try again |
/// | exit 67, 68 (`EX_NOUSER`, `EX_NOHOST`) | 550 5.1.1, 550 5.1.2 |
/// | exit 65, 77, 78 (`EX_DATAERR`, `EX_NOPERM`, `EX_CONFIG`) | 554 5.6.0, 550 5.7.0, 554 5.3.5 |
/// | any other exit | 554 5.3.0 |
///
/// **Safety.** There is no shell ([`Invocation`]). It runs as [`RunAs`] says, never as root and in no group but its
/// user's own; in a process group of its own, which is killed as a whole after the timeout (default 5 min) and when the
/// delivery is dropped; in `/`; with `PATH`, `HOME`, `USER`, `LOGNAME` and `LANG=C` in its environment, and nothing else.
/// A message that was delivered to the same address before goes round in circles: 554 5.4.6.
///
/// The answer is one for each recipient, so it belongs behind a queue or LMTP. After six timeouts no more runs are begun
/// for a message: 451 for those that are left. Content is kept in a file without a name,
/// in the system's folder for such, while the program runs. Clones share nothing that changes.
#[derive(Debug, Clone)]
pub struct Program {
    which: Which,
    run_as: RunAs,
    separator: Option<char>,
    timeout: Duration,
}

/// Which program a recipient is for.
#[derive(Debug, Clone)]
enum Which {
    This(Arc<Invocation>),
    Aliases(Mailboxes),
}

/// The user that programs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    name: String,
    home: String,
    /// User and group to change to; `None` if it is who we are.
    change: Option<(u32, u32)>,
}

/// Why programs cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// This process is root, and so would the program be.
    #[error("programs are never run as root: name the user that they run as")]
    Root,
    /// There is no such user.
    #[error("there is no user {0:?} on this machine")]
    Unknown(String),
    /// Only root can run programs as somebody else.
    #[error("only a server that runs as root can run programs as {0:?}")]
    NotRoot(String),
    /// The users of this machine cannot be looked up.
    #[error("cannot look up the user {0:?}: {1}")]
    LookUp(String, #[source] io::Error),
}

impl RunAs {
    /// The user that this process runs as.
    ///
    /// # Errors
    /// [`ProgramError::Root`] if that is root.
    pub fn ourselves() -> Result<Self, ProgramError> {
        let uid = nix::unistd::Uid::effective();
        if uid.is_root() {
            return Err(ProgramError::Root);
        }
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let (name, home) = user.map_or_else(|| (uid.to_string(), "/".into()), named);
        Ok(Self { name, home, change: None })
    }

    /// The user of this name, in its own group.
    ///
    /// # Errors
    /// [`ProgramError`] if it is root, unknown, or another one than this process's and this process is not root.
    pub fn user(name: &str) -> Result<Self, ProgramError> {
        let found = nix::unistd::User::from_name(name);
        let found = found.map_err(|error| ProgramError::LookUp(name.into(), error.into()))?;
        let user = found.ok_or_else(|| ProgramError::Unknown(name.into()))?;
        let own = nix::unistd::Uid::effective();
        if user.uid.is_root() || user.gid.as_raw() == 0 {
            return Err(ProgramError::Root);
        }
        if !own.is_root() && own != user.uid {
            return Err(ProgramError::NotRoot(name.into()));
        }
        let change = own.is_root().then(|| (user.uid.as_raw(), user.gid.as_raw()));
        let (name, home) = named(user);
        Ok(Self { name, home, change })
    }
}

fn named(user: nix::unistd::User) -> (String, String) {
    (user.name, user.dir.to_string_lossy().into_owned())
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Program {
    /// The content is handed over as it is. Not BINARYMIME: line ends change. Not DSN: it writes no notices.
    pub const PROMISES: Promises = Promises::of(&["8BITMIME", "SMTPUTF8"]);

    /// Mail for this program, run as that user.
    #[must_use]
    pub fn new(invocation: Arc<Invocation>, run_as: RunAs) -> Self {
        Self { which: Which::This(invocation), run_as, separator: None, timeout: Duration::from_secs(300) }
    }

    /// Mail for the programs that addresses stand for by an alias ([`Mailboxes::program_of`]), with their tags. A recipient
    /// that is none: 451 4.3.5.
    #[must_use]
    pub fn of_aliases(mailboxes: &Mailboxes, run_as: RunAs) -> Self {
        let (which, separator) = (Which::Aliases(mailboxes.clone()), mailboxes.separator());
        Self { which, run_as, separator, timeout: Duration::from_secs(300) }
    }

    /// With what stands before a tag in a local part. Default: there are no tags.
    #[must_use]
    pub const fn with_separator(mut self, separator: Option<char>) -> Self {
        self.separator = separator;
        self
    }

    /// With another time for it to end. Default: 5 minutes.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn deliver(&self, transaction: Transaction) -> Outcome {
        let Transaction { session, envelope, body } = transaction;
        let recipients = envelope.recipients.len();
        let (content, before, complete) = match keep(body).await {
            Ok(Some(kept)) => kept,
            Ok(None) => return truncated(recipients),
            Err(error) => {
                tracing::error!(session = session.id, %error, "content for a program cannot be kept in a temporary file");
                return Outcome::all(Err(Refusal::fixed(452, (4, 3, 1), "insufficient system storage")), recipients);
            }
        };
        let (mut content, mut results) = (content, Vec::with_capacity(recipients));
        let until = Instant::now() + self.timeout * TURNS;
        for rcpt in &envelope.recipients {
            if Instant::now() > until {
                let text = "runs for other recipients took too long; this one has its turn next time";
                results.push(Err(Refusal::fixed(451, (4, 3, 0), text)));
                continue;
            }
            results.push(self.to(&rcpt.to, &envelope.mail.from, &before, &mut content).await);
        }
        let taken = Reply::fixed(250, (2, 0, 0), "the program took the message");
        let Ok(taken) = AcceptedReply::try_from(taken) else { return truncated(recipients) };
        let receipt = Receipt::relayed(complete, taken);
        Outcome::each(results.into_iter().map(|result| result.map(|()| receipt.clone())).collect())
    }

    /// One run, for one recipient.
    async fn to(
        &self,
        to: &ForwardPath,
        from: &ReversePath,
        before: &DeliveredTo,
        content: &mut File,
    ) -> Result<(), Refusal> {
        let address = to.mailbox().map_or("postmaster", |mailbox| mailbox.as_str());
        if before.has(address) {
            let text = "mail loop: the message was delivered to this address before";
            return Err(Refusal::fixed(554, (5, 4, 6), text));
        }
        let invocation = match &self.which {
            Which::This(invocation) => Some(invocation),
            Which::Aliases(mailboxes) => mailboxes.program_of(to),
        };
        let Some(invocation) = invocation else {
            return Err(Refusal::fixed(
                451,
                (4, 3, 5),
                "the program for this address is not in the configuration any more",
            ));
        };
        let arguments = invocation.arguments(to, from, self.separator)?;
        let head = format!("Return-Path: {from}\nDelivered-To: {address}\n");
        let run = self.run(invocation, arguments, head.as_bytes(), content).await;
        let program = invocation.program().display();
        match &run {
            Ok(Run { how: How::Ended(status), .. }) => {
                tracing::debug!(%program, to = address, %status, "program ended")
            }
            Ok(Run { how: How::TooLate, .. }) => {
                tracing::warn!(%program, to = address, "program was killed: it took too long")
            }
            Err(error) => tracing::error!(%program, to = address, %error, "program cannot be run"),
        }
        match run {
            Ok(run) => run.judge(),
            Err(_) => Err(Refusal::fixed(451, (4, 3, 5), "the program for this address cannot be run now")),
        }
    }

    async fn run(
        &self,
        invocation: &Invocation,
        arguments: Vec<String>,
        head: &[u8],
        content: &mut File,
    ) -> io::Result<Run> {
        content.seek(SeekFrom::Start(0)).await?;
        let mut command = Command::new(invocation.program());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.run_as.home)
            .env("USER", &self.run_as.name)
            .env("LOGNAME", &self.run_as.name)
            .env("LANG", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some((uid, gid)) = self.run_as.change {
            // The supplementary groups go with it.
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn()?;
        let mut group = Group::of(&child);
        let (Some(input), Some(mut output), Some(mut errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it has no standard input and output"));
        };
        let mut said = Said::default();
        let ended = tokio::time::timeout(
            self.timeout,
            attend(&mut child, input, (head, content), (&mut output, &mut errors), &mut said),
        );
        let how = match ended.await {
            Ok(status) => How::Ended(status?),
            Err(_) => How::TooLate,
        };
        if matches!(how, How::TooLate) {
            group.kill();
            let _ = tokio::time::timeout(DEATH, child.wait()).await;
        } else {
            // What it leaves running is its own affair.
            group.0 = None;
        }
        // What it said last.
        let rest = async {
            tokio::join!(listen_on(&mut output, &mut said.output), listen_on(&mut errors, &mut said.errors));
        };
        let _ = tokio::time::timeout(PATIENCE, rest).await;
        Ok(Run { how, said: said.text() })
    }
}

impl Service<Transaction> for Program {
    type Response = Outcome;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.deliver(transaction).await) })
    }
}

type Kept = (File, DeliveredTo, Complete);

/// The content in a file without a name; `None` if it did not come whole.
async fn keep(mut body: Body) -> io::Result<Option<Kept>> {
    let file = tokio::task::spawn_blocking(tempfile::tempfile).await.map_err(io::Error::other)??;
    let (mut file, mut before) = (File::from_std(file), DeliveredTo::default());
    let (mut lines, mut batch) = (Lines::default(), Vec::new());
    let complete = loop {
        match body.next().await {
            Ok(Chunk::Data(data)) => {
                before.read(&data);
                lines.push(&data, &mut batch);
                file.write_all(&batch).await?;
                batch.clear();
            }
            Ok(Chunk::End(complete)) => break complete,
            Err(_) => return Ok(None),
        }
    };
    lines.finish(&mut batch);
    file.write_all(&batch).await?;
    file.flush().await?;
    Ok(Some((file, before, complete)))
}

/// Gives the program its input and hears what it says, until it ends.
async fn attend(
    child: &mut Child,
    input: ChildStdin,
    message: (&[u8], &mut File),
    (output, errors): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncRead + Unpin)),
    said: &mut Said,
) -> io::Result<ExitStatus> {
    let mut feeding = std::pin::pin!(feed(input, message));
    let (mut fed, mut speaks, mut complains) = (false, true, true);
    loop {
        tokio::select! {
            status = child.wait() => return status,
            result = &mut feeding, if !fed => {
                // Content that cannot be read any more must not look whole: whoever drops the group kills it.
                result?;
                fed = true;
            }
            more = listen(output, &mut said.output), if speaks => speaks = more,
            more = listen(errors, &mut said.errors), if complains => complains = more,
        }
    }
}

/// Writes the message to the program. One that does not want to read all of it is no error.
async fn feed(mut input: ChildStdin, (head, content): (&[u8], &mut File)) -> io::Result<()> {
    let mut written = input.write_all(head).await;
    let mut buffer = vec![0; 64 << 10];
    while written.is_ok() {
        let n = content.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        written = input.write_all(buffer.get(..n).unwrap_or_default()).await;
    }
    Ok(())
}

/// What the program has written.
#[derive(Debug, Default)]
struct Said {
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Said {
    /// What it complained of first.
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for octets in [&self.errors, &self.output] {
            let text = String::from_utf8_lossy(octets).replace("\r\n", "\n");
            for line in text.trim().lines() {
                let mut rest: Vec<char> = line.chars().collect();
                while rest.len() > LINE_MAX {
                    let more = rest.split_off(LINE_MAX);
                    lines.push(String::from_iter(std::mem::replace(&mut rest, more)));
                }
                lines.push(String::from_iter(rest));
            }
        }
        lines.truncate(LINES_MAX);
        lines.join("\n")
    }
}

/// Takes what there is to hear and keeps the beginning; false when there will be no more.
async fn listen(from: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> bool {
    let mut words = [0; 4_096];
    let Ok(n @ 1..) = from.read(&mut words).await else { return false };
    let room = SAID_MAX.saturating_sub(said.len());
    said.extend_from_slice(words.get(..n.min(room)).unwrap_or_default());
    true
}

async fn listen_on(from: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) {
    while listen(from, said).await {}
}

/// A program's process group, killed when this is dropped.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // It can only fail if all of it has ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a run came to.
#[derive(Debug)]
struct Run {
    how: How,
    said: String,
}

#[derive(Debug)]
enum How {
    Ended(ExitStatus),
    TooLate,
}

impl Run {
    fn judge(&self) -> Result<(), Refusal> {
        let (code, enhanced, what) = match &self.how {
            How::TooLate => (451, (4, 3, 0), "the program took too long and was ended"),
            How::Ended(status) if status.success() => return Ok(()),
            How::Ended(status) => match status.code() {
                None => (451, (4, 3, 0), "the program was ended by a signal"),
                Some(64) => (554, (5, 3, 0), "the program was called in a way it does not know"),
                Some(65) => (554, (5, 6, 0), "the program cannot use the message"),
                Some(67) => (550, (5, 1, 1), "the program knows no such user"),
                Some(68) => (550, (5, 1, 2), "the program knows no such host"),
                Some(69) => (554, (5, 3, 0), "a service that the program needs is not there"),
                Some(75) => (451, (4, 3, 0), "the program wants to be tried again later"),
                Some(77) => (550, (5, 7, 0), "the program does not have the permission"),
                Some(78) => (554, (5, 3, 5), "the program has no usable configuration"),
                Some(_) => (554, (5, 3, 0), "the program failed"),
            },
        };
        let how = match &self.how {
            How::Ended(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!(" (exit {code})"),
                (_, Some(signal)) => format!(" (signal {signal})"),
                _ => String::new(),
            },
            How::TooLate => String::new(),
        };
        let colon = if self.said.is_empty() { "" } else { ": " };
        Err(Refusal::new(code, enhanced, format!("{what}{how}{colon}{}", self.said)))
    }
}

#[cfg(test)]
mod tests;
