//! Which figures a part has.

use super::Figure;
use super::bars::{self, Fill, Hatch, Kind, Row};
use super::lines::{self, Axis, Join, LINES_MAX, Line, Point};
use crate::cell::{Cell, Path};
use crate::choice::Ground;
use crate::number::real;
use crate::record::{Record, Sample};
use crate::script::Step;
use crate::stats::Summary;

/// Runs that a distribution needs.
const RUNS_MIN: usize = 10;
/// Points of a distribution.
const POINTS_MAX: usize = 150;
/// Values of a dimension that make a line.
const VALUES_MIN: usize = 3;

const STEPS: [Kind; 9] = [
    kind("connect", "#ffffff", Hatch::None),
    kind("TLS", "#cfe3f3", Hatch::Rising),
    kind("greeting", "#eeeeee", Hatch::Dots),
    kind("EHLO", "#fde3c8", Hatch::Level),
    kind("STARTTLS", "#e3d4ec", Hatch::Upright),
    kind("MAIL", "#d7ecd9", Hatch::Grid),
    kind("RCPT", "#f7f3c6", Hatch::Falling),
    kind("DATA", "#f3d0d0", Hatch::Cross),
    kind("content", "#9ecae1", Hatch::None),
];

const WAYS: [Kind; 2] =
    [kind("client to server", "#9ecae1", Hatch::None), kind("server to client", "#fde3c8", Hatch::Rising)];

const fn kind(name: &'static str, colour: &'static str, hatch: Hatch) -> Kind {
    Kind { name, fill: Fill { colour, hatch } }
}

/// The place of a step's kind in [`STEPS`].
const fn place(step: Step) -> usize {
    match step {
        Step::Connect => 0,
        Step::Tls => 1,
        Step::Greeting => 2,
        Step::Ehlo => 3,
        Step::StartTls => 4,
        Step::Mail => 5,
        Step::Rcpt => 6,
        Step::Data => 7,
        Step::Content => 8,
    }
}

/// The cells of a part that have a result, with all their runs that have one.
struct Part<'a> {
    number: usize,
    cells: Vec<(&'a Cell, Vec<&'a Sample>)>,
}

/// The figures of a part.
pub(super) fn of(record: &Record, number: usize) -> Vec<Figure> {
    let cells = record.head.cells.iter().enumerate().filter(|(_, place)| place.part == number);
    let cells = cells.filter_map(|(n, place)| {
        let runs: Vec<&Sample> =
            record.of(n).map(|run| &run.sample).filter(|sample| sample.last_us().is_some()).collect();
        (!runs.is_empty()).then_some((&place.cell, runs))
    });
    let part = Part { number, cells: cells.collect() };
    let mut figures = Vec::new();
    // Steps and octets are shown where there is one figure of each to look at: for the first path, and not size by size.
    let calm = part.paths().into_iter().find(|path| path.loss == 0.0 && path.jitter == 0.0);
    let sizes = unique(part.cells.iter().map(|(cell, _)| cell.size)).len();
    for load in part.loads() {
        if let Some(path) = calm.filter(|_| load.0 == 1 && sizes < VALUES_MIN) {
            figures.extend(part.waterfall(load, path));
            figures.extend(part.octets(load, path));
        }
        // Of many paths the first and the last tell enough; the tables have all.
        let link = record.head.experiment.ground == Ground::Link;
        let varied: Vec<Path> =
            part.paths().into_iter().filter(|path| path.loss > 0.0 || path.jitter > 0.0 || link).collect();
        for (n, path) in varied.iter().enumerate() {
            if n == 0 || n + 1 == varied.len() {
                figures.extend(part.distributions(load, *path));
            }
        }
        figures.extend(part.against_loss(load));
        figures.extend(part.against_rtt(load));
    }
    figures.extend(part.against_size());
    for (n, figure) in figures.iter_mut().enumerate() {
        // Figures of one part may come from several paths and loads: a number keeps their names apart.
        figure.name = format!("part-{}-{}-{}", number + 1, n + 1, figure.name);
    }
    // Ids of hatches are the page's, so each figure has its own.
    for figure in &mut figures {
        figure.svg = figure.svg.replace("HATCH", &figure.name);
    }
    figures
}

