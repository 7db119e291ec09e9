//! What the queue promises, from outside.

mod conformance;
mod flow;
mod model;
mod rig;
mod week;
