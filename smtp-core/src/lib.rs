#![cfg_attr(not(feature = "std"), no_std)]
#![doc = include_str!("../README.md")]

extern crate alloc;

pub mod acceptance;
pub mod channel;
#[cfg(feature = "std")]
pub mod driver;
pub mod extension;
#[cfg(feature = "std")]
pub mod service;
pub mod session;
#[cfg(feature = "std")]
pub mod stream;
pub mod types;
pub mod wire;
