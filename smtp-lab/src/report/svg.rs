//! Pieces of SVG, and how lines and areas are told apart: by dash, mark and hatch, and by colour on top of that.

use std::fmt::Write;

/// A picture that is being drawn. What is put into it as text is escaped.
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

/// Where a text stands from its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a line or an area looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) colour: &'static str,
    pub(super) dash: &'static str,
    mark: Mark,
}

#[derive(Debug, Clone, Copy)]
enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
    Plus,
    Ring,
    Box,
    Down,
}

/// Okabe and Ito's colours, which most colour-blind people can tell apart.
pub(super) const STYLES: [Style; 9] = [
    Style { colour: "#000000", dash: "", mark: Mark::Circle },
    Style { colour: "#0072b2", dash: "7 3", mark: Mark::Square },
    Style { colour: "#d55e00", dash: "2 2", mark: Mark::Triangle },
    Style { colour: "#009e73", dash: "9 3 2 3", mark: Mark::Diamond },
    Style { colour: "#cc79a7", dash: "", mark: Mark::Cross },
    Style { colour: "#8a6d00", dash: "4 4", mark: Mark::Plus },
    Style { colour: "#56b4e9", dash: "12 3", mark: Mark::Ring },
    Style { colour: "#6a3d9a", dash: "1 3", mark: Mark::Box },
    Style { colour: "#666666", dash: "6 2 1 2 1 2", mark: Mark::Down },
];

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
             stroke-width=\"{width}\"/>"
        ));
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], style: Style) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (colour, dash) = (style.colour, style.dash);
        let points = points.join(" ");
        self.put(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" \
             stroke-dasharray=\"{dash}\"/>"
        ));
    }

    pub(super) fn mark(&mut self, (x, y): (f64, f64), style: Style) {
        let colour = style.colour;
        let path = |path: &[(f64, f64)]| {
            let points: Vec<String> = path.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
            format!("<polygon points=\"{}\"", points.join(" "))
        };
        let filled = format!("fill=\"{colour}\"");
        let open = format!("fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1.5\"");
        let shape = match style.mark {
            Mark::Circle => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" {filled}/>"),
            Mark::Ring => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" {open}/>"),
            Mark::Square => format!("{} {filled}/>", path(&[(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)])),
            Mark::Box => format!("{} {open}/>", path(&[(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)])),
            Mark::Triangle => format!("{} {filled}/>", path(&[(0.0, -4.2), (3.8, 3.0), (-3.8, 3.0)])),
            Mark::Down => format!("{} {open}/>", path(&[(0.0, 4.2), (3.8, -3.0), (-3.8, -3.0)])),
            Mark::Diamond => format!("{} {filled}/>", path(&[(0.0, -4.5), (4.5, 0.0), (0.0, 4.5), (-4.5, 0.0)])),
            Mark::Cross => {
                self.line((x - 3.5, y - 3.5), (x + 3.5, y + 3.5), colour, 1.8);
                return self.line((x - 3.5, y + 3.5), (x + 3.5, y - 3.5), colour, 1.8);
            }
            Mark::Plus => {
                self.line((x - 4.0, y), (x + 4.0, y), colour, 1.8);
                return self.line((x, y - 4.0), (x, y + 4.0), colour, 1.8);
            }
        };
        self.put(format_args!("{shape}"));
    }

    pub(super) fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{fill}\" stroke=\"#333\" \
             stroke-width=\"0.7\"/>",
            width.max(0.0)
        ));
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), text: &str, anchor: Anchor, class: &str) {
        let anchor = anchor.name();
        let text = escape(text);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// A text that is read from below.
    pub(super) fn upright(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.put(format_args!(
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" class=\"axis\">{text}</text>"
        ));
    }

    /// What is drawn as it is.
    pub(super) fn put(&mut self, piece: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.body, "{piece}");
    }

    pub(super) fn finish(self, about: &str) -> String {
        let Self { body, width, height } = self;
        let about = escape(about);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" role=\"img\" aria-label=\"{about}\" font-family=\"Helvetica, Arial, sans-serif\" \
             font-size=\"12\">\n<style>.axis{{font-size:12px;fill:#222}}.tick{{font-size:11px;fill:#333}}\
             .on{{font-size:10.5px;fill:#000}}\
             .label{{font-size:12px;fill:#000}}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
        )
    }
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// For XML and HTML, in text and in attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// About how wide a text is.
pub(super) fn width_of(text: &str) -> f64 {
    crate::number::real(text.chars().count() as u64) * 6.4
}

/// Numbers for an axis from `low` to `high`: about `count` of them, 1, 2 or 5 times a power of ten apart.
pub(super) fn ticks(low: f64, high: f64, count: f64) -> Vec<f64> {
    let rough = (high - low) / count;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil();
    (0..50).map(|n| (first + f64::from(n)) * step).take_while(|tick| *tick <= high * 1.000_001).collect()
}

/// The same for a logarithmic axis: 1, 2 and 5 times the powers of ten.
pub(super) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let first = low.max(1e-9).log10().floor();
    let powers = (0..12).map(|n| 10_f64.powf(first + f64::from(n)));
    let all = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * power));
    all.filter(|tick| *tick >= low * 0.999 && *tick <= high * 1.001).collect()
}

/// A number without zeros behind it; from 10,000 on in thousands and millions.
pub(super) fn short(number: f64) -> String {
    for (unit, name) in [(1e6, "M"), (1e3, "k")] {
        if number.abs() >= unit && number.abs() >= 1e4 {
            return format!("{}{name}", short(number / unit));
        }
    }
    let text = if number.abs() >= 100.0 { format!("{number:.0}") } else { format!("{number:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_in_range() {
        assert_eq!(ticks(0.0, 10.0, 5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.0, 456.0, 5.0), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(log_ticks(90.0, 1100.0), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(ticks(3.0, 3.0, 5.0), [3.0]);
        assert_eq!([2.0, 2.5, 1234.6, 0.123, 20_000.0, 1.5e6].map(short), ["2", "2.5", "1235", "0.12", "20k", "1.5M"]);
    }

    #[test]
    fn nothing_in_a_text_is_markup() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((0.0, 0.0), "<a href=\"x\">&", Anchor::Start, "label");
        assert!(svg.finish("\"<b>").contains("&lt;a href=&quot;x&quot;&gt;&amp;"));
    }
}
