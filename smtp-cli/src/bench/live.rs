//! How a load goes, on a terminal while it goes: a block of lines that is written over twice a second.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use smtp_bench::Live;

/// How wide a line is: what is longer is cut, or it would not be one line.
const WIDTH: usize = 79;
/// How many times are in the chart: as many as fit beside the figures.
const CHART: usize = 40;
/// How many kinds of errors are shown; the rest is in the report.
const ERRORS: usize = 5;

/// The block on a terminal that shows how it goes.
#[derive(Debug)]
pub(super) struct Board {
    shown: bool,
    colours: bool,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines that stand there now.
    lines: usize,
    /// When the last figures came, and how many messages were accepted by then.
    last: (Duration, u64),
    /// Messages a second between ticks, the latest last.
    rates: VecDeque<f64>,
}

impl Board {
    /// A block on standard error, if that is a terminal that can move its cursor.
    pub(super) fn new(hidden: bool) -> Self {
        let said = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let shown = !hidden && !dumb && io::stderr().is_terminal();
        Self { shown, colours: !said("NO_COLOR"), state: RefCell::default() }
    }

    /// Shows how it goes, under a title.
    pub(super) fn show(&self, title: &str, live: &Live) {
        if self.shown {
            let mut state = self.state.borrow_mut();
            let lines = state.lines(title, live);
            state.write(&lines, self.colours);
        }
    }

    /// Takes it away; the next load begins anew.
    pub(super) fn clear(&self) {
        if self.shown {
            let mut state = self.state.borrow_mut();
            state.write(&[], false);
            *state = State::default();
        }
    }
}

/// A line, and whether it tells of errors.
type Line = (String, bool);

impl State {
    fn lines(&mut self, title: &str, live: &Live) -> Vec<Line> {
        let seconds = live.elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return vec![(format!("{title}: warming up"), false)];
        }
        let (before, accepted) = self.last;
        let span = live.elapsed.saturating_sub(before).as_secs_f64();
        let now = if span > 0.0 { number(live.accepted.saturating_sub(accepted)) / span } else { 0.0 };
        self.last = (live.elapsed, live.accepted);
        self.rates.push_back(now);
        if self.rates.len() > CHART {
            self.rates.pop_front();
        }
        let mean = number(live.accepted) / seconds;
        let mib = number(live.octets) / seconds / f64::from(1 << 20);
        let [p50, p90, p99, max] = live.latency;
        let (accepted, refused, failed) = (live.accepted, live.refused, live.failed);
        let mut lines = vec![
            (format!("{title}: {seconds:.0} s"), false),
            (format!("messages  {accepted} accepted, {mean:.0}/s, {mib:.1} MiB/s"), false),
            (format!("now       {now:8.0}/s {}", chart(&self.rates)), false),
            (format!("latency   p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2}, max {max:.2}"), false),
        ];
        if refused + failed > 0 {
            lines.push((format!("not       {refused} refused, {failed} failed"), true));
        }
        if !live.errors.is_empty() {
            let mut errors: Vec<_> = live.errors.iter().collect();
            errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let mut text = String::from("errors   ");
            for (what, count) in errors.iter().take(ERRORS) {
                let _ = write!(text, " {what} x {count}");
            }
            lines.push((text, true));
        }
        lines
    }

    /// Writes lines over those that stand there.
    fn write(&mut self, lines: &[Line], colours: bool) {
        let (head, errors) = (Style::new().bold(), AnsiColor::Red.on_default());
        let mut text = String::new();
        if self.lines > 0 {
            // Up to the first line, and all from there is cleared.
            let _ = write!(text, "\x1b[{}A\r\x1b[J", self.lines);
        }
        for (n, (line, is_error)) in lines.iter().enumerate() {
            let line: String = line.chars().take(WIDTH).collect();
            let _ = match (colours, n, is_error) {
                (true, _, true) => writeln!(text, "{errors}{line}{errors:#}"),
                (true, 0, _) => writeln!(text, "{head}{line}{head:#}"),
                _ => writeln!(text, "{line}"),
            };
        }
        self.lines = lines.len();
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = io::stderr().flush();
    }
}

/// A bar for each rate, the highest of them full.
fn chart(rates: &VecDeque<f64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = rates.iter().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| {
        // Which eighth of the highest.
        let full = (1..BARS.len()).filter(|n| rate * 8.0 > most * number(*n as u64)).count();
        BARS.get(full).copied().unwrap_or(' ')
    };
    rates.iter().map(bar).collect()
}

/// As a number to show.
const fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(seconds: u64, accepted: u64) -> Live {
        Live {
            elapsed: Duration::from_secs(seconds),
            accepted,
            refused: 2,
            failed: 1,
            octets: accepted << 12,
            latency: [0.5, 0.9, 2.25, 10.0],
            errors: vec![("421".into(), 1), ("550".into(), 2)],
        }
    }

    #[test]
    fn it_tells_rates_latency_and_errors_by_code() {
        let mut state = State::default();
        assert_eq!(state.lines("smtp://x", &live(0, 0)), [("smtp://x: warming up".to_owned(), false)]);
        state.lines("smtp://x", &live(1, 100));
        let lines: Vec<_> = state.lines("smtp://x", &live(3, 500)).into_iter().map(|(line, _)| line).collect();
        assert_eq!(
            lines,
            [
                "smtp://x: 3 s",
                "messages  500 accepted, 167/s, 0.7 MiB/s",
                "now            200/s ▄█",
                "latency   p50 0.50 ms, p90 0.90, p99 2.25, max 10.00",
                "not       2 refused, 1 failed",
                "errors    550 x 2 421 x 1",
            ]
        );
    }

    #[test]
    fn the_chart_is_as_long_as_the_last_rates() {
        let rates: VecDeque<f64> = [0.0, 8.0, 1.0, 4.0].into();
        assert_eq!(chart(&rates), "▁█▁▄");
        assert_eq!(chart(&[0.0, 0.0].into()), "▁▁");
        let mut state = State::default();
        for second in 1..100 {
            state.lines("", &live(second, second));
        }
        assert_eq!(state.rates.len(), CHART);
    }
}
