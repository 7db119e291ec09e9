#![cfg_attr(not(feature = "std"), no_std)]
#![doc = include_str!("../README.md")]

extern crate alloc;

pub mod types;
pub mod acceptance;
pub mod channel;
#[cfg(feature = "std")]
pub mod stream;
#[cfg(feature = "std")]
pub mod service;
pub mod wire;
pub mod extension;
pub mod session;
#[cfg(feature = "std")]
pub mod driver;