impl<'a> Part<'a> {
    /// Mails and octets of each, as they occur.
    fn loads(&self) -> Vec<(usize, usize)> {
        unique(self.cells.iter().map(|(cell, _)| (cell.mails, cell.size)))
    }

    fn paths(&self) -> Vec<Path> {
        unique(self.cells.iter().map(|(cell, _)| cell.path))
    }

    fn on(&self, load: (usize, usize), path: Path) -> impl Iterator<Item = &(&'a Cell, Vec<&'a Sample>)> {
        self.cells.iter().filter(move |(cell, _)| (cell.mails, cell.size) == load && cell.path == path)
    }

    /// Which figure in a row of several, where there are more lines than can be told apart.
    fn caption(&self, what: &str, load: (usize, usize), path: &str, panel: usize) -> String {
        let (mails, size) = load;
        let s = if mails == 1 { "" } else { "s" };
        let panel = if panel == 0 { String::new() } else { format!(" (continued, {})", panel + 1) };
        format!("Part {}: {what}. {mails} mail{s} of {size} octets; {path}{panel}.", self.number + 1)
    }

    fn waterfall(&self, load: (usize, usize), path: Path) -> Option<Figure> {
        let rows: Vec<Row> = self
            .on(load, path)
            .filter_map(|(cell, runs)| Some(Row { name: cell.way(), pieces: pieces(typical(runs)?, path.rtt) }))
            .collect();
        let caption = self.caption("round trips, step by step", load, &path.to_string(), 0);
        (!rows.is_empty()).then(|| Figure {
            name: "steps".into(),
            svg: bars::draw("HATCH", &rows, &STEPS, "round trips until the content is accepted", &caption),
            caption: caption
                + " Replies that come together are one step, named after the last of them; behind each row is its sum.",
        })
    }

    fn octets(&self, load: (usize, usize), path: Path) -> Option<Figure> {
        let rows: Vec<Row> = self
            .on(load, path)
            .filter_map(|(cell, runs)| {
                let sample = typical(runs)?;
                let pieces = sample.octets.iter().enumerate().map(|(way, octets)| (way, real(*octets) / 1000.0));
                Some(Row { name: cell.way(), pieces: pieces.collect() })
            })
            .collect();
        let caption = self.caption("octets on the wire, IP headers included", load, &path.to_string(), 0);
        (!rows.is_empty()).then(|| Figure {
            name: "octets".into(),
            svg: bars::draw("HATCH", &rows, &WAYS, "kilobytes (1,000 octets)", &caption),
            caption,
        })
    }

    /// Distributions of the time until the last mail is accepted, and where there are several also until each is.
    fn distributions(&self, load: (usize, usize), path: Path) -> Vec<Figure> {
        let last = |sample: &Sample| sample.last_us().into_iter().collect();
        if load.0 == 1 {
            return self.cdf("cdf", load, path, "distribution of the time until the mail is accepted", last);
        }
        let mut figures = self.cdf("cdf", load, path, "distribution of the time until the last mail is accepted", last);
        let each = |sample: &Sample| sample.accepted_us.clone();
        figures.extend(self.cdf("mails", load, path, "distribution of the time until a mail is accepted", each));
        figures
    }

    fn cdf(
        &self,
        name: &str,
        load: (usize, usize),
        path: Path,
        what: &str,
        times: impl Fn(&Sample) -> Vec<u64>,
    ) -> Vec<Figure> {
        let lines = self.on(load, path).filter(|(_, runs)| runs.len() >= RUNS_MIN).map(|(cell, runs)| {
            let mut times: Vec<u64> = runs.iter().flat_map(|sample| times(sample)).collect();
            times.sort_unstable();
            let n = times.len();
            // A curve needs no more points than there are dots on it.
            let step = n.div_ceil(POINTS_MAX).max(1);
            let kept = (1..=n).filter(|rank| rank % step == 0 || *rank == n);
            let points = kept.filter_map(|rank| {
                let x = real(*times.get(rank - 1)?) / 1000.0;
                Some(Point { x, y: real(rank as u64) / real(n as u64), whisker: None })
            });
            Line { name: cell.way(), points: points.collect() }
        });
        let axes = (
            axis("time, ms", true),
            axis(if name == "cdf" { "share of the runs" } else { "share of the mails" }, false),
        );
        self.panels(name, &lines.collect::<Vec<_>>(), &axes, Join::Steps, |panel| {
            self.caption(what, load, &path.to_string(), panel)
        })
    }

