//! `smtp lab`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::play::{Run, run, smtp};

/// `smtp lab` in `folder`.
fn lab(folder: &Path, arguments: &[&str]) -> Run {
    let mut command = smtp(["lab"].iter().chain(arguments));
    command.current_dir(folder);
    run(command)
}

/// Two cells without loss, and one with.
const EXPERIMENT: &str = r#"
title = "Three cells"
rounds = 2
[[part]]
transport = ["tls", "quic"]
dialogue = ["flight", "pipelined"]
[[part]]
transport = ["quic"]
dialogue = ["flight"]
loss = [5]
"#;

#[test]
fn an_experiment_is_run_reported_and_run_again() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("mine.toml"), EXPERIMENT).unwrap();
    let done = lab(folder.path(), &["run", "mine.toml", "--seed", "7"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("8 runs") && done.stdout.contains("lab-mine/report.html"), "{done:?}");

    let out = folder.path().join("lab-mine");
    let file = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let (html, markdown, record) = (file("report.html"), file("report.md"), file("record.jsonl"));
    assert!(
        html.contains("<h1>Three cells</h1>") && markdown.contains("| QUIC, one flight | 2 | 0 | 150 |"),
        "{markdown}"
    );
    for line in markdown.lines().filter_map(|line| line.strip_prefix("![")) {
        let name = line.rsplit_once('(').unwrap().1.trim_end_matches(')');
        assert!(file(name).starts_with("<svg"), "{name}");
    }
    assert!(record.lines().next().unwrap().contains("\"seed\":7"), "{record}");

    let again = lab(folder.path(), &["rerun", "lab-mine/record.jsonl"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "identical: 8 runs\n"), "{again:?}");

    // A record that says something else is found out.
    fs::write(out.join("record.jsonl"), record.replacen("\"accepted_us\":[150000]", "\"accepted_us\":[150001]", 1))
        .unwrap();
    let differs = lab(folder.path(), &["rerun", "lab-mine"]);
    assert_eq!(differs.code, Some(1), "{differs:?}");
    assert!(
        differs.stdout.contains("differs: QUIC, one flight, round 0") && differs.stdout.contains("1 of 8"),
        "{differs:?}"
    );

    let made = lab(folder.path(), &["report", "lab-mine", "--out", "other"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(folder.path().join("other/report.html").exists());
}

#[test]
fn options_stand_in_the_place_of_the_experiments() {
    let folder = TempDir::new().unwrap();
    let arguments =
        ["run", "one-mail", "--part", "1", "--transport", "quic", "--dialogue", "flight", "--transfer", "bdat"];
    let done = lab(folder.path(), &[&arguments[..], &["--rtt", "20,100", "--out", "x"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    let markdown = fs::read_to_string(folder.path().join("x/report.md")).unwrap();
    for row in ["| QUIC, one flight | 1 | 0 | 60 |", "| QUIC, one flight | 1 | 0 | 300 |"] {
        assert!(markdown.contains(row), "{markdown}");
    }
}

#[test]
fn what_cannot_be_run_is_told_before_anything_is_made() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("bad.toml"), "title = \"x\"\n[[part]]\nlos = [1]\n").unwrap();
    fs::write(folder.path().join("none.jsonl"), "{}\n").unwrap();
    for (arguments, code, words) in [
        (&["run"][..], 64, "smtp lab list"),
        (&["run", "no-such"], 74, "one-mail, twenty-mails"),
        (&["run", "bad.toml"], 78, "los"),
        (&["run", "one-mail", "--transport", "sctp"], 64, "sctp"),
        (&["run", "one-mail", "--part", "9"], 64, "--part 9"),
        (&["run", "one-mail", "--rtt", "5", "--out", "x"], 78, "rtt 5"),
        (&["run", "one-mail", "--transport", "tls", "--loss", "2", "--out", "x"], 78, "emulated link"),
        (&["run", "one-mail", "--transport", "race", "--loss", "2", "--out", "x"], 78, "that of a race too"),
        (&["rerun", "none.jsonl"], 78, "line 1"),
        (&["report", "nowhere"], 74, "nowhere"),
    ] {
        let run = lab(folder.path(), arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(words), "{arguments:?}: {run:?}");
    }
    assert!(!folder.path().join("x").exists());
    let list = lab(folder.path(), &["list"]);
    assert!(list.stdout.lines().count() >= 6 && list.stdout.contains("one-mail"), "{list:?}");
}
