//! The report in Markdown, which names its figures' files.

use std::fmt::{self, Display, Write};

use super::{Report, Table};

impl Report {
    /// The report in Markdown. Its figures are to be put beside it, as `NAME.svg`.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.to_string()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}\n", self.title)?;
        if !self.about.is_empty() {
            writeln!(f, "{}\n", self.about.trim())?;
        }
        for (name, value) in &self.facts {
            writeln!(f, "- {name}: {value}")?;
        }
        f.write_char('\n')?;
        for note in &self.notes {
            writeln!(f, "{note}\n")?;
        }
        for section in &self.sections {
            writeln!(f, "## {}\n", section.title)?;
            if !section.about.is_empty() {
                writeln!(f, "{}\n", section.about.trim())?;
            }
            for table in &section.tables {
                writeln!(f, "{table}")?;
            }
            for figure in &section.figures {
                writeln!(f, "![{}]({}.svg)\n\n{}\n", figure.caption, figure.name, figure.caption)?;
            }
            for failure in &section.failures {
                writeln!(f, "- failed: {}", failure.replace('\n', " "))?;
            }
            for left in &section.left_out {
                writeln!(f, "- not run: {} combinations: {}", left.cells, left.why)?;
            }
            if !section.failures.is_empty() || !section.left_out.is_empty() {
                f.write_char('\n')?;
            }
        }
        Ok(())
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:\n", self.caption)?;
        writeln!(f, "| {} |", self.head.join(" | "))?;
        writeln!(f, "|---{}|", "|---:".repeat(self.head.len().saturating_sub(1)))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}
