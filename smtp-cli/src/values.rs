//! Values that options take, each with its text form on the command line, in the environment and in a file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, IntoDeserializer, SeqAccess, Visitor};

/// A number of octets: `10485760`, `10M`, `"35 MiB"`. Units are powers of 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "a size is a number of octets from 1, with or without a unit: 10485760, 10M, 35MiB";
        let (number, unit) = split_number(text);
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            _ => return Err(WHAT),
        };
        let number: u64 = number.parse().map_err(|_| WHAT)?;
        number.checked_mul(factor).filter(|size| *size > 0).map(Self).ok_or(WHAT)
    }
}

/// A span of time: `30` are seconds; `"500ms"`, `"30s"`, `"5m"`, `"1h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

impl FromStr for Wait {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "a time is a number of seconds above 0, or has a unit: 30, 2.5, 500ms, 5m, 1h";
        /// Longer than anything waits; keeps deadlines within the clock's range.
        const LONGEST: f64 = 366.0 * 86_400.0;
        let (number, unit) = split_number(text);
        let factor = match unit {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(WHAT),
        };
        let seconds = number.parse::<f64>().map_err(|_| WHAT)? * factor;
        if !(seconds > 0.0 && seconds <= LONGEST) {
            return Err(WHAT);
        }
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| WHAT)
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// One or several of the same, separated by commas: a list has to fit into one environment variable. Commas in
/// double quotes do not separate, so that quoted local parts stay whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Many<T>(Vec<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for Many<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut quoted = false;
        let parts = text.split(|c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        let one = |part: &str| part.trim().parse().map_err(|error| format!("{part:?}: {error}"));
        match parts.map(one).collect::<Result<Vec<T>, _>>() {
            Ok(values) => Ok(Self(values)),
            // The whole is shown by whoever reports it.
            Err(error) if text.contains(',') => Err(error),
            Err(_) => text.trim().parse().map(|value| Self(vec![value])).map_err(|error: T::Err| error.to_string()),
        }
    }
}

/// All of them, in order.
pub(crate) fn flatten<T>(lists: Vec<Many<T>>) -> Vec<T> {
    lists.into_iter().flat_map(|Many(values)| values).collect()
}

/// Reads a value from a file in its text form; numbers may stand without quotes.
fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    from: D,
    what: &'static str,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, std::marker::PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    from.deserialize_any(Text(what, std::marker::PhantomData))
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, "a size")
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, "a time")
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, "a text")
    }
}

/// A text that is a secret, or holds one: it is not shown by accident.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(String);

impl Hidden {
    /// The text.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hidden {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// For lists, which a file may also give as a single value: `#[serde(deserialize_with = "values::list")]`.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of them")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(text.into_deserializer()).map(|value| vec![value])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    from.deserialize_any(List(std::marker::PhantomData))
}

/// For fields whose type has a text form and no other: `#[serde(deserialize_with = "values::parsed")]`.
pub(crate) fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    from_text(from, "a text").map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_core::types::Mailbox;

    #[test]
    fn sizes_and_times() {
        for (text, octets) in [("1", 1), ("10485760", 10 << 20), ("10M", 10 << 20), ("35 MiB", 35 << 20), ("2k", 2048)]
        {
            assert_eq!(text.parse(), Ok(Size(octets)), "{text}");
        }
        for bad in ["", "0", "-1", "1.5M", "x", "1 TB", "99999999999999999999", "99999999999999G"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for (text, ms) in [("30", 30_000), ("2.5", 2_500), ("500ms", 500), ("5m", 300_000), ("1 h", 3_600_000)] {
            assert_eq!(text.parse(), Ok(Wait(Duration::from_millis(ms))), "{text}");
        }
        for bad in ["", "0", "-1", "nan", "inf", "1e9", "5y", "400d"] {
            assert!(bad.parse::<Wait>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_fit_into_one_text() {
        let list: Many<Mailbox> = "a@x, \"b,c\"@y".parse().unwrap();
        assert_eq!(list.0.iter().map(Mailbox::as_str).collect::<Vec<_>>(), ["a@x", "\"b,c\"@y"]);
        let error = "a@x,b".parse::<Many<Mailbox>>().unwrap_err();
        assert!(error.starts_with("\"b\": "), "{error}");
        assert!(!"b".parse::<Many<Mailbox>>().unwrap_err().contains("\"b\""));
    }
}
