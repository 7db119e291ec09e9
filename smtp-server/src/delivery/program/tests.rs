//! Programs of this machine, which every Unix has.

use super::*;
use crate::testing::{broken, deliver, pieces};
use smtp_core::service::Claim;
use std::path::Path;
use tempfile::TempDir;

/// Whoever we are, but not root.
fn run_as() -> RunAs {
    RunAs::ourselves().or_else(|_| RunAs::user("nobody")).unwrap()
}

/// A script for `/bin/sh`, whose `$1` is a folder that it may write to, and `$2` the recipient's local part.
fn script(folder: &Path, script: &str) -> Program {
    let words = ["/bin/sh", "-c", script, "sh", folder.to_str().unwrap(), "{user}"];
    let text = shlex::try_join(words).unwrap();
    Program::new(Arc::new(text.parse().unwrap()), run_as()).with_separator(Some('+'))
}

/// A folder that anybody may write to.
fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn answers(outcome: &Outcome) -> Vec<String> {
    outcome.iter().map(|answer| answer.as_ref().map_or_else(ToString::to_string, |_| "taken".into())).collect()
}

fn text() -> Body {
    Body::from_bytes("Subject: x\r\n\r\n.\r\nhi\r\n")
}

#[tokio::test]
async fn it_gets_the_message_and_nothing_of_ours() {
    let folder = folder();
    let look = "cat > $1/mail; tr '\\0' '\\n' < /proc/$$/environ | sort > $1/env; pwd > $1/pwd; \
                echo $(id -u) $(id -G) > $1/id; ls -l /proc/$$/fd | wc -l > $1/open";
    let mut program = script(folder.path(), look);
    let outcome = deliver(&mut program, &["<\"Jo x\"@example.org>"], text()).await;
    assert!(matches!(outcome.single().unwrap().claim(), Claim::Relayed(_)), "{outcome:?}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let head = "Return-Path: <a@sender.example>\nDelivered-To: \"Jo x\"@example.org\n";
    assert_eq!(read("mail"), format!("{head}Subject: x\n\n.\nhi\n"));
    let RunAs { name, home, change } = run_as();
    assert_eq!(
        read("env"),
        format!("HOME={home}\nLANG=C\nLOGNAME={name}\nPATH=/usr/local/bin:/usr/bin:/bin\nUSER={name}\n")
    );
    assert_eq!(read("pwd"), "/\n");
    if let Some((uid, gid)) = change {
        assert_eq!(read("id"), format!("{uid} {gid}\n"), "no other groups");
    }
    assert!(!read("id").starts_with("0 "));
}

#[tokio::test]
async fn each_recipient_is_a_run_with_an_end_of_its_own() {
    let folder = folder();
    let mut program = script(folder.path(), "case $2 in jo) ;; later) exit 75;; *) echo no $2 >&2; exit 67;; esac");
    let to = ["<jo@example.org>", "<jo+tag@x.example>", "<later@x.example>", "<\"a'b\"@x.example>", "<-x@x.example>"];
    let outcome = deliver(&mut program, &to, text()).await;
    let expected = [
        "taken",
        "taken",
        "451 4.3.0 the program wants to be tried again later (exit 75)",
        "550 5.1.1 the program knows no such user (exit 67): no a'b",
        "550 5.1.3 no mail for programs here to or from names that begin with -",
    ];
    assert_eq!(answers(&outcome), expected);
}

#[tokio::test]
async fn how_it_ends_says_what_became_of_the_message() {
    let folder = folder();
    for (end, answer) in [
        ("exit 0", "taken"),
        ("exit 1", "554 5.3.0"),
        ("exit 65", "554 5.6.0"),
        ("exit 68", "550 5.1.2"),
        ("exit 75", "451 4.3.0"),
        ("exit 77", "550 5.7.0"),
        ("exit 78", "554 5.3.5"),
        ("exit 127", "554 5.3.0"),
        ("kill -9 $$", "451 4.3.0"),
        ("kill -TERM $$", "451 4.3.0"),
    ] {
        let outcome = deliver(&mut script(folder.path(), end), &["<jo@x.example>"], text()).await;
        assert!(answers(&outcome)[0].starts_with(answer), "{end}: {outcome:?}");
    }
    let nowhere = Program::new(Arc::new("/nowhere/at/all".parse().unwrap()), run_as());
    let outcome = deliver(&mut nowhere.clone(), &["<jo@x.example>"], text()).await;
    assert!(answers(&outcome)[0].starts_with("451 4.3.5"), "{outcome:?}");
}

#[tokio::test]
async fn one_that_does_not_read_or_leaves_something_running_has_taken_it() {
    let folder = folder();
    let large = vec![b'x'; 2 << 20];
    for end in ["exit 0", "sleep 1000 <&0 & echo $! > $1/pid", "head -c 10 > $1/some"] {
        let outcome = deliver(&mut script(folder.path(), end), &["<jo@x.example>"], pieces(&large, 60_000)).await;
        assert_eq!(answers(&outcome), ["taken"], "{end}");
    }
    let left = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    let status = std::process::Command::new("kill").arg(left.trim()).status().unwrap();
    assert!(status.success(), "what it left running was left alone");
}

#[tokio::test]
async fn what_it_says_is_bounded() {
    let folder = folder();
    let mut program = script(folder.path(), "yes 0123456789 | head -c 5000000; printf 'a\\r\\033b' >&2; exit 1");
    let outcome = deliver(&mut program, &["<jo@x.example>"], text()).await;
    let refusal = outcome.single().unwrap_err();
    assert!(refusal.reply().text().starts_with("the program failed (exit 1): a??b\n0123456789\n"), "{refusal}");
    assert!(refusal.reply().lines().count() <= LINES_MAX && refusal.to_string().len() < 64 << 10);
    let mut program = script(folder.path(), "head -c 3000 /dev/zero | tr '\\0' x; exit 1");
    let refusal = deliver(&mut program, &["<jo@x.example>"], text()).await.single().unwrap_err();
    assert!(refusal.reply().lines().all(|line| line.len() < 500), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_too_long_is_ended() {
    let folder = folder();
    // Time passes by itself while nothing else happens.
    let mut program = script(folder.path(), "trap '' TERM HUP; sleep 100000");
    let outcome = deliver(&mut program, &["<jo@x.example>"], text()).await;
    assert_eq!(answers(&outcome), ["451 4.3.0 the program took too long and was ended"]);
    // Nor does one message hold up everything for as long as it has recipients.
    let to: Vec<String> = (0..9).map(|n| format!("<u{n}@x.example>")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let outcome = deliver(&mut program, &to, text()).await;
    let begun = answers(&outcome).iter().filter(|answer| answer.contains("was ended")).count();
    assert!((6..=7).contains(&begun), "{outcome:?}");
    assert!(outcome.iter().all(|answer| answer.as_ref().is_err_and(Refusal::is_transient)));
}

#[tokio::test]
async fn its_whole_group_ends_with_the_delivery() {
    let folder = folder();
    let mut program = script(folder.path(), "sleep 100000 & echo $! > $1/part; mv $1/part $1/pid; wait");
    let running = tokio::spawn(async move { deliver(&mut program, &["<jo@x.example>"], text()).await });
    let until = std::time::Instant::now() + Duration::from_secs(60);
    let pid = loop {
        assert!(std::time::Instant::now() < until, "it does not start");
        match std::fs::read_to_string(folder.path().join("pid")) {
            Ok(pid) => break pid.trim().to_owned(),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let runs = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // Where nobody takes notice of its end it stays as a zombie.
        Ok(stat) => !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'),
        Err(_) => false,
    };
    assert!(runs());
    running.abort();
    while runs() {
        assert!(std::time::Instant::now() < until, "{pid} goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn half_a_message_and_one_that_was_here_before_start_nothing() {
    let folder = folder();
    let mut program = script(folder.path(), "touch $1/started");
    let outcome = deliver(&mut program, &["<jo@x.example>"], broken(b"Subject: x\r\n\r\nhalf", 5)).await;
    assert!(outcome.single().is_err());
    let again = Body::from_bytes("Delivered-To: jo@x.example\r\n\r\nhi\r\n");
    let outcome = deliver(&mut program, &["<jo@x.example>"], again).await;
    assert!(answers(&outcome)[0].starts_with("554 5.4.6"), "{outcome:?}");
    assert!(!folder.path().join("started").exists());
}

#[test]
fn nobody_runs_programs_as_root_or_as_somebody_they_are_not() {
    assert!(matches!(RunAs::user("root"), Err(ProgramError::Root)));
    assert!(matches!(RunAs::user("no-such-user-here"), Err(ProgramError::Unknown(_))));
    if nix::unistd::Uid::effective().is_root() {
        assert!(matches!(RunAs::ourselves(), Err(ProgramError::Root)));
    } else {
        assert!(matches!(RunAs::user("nobody"), Err(ProgramError::NotRoot(_))));
    }
}
