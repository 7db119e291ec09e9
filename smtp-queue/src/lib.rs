//! Store and forward: mail is accepted when it is on disk, and kept until it is delivered, returned, or given up.
//!
//! A [`Queue`] is a delivery: it stores a message in a [`Spool`] and answers with the receipt. A [`Runner`] takes what is
//! due out of the spool, hands it to the delivery of its next hop, such as a pooled client, and settles what became of
//! each recipient, together with the notices that this causes.
//!
//! ```
//! use std::sync::Arc;
//! use smtp_core::channel::SessionInfo;
//! use smtp_core::service::{Body, BoxError, Outcome, Receipt, Transaction};
//! use smtp_core::types::{Envelope, Mail, Mailbox, Rcpt};
//! use smtp_queue::{BoxDelivery, ByDomain, Clock, Dsn, Limits, NextHop, Queue, Runner, Settings, Spool, SqliteSpool};
//! use tower::{Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let spool = Arc::new(SqliteSpool::open(folder.join("queue"), Limits::default())?);
//! let (plan, clock, settings) = (Arc::new(ByDomain), Arc::new(Clock::new()), Settings::default());
//!
//! // The way in: behind a server's stack. The receipt says that the message is on disk.
//! let mut queue = Queue::new(spool.clone(), plan.clone(), settings.schedule.clone(), clock.clone());
//! let mail = Transaction {
//!     session: SessionInfo::local("example"),
//!     envelope: Envelope {
//!         mail: Mail::new(Mailbox::new("jo@here.example")?),
//!         recipients: vec![Rcpt::new(Mailbox::new("amy@there.example")?)],
//!     },
//!     body: Body::from_bytes("Subject: hello\r\n\r\nhi\r\n"),
//! };
//! let outcome = queue.ready().await?.call(mail).await?;
//! println!("{}", outcome.single()?.reply()); // 250 2.0.0 queued as …
//!
//! // The way out: a router names the delivery of each next hop.
//! let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
//! let router = move |next_hop: &NextHop| {
//!     let (arrived, next_hop) = (arrived.clone(), next_hop.clone());
//!     Ok(BoxDelivery::new(service_fn(move |mut mail: Transaction| {
//!         let (arrived, next_hop) = (arrived.clone(), next_hop.clone());
//!         async move {
//!             let (_content, complete) = mail.body.collect(1 << 20).await?;
//!             arrived.send(next_hop).await?;
//!             Ok::<_, BoxError>(Outcome::all(Ok(Receipt::discarded(complete)), mail.envelope.recipients.len()))
//!         }
//!     })))
//! };
//! let dsn = Dsn::new("here.example".parse()?, plan, settings.schedule.clone());
//! let runner = Runner::new(spool.clone(), Arc::new(router), Arc::new(dsn), settings, clock);
//! let stop = tokio_util::sync::CancellationToken::new();
//! let running = tokio::spawn(runner.run(stop.clone()));
//! assert_eq!(arrivals.recv().await.map(|hop| hop.to_string()).as_deref(), Some("there.example"));
//! stop.cancel();
//! running.await?;
//! assert_eq!(spool.stats().messages, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! - [`Spool`] is the store and what every store promises; [`SqliteSpool`] keeps mail in a folder, [`MemSpool`] in memory,
//!   [`FaultSpool`] fails on demand. [`kit`] holds a store of your own against the promises.
//! - [`Message`], [`Job`], [`Recipient`]: the unit of work is a message on its way to one next hop, with its recipients.
//!   The content is stored once.
//! - [`Scheduler`] and [`Schedule`]: when to try what, and how much of it at once. Pure: time is a parameter. [`Terms`] are
//!   what a sender asks of the time of its message.
//! - [`Queue`] and [`Plan`]: the way in. [`Runner`] and [`Router`]: the way out. [`Hops`] shows what is known of next hops.
//! - [`Notices`] makes notices to senders: of failure, delay, and of success where that was asked for; [`Dsn`] is one that
//!   does.
//! - [`Clock`]: time that follows the wall clock and never jumps.
//!
//! # What it holds
//!
//! **A 250 is on disk.** [`Staged::commit`] is the only maker of a receipt, and returns after the sync. **Nothing is
//! settled by two**: a lease has an epoch, and a stale one settles nothing. **What cannot be written down is not
//! delivered**: while a settlement cannot be stored nothing is claimed. **Damage is local**: what cannot be read is set
//! aside, counted and shown.
//!
//! A message is delivered twice where that cannot be known to be wrong: when the next hop's 250 was lost, when the program
//! ended between that 250 and the settlement, or when a lease was lost in mid-delivery (RFC 1047).

mod clock;
mod engine;
mod error;
mod expansion;
mod fault;
mod id;
mod job;
pub mod kit;
mod lanes;
mod memory;
mod notice;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
mod router;
mod runner;
mod scheduler;
mod spool;
mod sqlite;
mod terms;
mod text;

pub use clock::Clock;
pub use error::{Error, OpenError};
pub use fault::{Call, Fault, FaultSpool};
pub use id::{JobId, MessageId};
pub use job::{
    Action, Job, Message, NewJob, NewMessage, NewNotice, NextHop, Recipient, RecipientState, Settled, Settlement,
    Status,
};
pub use memory::MemSpool;
pub use notice::{About, Dsn, Kind, Notices, Original};
#[cfg(feature = "postgres")]
pub use postgres::{PgSettings, PgSpool};
pub use queue::{ByDomain, Plan, Queue, new_message};
pub use router::{BoxDelivery, Router};
pub use runner::{Counters, Hops, Runner, Settings};
pub use scheduler::{Feedback, HopLimits, HopState, Rate, Schedule, Scheduler, Verdict, expired};
pub use spool::{Claim, Entry, Filter, Health, Lease, Leased, Limits, Page, Spool, Staged, Stats, Why};
pub use sqlite::SqliteSpool;
pub use terms::Terms;
