//! What the queue promises, from outside.

mod conformance;
mod flow;
mod rig;
mod week;
