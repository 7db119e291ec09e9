//! Holding the replies of a stranger to a file that was written for another server.

use super::run::is_about;
use super::text::Pattern;
use super::{Step, What};

/// How closely a server's replies have to be what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Matching {
    /// Every line, in its order: for the server that the file was written for. The default of [`Runner`](super::Runner).
    #[default]
    Text,
    /// The code of each reply; its enhanced code too (RFC 3463), if the server gives one; and that EHLO names the
    /// keywords, in any order and with any parameters. Texts and the number of lines do not matter.
    Code,
    /// The first digit of each reply, and the keywords: whether a server says yes, not now, or no.
    Class,
}

/// The steps that one reply has to answer, beginning with `first`. A line that could be a last one stands behind `...`
/// only if it is of the next reply.
pub(super) fn expected<'a>(first: &'a Step, rest: &[&'a Step]) -> Vec<&'a Step> {
    let mut steps = vec![first];
    let mut open = within(first);
    for step in rest {
        match &step.what {
            What::ServerRest { .. } if open => {}
            What::ServerLine(_) if open && (within(step) || !ends_open(&steps)) => open = within(step),
            _ => break,
        }
        steps.push(*step);
    }
    steps
}

fn within(step: &Step) -> bool {
    matches!(&step.what, What::ServerLine(pattern) | What::ServerMaybe(pattern) if pattern.is_within_reply())
}

fn ends_open(steps: &[&Step]) -> bool {
    matches!(steps.last().map(|step| &step.what), Some(What::ServerRest { .. }))
}

/// The step that `reply` does not answer, and the line that shows it, if there is one.
pub(super) fn differs<'a>(steps: &[&'a Step], reply: &[Vec<u8>], matching: Matching) -> Option<(&'a Step, Vec<u8>)> {
    let (first, others) = steps.split_first()?;
    let line = reply.first()?;
    if let What::ServerLine(pattern) | What::ServerMaybe(pattern) = &first.what
        && !fits(pattern, line, matching)
    {
        return Some((*first, line.clone()));
    }
    others.iter().find_map(|step| match &step.what {
        What::ServerLine(pattern) => {
            let keyword = pattern.keyword();
            let there = reply.iter().any(|line| is_about(line, keyword));
            (!there).then(|| (*step, reply.last().cloned().unwrap_or_default()))
        }
        What::ServerRest { without: Some(keyword) } => {
            reply.iter().find(|line| is_about(line, keyword)).map(|line| (*step, line.clone()))
        }
        _ => None,
    })
}

/// True if the codes of a reply that begins with `line` are those of `pattern`.
fn fits(pattern: &Pattern, line: &[u8], matching: Matching) -> bool {
    let (code, enhanced) = pattern.codes();
    let digits = if matching == Matching::Class { code.get(..1).unwrap_or_default() } else { code };
    if !line.starts_with(digits.as_bytes()) {
        return false;
    }
    let given = line.get(4..).unwrap_or_default().split(|octet| *octet == b' ').next().unwrap_or_default();
    match enhanced {
        Some(enhanced) if matching != Matching::Class && is_enhanced(given) => enhanced.matches(given),
        _ => true,
    }
}

/// `2.1.5` (RFC 3463 §2)
fn is_enhanced(word: &[u8]) -> bool {
    let mut parts = word.split(|octet| *octet == b'.');
    let number = |part: Option<&[u8]>| {
        part.is_some_and(|part| (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit))
    };
    matches!(parts.next(), Some(b"2" | b"4" | b"5"))
        && number(parts.next())
        && number(parts.next())
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn verdict(file: &str, reply: &[&str], matching: Matching) -> bool {
        let scenario = Scenario::parse("f", file).unwrap();
        let steps: Vec<&Step> = scenario.steps.iter().collect();
        let reply: Vec<Vec<u8>> = reply.iter().map(|line| line.as_bytes().to_vec()).collect();
        differs(&expected(steps[0], &steps[1..]), &reply, matching).is_none()
    }

    #[test]
    fn codes_count_and_words_do_not() {
        use Matching::{Class, Code};
        for (file, reply, code, class) in [
            ("S: 250 2.1.0 *", "250 2.1.0 Ok", true, true),
            ("S: 250 2.1.0 *", "250 OK", true, true),
            ("S: 250 2.1.0 *", "250 2.1.5 Ok", false, true),
            ("S: 250 2.1.0 *", "251 OK", false, true),
            ("S: 250 2.1.0 *", "450 4.7.1 later", false, false),
            ("S: 55*", "554 5.7.1 no", true, true),
            ("S: 50* 5.5.* *", "502 5.5.2 what", true, true),
            ("S: 50* 5.5.* *", "502 5.1.2 what", false, true),
            ("S: 5*", "599 x", true, true),
            ("S: 334*", "334", true, true),
            ("S: 220 mx.example *", "220 2.0.0.example ESMTP", true, true),
            ("S: 250 2.0.0 *", "250", true, true),
        ] {
            assert_eq!(verdict(file, &[reply], Code), code, "{file} {reply}");
            assert_eq!(verdict(file, &[reply], Class), class, "{file} {reply}");
        }
    }

    #[test]
    fn keywords_may_come_in_any_order_and_with_any_parameters() {
        let file = "S: 250-mx.example *\nS: ...\nS: 250-PIPELINING\nS: ... without AUTH\nS: 250-SIZE 1000\nS: ...\n";
        let stranger = ["250-other", "250-SIZE 7", "250-VRFY", "250 PIPELINING"];
        assert!(verdict(file, &stranger, Matching::Code));
        assert!(!verdict(file, &stranger[..3], Matching::Code), "no PIPELINING");
        assert!(!verdict(file, &["250-x", "250-AUTH PLAIN", "250-SIZE", "250 PIPELINING"], Matching::Class));
    }

    #[test]
    fn a_reply_ends_where_the_next_begins() {
        let of = |file: &str| {
            let scenario = Scenario::parse("f", file).unwrap();
            let steps: Vec<&Step> = scenario.steps.iter().collect();
            expected(steps[0], &steps[1..]).len()
        };
        assert_eq!(of("S: 250-mx *\nS: ...\nS: 250 2.1.0 *"), 2);
        assert_eq!(of("S: 250-mx *\nS: 250 SIZE\nS: 250 2.1.0 *"), 2);
        assert_eq!(of("S: 250 2.1.0 *\nS: 250 2.1.5 *"), 1);
        assert_eq!(of("S: 250-mx *\nS: ...\nS: 250-SIZE 7\nS: ...\nC: x\nS: 250 *"), 4);
    }
}
