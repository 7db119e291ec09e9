//! The server's end of the admin socket.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use smtp_core::types::{Refusal, ReversePath};
use smtp_queue::{
    Action as QueueAction, Clock, Counters, Entry, Error, Filter as QueueFilter, Health, Hops, JobId, MessageId,
    NextHop, RecipientState, Router, Spool, Status,
};
use smtp_tls_policy::{Reporter, Results};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};

use super::relay::Relay;
use super::ways::{self, Ways};
use crate::admin::{
    Action, Answer, Done, Figures, Filter, Request, Shown, ShownRecipient, UNREACHED, read_line, socket,
};
use crate::exit::{Exit, Failure};

/// How many administrators are served at once.
const CONNECTIONS: usize = 16;
/// How long one may take to say what it wants, or to take a line.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long figures wait for what others have done to the queue.
const LOOK: Duration = Duration::from_secs(2);
/// What takes no longer is done whenever somebody asks.
const QUICK: Duration = Duration::from_millis(50);
/// How many jobs are read at once.
const PAGE: usize = 200;

/// What administrators may ask of.
#[derive(Debug, Clone)]
pub(super) struct Admin {
    pub(super) spool: Arc<dyn Spool>,
    pub(super) clock: Arc<Clock>,
    pub(super) hops: Hops,
    pub(super) counters: Arc<Counters>,
    pub(super) ways: Arc<Ways>,
    pub(super) results: Arc<Results>,
    pub(super) reporter: Reporter,
    /// When the last look at the queue ended, and how long it took.
    looked: Arc<Mutex<Option<(Instant, Duration)>>>,
}

impl Admin {
    /// What there is of a queue at work.
    pub(super) fn of(relay: &Relay, reporter: Reporter) -> Self {
        Self {
            spool: Arc::clone(&relay.spool),
            clock: Arc::clone(&relay.clock),
            hops: relay.hops.clone(),
            counters: Arc::clone(&relay.counters),
            ways: Arc::clone(&relay.ways),
            results: Arc::clone(&relay.results),
            reporter,
            looked: Arc::default(),
        }
    }
}

