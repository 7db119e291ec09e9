//! A record, for people: tables and figures, in Markdown with SVG files beside it, or in one HTML page that needs
//! nothing else. What it shows is in the record and nowhere else, so that a report can be made again from it.

mod bars;
mod figures;
mod html;
mod lines;
mod markdown;
mod svg;
mod tables;

use crate::experiment::LeftOut;
use crate::record::Record;

/// A report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    title: String,
    about: String,
    /// Facts of the run, as name and value.
    facts: Vec<(String, String)>,
    sections: Vec<Section>,
    /// What has to be known to read it.
    notes: Vec<String>,
}

/// What came of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    title: String,
    about: String,
    tables: Vec<Table>,
    figures: Vec<Figure>,
    left_out: Vec<LeftOut>,
    failures: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    caption: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// A figure, with a name that can be a file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Its name, of letters, digits and `-`.
    pub name: String,
    /// What it shows.
    pub caption: String,
    /// The SVG.
    pub svg: String,
}

impl Report {
    /// Makes a report of `record`.
    #[must_use]
    pub fn new(record: &Record) -> Self {
        let experiment = &record.head.experiment;
        let sections = experiment.part.iter().enumerate().map(|(number, part)| Section {
            title: if part.title.is_empty() { format!("Part {}", number + 1) } else { part.title.clone() },
            about: part.about.clone(),
            tables: tables::of(record, number),
            figures: figures::of(record, number),
            left_out: record.head.left_out.iter().filter(|left| left.part == number).cloned().collect(),
            failures: tables::failures(record, number),
        });
        Self {
            title: experiment.title.clone(),
            about: experiment.about.clone(),
            facts: tables::facts(record),
            sections: sections.collect(),
            notes: tables::notes(record),
        }
    }

    /// All figures, to be written beside the Markdown as `NAME.svg`.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.sections.iter().flat_map(|section| &section.figures)
    }
}
