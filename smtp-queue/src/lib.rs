//! Store and forward.

mod clock;
mod engine;
mod error;
mod fault;
mod id;
mod job;
pub mod kit;
mod lanes;
mod memory;
mod notice;
mod queue;
mod router;
mod runner;
mod scheduler;
mod spool;
mod sqlite;
mod terms;

pub use clock::Clock;
pub use error::{Error, OpenError};
pub use fault::{Call, Fault, FaultSpool};
pub use id::{JobId, MessageId};
pub use job::{
    Action, Job, Message, NewJob, NewMessage, NewNotice, NextHop, Recipient, RecipientState, Settled, Settlement,
    Status,
};
pub use memory::MemSpool;
pub use notice::{About, Dsn, Kind, Notices};
pub use queue::{ByDomain, Plan, Queue, new_message};
pub use router::{BoxDelivery, Router};
pub use runner::{Counters, Runner, Settings};
pub use scheduler::{Feedback, HopLimits, HopState, Rate, Schedule, Scheduler, Verdict, expired};
pub use spool::{Claim, Entry, Filter, Health, Lease, Leased, Limits, Page, Spool, Staged, Stats, Why};
pub use sqlite::SqliteSpool;
pub use terms::Terms;
