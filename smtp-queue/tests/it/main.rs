//! What the queue promises, from outside.

mod conformance;
