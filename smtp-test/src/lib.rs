#![doc = include_str!("../README.md")]

pub mod kit;
pub mod memory;
pub mod recorder;
pub mod scenario;
pub mod server;
mod talk;

/// One end of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connects and asks.
    Client,
    /// The end that accepts and answers.
    Server,
}

impl Side {
    /// The one at the other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Its letter in a scenario and in a transcript.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Client => 'C',
            Self::Server => 'S',
        }
    }
}
