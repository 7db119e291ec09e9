//! Numbers from one kind to another.

/// As a number to reckon with; exact up to 2^53.
pub(crate) const fn real(number: u64) -> f64 {
    number as f64
}

/// The nearest whole number, from 0.
pub(crate) fn whole(number: f64) -> u64 {
    number.round().max(0.0) as u64
}

/// Microseconds.
pub(crate) fn micros(span: core::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
