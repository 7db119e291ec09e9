//! `smtp completions` and `smtp man`.

use crate::play::{run, smtp};

#[test]
fn every_shell_has_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(smtp(["completions", shell]));
        assert_eq!(script.code, Some(0));
        assert!(script.stdout.contains("data-dir") && script.stdout.contains("serve"), "{shell}");
    }
}

#[test]
fn there_is_a_page_for_each_subcommand() {
    let page = run(smtp(["man"]));
    assert!(page.code == Some(0) && page.stdout.contains(".TH smtp 1"), "{page:?}");
    let page = run(smtp(["man", "send"]));
    assert!(page.stdout.contains("quit\\-after") && page.stdout.contains("Exit codes"), "{page:?}");

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert_eq!(run(smtp(["man", "--out", pages.to_str().unwrap()])).code, Some(0));
    for name in ["smtp.1", "smtp-serve.1", "smtp-send.1", "smtp-sink.1", "smtp-shell.1"] {
        assert!(std::fs::read_to_string(pages.join(name)).unwrap().starts_with(".ie"), "{name}");
    }
}
