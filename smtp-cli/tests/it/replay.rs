//! `smtp replay`: what passes, what differs, and what is no test at all.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::play::{Run, Server, dead_port, file, run, scripted, smtp};

/// The scenario files of the workspace.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios")
}

fn replay(url: &str, more: &[&str]) -> Run {
    run(smtp(["replay", url, "--timeout", "5"].iter().chain(more)))
}

/// The last line.
fn summary(run: &Run) -> &str {
    run.stdout.lines().last().unwrap_or_default()
}

#[test]
fn our_own_server_keeps_to_the_files_on_every_transport() {
    let socket = TempDir::new().unwrap();
    let unix = format!("smtp+unix://{}/socket", socket.path().canonicalize().unwrap().display());
    let arguments = [
        "serve",
        "--hostname",
        "mx.example",
        "--domain",
        "here.example",
        "--mailbox",
        "alice@here.example,bob@here.example",
        "--max-size",
        "1000000",
        "--listen",
        "smtp://127.0.0.1:0",
        "--listen",
        "smtp+quic://127.0.0.1:0",
        "--listen",
        &unix,
        "--log",
        "error",
    ];
    let server = Server::start(&arguments, 3);
    let all = vec![folder().display().to_string()];
    // A QUIC handshake for each of them takes its time in a build for debugging.
    let some: Vec<String> = ["bdat.txt", "data-dots.txt", "half-close.txt", "line-limit.txt", "pipelining-mixed.txt"]
        .map(|name| folder().join(name).display().to_string())
        .into();
    for (url, files, least) in [(&server.urls[0], &all, 100), (&server.urls[1], &some, 5), (&server.urls[2], &all, 90)]
    {
        let more = ["--insecure", "--match", "text", "--has", "size=1000000,line=2048"];
        let played = replay(url, &more.into_iter().chain(files.iter().map(String::as_str)).collect::<Vec<_>>());
        assert_eq!(played.code, Some(0), "{url}: {}", played.stdout);
        let passed: usize = summary(&played).split(' ').next().unwrap().parse().unwrap();
        assert!(passed >= least && summary(&played).contains(" passed, 0 failed, "), "{url}: {}", played.stdout);
    }
}

#[test]
fn early_data_changes_no_reply() {
    let arguments =
        ["sink", "--hostname", "mx.example", "--listen", "smtp+quic://127.0.0.1:0", "--early-data", "gated"];
    let server = Server::start(&arguments, 1);
    let files: Vec<String> = ["bdat.txt", "pipelining-everything.txt", "data-dots.txt"]
        .map(|name| folder().join(name).display().to_string())
        .into();
    let more: Vec<&str> = ["--insecure", "--verbose", "--early-data", "gated"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let played = replay(server.url(), &more);
    assert_eq!((played.code, summary(&played)), (Some(0), "3 passed, 0 failed, 0 skipped"), "{played:?}");
    let times = |part| played.stdout.matches(part).count();
    assert_eq!(times("what follows is sent as early data"), 2, "all but the first: {}", played.stdout);
    assert_eq!(times("early data accepted"), 2, "{}", played.stdout);
}

#[test]
fn what_differs_is_shown_with_its_place() {
    let url = scripted("220 odd\r\n", &[("NOOP", "250 fine\r\n"), ("HELP", "502 no\r\n"), ("QUIT", "221 bye\r\n")]);
    let folder = TempDir::new().unwrap();
    let good = file(folder.path(), "a.txt", "title: Fine\nS: 220 mx.example *\nC: NOOP\nS: 250 2.0.0 *\n");
    let bad = file(folder.path(), "b.txt", "title: Help\nS: 220 *\nC: NOOP\nS: 250 *\nC: HELP\nS: 214 2.0.0 *\n");
    file(folder.path(), "c.txt", "title: Not here\nONLY tls\nS: 220 *\n");
    file(folder.path(), "d.txt", "SERVER users=7\nS: 220 *\n");
    file(folder.path(), "notes.md", "no scenario");
    let folder = folder.path().to_str().unwrap();

    let played = replay(&url, &[folder]);
    assert_eq!((played.code, summary(&played)), (Some(1), "1 passed, 1 failed, 2 skipped"), "{played:?}");
    let place = format!("FAIL  {}:6  Help\n      expected  S: 214 2.0.0 *\n      got       502 no\n", bad.display());
    assert!(played.stdout.contains(&place), "{played:?}");
    assert!(!played.stdout.contains("C: NOOP"), "the conversation only on demand: {played:?}");

    let played = replay(&url, &["--verbose", "--has", "users=7", folder]);
    assert_eq!(summary(&played), "2 passed, 1 failed, 1 skipped", "{played:?}");
    for part in ["pass  ", "c.txt  only on a channel that is tls", "      C: HELP"] {
        assert!(played.stdout.contains(part), "{part}: {played:?}");
    }

    let only = [good.to_str().unwrap(), bad.to_str().unwrap()];
    for (how, code) in [("text", [1, 1]), ("code", [0, 1]), ("class", [0, 1])] {
        for (file, code) in only.iter().zip(code) {
            assert_eq!(replay(&url, &["--match", how, file]).code, Some(code), "{how} {file}");
        }
    }
    assert_eq!(replay(&url, &["--set", "214=502", only[1]]).code, Some(0));
}

#[test]
fn what_is_no_test_does_not_pass_for_one() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    file(folder.path(), "skipped.txt", "ONLY tls\nS: 220 *\n");
    file(folder.path(), "broken.txt", "S: 220 *\nX: what\n");
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let url = scripted("220 odd\r\n", &[]);
    for (url, file, code, part) in [
        (&url, at("skipped.txt"), 65, "0 passed, 0 failed, 1 skipped"),
        (&url, at("broken.txt"), 78, "broken.txt:2: not a line of a scenario"),
        (&url, at("none.txt"), 78, "none.txt"),
        (&url, at("empty"), 78, "no scenarios in"),
        (&dead_port(), at("skipped.txt"), 69, "no connection"),
    ] {
        let played = replay(url, &[&file]);
        assert_eq!(played.code, Some(code), "{file}: {played:?}");
        assert!(format!("{}{}", played.stdout, played.stderr).contains(part), "{part}: {played:?}");
    }
    assert_eq!(run(smtp(["replay"])).code, Some(64));
    assert_eq!(run(smtp(["replay", &url])).code, Some(64));
    assert_eq!(run(smtp(["replay", &url, &at("skipped.txt"), "--set", "x"])).code, Some(64));
}

#[test]
fn what_is_about_the_other_protocol_is_skipped_with_the_reason() {
    let listen = ["--listen", "lmtp://127.0.0.1:0", "--listen", "smtp://127.0.0.1:0"];
    let server = Server::start(&[&["serve", "--domain", "here.example", "--log", "error"], &listen[..]].concat(), 2);
    let files = ["helo.txt", "lmtp/greeting.txt"].map(|name| folder().join(name).display().to_string());
    for (url, skipped, why) in [(&server.urls[0], "helo.txt", "SMTP"), (&server.urls[1], "lmtp/greeting.txt", "LMTP")] {
        let played = replay(url, &["--verbose", &files[0], &files[1]]);
        assert_eq!(played.code, Some(0), "{played:?}");
        assert_eq!(summary(&played), "1 passed, 0 failed, 1 skipped", "{played:?}");
        let reason = format!("{skipped}  only for a server that speaks {why}");
        assert!(played.stdout.contains(&reason), "{reason}: {played:?}");
    }
}
