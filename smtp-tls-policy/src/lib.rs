#![doc = include_str!("../README.md")]

mod cache;
mod choice;
mod dane;
mod fetch;
mod report;
mod sts;

pub use cache::{Finding, Settings, Sts};
pub use choice::{Choice, UnknownChoice};
pub use dane::{Binding, binding};
pub use fetch::{Fetch, FetchError, HttpsFetch};
pub use report::{Applied, Failed, FailureKind, Reporter, Results};
pub use sts::{Mode, Policy, PolicyError, record_id};
