//! Delivery into Maildir folders, durable before the 250.
//!
//! [`Maildir`] writes each message to `tmp/`, syncs it, moves it to `new/` and syncs that folder; only then is there a
//! receipt. A crash at any point leaves either no message or the whole one. Readers need no locks: see
//! <https://cr.yp.to/proto/maildir.html> for the format.

mod failure;
mod folder;
mod plan;
mod quota;
mod stage;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_mailboxes;
mod tree;
mod unique;
mod usage;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use smtp_core::extension::Prdr;
use smtp_core::service::{Body, Chunk, Outcome, Promises, Transaction};
use smtp_core::stream::BoxFuture;
use smtp_core::types::{Domain, ForwardPath, HelloKind, Invalid, Refusal};
use tower_service::Service;

use crate::Mailboxes;
use crate::delivery::{DeliveredTo, truncated};
use crate::lines::Lines;
use crate::name;
use failure::Failure;
use plan::Plan;
pub use quota::{QuotaCheck, QuotaLayer};
use stage::{Message, Staging, Stored};
use tree::{Place, Tree};
use unique::Names;
use usage::Usage;

/// How many octets are collected before they are written: smaller messages take one trip to the blocking threads.
const BATCH: usize = 256 << 10;

/// Stores mail in `ROOT/<domain>/<user>/{tmp,new,cur}`.
///
/// **Names.** The domain as A-labels in lower case (RFC 5890); the user is the local part without quotes, in lower case,
/// with every octet outside `[a-z0-9._+=-]` and a leading dot as `%XX`. So case does not matter, nothing can leave the
/// root, and nothing is hidden. A name longer than 200 octets is no mailbox: 550 5.1.1. A bare `<Postmaster>` goes to
/// `postmaster` of the primary domain. A mailbox that occurs twice among the recipients gets one copy.
///
/// With [`Maildir::for_mailboxes`] those say which mailbox an address is, and how much it may hold.
///
/// **Content.** `Return-Path` and `Delivered-To` come first (RFC 5321 §4.4), line ends are LF on disk. What was delivered
/// to the same address before goes round in circles: 554 5.4.6.
///
/// **Quota.** A mailbox that is full: 452 4.2.2, since its owner may make room; a message larger than it may ever hold:
/// 552 5.2.2. Octets count as they are on disk, in all subfolders (Maildir++); the size is read from the names, as in
/// `,S=1234`, or else from the files.
///
/// **All or nothing.** Copies for all recipients are staged and synced before the first is published. A failure before
/// that leaves nothing behind and refuses the whole transaction: 452 4.3.1 if the disk or quota is full, else
/// 451 4.3.0. A failure after it is 451, so the sender tries again and some may get the message twice, but nobody
/// loses it. A session that breaks off before the end of the content leaves nothing behind; after the end the message
/// is stored though nobody waits any more (RFC 1047).
///
/// **Over LMTP**, with [`Prdr`], and with [`Maildir::each`], each recipient has its own answer (RFC 2033 §4.2): one that is
/// no mailbox, or whose mailbox cannot be written to, is refused alone.
///
/// **Safety.** No symbolic link below the root is followed and no folder that everybody may write to is used; folders
/// are made 0700, files 0600. Mailboxes are made when mail comes for them, up to a number; beyond it 452 4.2.1, but for
/// `postmaster`.
///
/// **Cost.** Content streams through 256 KiB of memory. Files are worked on in tokio's blocking threads. Each copy costs
/// two syncs; the first delivery to a mailbox in a process three more, for the folders above it.
///
/// Clones share everything.
#[derive(Debug, Clone)]
pub struct Maildir {
    shared: Arc<Shared>,
    mailboxes: Option<Mailboxes>,
    /// Each recipient has its own answer, whoever asks.
    each: bool,
}

#[derive(Debug)]
struct Shared {
    tree: Tree,
    names: Names,
    primary: Box<str>,
    usage: Usage,
}

