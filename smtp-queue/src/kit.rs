//! What every store must do, as tests that anybody can run on a store of their own.

mod cases;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use smtp_core::service::{Body, Chunk};
use smtp_core::types::{Mail, Mailbox, Rcpt, ReversePath};

use crate::{Claim, Error, Leased, MessageId, NewJob, NewMessage, NextHop, Settled, Settlement, Spool};

/// Why a case failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

type Run = for<'a> fn(&'a dyn Spool) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// One promise of a store.
pub struct Case {
    /// What is promised.
    pub name: &'static str,
    run: Run,
}

impl Case {
    /// Holds an empty store against it.
    ///
    /// # Errors
    /// Why the promise was not kept.
    pub async fn check(&self, spool: &dyn Spool) -> Result<(), Failure> {
        (self.run)(spool).await
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Holds a store against every promise, each with a fresh store from `make`. Gives the number of promises.
///
/// # Errors
/// All that were not kept, with the reasons.
pub async fn conformance<F: Future<Output = Arc<dyn Spool>>>(make: impl Fn() -> F) -> Result<usize, String> {
    let mut failures = Vec::new();
    let cases = cases::all();
    for case in &cases {
        let spool = make().await;
        if let Err(why) = case.check(&*spool).await {
            failures.push(format!("{}: {why}", case.name));
        }
        if let Err(why) = spool.close().await {
            failures.push(format!("{}: close: {why}", case.name));
        }
    }
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

/// A time for tests, `seconds` after a fixed one.
#[must_use]
pub fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A message from `sender` with a job for each `(next hop, recipients)`, due at once and expiring after five days.
///
/// # Errors
/// If a text is no address.
pub fn message(now: SystemTime, sender: &str, jobs: &[(&str, &[&str])]) -> Result<NewMessage, Failure> {
    let from = if sender.is_empty() { ReversePath::Null } else { Mailbox::new(sender)?.into() };
    let expires = now + Duration::from_secs(5 * 86_400);
    let job = |(hop, recipients): &(&str, &[&str])| {
        let rcpt = |address: &&str| Ok(Rcpt::new(Mailbox::new(address)?));
        Ok::<_, Failure>(NewJob {
            next_hop: NextHop::new(hop)?,
            priority: 0,
            due: now,
            alarm: expires,
            expires,
            recipients: recipients.iter().map(rcpt).collect::<Result<_, Failure>>()?,
        })
    };
    Ok(NewMessage {
        mail: Mail::new(from),
        sender: sender.into(),
        jobs: jobs.iter().map(job).collect::<Result<_, _>>()?,
    })
}

/// Stores a message.
///
/// # Errors
/// What the store says.
pub async fn store(spool: &dyn Spool, now: SystemTime, new: NewMessage, content: &[u8]) -> Result<MessageId, Error> {
    let mut staged = spool.begin(now, Some(content.len() as u64)).await?;
    let id = staged.id();
    for piece in content.chunks(100_000) {
        staged.write(Bytes::copy_from_slice(piece)).await?;
    }
    // The proof that a body was whole comes from a body only.
    let mut body = Body::from_bytes(Bytes::new());
    let Ok(Chunk::End(complete)) = body.next().await else { return Err(Error::Invalid("no end of an empty body")) };
    staged.commit(complete, new).await?;
    Ok(id)
}

/// Reads a message's content whole.
///
/// # Errors
/// What the store says, or that the content did not come whole.
pub async fn content(spool: &dyn Spool, id: MessageId) -> Result<Bytes, Failure> {
    Ok(spool.body(id).await?.collect(1 << 30).await?.0)
}

/// Claims up to `max` jobs for a minute.
///
/// # Errors
/// What the store says.
pub async fn claim(spool: &dyn Spool, now: SystemTime, max: usize) -> Result<Vec<Leased>, Error> {
    spool.claim(Claim::up_to(max, now, Duration::from_secs(60))).await
}

/// A settlement that does the same to each recipient that waits.
#[must_use]
pub fn settle_all(leased: &Leased, settled: &Settled, due: SystemTime) -> Settlement {
    Settlement {
        results: leased.job.waiting().map(|n| (n, settled.clone())).collect(),
        attempted: true,
        due,
        alarm: leased.job.alarm,
        delay_told: Vec::new(),
        quarantine: None,
        notices: Vec::new(),
    }
}
