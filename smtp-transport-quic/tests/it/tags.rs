//! The document and the code: every sentence that is marked as implemented is cited beside a line that obeys it.

use std::collections::BTreeSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every `[Q-x.y]` in `text`, with what follows it on the line.
fn tags(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.lines().flat_map(|line| {
        line.match_indices("[Q-").filter_map(move |(at, _)| {
            let rest = &line[at..];
            let end = rest.find(']')?;
            Some((rest[..=end].to_owned(), &rest[end + 1..]))
        })
    })
}

fn cited(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            cited(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            // Somebody may be moving files about meanwhile.
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            into.extend(tags(&text).map(|(tag, _)| tag));
        }
    }
}

#[test]
fn what_the_document_says_is_cited_where_it_is_done() {
    let document = std::fs::read_to_string(root().join("docs/smtp-over-quic.md")).unwrap();
    // `**[Q-2.1]**` is where a sentence is defined; `(open)` behind it says that no line does it yet.
    let mut defined = BTreeSet::new();
    let mut ours = BTreeSet::new();
    let mut open = BTreeSet::new();
    for line in document.lines() {
        for (tag, after) in tags(line) {
            if !line.contains(&format!("**{tag}**")) || !after.starts_with("**") {
                continue;
            }
            assert!(defined.insert(tag.clone()), "{tag} is defined twice");
            let note = after.trim_start_matches('*').trim_start();
            if note.starts_with("(open)") {
                open.insert(tag);
            } else {
                ours.insert(tag);
            }
        }
    }
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root()).unwrap().flatten() {
        let src = entry.path().join("src");
        if entry.file_name().to_string_lossy().starts_with("smtp-") && src.is_dir() {
            cited(&src, &mut found);
        }
    }
    let missing: Vec<_> = ours.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&defined).collect();
    println!("{} of {} sentences are obeyed by lines that cite them; {} open", found.len(), defined.len(), open.len());
    assert!(missing.is_empty(), "marked as implemented, cited nowhere: {missing:?}");
    assert!(unknown.is_empty(), "cited, but not in the document: {unknown:?}");
    let done: Vec<_> = open.intersection(&found).collect();
    assert!(done.is_empty(), "marked as open, and cited: {done:?}");
    assert!(defined.len() > 40, "{}", defined.len());
}
