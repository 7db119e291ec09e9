//! Is this a byte stream? The questions that every transport has to answer alike.
//!
//! [`check`] holds a transport to the contract of [`ByteStream`]: it asks for a fresh pair of streams for each check and
//! says what is wrong in words. It uses nothing but the trait, so a transport of one's own joins with one line. Checks
//! that a channel cannot answer, such as an upgrade without STARTTLS, are left out and reported as such.
//!
//! ```
//! use smtp_core::channel::ChannelInfo;
//! use smtp_core::stream::Plain;
//! use smtp_test::kit::{self, Pair};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kit::Failures> {
//! // The transport under test: tokio's pipe with facts beside it.
//! let transport = async || {
//!     let (client, server) = tokio::io::duplex(4096);
//!     Ok(Pair::new(
//!         Plain::new(client, ChannelInfo::memory("server")),
//!         Plain::new(server, ChannelInfo::memory("client")),
//!     ))
//! };
//! println!("{}", kit::check(transport).await?);
//! # Ok(())
//! # }
//! ```
//!
//! Every wait is bounded: a check that has not finished after 20 s has failed. Back-pressure is measured by writing
//! until nothing moves for half a second; all else takes as long as the transport does.

mod end;
mod facts;
mod flow;

use std::any::Any;
use std::fmt;
use std::io;
use std::time::Duration;

