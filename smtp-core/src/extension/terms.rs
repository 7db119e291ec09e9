//! The numbers and words that some extensions announce, and hold a client to.

use alloc::boxed::Box;

/// On what terms a server offers the extensions that have some. Each has a default.
#[derive(Debug, Clone)]
pub struct Terms {
    /// DELIVERBY: the shortest by-time, in seconds, that is taken with mode R. Default 0: any that is above zero.
    pub deliver_by_min: u32,
    /// MT-PRIORITY: the name of the priority assignment policy, such as `MIXER`, `STANAG4406` or `NSEP` (RFC 6710
    /// §9). Default none, which is MIXER.
    pub priority_profile: Option<&'static str>,
    /// FUTURERELEASE: how long a message may be held, in seconds, at most 999,999,999. Default 30 days.
    pub hold_max: u32,
    /// FUTURERELEASE: the time of day in seconds since 1970 (UTC). Default none, and the extension is not offered:
    /// this crate reads no clock of its own.
    pub clock: Option<fn() -> i64>,
    /// NO-SOLICITING: what is not wanted here, as solicitation class keywords with commas between them (RFC 3865
    /// §2.2); empty to put the sign up without naming any. Default none: the extension is not offered.
    pub no_soliciting: Option<Box<str>>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { deliver_by_min: 0, priority_profile: None, hold_max: 30 * 24 * 3600, clock: None, no_soliciting: None }
    }
}