    /// Goodput against loss, for each path that has no other difference.
    fn against_loss(&self, load: (usize, usize)) -> Vec<Figure> {
        let axes = (axis("packets lost each way, %", false), axis("goodput, Mbit/s", false));
        let octets = real((load.0 * load.1) as u64);
        let goodput = |sample: &Sample| Some(octets * 8.0 / real(sample.last_us()?.max(1)));
        self.against(
            load,
            "goodput",
            "goodput against loss",
            &axes,
            goodput,
            |path| path.loss,
            |path| Path { loss: 0.0, burst: if path.loss > 0.0 { path.burst } else { 1.0 }, ..*path },
        )
    }

    fn against_rtt(&self, load: (usize, usize)) -> Vec<Figure> {
        let axes = (axis("round trip time, ms", false), axis("time until the last mail is accepted, ms", false));
        let time = |sample: &Sample| Some(real(sample.last_us()?) / 1000.0);
        self.against(
            load,
            "rtt",
            "time against round trip time",
            &axes,
            time,
            |path| path.rtt,
            |path| Path { rtt: 0.0, ..*path },
        )
    }

    #[allow(clippy::too_many_arguments, reason = "each is a part of what a figure shows")]
    fn against(
        &self,
        load: (usize, usize),
        name: &str,
        what: &str,
        axes: &(Axis, Axis),
        y: impl Fn(&Sample) -> Option<f64>,
        x: impl Fn(&Path) -> f64,
        rest: impl Fn(&Path) -> Path,
    ) -> Vec<Figure> {
        let mut figures = Vec::new();
        for other in unique(self.paths().iter().map(&rest)) {
            let on =
                || self.cells.iter().filter(|(cell, _)| (cell.mails, cell.size) == load && rest(&cell.path) == other);
            let lines = lines_of(on, |cell| x(&cell.path), |_, sample| y(sample));
            let about = match name {
                "goodput" => format!("{} ms{}", other.rtt, rest_of(&other)),
                _ => format!("{} % lost{}", other.loss, rest_of(&other)),
            };
            figures.extend(self.panels(name, &lines, axes, Join::Straight, |panel| {
                format!(
                    "{} Medians, with quartiles where there is more than one result.",
                    self.caption(what, load, &about, panel)
                )
            }));
        }
        figures
    }

    /// Time, and octets on the wire, against size, for each number of mails and path.
    fn against_size(&self) -> Vec<Figure> {
        let time = |_: &Cell, sample: &Sample| Some(real(sample.last_us()?) / 1000.0);
        let octets = |cell: &Cell, sample: &Sample| {
            Some(real(sample.octets.iter().sum()) / real((cell.mails * cell.size) as u64))
        };
        let mut figures = self.over_sizes("size", "time until the last mail is accepted, ms", time);
        figures.extend(self.over_sizes("overhead", "octets on the wire for one of content", octets));
        figures
    }

    fn over_sizes(&self, name: &str, y_axis: &str, y: impl Fn(&Cell, &Sample) -> Option<f64>) -> Vec<Figure> {
        let axes = (axis("octets of a mail", true), axis(y_axis, true));
        let mut figures = Vec::new();
        for path in self.paths() {
            for mails in unique(self.cells.iter().map(|(cell, _)| cell.mails)) {
                let on = || self.cells.iter().filter(|(cell, _)| cell.mails == mails && cell.path == path);
                let lines = lines_of(on, |cell| real(cell.size as u64), &y);
                let s = if mails == 1 { "" } else { "s" };
                figures.extend(self.panels(name, &lines, &axes, Join::Straight, |_| {
                    format!("Part {}: {y_axis}, against size. {mails} mail{s}; {path}. Medians.", self.number + 1)
                }));
            }
        }
        figures
    }

