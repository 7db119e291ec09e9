//! Rows of bars, each of pieces one behind the other.

use super::svg::{Anchor, Svg, short, ticks, width_of};

/// A kind of piece: its name, and how it is filled.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) fill: Fill,
}

/// A grey or light colour, and lines over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    pub(super) colour: &'static str,
    pub(super) hatch: Hatch,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Hatch {
    None,
    Rising,
    Falling,
    Upright,
    Level,
    Dots,
    Grid,
}

/// A row: its name, and its pieces as the place of their kind and their length.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) pieces: Vec<(usize, f64)>,
}

const WIDTH: f64 = 860.0;
const ROW: f64 = 24.0;
const BAR: f64 = 16.0;

/// Draws `rows` over an axis called `axis`. Lines stand at its ticks; a piece that is wide enough has its length on it, and
/// each row its sum behind it.
pub(super) fn draw(id: &str, rows: &[Row], kinds: &[Kind], axis: &str, about: &str) -> String {
    let left = rows.iter().map(|row| width_of(&row.name)).fold(60.0, f64::max) + 16.0;
    let used: Vec<usize> =
        (0..kinds.len()).filter(|kind| rows.iter().any(|row| row.pieces.iter().any(|(k, _)| k == kind))).collect();
    let most = rows.iter().map(sum).fold(0.0, f64::max).max(1e-9);
    let right = WIDTH - 60.0;
    let at = |value: f64| left + (right - left) * value / most;

    // The legend, in as many lines as it takes.
    let mut places = Vec::new();
    let (mut x, mut y) = (left, 18.0);
    for kind in used {
        let wide = 24.0 + width_of(kinds[kind].name) + 14.0;
        if x + wide > WIDTH && x > left {
            (x, y) = (left, y + 20.0);
        }
        places.push((kind, x, y));
        x += wide;
    }
    let top = y + 20.0;
    let bottom = top + ROW * crate::number::real(rows.len() as u64);
    let mut svg = Svg::new(WIDTH, bottom + 44.0);
    for (n, kind) in kinds.iter().enumerate() {
        pattern(&mut svg, &format!("{id}-{n}"), kind.fill);
    }
    for (kind, x, y) in places {
        svg.rectangle((x, y - 10.0), (18.0, 12.0), &format!("url(#{id}-{kind})"));
        svg.text((x + 23.0, y), kinds[kind].name, Anchor::Start, "label");
    }
    for tick in ticks(0.0, most, 8.0) {
        svg.line((at(tick), top), (at(tick), bottom), "#ccc", 0.8);
        svg.text((at(tick), bottom + 15.0), &short(tick), Anchor::Middle, "tick");
    }
    svg.text((f64::midpoint(left, right), bottom + 34.0), axis, Anchor::Middle, "axis");
    let mut y = top;
    for row in rows {
        svg.text((left - 8.0, y + 16.0), &row.name, Anchor::End, "label");
        let mut from = 0.0;
        for (kind, length) in &row.pieces {
            let (begin, end) = (at(from), at(from + length));
            svg.rectangle((begin, y + 4.0), (end - begin, BAR), &format!("url(#{id}-{kind})"));
            let text = short(*length);
            if *length > 0.0 && end - begin > width_of(&text) + 8.0 {
                // On white, or the hatch would run through the figures.
                let (middle, wide) = (f64::midpoint(begin, end), width_of(&text) + 4.0);
                svg.put(format_args!(
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"12\" rx=\"2\" fill=\"#fff\"/>",
                    middle - wide / 2.0,
                    y + 6.0
                ));
                svg.text((middle, y + 16.0), &text, Anchor::Middle, "on");
            }
            from += length;
        }
        svg.text((at(from) + 5.0, y + 16.0), &short(from), Anchor::Start, "label");
        y += ROW;
    }
    svg.line((left, top), (left, bottom), "#333", 1.0);
    svg.finish(about)
}

fn sum(row: &Row) -> f64 {
    row.pieces.iter().map(|(_, length)| length).sum()
}

fn pattern(svg: &mut Svg, id: &str, fill: Fill) {
    let stroke = "stroke=\"#333\" stroke-width=\"0.9\" fill=\"none\"";
    let lines = match fill.hatch {
        Hatch::None => String::new(),
        Hatch::Rising => format!("<path d=\"M-1,1 l2,-2 M0,8 l8,-8 M7,9 l2,-2\" {stroke}/>"),
        Hatch::Falling => format!("<path d=\"M-1,7 l2,2 M0,0 l8,8 M7,-1 l2,2\" {stroke}/>"),
        Hatch::Upright => format!("<path d=\"M4,0 v8\" {stroke}/>"),
        Hatch::Level => format!("<path d=\"M0,4 h8\" {stroke}/>"),
        Hatch::Dots => "<circle cx=\"4\" cy=\"4\" r=\"1.3\" fill=\"#333\"/>".to_owned(),
        Hatch::Grid => format!("<path d=\"M4,0 v8 M0,4 h8\" {stroke}/>"),
    };
    let colour = fill.colour;
    svg.put(format_args!(
        "<pattern id=\"{id}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\">\
         <rect width=\"8\" height=\"8\" fill=\"{colour}\"/>{lines}</pattern>"
    ));
}
