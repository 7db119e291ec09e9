//! Lines over two axes.

use super::svg::{Anchor, STYLES, Svg, log_ticks, short, ticks};

/// How many lines can be told apart in one figure.
pub(super) const LINES_MAX: usize = STYLES.len();

/// One line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

/// A point, and the ends of its whisker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) whisker: Option<(f64, f64)>,
}

/// An axis.
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) logarithmic: bool,
}

/// How points are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// Straight, with a mark at each.
    Straight,
    /// In steps, with a few marks: a distribution.
    Steps,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 316.0;
/// Letters of a line of the legend.
const LEGEND_LETTERS: usize = 36;

/// Draws `lines`, at most [`LINES_MAX`].
pub(super) fn draw(lines: &[Line], x_axis: &Axis, y_axis: &Axis, join: Join, about: &str) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let xs = range(points().map(|point| point.x), x_axis.logarithmic);
    let with_whiskers = points().flat_map(|point| {
        let (low, high) = point.whisker.unwrap_or((point.y, point.y));
        [point.y, low, high]
    });
    let ys = if join == Join::Steps { (0.0, 1.0) } else { range(with_whiskers, y_axis.logarithmic) };
    let x_at = |x: f64| LEFT + (RIGHT - LEFT) * share(x, xs, x_axis.logarithmic);
    let y_at = |y: f64| BOTTOM - (BOTTOM - TOP) * share(y, ys, y_axis.logarithmic);

    let legend: Vec<Vec<String>> = lines.iter().map(|line| wrapped(&line.name)).collect();
    let rows: usize = legend.iter().map(Vec::len).sum();
    let legend_height = TOP + crate::number::real(rows as u64) * 15.0 + crate::number::real(lines.len() as u64) * 6.0;
    let mut svg = Svg::new(WIDTH, (BOTTOM + 46.0).max(legend_height));

    let all = |axis: &Axis, (low, high)| if axis.logarithmic { log_ticks(low, high) } else { ticks(low, high, 6.0) };
    for tick in all(x_axis, xs) {
        svg.line((x_at(tick), TOP), (x_at(tick), BOTTOM), "#ddd", 0.8);
        svg.text((x_at(tick), BOTTOM + 16.0), &short(tick), Anchor::Middle, "tick");
    }
    for tick in all(y_axis, ys) {
        svg.line((LEFT, y_at(tick)), (RIGHT, y_at(tick)), "#ddd", 0.8);
        svg.text((LEFT - 6.0, y_at(tick) + 4.0), &short(tick), Anchor::End, "tick");
    }
    svg.line((LEFT, TOP), (LEFT, BOTTOM), "#333", 1.0);
    svg.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "#333", 1.0);
    svg.text((f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0), &x_axis.name, Anchor::Middle, "axis");
    svg.upright((16.0, f64::midpoint(TOP, BOTTOM)), &y_axis.name);

    let mut y = TOP + 10.0;
    for ((line, style), words) in lines.iter().zip(STYLES).zip(&legend) {
        let at: Vec<(f64, f64)> = line.points.iter().map(|point| (x_at(point.x), y_at(point.y))).collect();
        for (point, (x, _)) in line.points.iter().zip(&at) {
            if let Some((low, high)) = point.whisker {
                svg.line((*x, y_at(low)), (*x, y_at(high)), style.colour, 1.0);
                for end in [low, high] {
                    svg.line((x - 3.0, y_at(end)), (x + 3.0, y_at(end)), style.colour, 1.0);
                }
            }
        }
        match join {
            Join::Straight => {
                svg.polyline(&at, style);
                at.iter().for_each(|point| svg.mark(*point, style));
            }
            Join::Steps => {
                let mut steps = Vec::new();
                let mut level = BOTTOM;
                for (x, y) in &at {
                    steps.extend([(*x, level), (*x, *y)]);
                    level = *y;
                }
                steps.push((RIGHT, level));
                svg.polyline(&steps, style);
                at.iter().skip(at.len() / 10).step_by((at.len() / 5).max(1)).for_each(|point| svg.mark(*point, style));
            }
        }
        svg.polyline(&[(RIGHT + 18.0, y - 4.0), (RIGHT + 50.0, y - 4.0)], style);
        svg.mark((RIGHT + 34.0, y - 4.0), style);
        for word in words {
            svg.text((RIGHT + 56.0, y), word, Anchor::Start, "label");
            y += 15.0;
        }
        y += 6.0;
    }
    svg.finish(about)
}

/// From 0, or from the least on a logarithmic axis, to the most.
fn range(values: impl Iterator<Item = f64>, logarithmic: bool) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for value in values.filter(|value| !logarithmic || *value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    if !low.is_finite() || high <= 0.0 {
        return if logarithmic { (1.0, 10.0) } else { (0.0, 1.0) };
    }
    if logarithmic { (low * 0.9, high * 1.1) } else { (0.0, high * 1.04) }
}

fn share(value: f64, (low, high): (f64, f64), logarithmic: bool) -> f64 {
    let place = if logarithmic {
        (value.max(low).ln() - low.ln()) / (high.ln() - low.ln())
    } else {
        (value - low) / (high - low)
    };
    place.clamp(0.0, 1.0)
}

/// A name in lines that fit beside the figure.
fn wrapped(name: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in name.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + word.chars().count() >= LEGEND_LETTERS {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
