//! Flag > environment > file > default.

use crate::play::{Server, file, run, smtp};

/// The hostname of a server that gets it from here and there.
fn hostname(flag: Option<&str>, variable: Option<&str>, key: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = key.map(|key| format!("hostname = \"{key}\"\n")).unwrap_or_default();
    let config = file(folder.path(), "smtp.toml", &text);
    let mut command = smtp(["serve", "--listen", "smtp://127.0.0.1:0", "--config", config.to_str().unwrap()]);
    command.args(flag.into_iter().flat_map(|flag| ["--hostname", flag])).current_dir(folder.path());
    if let Some(variable) = variable {
        command.env("SMTP_SERVE_HOSTNAME", variable);
    }
    let server = Server::of(command, folder, 1);
    let mut line = crate::play::Line::to(server.url());
    line.reply().split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn the_nearer_place_wins() {
    assert_eq!(hostname(Some("flag.example"), Some("env.example"), Some("file.example")), "flag.example");
    assert_eq!(hostname(None, Some("env.example"), Some("file.example")), "env.example");
    assert_eq!(hostname(None, None, Some("file.example")), "file.example");
}

#[test]
fn lists_and_switches_come_from_everywhere_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(
        folder.path(),
        "smtp.toml",
        "listen = [\"smtp://127.0.0.1:0\", \"smtp://127.0.0.1:0?tls=none\"]\ndomain = \"a.example\"\nmax-size = \"2 MiB\"\n",
    );
    let mut command = smtp(["serve"]);
    command.env("SMTP_SERVE_CONFIG", config).env("SMTP_SERVE_MAILBOX", "jo@a.example, al@a.example");
    command.current_dir(folder.path());
    let server = Server::of(command, folder, 2);
    let mut send = smtp(["send", "--server", server.url()]);
    send.env("SMTP_SEND_FROM", "x@y.example").env("SMTP_SEND_TO", "jo@a.example,al@a.example,no@a.example");
    send.env("SMTP_SEND_JSON", "true").env("SMTP_SEND_TRANSCRIPT", "false");
    let sent = run(send);
    assert_eq!(sent.code, Some(67), "{sent:?}");
    let status: Vec<_> = sent.json()["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(status, ["accepted", "accepted", "refused"]);
    assert!(!sent.stderr.contains("EHLO"));
}

#[test]
fn a_bad_file_is_told_with_line_and_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, parts) in [
        ("a.toml", "domain = \"x.example\"\nlisten_ = \"x\"\n", ["a.toml:2:1", "did you mean \"listen\""]),
        ("b.toml", "\n\nmax_size = \"huge\"\n", ["b.toml:3:12", "10M"]),
        ("c.toml", "listen = [\"smtp://127.0.0.1:0\", \"http://x\"]\n", ["c.toml:1:", "unknown scheme \"http\""]),
        ("d.toml", "domain = \n", ["d.toml:1:", ""]),
        ("e.toml", "log = \"loud\"\n", ["e.toml:1:", "debug"]),
    ] {
        let path = file(folder.path(), name, text);
        let mut command = smtp(["serve", "--config", path.to_str().unwrap()]);
        command.current_dir(folder.path());
        let ended = run(command);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{name}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("smtp: error: ") && ended.stderr.lines().count() <= 2, "{}", ended.stderr);
    }
    assert!(!folder.path().join("smtp-data").exists(), "nothing is made before the settings are good");
}

#[test]
fn secrets_are_not_in_the_help() {
    for subcommand in ["serve", "send", "sink", "shell"] {
        let mut command = smtp([subcommand, "--help"]);
        command.env("SMTP_SERVE_USER", "jo:hunter2").env("SMTP_SEND_USER", "hunter2");
        let help = run(command);
        assert_eq!(help.code, Some(0));
        assert!(!help.stdout.contains("hunter2") && help.stdout.contains("in the environment"), "{}", help.stdout);
    }
}

#[cfg(all(feature = "postgres", not(feature = "s3")))]
#[test]
fn a_bucket_takes_a_program_that_was_built_for_it() {
    let queue = ["--queue", "postgres://smtp@127.0.0.1:1/mail", "--queue-bodies", "s3://mail-bodies/queue"];
    let folder = tempfile::tempdir().unwrap();
    let ended = run({
        let mut command = smtp(["serve"].iter().chain(&queue));
        command.current_dir(folder.path());
        command
    });
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("built without S3") && ended.stderr.contains("--features s3"), "{ended:?}");
}