impl Maildir {
    /// It stores internationalised mail as it is, and a message's way ends here, so that there is no further hop without
    /// TLS. Not BINARYMIME: content with bare CR or LF would not survive the change of line ends. Not DSN: it writes no
    /// notices.
    pub const PROMISES: Promises = Promises::of(&["8BITMIME", "SMTPUTF8", "REQUIRETLS"]);

    /// The store at `root`, which is made if it is not there, with the defaults of [`Builder`].
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(root: impl Into<PathBuf>, primary: &Domain) -> Result<Self, OpenError> {
        Self::builder(root, primary).open()
    }

    /// A store at `root` whose bare `<Postmaster>` belongs to `primary`.
    #[must_use]
    pub fn builder(root: impl Into<PathBuf>, primary: &Domain) -> Builder {
        Builder {
            root: root.into(),
            primary: primary.clone(),
            max_mailboxes: 1_000,
            hostname: unique::system_hostname(),
            clock: SystemTime::now,
        }
    }

    /// The same store, in which `mailboxes` say where mail for an address goes, tags cut off, and how much each may
    /// hold. What is none of them is refused: 550 5.1.1.
    #[must_use]
    pub fn for_mailboxes(mut self, mailboxes: &Mailboxes) -> Self {
        self.mailboxes = Some(mailboxes.clone());
        self
    }

    /// The same store, for whoever can use an answer for each recipient, such as a queue: one that cannot be served is
    /// refused alone, as over LMTP.
    #[must_use]
    pub const fn each(mut self) -> Self {
        self.each = true;
        self
    }

    /// The folder that mail to this address goes to; `None` if it is no mailbox.
    #[must_use]
    pub fn folder_of(&self, address: &ForwardPath) -> Option<PathBuf> {
        let place = self.place_of(address)?;
        Some(self.shared.tree.root().join(&*place.domain).join(&*place.user))
    }

    fn place_of(&self, address: &ForwardPath) -> Option<Place> {
        plan::place_of(address, &self.shared.primary, self.mailboxes.as_ref())
    }

    /// Removes files in `tmp/` folders that were last written more than 36 hours ago: what deliveries left that were
    /// killed in the middle. Gives their number. For the start of the program.
    ///
    /// Blocks: it looks into every mailbox.
    ///
    /// # Errors
    /// If a folder cannot be read or a file not be removed.
    pub fn sweep(&self) -> io::Result<usize> {
        sweep::sweep(&self.shared.tree, self.shared.names.now()).map_err(Failure::into_io)
    }
}

/// Settings of a [`Maildir`].
#[derive(Debug, Clone)]
pub struct Builder {
    root: PathBuf,
    primary: Domain,
    max_mailboxes: usize,
    hostname: String,
    clock: fn() -> SystemTime,
}

impl Builder {
    /// Up to how many mailboxes there may be, those made by hand included, for a new one to be made when mail comes
    /// for it. Default 1,000; 0 for none.
    #[must_use]
    pub const fn max_mailboxes(mut self, mailboxes: usize) -> Self {
        self.max_mailboxes = mailboxes;
        self
    }

    /// The host's name in file names; it keeps hosts apart that share a file system. Default: the system's.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = hostname.into();
        self
    }

    /// Another source of the time in file names, and of the age of what is swept.
    #[must_use]
    pub const fn clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store. Blocks: it makes the root if it is not there and counts the mailboxes.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(self) -> Result<Maildir, OpenError> {
        let invalid = Invalid::new("primary domain", "a name under IDNA (RFC 5891)");
        let primary = name::domain(self.primary.as_str()).ok_or(invalid)?.into();
        let tree = Tree::open(self.root, self.max_mailboxes).map_err(Failure::into_io)?;
        let names = Names::new(&self.hostname, self.clock);
        let shared = Arc::new(Shared { tree, names, primary, usage: Usage::default() });
        Ok(Maildir { shared, mailboxes: None, each: false })
    }
}

