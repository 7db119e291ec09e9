//! What the queue promises, from outside.

mod conformance;
mod damage;
mod faults;
mod flow;
mod kill;
mod model;
mod rig;
mod week;
