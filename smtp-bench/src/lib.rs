#![doc = include_str!("../README.md")]

mod compare;
mod content;
mod generator;
mod meter;
mod plan;
mod report;
mod usage;

pub use compare::{Comparison, Contestant, METHOD, Metric, Ratio, RatioReport, ratio};
pub use content::{Content, ContentError, Sizes, SizesError};
pub use generator::{Generator, Live};
pub use meter::Step;
pub use plan::{Pace, Plan, Reuse};
pub use report::{ErrorReport, Load, Messages, Report, SCHEMA, Spent, StepReport, VERSION};
pub use usage::Usage;
