#![doc = include_str!("../README.md")]

mod link;
#[cfg(target_os = "linux")]
mod namespace;
mod nat;
#[cfg(target_os = "linux")]
mod network;
mod packet;
mod shape;
mod trace;
#[cfg(target_os = "linux")]
mod wire;

pub use link::{Counters, DropReason, Fate, Link};
#[cfg(target_os = "linux")]
pub use namespace::Namespace;
pub use nat::Nat;
#[cfg(target_os = "linux")]
pub use network::{Network, Settings, Side, unavailable};
pub use packet::udp_packet;
pub use shape::{Loss, Shape};
pub use trace::{Direction, Event};