use smtp_core::stream::{BoxFuture, ByteStream, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Both ends of a fresh channel.
pub struct Pair {
    client: Box<dyn ByteStream>,
    server: BoxFuture<'static, io::Result<(Box<dyn ByteStream>, Thing)>>,
    keep: Vec<Thing>,
}

/// Something that is kept as long as a check runs.
type Thing = Box<dyn Any + Send>;

impl Pair {
    /// Two ends that are both there.
    #[must_use]
    pub fn new(client: impl ByteStream, server: impl ByteStream) -> Self {
        Self::boxed(Box::new(client), Box::new(server))
    }

    /// Two ends that are both there.
    #[must_use]
    pub fn boxed(client: Box<dyn ByteStream>, server: Box<dyn ByteStream>) -> Self {
        Self::later(client, Box::pin(async { Ok(server) }))
    }

    /// A client's end, and a server's that comes to light later: where the client speaks first, the server sees
    /// nothing before an octet has been sent.
    #[must_use]
    pub fn later(client: Box<dyn ByteStream>, server: BoxFuture<'static, io::Result<Box<dyn ByteStream>>>) -> Self {
        let server = async { Ok((server.await?, Box::new(()) as Thing)) };
        Self { client, server: Box::pin(server), keep: Vec::new() }
    }

    /// One stream over two connected connections, which are kept as long as the check runs.
    ///
    /// # Errors
    /// If the client's connection gives no stream.
    pub async fn over(mut client: Box<dyn Connection>, mut server: Box<dyn Connection>) -> io::Result<Self> {
        let stream = client.open().await?;
        let accepted = async move {
            let stream = server.accept().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok((stream, Box::new(server) as Thing))
        };
        Ok(Self { client: stream, server: Box::pin(accepted), keep: vec![Box::new(client)] })
    }

    /// The same, and `thing` is dropped when the check is over: a runtime, a connection, an endpoint.
    #[must_use]
    pub fn keeping(mut self, thing: impl Any + Send) -> Self {
        self.keep.push(Box::new(thing));
        self
    }

    /// Both ends, ready for use. Where the client speaks first, an octet has been passed.
    async fn ready(self) -> Result<Ends, String> {
        let Self { mut client, server, mut keep } = self;
        let first = client.info().client_speaks_first;
        if first {
            client.write_all(b"!").await.map_err(|e| format!("the client's first octet: {e}"))?;
            client.flush().await.map_err(|e| format!("flushing the client's first octet: {e}"))?;
        }
        let (mut server, thing) = server.await.map_err(|e| format!("the server's end: {e}"))?;
        keep.push(thing);
        if first {
            let octet = server.read_u8().await.map_err(|e| format!("the client's first octet: {e}"))?;
            if octet != b'!' {
                return Err(format!("the client's first octet came as {octet}"));
            }
        }
        Ok(Ends { client, server, _keep: keep })
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("client", &self.client.info()).finish_non_exhaustive()
    }
}

/// Both ends in use.
struct Ends {
    client: Box<dyn ByteStream>,
    server: Box<dyn ByteStream>,
    _keep: Vec<Thing>,
}

impl Ends {
    /// The same with the parts exchanged.
    fn swapped(self) -> Self {
        Self { client: self.server, server: self.client, _keep: self._keep }
    }
}

/// What came of a check that did not fail.
enum Passed {
    Yes,
    /// The channel has no such thing.
    NotHere(&'static str),
}

type Check = fn(Ends) -> BoxFuture<'static, Result<Passed, String>>;

/// All checks, by name.
const CHECKS: [(&str, Check); 17] = [
    ("the facts agree with each other", |ends| Box::pin(facts::facts(ends))),
    ("what was received is confirmed", |ends| Box::pin(facts::confirmed(ends))),
    ("what is flushed arrives", |ends| Box::pin(flow::flush(ends))),
    ("a write of nothing is nothing", |ends| Box::pin(flow::nothing(ends))),
    ("1 MiB both ways at once", |ends| Box::pin(flow::both_ways(ends))),
    ("reads of one octet", |ends| Box::pin(flow::octet_reads(ends))),
    ("a reader that waits is woken", |ends| Box::pin(flow::wakes(ends))),
    ("a writer waits for the reader", |ends| Box::pin(flow::back_pressure(ends))),
    ("the end comes behind the last octet", |ends| Box::pin(end::exact(ends))),
    ("the client closes its side and reads on", |ends| Box::pin(end::half_close(ends))),
    ("the server closes its side and reads on", |ends| Box::pin(end::half_close(ends.swapped()))),
    ("what was sent before the close survives it", |ends| Box::pin(end::last_words(ends))),
    ("the server sees that the client breaks off", |ends| Box::pin(end::abort(ends))),
    ("the client sees that the server breaks off", |ends| Box::pin(end::abort(ends.swapped()))),
    ("the server sees that the client is gone", |ends| Box::pin(end::gone(ends))),
    ("an upgrade changes the facts", |ends| Box::pin(facts::upgrade(ends))),
    ("clear text does not cross an upgrade", |ends| Box::pin(facts::leftovers(ends))),
];

/// Runs all checks, each on a fresh pair from `make`.
///
/// # Errors
/// [`Failures`], with every check that failed.
pub async fn check(make: impl AsyncFn() -> io::Result<Pair>) -> Result<Checked, Failures> {
    let mut checked = Checked { passed: Vec::new(), left_out: Vec::new() };
    let mut failures = Vec::new();
    for (name, check) in CHECKS {
        let run = async {
            let pair = make().await.map_err(|e| format!("no fresh pair: {e}"))?;
            check(pair.ready().await?).await
        };
        match timeout(LIMIT, run).await {
            Ok(Ok(Passed::Yes)) => checked.passed.push(name),
            Ok(Ok(Passed::NotHere(why))) => checked.left_out.push((name, why)),
            Ok(Err(why)) => failures.push(Failure { check: name, why }),
            Err(_) => failures.push(Failure { check: name, why: format!("not done after {} s", LIMIT.as_secs()) }),
        }
    }
    if failures.is_empty() { Ok(checked) } else { Err(Failures(failures)) }
}

/// Which checks a transport has passed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checked {
    /// Their names.
    pub passed: Vec<&'static str>,
    /// Those that the channel has no answer to, and why.
    pub left_out: Vec<(&'static str, &'static str)>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.passed.iter().try_for_each(|name| writeln!(f, "passed    {name}"))?;
        self.left_out.iter().try_for_each(|(name, why)| writeln!(f, "left out  {name}: {why}"))
    }
}

/// A check that a transport has not passed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The check's name.
    pub check: &'static str,
    /// What was seen.
    pub why: String,
}

/// All checks that a transport has not passed.
#[derive(Debug, Clone)]
pub struct Failures(pub Vec<Failure>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a byte stream:")?;
        self.0.iter().try_for_each(|failure| write!(f, "\n  {}: {}", failure.check, failure.why))
    }
}

impl std::error::Error for Failures {}
