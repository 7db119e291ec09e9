//! Dates and times in parameters (RFC 3339 §5.6).

use core::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Invalid;

/// Reads a `date-time`, in seconds since 1970 (UTC); `what` names the parameter in the error.
pub(crate) fn parse(what: &'static str, text: &str) -> Result<i64, Invalid> {
    let bad = Invalid::new(what, "a date and time such as 2026-01-31T12:00:00Z (RFC 3339 §5.6)");
    // 2026-01-31T12:00:00.123456789+01:00 is as long as it gets.
    if text.len() > 35 || !text.is_ascii() {
        return Err(bad);
    }
    OffsetDateTime::parse(text, &Rfc3339).map(OffsetDateTime::unix_timestamp).map_err(|_| bad)
}

/// Writes seconds since 1970 as a `date-time` in UTC.
pub(crate) fn write(unix: i64, out: &mut dyn fmt::Write) -> fmt::Result {
    let t = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    write!(out, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", t.hour(), t.minute(), t.second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn read_and_written() {
        assert_eq!(parse("x", "2014-04-03T23:01:00Z"), Ok(1_396_566_060));
        assert_eq!(parse("x", "1997-11-24T14:22:01-08:00"), Ok(880_410_121));
        let mut text = String::new();
        write(1_396_566_060, &mut text).unwrap();
        assert_eq!(text, "2014-04-03T23:01:00Z");
        for bad in ["", "2014-04-03", "2014-13-03T23:01:00Z", "2014-04-03T23:01:00", "2014-04-03T25:01:00Z", "now"] {
            assert!(parse("x", bad).is_err(), "{bad}");
        }
    }
}
