//! What the integration tests of this workspace share.

pub mod binary;
pub mod peers;
pub mod scenarios;