/// Why a [`Maildir`] cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The primary domain is no name under IDNA.
    #[error(transparent)]
    Domain(#[from] Invalid),
    /// The root cannot be used; the text has path and reason.
    #[error(transparent)]
    Root(#[from] io::Error),
}

impl Service<Transaction> for Maildir {
    type Response = Outcome;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, transaction: Transaction) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(deliver(this, transaction).await) })
    }
}

async fn deliver(maildir: Maildir, transaction: Transaction) -> Outcome {
    let Transaction { session, envelope, body } = transaction;
    let recipients = envelope.recipients.len();
    let lmtp = session.hello.as_ref().is_some_and(|hello| hello.kind == HelloKind::Lhlo);
    let each = maildir.each || lmtp || envelope.mail.parameters.get::<Prdr>().is_some();
    let Maildir { shared, mailboxes, .. } = maildir;
    let Plan { targets, recipients: places } = Plan::new(&envelope, &shared.primary, mailboxes.as_ref());
    // One reply for all of them: a part must not be stored again each time the sender tries again.
    if places.contains(&None) && (!each || targets.is_empty()) {
        return Outcome::all(Err(plan::no_mailbox()), recipients);
    }
    let message = Message::new(&envelope.mail.from, targets);
    let (result, failed) = match receive(Staging::new(shared, message, each), body).await {
        Received::Stored((receipt, failed)) => (Ok(receipt), failed),
        Received::Truncated => return truncated(recipients),
        Received::Failed(failure) => {
            failure.log(session.id);
            (Err(failure.refusal()), Vec::new())
        }
        Received::Lost => (Err(Refusal::fixed(451, (4, 3, 0), "local error; try again later")), Vec::new()),
    };
    if failed.is_empty() && !places.contains(&None) {
        return Outcome::all(result, recipients);
    }
    failed.iter().for_each(|(_, failure)| failure.log(session.id));
    let of = |target: usize| match failed.iter().find(|(failed, _)| *failed == target) {
        Some((_, failure)) => Err(failure.refusal()),
        None => result.clone(),
    };
    Outcome::each(places.into_iter().map(|place| place.map_or_else(|| Err(plan::no_mailbox()), of)).collect())
}

enum Received {
    Stored(Stored),
    Truncated,
    Failed(Failure),
    /// The work was thrown away: it panicked, or the runtime is shutting down.
    Lost,
}

/// Reads the content, writing a batch whenever one is full, and commits at its end.
///
/// Dropped before the end, it removes what was staged: at this point one file, so it does so in place.
async fn receive(mut staging: Staging, mut body: Body) -> Received {
    let (mut lines, mut batch, mut before) = (Lines::default(), Vec::new(), DeliveredTo::default());
    let complete = loop {
        match body.next().await {
            Ok(Chunk::Data(data)) => {
                before.read(&data);
                lines.push(&data, &mut batch);
            }
            Ok(Chunk::End(complete)) => break complete,
            Err(_) => {
                // Whatever was staged is gone before anybody hears of it.
                let _ = tokio::task::spawn_blocking(move || drop(staging)).await;
                return Received::Truncated;
            }
        }
        if batch.len() >= BATCH {
            let written = tokio::task::spawn_blocking(move || {
                let result = staging.write(&batch);
                batch.clear();
                result.map(|()| (staging, batch))
            });
            (staging, batch) = match written.await {
                Ok(Ok(back)) => back,
                Ok(Err(failure)) => return Received::Failed(failure),
                Err(_) => return Received::Lost,
            };
        }
    };
    lines.finish(&mut batch);
    // From here on it runs to its end, even if this future is dropped.
    let committed = tokio::task::spawn_blocking(move || {
        staging.write(&batch)?;
        staging.refuse_circles(&before)?;
        staging.commit(complete)
    });
    match committed.await {
        Ok(Ok(stored)) => Received::Stored(stored),
        Ok(Err(failure)) => Received::Failed(failure),
        Err(_) => Received::Lost,
    }
}

/// The folder above, also for a path of one part.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
