//! What is said when something is wrong: what, where, and what to do; on stderr, in two lines at most.

use crate::play::{run, smtp};

#[test]
fn a_password_in_a_url_is_not_shown_again() {
    let ended = run(smtp(["send", "--server", "smtp://me:hunter2@x"]));
    assert!(ended.stderr.contains("smtp://***@x") && !ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[test]
fn a_wrong_command_line_is_64_and_says_how_it_is_right() {
    for (arguments, part) in [
        (&["serv"][..], "'serve'"),
        (&["send", "--sever", "x"], "'--server'"),
        (&["send", "--server", "localhost:25"], "did you mean smtp://localhost:25"),
        (&["send", "--server", "smtp+quic://mx.example"], "no usual port for this"),
        (&["send", "--server", "smtp+quic://x:1?tls=opportunistic"], "TLS is always there"),
        (&["send", "--server", "lmtp://127.0.0.1:25"], "must not be spoken on port 25"),
        (&["send", "--server", "smtp+unix:run"], "absolute path"),
        (&["send", "--server", "pipe:", "--from", "a@b", "--to", "a@b"], "names no program"),
        (&["send", "--server", "fd:", "--from", "a@b", "--to", "a@b"], "fd: is for --listen"),
        (&["send", "--server", "smtp+unix:///x", "--from", "a@b", "--to", "a@b", "--tls-ca", "x"], "has no TLS"),
        (&["serve", "--listen", "pipe:", "--listen", "smtp://127.0.0.1:0"], "nothing beside it"),
        (&["serve", "--early-data", "on"], "off, gated"),
        (&["send", "--server", "smtp://me:pw@x"], "--password-file"),
        (&["send", "--server", "smtp://x", "--from", "a@b", "--to", "nobody"], "mailbox"),
        (&["send", "--server", "smtp://x", "--from", "a@b"], "--to ADDRESS is missing"),
        (&["send", "--server", "smtp://x", "--to", "a@b"], "--from ADDRESS is missing"),
        (&["send", "--from", "a@b", "--to", "a@b"], "--server URL is missing"),
        (&["send", "--server", "smtp://x", "--pin", "12"], "64 hexadecimal digits"),
        (&["send", "--server", "smtp://x", "--timeout", "0"], "seconds above 0"),
        (&["send", "--server", "smtp://x", "--from", "a@b", "--to", "a@b", "--auth", "PLAIN"], "--user NAME"),
        (&["send", "--server", "smtp://x", "--from", "a@b", "--to", "a@b", "--user", "jo"], "--password-file FILE"),
        (
            &["send", "--server", "smtp://x", "--from", "a@b", "--to", "a@b", "--insecure", "--tls-ca", "x"],
            "exclude each other",
        ),
        (&["serve", "--listen", "smtp://mx.example:25"], "0.0.0.0"),
        (&["serve", "--tls-cert", "x"], "--tls-key"),
        (&["serve", "--max-size", "much"], "10M"),
        (&["serve", "--user", "nobody"], "NAME:PASSWORD"),
        (&["shell"], "smtp shell smtp://"),
        (&["man", "nothing"], "serve"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = smtp(arguments);
        command.current_dir(folder.path());
        let ended = run(command);
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().filter(|line| !line.starts_with("smtp: warning: ")).collect();
        assert!(lines[0].starts_with("smtp: error: ") && lines.len() <= 2, "{}", ended.stderr);
        assert!(lines.iter().skip(1).all(|line| line.starts_with("help: ")), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn json_has_every_recipient_even_if_nothing_could_begin() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none").to_str().unwrap().to_owned();
    let ended = crate::play::send("smtp://x", &["--to", "b@x,c@x", "--json", "--tls-ca", &nowhere]);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let json = ended.json();
    assert_eq!(json["recipients"].as_array().unwrap().len(), 2);
    assert_eq!((&json["error"]["step"], &json["error"]["class"]), (&"setup".into(), &"config".into()));
}

#[test]
fn a_bad_variable_is_named() {
    let mut command = smtp(["send"]);
    command.env("SMTP_SEND_TIMEOUT", "soon");
    let ended = run(command);
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("SMTP_SEND_TIMEOUT"), "{ended:?}");
}

#[test]
fn a_password_without_colon_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = smtp(["serve", "--user", "hunter2"]);
    command.current_dir(folder.path());
    let ended = run(command);
    assert_eq!(ended.code, Some(64));
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    crate::play::file(folder.path(), "file", "x");
    for (arguments, code, part) in [
        (vec!["serve".to_owned(), "--data-dir".into(), at("file/x")], 78, "file/x"),
        (vec!["serve".to_owned(), "--data-dir".into(), at("file")], 78, "not a folder"),
        (vec!["serve".to_owned(), "--user-file".into(), at("none")], 78, "none"),
        (vec!["serve".to_owned(), "--user-file".into(), at("file")], 78, "file:1"),
        (vec!["serve".to_owned(), "--config".into(), at("none")], 78, "none"),
        (
            vec!["serve".to_owned(), "--tls-cert".into(), at("file"), "--tls-key".into(), at("file")],
            78,
            "no private key",
        ),
        (
            ["send", "--server", "smtp://x", "--from", "a@b", "--to", "a@b", "--data"]
                .map(str::to_owned)
                .into_iter()
                .chain([at("none")])
                .collect(),
            65,
            "none",
        ),
    ] {
        let mut command = smtp(&arguments);
        command.current_dir(folder.path());
        let ended = run(command);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn nothing_at_all_shows_the_way() {
    let ended = run(smtp(std::iter::empty::<&str>()));
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("smtp serve") && ended.stderr.contains("Usage:"), "{ended:?}");
    let version = run(smtp(["--version"]));
    assert_eq!((version.code, &*version.stdout), (Some(0), concat!("smtp ", env!("CARGO_PKG_VERSION"), "\n")));
}