    /// As many figures as the lines need.
    fn panels(
        &self,
        name: &str,
        lines: &[Line],
        (x, y): &(Axis, Axis),
        join: Join,
        caption: impl Fn(usize) -> String,
    ) -> Vec<Figure> {
        let panels = lines.chunks(LINES_MAX).enumerate();
        let figures = panels.map(|(panel, lines)| {
            let caption = caption(panel);
            Figure { name: name.to_owned(), svg: lines::draw(lines, x, y, join, &caption), caption }
        });
        figures.collect()
    }
}

/// A line for each way among `on`, if it has enough points.
fn lines_of<'a, 'b: 'a, I: Iterator<Item = &'a (&'b Cell, Vec<&'b Sample>)>>(
    on: impl Fn() -> I,
    x: impl Fn(&Cell) -> f64,
    y: impl Fn(&Cell, &Sample) -> Option<f64>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for way in unique(on().map(|(cell, _)| cell.way())) {
        let points = on().filter(|(cell, _)| cell.way() == way).filter_map(|(cell, runs)| {
            let summary = Summary::of(runs.iter().filter_map(|sample| y(cell, sample)))?;
            let whisker = (summary.n > 3).then_some((summary.p25, summary.p75));
            Some(Point { x: x(cell), y: summary.median, whisker })
        });
        let mut points: Vec<Point> = points.collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        if points.len() >= VALUES_MIN {
            lines.push(Line { name: way, points });
        }
    }
    lines
}

/// What a path has beside loss and round trip time.
fn rest_of(path: &Path) -> String {
    let text = Path { rtt: 0.0, loss: 0.0, ..*path }.to_string();
    text.strip_prefix("0 ms, 0 % lost").map_or(String::new(), ToOwned::to_owned)
}

fn axis(name: &str, logarithmic: bool) -> Axis {
    Axis { name: name.to_owned(), logarithmic }
}

/// The run with the median time.
fn typical<'a>(runs: &[&'a Sample]) -> Option<&'a Sample> {
    let mut runs: Vec<&Sample> = runs.to_vec();
    runs.sort_by_key(|sample| sample.last_us());
    runs.get((runs.len() - 1) / 2).copied()
}

/// The steps of a run in round trips. Those that end together are one, which has the name of the last.
fn pieces(sample: &Sample, rtt: f64) -> Vec<(usize, f64)> {
    let together = (rtt * 50.0).max(1.0);
    let mut pieces = Vec::new();
    let mut begun = 0;
    let mut steps = sample.steps.iter().peekable();
    while let Some((step, at)) = steps.next() {
        if steps.peek().is_some_and(|(_, next)| real(next.saturating_sub(*at)) <= together) {
            continue;
        }
        pieces.push((place(*step), real(at.saturating_sub(begun)) / (rtt * 1000.0)));
        begun = *at;
    }
    pieces
}

/// Each value once, in the order in which it first comes.
pub(super) fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(&value) {
            unique.push(value);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_come_together_are_the_last_ones_step() {
        let steps =
            vec![(Step::Connect, 50_000), (Step::Greeting, 100_000), (Step::Ehlo, 100_010), (Step::Content, 150_000)];
        let sample = Sample {
            error: None,
            accepted_us: vec![150_000],
            steps,
            packets: [0; 2],
            octets: [0; 2],
            lost: [0; 2],
            digest: None,
            client_cpu_us: None,
            cpu_us: None,
        };
        let pieces = pieces(&sample, 50.0);
        let places: Vec<usize> = pieces.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [0, 3, 8]);
        assert!((pieces.iter().map(|(_, length)| length).sum::<f64>() - 3.0).abs() < 1e-9);
    }
}
