//! The report as one HTML page that needs nothing else: no script, no file, no network.

use std::fmt::Write;

use super::svg::escape;
use super::{Report, Section};

const STYLE: &str = "\
body{font:16px/1.5 Georgia,'Times New Roman',serif;color:#111;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1,h2{line-height:1.2;font-family:Helvetica,Arial,sans-serif}h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.5rem;\
border-bottom:1px solid #999}figure{margin:1.5rem 0;break-inside:avoid}figure svg{max-width:100%;height:auto}\
figcaption,caption{font-size:.88rem;text-align:left;color:#222;padding:.3rem 0}\
table{border-collapse:collapse;font:.8rem/1.35 Helvetica,Arial,sans-serif;margin:1rem 0;width:100%;\
font-variant-numeric:tabular-nums}th,td{padding:.2rem .45rem;text-align:right;border-bottom:1px solid #ddd;vertical-align:top}\
th:first-child,td:first-child{text-align:left}thead th{border-bottom:1.5px solid #333;border-top:1.5px solid #333}\
.facts th{width:12rem;font-weight:normal;color:#444}.facts td{text-align:left}.wide{overflow-x:auto}\
.small{font-size:.88rem}code{font-size:.9em}@media print{body{margin:0;max-width:none}}";

impl Report {
    /// The whole report in one page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut out = String::new();
        let title = escape(&self.title);
        // A string takes everything, here and below.
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             </head>\n<body>\n<h1>{title}</h1>\n{}",
            paragraphs(&self.about)
        );
        if self.sections.len() > 1 {
            out.push_str("<ol class=\"small\">\n");
            for (n, section) in self.sections.iter().enumerate() {
                let _ = writeln!(out, "<li><a href=\"#part-{}\">{}</a></li>", n + 1, escape(&section.title));
            }
            out.push_str("</ol>\n");
        }
        for note in &self.notes {
            let _ = writeln!(out, "<p class=\"small\">{}</p>", escape(note));
        }
        out.push_str("<table class=\"facts\">\n<tbody>\n");
        for (name, value) in &self.facts {
            let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
        }
        out.push_str("</tbody>\n</table>\n");
        for (n, section) in self.sections.iter().enumerate() {
            section.html(&mut out, n + 1);
        }
        out.push_str("</body>\n</html>\n");
        out
    }
}

impl Section {
    fn html(&self, out: &mut String, number: usize) {
        let title = escape(&self.title);
        let _ = write!(out, "<h2 id=\"part-{number}\">{number}. {title}</h2>\n{}", paragraphs(&self.about));
        for table in &self.tables {
            let _ =
                write!(out, "<div class=\"wide\"><table>\n<caption>{}</caption>\n<thead><tr>", escape(&table.caption));
            for name in &table.head {
                let _ = write!(out, "<th scope=\"col\">{}</th>", escape(name));
            }
            out.push_str("</tr></thead>\n<tbody>\n");
            for row in &table.rows {
                out.push_str("<tr>");
                for value in row {
                    let _ = write!(out, "<td>{}</td>", escape(value));
                }
                out.push_str("</tr>\n");
            }
            out.push_str("</tbody>\n</table></div>\n");
        }
        for figure in &self.figures {
            let (svg, caption) = (&figure.svg, escape(&figure.caption));
            let _ =
                write!(out, "<figure id=\"{}\">\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n", figure.name);
        }
        let mut remarks: Vec<String> =
            self.failures.iter().map(|failure| format!("<li>failed: {}</li>", escape(failure))).collect();
        remarks.extend(
            self.left_out
                .iter()
                .map(|left| format!("<li>not run: {} combinations: {}</li>", left.cells, escape(&left.why))),
        );
        if !remarks.is_empty() {
            let _ = writeln!(out, "<ul class=\"small\">\n{}\n</ul>", remarks.join("\n"));
        }
    }
}

/// Paragraphs, with what stands between backticks as code: all of Markdown that an experiment's text needs.
fn paragraphs(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let mut pieces = paragraph.split('`').map(escape);
        let mut line = pieces.next().unwrap_or_default();
        for (n, piece) in pieces.enumerate() {
            line.push_str(if n % 2 == 0 { "<code>" } else { "</code>" });
            line.push_str(&piece);
        }
        if paragraph.matches('`').count() % 2 == 1 {
            line.push_str("</code>");
        }
        let _ = writeln!(out, "<p>{line}</p>");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text() {
        assert_eq!(paragraphs("a <b>\n\n`c` & `d"), "<p>a &lt;b&gt;</p>\n<p><code>c</code> &amp; <code>d</code></p>\n");
    }
}
