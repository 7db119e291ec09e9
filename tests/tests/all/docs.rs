//! The docs say what the code does.

use std::path::{Path, PathBuf};

use smtp_core::session::diagram;

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_table_in_the_docs_is_the_table_in_the_code() {
    let file = root().join("docs/session-states.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let table = diagram();
    assert!(text.contains(&table), "{} is out of date; its table should be:\n\n{table}", file.display());
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !root().join(file).exists() {
                broken.push(format!("{document}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}
