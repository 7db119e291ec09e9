//! How much a mailbox may hold.

/// What a mailbox may hold: octets, messages, both, or anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// The octets of all its messages, as they are on disk. `None`: no limit.
    pub octets: Option<u64>,
    /// Its messages. `None`: no limit.
    pub messages: Option<u64>,
}

impl Quota {
    /// True if there is no limit.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.octets.is_none() && self.messages.is_none()
    }

    /// True if so many octets in so many messages are within it.
    #[must_use]
    pub fn holds(&self, octets: u64, messages: u64) -> bool {
        self.octets.is_none_or(|max| octets <= max) && self.messages.is_none_or(|max| messages <= max)
    }
}