/// Makes the folder for sockets, for this process's user alone.
///
/// # Errors
/// If it cannot be, or is not.
pub(super) fn run_folder(path: &Path) -> Result<(), Failure> {
    let unusable = |why: String| {
        Failure::config(format!("cannot use {} for sockets: {why}", path.display()))
            .help("it has to be a folder of this program's user with mode 0700")
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error.to_string())),
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(|error| unusable(error.to_string()))?;
    if !found.is_dir() || found.uid() != own_uid() || found.mode() & 0o077 != 0 {
        return Err(unusable(format!("mode {:o}, user {}", found.mode() & 0o7777, found.uid())));
    }
    Ok(())
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Admin {
    /// Listens below `data_dir`. The folder keeps others out, so that there is no moment in which they could connect.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub(super) fn listen(self, data_dir: &Path) -> Result<(), Failure> {
        let path = socket(data_dir);
        // Nobody else has the queue open, so nobody else listens here.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::new(Exit::Io, format!("cannot remove {}: {error}", path.display())));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path)
            .map_err(|error| Failure::new(Exit::Io, format!("cannot listen on {}: {error}", path.display())))?;
        tokio::spawn(self.serve(listener));
        Ok(())
    }

    async fn serve(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = admin.connection(stream).await {
                            tracing::debug!(%error, "an administrator's connection broke");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin socket cannot accept now");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        if uid != own_uid() && uid != 0 {
            tracing::warn!(uid, "a user who is not this program's asked for the queue and was turned away");
            return Ok(());
        }
        let mut stream = BufReader::new(stream);
        let asked = tokio::time::timeout(PATIENCE, read_line::<Request>(&mut stream)).await?;
        let mut out = stream.into_inner();
        let done = match asked {
            Ok(request) => self.answer(request, &mut out).await,
            Err(error) => Err(Trouble::What(format!("this is no request: {error}"))),
        };
        match done {
            Ok(()) => {}
            Err(Trouble::What(what)) => say(&mut out, &Answer::Error { what, later: false }).await?,
            Err(Trouble::Later(what)) => say(&mut out, &Answer::Error { what, later: true }).await?,
            Err(Trouble::Broken(error)) => return Err(error),
        }
        say(&mut out, &Answer::End {}).await
    }

    /// What others have done to a queue that is shared may not have been seen yet. One that is large, so that looking takes
    /// long, is looked at no more often than it would be without anybody who asks.
    async fn look(&self) {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|(ended, took)| took > QUICK && ended.elapsed() < took * 20) {
            return;
        }
        let begun = Instant::now();
        let _ = self.spool.maintain(self.clock.now()).await;
        *looked = Some((Instant::now(), begun.elapsed()));
    }

    async fn answer(&self, request: Request, out: &mut UnixStream) -> Result<(), Trouble> {
        match request {
            Request::Stats {} => {
                let _ = tokio::time::timeout(LOOK, self.look()).await;
                let stats = self.spool.stats();
                let health = match self.spool.health() {
                    Health::Ready => "ready".to_owned(),
                    Health::Full(why) | Health::Unhealthy(why) => why,
                };
                let figures = Figures {
                    messages: stats.messages,
                    jobs: stats.jobs,
                    held: stats.held,
                    quarantined: stats.quarantined,
                    under_way: stats.leased,
                    health,
                    done: Done::of(&self.counters),
                };
                Ok(say(out, &Answer::Stats(figures)).await?)
            }
            Request::TlsReport { domain } => {
                for report in self.results.reports(&self.reporter, domain.as_deref()) {
                    say(out, &Answer::TlsReport { report }).await?;
                }
                Ok(())
            }
            Request::List { filter, max } => self.list(&filter, max, out).await,
            Request::Control { filter, action } => {
                let jobs = self.control(&filter, action).await?;
                Ok(say(out, &Answer::Changed { jobs }).await?)
            }
        }
    }

    async fn list(&self, filter: &Filter, max: usize, out: &mut UnixStream) -> Result<(), Trouble> {
        let mut left = max;
        for (filter, job) in self.filters(filter)? {
            let mut after = None;
            loop {
                let page = self.spool.list(&filter, after, PAGE).await?;
                for entry in page.entries.iter().filter(|entry| job.is_none_or(|job| entry.job.id == job)) {
                    if left == 0 {
                        return Ok(say(out, &Answer::More {}).await?);
                    }
                    left -= 1;
                    say(out, &Answer::Job(Box::new(self.shown(entry)))).await?;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn control(&self, filter: &Filter, action: Action) -> Result<u64, Trouble> {
        let now = self.clock.now();
        let act = match &action {
            Action::Hold => QueueAction::Hold,
            Action::Release => QueueAction::Release,
            Action::Retry => QueueAction::RetryAt(now),
            Action::Reroute { to } => QueueAction::Reroute(self.destination(to)?),
            Action::Cancel => QueueAction::Cancel,
            Action::Bounce => QueueAction::GiveUp,
        };
        if action == Action::Retry {
            // Before the jobs become due, so that the runner finds their next hops alive.
            match &filter.destination {
                Some(destination) => self.hops.revive(Some(&next_hop(destination)?)),
                None => self.hops.revive(None),
            }
        }
        let mut jobs = 0;
        for (filter, job) in self.filters(filter)? {
            if job.is_some() {
                let what = "jobs are changed by their message: leave out the part behind the dot";
                return Err(Trouble::What(what.into()));
            }
            jobs += self.spool.control(&filter, act.clone(), now).await?;
        }
        tracing::info!(?action, jobs, "an administrator changed the queue");
        Ok(jobs)
    }

    /// A destination that mail can be sent to instead of its own.
    fn destination(&self, name: &str) -> Result<NextHop, Trouble> {
        let name = name.to_ascii_lowercase();
        if name == ways::LOCAL {
            let what = "mail for others has no mailbox here; a destination is a domain, a route, or relay:";
            return Err(Trouble::What(what.into()));
        }
        let next_hop = next_hop(&name)?;
        match self.ways.route(&next_hop) {
            Ok(_) => Ok(next_hop),
            Err(refusal) => Err(Trouble::What(format!("no mail can go to {name:?}: {}", refusal.reply().text()))),
        }
    }

    /// A filter of the queue for each id, or one alone; with an id of a job, that.
    fn filters(&self, filter: &Filter) -> Result<Vec<(QueueFilter, Option<JobId>)>, Trouble> {
        let status = match filter.status.as_deref() {
            None => None,
            Some("waiting") => Some(Status::Waiting),
            Some("held") => Some(Status::Held),
            Some("quarantined") => Some(Status::Quarantined),
            Some(other) => return Err(Trouble::What(format!("{other:?} is not one of waiting, held, quarantined"))),
        };
        let base = QueueFilter {
            message: None,
            next_hop: filter.destination.as_deref().map(next_hop).transpose()?,
            sender: filter.sender.clone(),
            recipient: filter.recipient.clone(),
            status,
            before: filter.older.and_then(|age| self.clock.now().checked_sub(Duration::from_secs(age))),
            reason: filter.reason.clone(),
            unreached: filter.reason.as_deref().map_or_else(Vec::new, |reason| self.unreached(reason)),
        };
        if filter.ids.is_empty() {
            return Ok(vec![(base, None)]);
        }
        let of = |text: &String| {
            let (message, n) = text.split_once('.').map_or((text.as_str(), None), |(id, n)| (id, Some(n)));
            let wrong = || Trouble::What(format!("{text:?} is not the id of a message: 32 hexadecimal digits"));
            let message: MessageId = message.parse().map_err(|_| wrong())?;
            let n = n.map(|n| n.parse().map_err(|_| wrong())).transpose()?;
            Ok((QueueFilter { message: Some(message), ..base.clone() }, n.map(|n| JobId { message, n })))
        };
        filter.ids.iter().map(of).collect()
    }

    /// The destinations that are shown as not reached with this in what is shown.
    fn unreached(&self, reason: &str) -> Vec<NextHop> {
        let reason = reason.to_ascii_lowercase();
        let unreached = self.hops.unreached(self.clock.now()).into_iter();
        let shown = unreached.map(|(next_hop, why)| (next_hop, not_reached(&why).to_ascii_lowercase()));
        shown.filter(|(_, why)| why.contains(&reason)).map(|(next_hop, _)| next_hop).collect()
    }

    fn shown(&self, entry: &Entry) -> Shown {
        let Entry { message, job, leased_until } = entry;
        let under_way = leased_until.is_some();
        let (hop, now) = (self.hops.get(&job.next_hop), self.clock.now());
        let dead = hop.clone().filter(|hop| hop.retry_at.is_some_and(|at| at > now));
        let turn = hop.as_ref().and_then(|hop| hop.ready_at).filter(|at| *at > now);
        let next = match job.status {
            Status::Waiting if !under_way => {
                let hop = dead.as_ref().and_then(|hop| hop.retry_at);
                [hop, turn, Some(job.due)].into_iter().flatten().max()
            }
            Status::Waiting | Status::Held | Status::Quarantined => None,
        };
        let last =
            job.recipients.iter().rev().filter(|r| r.state == RecipientState::Waiting).find_map(|r| r.last.clone());
        let dead = dead.and_then(|hop| hop.last).map(|refusal| not_reached(&refusal));
        let busy = || {
            let hop = hop.filter(|hop| hop.under_way > 0)?;
            Some(format!("its turn has not come: {} for its destination are under way", hop.under_way))
        };
        let limited = || turn.map(|_| "its turn has not come: its destination gets no more in this time".to_owned());
        let why = match (job.status, &job.reason) {
            (_, Some(reason)) => reason.clone(),
            (Status::Held, None) => "held by an administrator".into(),
            _ if under_way && job.cancelled => "cancelled; what is under way may still arrive".into(),
            _ if under_way => "under way".into(),
            _ if job.attempts == 0 && job.due > now => "held for its sender, who wants it sent later".into(),
            _ => dead.or(last).or_else(limited).or_else(busy).unwrap_or_else(|| "not tried yet".into()),
        };
        let recipient = |recipient: &smtp_queue::Recipient| ShownRecipient {
            address: recipient.rcpt.to.mailbox().map_or("Postmaster", |mailbox| mailbox.as_str()).into(),
            state: match recipient.state {
                RecipientState::Waiting => "waiting",
                RecipientState::Delivered => "delivered",
                RecipientState::Failed => "failed",
            }
            .into(),
            last: recipient.last.clone(),
        };
        Shown {
            id: job.id.to_string(),
            message: message.id.to_string(),
            sender: message.sender.to_string(),
            from: match &message.mail.from {
                ReversePath::Null => "<>".into(),
                ReversePath::Mailbox(mailbox) => mailbox.to_string(),
            },
            size: message.size,
            destination: job.next_hop.to_string(),
            status: match job.status {
                Status::Waiting => "waiting",
                Status::Held => "held",
                Status::Quarantined => "quarantined",
            }
            .into(),
            attempts: job.attempts,
            priority: job.priority,
            accepted: seconds(message.accepted),
            next: next.map(seconds),
            expires: seconds(job.expires),
            under_way,
            why,
            recipients: job.recipients.iter().map(recipient).collect(),
        }
    }
}

/// Why there is no answer.
enum Trouble {
    /// The administrator is told.
    What(String),
    /// So is one who asks while the queue's store is out of order.
    Later(String),
    /// There is nobody to tell.
    Broken(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Full(_) | Error::Unhealthy(_) | Error::Storage(_) | Error::Closed => Self::Later(error.to_string()),
            error => Self::What(error.to_string()),
        }
    }
}

fn not_reached(why: &Refusal) -> String {
    format!("{UNREACHED}: {why}")
}

fn next_hop(text: &str) -> Result<NextHop, Trouble> {
    NextHop::new(text).map_err(|error| Trouble::What(format!("{text:?}: {error}")))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn say(out: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    tokio::time::timeout(PATIENCE, out.write_all(&text)).await?
}
