//! From a file to steps.

use std::time::Duration;

use super::text::{Pattern, unescape};
use super::{Condition, Need, ParseError, Scenario, Step, What};

/// The most octets that `C*:` may make.
const REPEATED_MAX: usize = 16 << 20;
/// The most lines that `S*:` may make.
const LINES_MAX: usize = 100_000;

pub(super) fn parse(name: &str, text: &str) -> Result<Scenario, ParseError> {
    let mut scenario = Scenario {
        name: name.to_owned(),
        title: String::new(),
        references: String::new(),
        conditions: Vec::new(),
        steps: Vec::new(),
    };
    for (i, source) in text.lines().enumerate() {
        line(&mut scenario, i + 1, source).map_err(|what| ParseError { file: name.to_owned(), line: i + 1, what })?;
    }
    Ok(scenario)
}

fn line(scenario: &mut Scenario, number: usize, source: &str) -> Result<(), String> {
    let mut add = |what: What| scenario.steps.push(Step { line: number, source: source.to_owned(), what });
    if source.trim().is_empty() || source.starts_with('#') {
        return Ok(());
    }
    if let Some(text) = after(source, "C:") {
        add(What::ClientLine(text.to_owned()));
    } else if let Some(text) = after(source, "C+:") {
        add(What::ClientRaw(unescape(text)?));
    } else if let Some(text) = after(source, "C*:") {
        let (times, raw) = repeated(text)?;
        let raw = unescape(raw)?;
        if raw.len().saturating_mul(times) > REPEATED_MAX {
            return Err("at most 16 MiB".to_owned());
        }
        add(What::ClientRaw(raw.repeat(times)));
    } else if let Some(text) = after(source, "S:") {
        match text.strip_prefix("...") {
            None => add(What::ServerLine(Pattern::parse(text)?)),
            Some("") => add(What::ServerRest { without: None }),
            Some(rest) => {
                let keyword = rest.strip_prefix(" without ").ok_or("`...`, or `... without KEYWORD`")?;
                add(What::ServerRest { without: Some(keyword.to_owned()) });
            }
        }
    } else if let Some(text) = after(source, "S?:") {
        add(What::ServerMaybe(Pattern::parse(text)?));
    } else if let Some(text) = after(source, "S+:") {
        add(What::ServerRaw(unescape(text)?));
    } else if let Some(text) = after(source, "S*:") {
        let (times, pattern) = repeated(text)?;
        if times > LINES_MAX {
            return Err("at most 100,000 lines".to_owned());
        }
        let pattern = Pattern::parse(pattern)?;
        for _ in 0..times {
            add(What::ServerLine(pattern.clone()));
        }
    } else {
        return keyword(scenario, number, source);
    }
    Ok(())
}

fn keyword(scenario: &mut Scenario, number: usize, source: &str) -> Result<(), String> {
    let source = source.trim_end();
    let (word, rest) = source.split_once(' ').unwrap_or((source, ""));
    let what = match (word, rest) {
        ("C!", "") => What::ClientCloses,
        ("S!", "") => What::ServerCloses,
        ("S*!", "") => What::ServerClosesSomehow,
        ("UPGRADE", "") => What::Upgrade,
        ("ABORT", "") => What::Abort,
        ("WAIT", time) => What::Wait(duration(time)?),
        ("ONLY", words) if !words.is_empty() => {
            for word in words.split_whitespace() {
                scenario.conditions.push(Condition::of_channel(word)?);
            }
            return Ok(());
        }
        ("NEEDS", keywords) if !keywords.is_empty() => {
            scenario
                .conditions
                .extend(keywords.split_whitespace().map(|k| Condition::Ehlo(Need::Offered, k.to_owned())));
            return Ok(());
        }
        ("WITHOUT", keywords) if !keywords.is_empty() => {
            scenario
                .conditions
                .extend(keywords.split_whitespace().map(|k| Condition::Ehlo(Need::Absent, k.to_owned())));
            return Ok(());
        }
        ("SERVER", properties) if !properties.is_empty() => {
            scenario.conditions.extend(properties.split_whitespace().map(|p| Condition::Server(p.to_owned())));
            return Ok(());
        }
        ("title:", title) if scenario.steps.is_empty() => {
            scenario.title = title.trim().to_owned();
            return Ok(());
        }
        ("rfc:", references) if scenario.steps.is_empty() => {
            scenario.references = references.trim().to_owned();
            return Ok(());
        }
        _ => return Err("not a line of a scenario".to_owned()),
    };
    scenario.steps.push(Step { line: number, source: source.to_owned(), what });
    Ok(())
}

/// What follows the mark, without the one blank between.
fn after<'a>(source: &'a str, mark: &str) -> Option<&'a str> {
    let text = source.strip_prefix(mark)?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

/// `N "text"`
fn repeated(text: &str) -> Result<(usize, &str), String> {
    let form = || "a number, then text in double quotes".to_owned();
    let (times, quoted) = text.split_once(' ').ok_or_else(form)?;
    let text = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')).ok_or_else(form)?;
    Ok((times.parse().map_err(|_| form())?, text))
}

/// `5 s`, `200 ms`, `2 min`
fn duration(text: &str) -> Result<Duration, String> {
    let form = || "a number, then ms, s or min".to_owned();
    let (number, unit) = text.split_once(' ').ok_or_else(form)?;
    let number: u64 = number.parse().map_err(|_| form())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "min" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(form()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_there_are() {
        let text = "title: All of it\nrfc: 5321 §4\n# why\n\nONLY secure !starttls\nNEEDS SIZE 8BITMIME\nWITHOUT DSN\nSERVER size=9\n\
                    S: 220 *\nC: EHLO x\nS: 250-mx\nS: ...\nS: ... without SIZE\nC:\nC+: a\\r\\n\nC*: 3 \"ab\"\nS*: 2 \"250 *\"\n\
                    S+: 250 x\\n\nS?: 421 *\nUPGRADE\nWAIT 200 ms\nABORT\nC!\nS*!\nS!\n";
        let scenario = parse("all", text).unwrap();
        assert_eq!((scenario.title(), scenario.references()), ("All of it", "5321 §4"));
        assert_eq!(scenario.conditions.len(), 6);
        assert_eq!(scenario.steps.len(), 18);
        assert_eq!(scenario.client_octets(), b"EHLO x\r\n\r\na\r\nababab");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for bad in [
            "c: x",
            "C x",
            "S: ...x",
            "S: \\q",
            "C+: \\q",
            "C*: x",
            "C*: 9999999 \"0123456789\"",
            "S*: 100001 \"x\"",
            "WAIT 5",
            "WAIT 5 h",
            "ONLY",
            "ONLY fast",
            "NEEDS",
            "SERVER",
            "UPGRADE now",
            "C: a\ntitle: late",
        ] {
            let error = parse("f", bad).unwrap_err();
            assert_eq!(error.file, "f", "{bad}");
            assert_eq!(error.line, bad.lines().count(), "{bad}");
        }
    }
}
