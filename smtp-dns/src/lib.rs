#![doc = include_str!("../README.md")]

mod answer;
mod discovery;
mod dns;
mod memory;
mod name;
mod resolver;

pub use answer::{Answer, Kind, LookupError, Mx, Security, Svcb};
pub use discovery::SvcbDiscovery;
pub use dns::Dns;
pub use memory::Memory;
pub use name::Name;
pub use resolver::{Resolver, Settings};
pub use smtp_core::stream::Tlsa;
