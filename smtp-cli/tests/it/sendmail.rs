//! `smtp sendmail`, as cron, git and PHP call it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ledger::Hop;
use crate::play::{Server, run_with, smtp, until};
use crate::relay::server;

#[test]
fn programs_hand_in_mail_by_sendmail() {
    let hop = Hop::start();
    let server = server(&hop, &["smtp://127.0.0.1:0"], &["--mailbox", "box@localhost"]);
    let data = server.folder().join("smtp-data");
    let data = data.to_str().unwrap();
    let text = b"To: amy@remote.example, box@localhost\nBcc: eve@remote.example\nSubject: hello\n\n.\nhi\n";
    let sent = run_with(smtp(["sendmail", "-t", "-i", "-f", "cron@localhost", "--data-dir", data]), text);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    until("it is relayed", || hop.arrived().len() == 1);
    until("it is in the mailbox", || server.messages("localhost", "box").len() == 1);
    let message = String::from_utf8(hop.arrived()[0].1.clone()).unwrap();
    assert!(message.ends_with("\r\n\r\n..\r\nhi\r\n"), "{message}");
    for part in ["\r\nDate: ", "\r\nMessage-ID: <", "\r\nFrom: <cron@localhost>\r\n"] {
        assert!(message.contains(part), "{part:?}: {message}");
    }
    assert!(!message.to_ascii_lowercase().contains("bcc") && !message.contains("eve@"), "{message}");

    // By the name that programs know.
    let link = server.folder().join("sendmail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_smtp"), &link).unwrap();
    let mut command = Command::new(&link);
    command.args(["-oi", "-fcron@localhost", "--", "amy@remote.example"]).env("SMTP_SENDMAIL_DATA_DIR", data);
    let sent = run_with(piped(command), b"Subject: again\n\nhi\n");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    until("it is relayed", || hop.arrived().len() == 2);
    // What stands behind the dashes is an address, or nothing.
    let marked = server.folder().join("marked");
    let evil = format!("-X{}", marked.display());
    let sent = run_with(smtp(["sendmail", "-i", "--data-dir", data, "--", &evil]), b"\nhi\n");
    assert_ne!(sent.code, Some(75), "{sent:?}");
    assert!(!marked.exists());
    let unknown = run_with(smtp(["sendmail", "--data-dir", data, "nobody@localhost"]), b"\nhi\n");
    assert_eq!(unknown.code, Some(67), "{unknown:?}");
    assert!(unknown.stderr.contains("no such mailbox here"), "{unknown:?}");
}

/// A copy of the program by the name that programs know, for those who cannot reach the first.
fn sendmail_in(folder: &Path) -> PathBuf {
    let path = folder.join("sendmail");
    // By a process of its own: what another test's child has open for writing cannot be run.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_smtp")).arg(&path).status().unwrap().success());
    path
}

fn piped(mut command: Command) -> Command {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn what_cron_and_mutt_call_it_with_is_understood() {
    let hop = Hop::start();
    let server = server(&hop, &["smtp://127.0.0.1:0"], &["--mailbox", "box@localhost"]);
    let data = server.folder().join("smtp-data");
    let sendmail = |arguments: &[&str], text: &[u8]| {
        let mut command = smtp(["sendmail", "--data-dir", data.to_str().unwrap()]);
        command.args(arguments);
        run_with(command, text)
    };
    let cron = ["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "-odi", "amy@remote.example"];
    let sent = sendmail(&cron, b"Subject: Cron\n\nhi\n");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let mutt =
        ["-oem", "-oi", "-N", "success,failure", "-R", "hdrs", "-V", "a+b", "-fbox@localhost", "--", "box@localhost"];
    let sent = sendmail(&mutt, b"Subject: tell me\n\nhi\n");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    // The message, and the notice of success that was asked for, which tells the id.
    until("both are in the mailbox", || server.messages("localhost", "box").len() == 2);
    let all = server.messages("localhost", "box").join("\n");
    assert!(all.contains("Original-Envelope-Id: a+b") && all.contains("Action: delivered"), "{all}");
    let wrong = sendmail(&["-N", "sometimes", "box@localhost"], b"\nhi\n");
    assert!(wrong.code == Some(64) && wrong.stderr.contains("SUCCESS, FAILURE and DELAY"), "{wrong:?}");

    // SMTP by hand.
    let dialogue =
        b"EHLO x\r\nMAIL FROM:<box@localhost>\r\nRCPT TO:<amy@remote.example>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n";
    let said = sendmail(&["-bs"], dialogue);
    assert!(said.code == Some(0) && said.stdout.contains("\n354 ") && said.stdout.contains("\n221 "), "{said:?}");
    until("all is relayed", || hop.arrived().len() == 2);
}

#[test]
fn every_user_hands_in_mail_at_a_socket_for_all() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let hop = Hop::start();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    let socket = folder.path().join("sendmail.sock");
    let server: Server = server(
        &hop,
        &["smtp://127.0.0.1:0"],
        &["--sendmail-socket", socket.to_str().unwrap(), "--mailbox", "box@localhost"],
    );
    let program = sendmail_in(folder.path());
    let as_nobody = |place: &[&str]| {
        let mut command = Command::new(&program);
        command.uid(65_534).gid(65_534).current_dir("/").env_clear().args(["-t", "-i"]).args(place);
        run_with(piped(command), b"To: amy@remote.example\nSubject: from PHP\n\nhi\n")
    };
    let sent = as_nobody(&["--socket", socket.to_str().unwrap()]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    until("it is relayed", || hop.arrived().len() == 1);
    let message = String::from_utf8(hop.arrived()[0].1.clone()).unwrap();
    assert!(message.contains("From: <nobody@") && message.contains("(unknown?local?process)"), "{message}");
    // The server's own socket is not for them, and says what is.
    let data = server.folder().join("smtp-data");
    let refused = as_nobody(&["--data-dir", data.to_str().unwrap()]);
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(refused.stderr.contains("--sendmail-socket"), "{refused:?}");
}
