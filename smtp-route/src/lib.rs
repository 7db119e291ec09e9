#![doc = include_str!("../README.md")]

mod exchange;
mod lend;
mod lookup;
mod named;
mod order;
mod own;
mod routes;
mod tls;

pub use exchange::{Exchange, Exchanges};
pub use lookup::{Settings, exchangers};
pub use named::Named;
pub use order::{Candidate, Exchanger, MailHost, hosts, order};
pub use own::Own;
pub use routes::Routes;
pub use smtp_tls_policy::Choice;
